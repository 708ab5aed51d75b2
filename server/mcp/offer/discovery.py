"""Progressive discovery: three tools in place of a long list, which find a tool, show its schema, and call it.

`call_tool` is an alternative form of a call: `server.mcp.tools` then handles the named tool as usual, with its
permissions, approvals, budgets, and events. This module has the specs and answers the two tools that only read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from providers.definitions.suggestions import did_you_mean
from providers.tools.spec import Effect, Progress, ToolSpec

if TYPE_CHECKING:
    from providers.api.api import UpstreamAPI

FOUND: Final = 5  # tools in an answer, unless the agent wants more
_Name = Annotated[str, Field(min_length=1, max_length=100, description="Name of the tool")]


class FindToolsInput(BaseModel):
    """Arguments of `find_tools`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    query: str = Field(min_length=1, max_length=400, description="What you want to do, in a few words")
    limit: int = Field(default=FOUND, ge=1, le=20, description="How many tools")


class FoundTool(BaseModel):
    """A tool, with the details needed to choose it."""

    name: str
    title: str
    service: str
    effect: Effect
    description: str


class FindToolsOutput(BaseModel):
    """Answer of `find_tools`."""

    tools: list[FoundTool]
    services: list[str] = Field(description="Services that have tools, if nothing was found")

    def __str__(self) -> str:
        if not self.tools:
            return f"No tool matches these words. There are tools for: {', '.join(self.services)}."
        lines = [f"{one.name} ({one.service}, {one.effect}): {one.description}" for one in self.tools]
        return "\n".join([*lines, "describe_tool returns the arguments of one, call_tool calls it."])


class DescribeToolInput(BaseModel):
    """Arguments of `describe_tool`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    name: _Name


class DescribeToolOutput(BaseModel):
    """Answer of `describe_tool`: a tool's entry in `tools/list`, without the schema of its result."""

    name: str
    title: str
    service: str
    description: str
    input_schema: dict[str, object]
    annotations: dict[str, bool]

    def __str__(self) -> str:
        return self.model_dump_json()


class CallToolInput(BaseModel):
    """Arguments of `call_tool`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    name: _Name
    arguments: dict[str, object] = Field(
        default_factory=dict[str, object], repr=False, description="Its arguments, as describe_tool says"
    )


class CallToolOutput(BaseModel):
    """Answer of `call_tool`: that of the called tool."""

    model_config = ConfigDict(extra="allow", defer_build=True)


async def _refuse_call(api: UpstreamAPI, arguments: BaseModel, progress: Progress) -> BaseModel:
    raise RuntimeError("`server.mcp.tools` answers the tools of discovery")


def _spec(
    name: str, title: str, description: str, *, models: tuple[type[BaseModel], type[BaseModel]], effect: Effect = "read"
) -> ToolSpec:
    return ToolSpec(
        name=name,
        title=title,
        description=description,
        provider=None,
        scopes=frozenset(),
        effect=effect,
        input=models[0],
        output=models[1],
        call=_refuse_call,
    )


FIND: Final = _spec(
    "find_tools",
    "Find tools",
    "Find tools by what they do. Only these are listed here; the others are found with this one.",
    models=(FindToolsInput, FindToolsOutput),
)
DESCRIBE: Final = _spec(
    "describe_tool",
    "Describe a tool",
    "Get a tool's arguments before calling it.",
    models=(DescribeToolInput, DescribeToolOutput),
)
CALL: Final = _spec(
    "call_tool",
    "Call a tool",
    "Call a tool that find_tools found. Depending on that tool, it can read, create, change, or delete.",
    models=(CallToolInput, CallToolOutput),
    effect="delete",
)
DISCOVERY: Final = (FIND, DESCRIBE, CALL)


def hints(spec: ToolSpec) -> dict[str, bool]:
    """What the tool does to data: MCP's `ToolAnnotations` without the title.

    `call_tool` can do everything that any tool does, whatever is currently offered: a client may keep its list for
    longer than a person keeps a tool set.
    """
    return {
        "readOnlyHint": spec.read_only,
        "destructiveHint": spec.destructive,
        "idempotentHint": spec.idempotent and spec is not CALL,
        "openWorldHint": spec.provider is not None or spec is CALL,
    }


def findings(specs: Sequence[ToolSpec], *, titles: Mapping[str, str], services: Sequence[str]) -> FindToolsOutput:
    """The answer of `find_tools`."""
    tools = [
        FoundTool(
            name=spec.name,
            title=spec.title,
            service=titles.get(spec.provider or "", "Token Vault"),
            effect=spec.effect,
            description=spec.description,
        )
        for spec in specs
    ]
    return FindToolsOutput(tools=tools, services=[] if tools else list(services))


def description_of(spec: ToolSpec, *, titles: Mapping[str, str]) -> DescribeToolOutput:
    """The answer of `describe_tool`."""
    return DescribeToolOutput(
        name=spec.name,
        title=spec.title,
        service=titles.get(spec.provider or "", "Token Vault"),
        description=spec.description,
        input_schema=spec.input_schema,
        annotations=hints(spec),
    )


def unknown(name: str, names: Iterable[str]) -> str:
    """What to do about an unknown tool name. Suggests only tools of this agent."""
    hint = did_you_mean(name, names)
    return f"This agent has no tool with that name.{hint} find_tools finds tools by what they do."
