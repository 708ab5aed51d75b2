"""What `tools/list` answers. `server.mcp.registry` says which tools there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcp_types import ListToolsResult, Tool, ToolAnnotations

from providers.tools.spec import ToolSpec
from server.mcp.connections_spec import SPEC


class ToolList:
    """What `tools/list` answers, in one fixed order, whatever is connected: a hidden tool could not say what to do."""

    def __init__(self, tools: Sequence[ToolSpec], hidden: Mapping[str, frozenset[str]]) -> None:
        self._all = ListToolsResult(
            tools=[_describe(one) for one in (*tools, SPEC)], ttl_ms=60_000, cache_scope="private"
        )
        self._hidden = hidden

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(tool.name for tool in self._all.tools)

    def of(self, client_id: str) -> ListToolsResult:
        """Those that this client has."""
        hidden = self._hidden.get(client_id)
        if not hidden:
            return self._all
        return self._all.model_copy(update={"tools": [tool for tool in self._all.tools if tool.name not in hidden]})


def _describe(spec: ToolSpec) -> Tool:
    return Tool(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        input_schema=spec.input_schema,
        output_schema=spec.output_schema,
        annotations=ToolAnnotations(
            title=spec.title,
            read_only_hint=spec.read_only,
            destructive_hint=spec.destructive,
            idempotent_hint=spec.idempotent,
            open_world_hint=spec.provider is not None,
        ),
    )
