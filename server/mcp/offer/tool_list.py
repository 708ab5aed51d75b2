"""The answer to `tools/list`, also before the vault is open. `server.mcp.offer.registry` determines the tools.

A tool that is left out is also refused by name (`server.mcp.tools`); one that is left out only because the list is too
long can be found by `find_tools` and still be called by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mcp_types import ListToolsResult, Tool, ToolAnnotations
from pydantic_core import to_json

from providers.tools.sets import ToolOffer
from providers.tools.spec import ToolSpec
from server.mcp.offer import discovery
from server.mcp.offer.connections_spec import SPEC

if TYPE_CHECKING:
    from server.live_providers import LiveProviders


class ToolList:
    """The answer to `tools/list`, in a fixed order, independent of connections: a hidden tool couldn't explain how to
    connect."""

    def __init__(self, tools: Sequence[ToolSpec], offer: ToolOffer) -> None:
        self._specs = (*discovery.DISCOVERY, *tools, SPEC)
        self._names = frozenset(spec.name for spec in self._specs)
        self._offer = offer

    @cached_property
    def _tools(self) -> tuple[Tool, ...]:
        return tuple(_describe(one) for one in self._specs)

    def has(self, name: str) -> bool:
        """Whether a call can have this name here."""
        return name in self._names

    def of(self, client_id: str, *, chosen: str | None) -> ListToolsResult:
        """The tools of this client, given the set that its person chose."""
        names = names_for(self._offer, client_id, chosen=chosen)
        found = [tool for tool in self._tools if tool.name in names]
        return ListToolsResult(tools=found, ttl_ms=60_000, cache_scope="private")


class LiveToolList:
    """The list for the current set of providers; rebuilt only when that has changed."""

    def __init__(self, live: LiveProviders) -> None:
        self._live = live
        self._of = live.current
        self._listed = ToolList(self._of.tools, self._of.offer)

    @property
    def current(self) -> ToolList:
        """The current answer."""
        if self._live.current is not self._of:
            self._of = self._live.current
            self._listed = ToolList(self._of.tools, self._of.offer)
        return self._listed


def names_for(offer: ToolOffer, client_id: str, *, chosen: str | None) -> frozenset[str]:
    """The names in this client's list, given the set that its person chose."""
    names = offer.names_for(client_id, chosen=chosen)
    if offer.is_long(client_id, names):
        names = frozenset(spec.name for spec in discovery.DISCOVERY)
    return names | {SPEC.name}


def size_of(specs: Sequence[ToolSpec]) -> int:
    """The number of characters that a model reads about these tools."""
    return len(text_of(specs))


def text_of(specs: Sequence[ToolSpec]) -> str:
    """What a model reads about these tools: names, descriptions, and argument schemas."""
    shown = [{"name": spec.name, "description": spec.description, "inputSchema": spec.input_schema} for spec in specs]
    return to_json(shown).decode()


def _describe(spec: ToolSpec) -> Tool:
    is_call = spec is discovery.CALL  # whose results have the schemas of other tools
    return Tool(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        input_schema=spec.input_schema,
        output_schema=None if is_call else spec.output_schema,
        annotations=ToolAnnotations.model_validate({"title": spec.title, **discovery.hints(spec)}),
    )
