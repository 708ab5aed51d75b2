"""The settings of tools: which agents are offered which tools, and how long a list can be before agents search it.

Also the settings of the stdio transport.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from server.provider_settings import Section

_Limit = Annotated[int, Field(ge=0, le=10_000)]


class ToolChoice(BaseModel):
    """Which tools exist on this vault."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    enable: tuple[str, ...] = Field(
        default=(), description="Only these tools, by name or pattern (`slack_*`). Default: all"
    )
    disable: tuple[str, ...] = Field(default=(), description="Hide these tools, by name or pattern")


class ClientToolSettings(ToolChoice):
    """The tools that one client is offered."""

    profile: str | None = Field(default=None, description="Replaces `tools.profile`")
    list_limit: _Limit | None = Field(default=None, description="Replaces `tools.list_limit`")


class ToolSetSettings(ToolChoice):
    """A tool set that the operator defines."""

    title: str | None = Field(default=None, max_length=80, description="Name on pages. Default: the set's name")
    read_only: bool = Field(default=False, description="Leave out the tools that make changes")


class ToolSettings(ToolChoice):
    """Which tools agents are offered. `tools.clients.NAME` is for one client ID, `tools.folders` for tool files."""

    folders: tuple[Path, ...] = Field(default=(), description="Folders with your own tool files")
    calls_per_minute: int = Field(
        default=600,
        ge=1,
        le=1_000_000,
        description="Calls per minute by one user's agents to one provider, in each process",
    )
    local_processes: int = Field(
        default=16,
        ge=1,
        le=1000,
        description=(
            "Maximum number of running `local_servers` programs, in each process; one person can use half of them"
        ),
    )
    profile: str = Field(
        default="everything", description="Tool set that agents are offered (`token-vault tools sets`)"
    )
    list_limit: _Limit = Field(
        default=80,  # above this length, widespread clients drop tools or refuse the list
        description=(
            "Maximum number of listed tools; an agent with more uses `find_tools` and `call_tool`. 0: no limit"
        ),
    )
    sets: Mapping[str, ToolSetSettings] = Field(default_factory=dict[str, ToolSetSettings])
    clients: Mapping[str, ClientToolSettings] = Field(default_factory=dict[str, ClientToolSettings])


class StdioSettings(Section):
    """The stdio transport and its loopback companion. `token-vault stdio --url` reads no other setting."""

    open_browser: bool = Field(default=True, description="Open the owner's browser for links")
