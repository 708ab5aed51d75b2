"""The `connections` tool as clients see it. `server.mcp.offer.connections_tool` answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field

from providers.tools.spec import Progress, ToolSpec

if TYPE_CHECKING:
    from providers.api.api import UpstreamAPI


class ConnectionsInput(BaseModel):
    """Arguments of `connections`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    provider: str | None = Field(
        default=None, max_length=64, pattern=r"^[a-z0-9-]+$", description="Only this provider, for example slack"
    )


class ConnectionEntry(BaseModel):
    """One connected account."""

    provider: str
    account: str
    status: str = Field(description="active, expiring, waiting (for the provider), ambiguous or needs_reauth")
    ends_at: str | None = Field(description="When the provider ends this connection (UTC), if ever")
    ends_unless_used: bool = Field(description="Whether using it before then extends it")
    granted_scopes: list[str] = Field(description="Scopes that the account granted to the vault")
    your_scopes: list[str] = Field(description="Scopes that the person lets this agent use")


class ConnectionsOutput(BaseModel):
    """Answer of `connections`."""

    connections: list[ConnectionEntry]
    not_connected: list[str] = Field(description="Providers of this vault without a connected account in this list")
    manage_url: str | None = Field(
        description="Where the person connects, reconnects, and disconnects accounts; null if there is a `problem`"
    )
    problem: str | None = Field(default=None, description="Why the person's pages can't be opened safely right now")

    def __str__(self) -> str:
        lines = [
            f"{entry.provider}: {entry.account}, {entry.status}{_end(entry)}; "
            f"you may use {' '.join(entry.your_scopes) or 'nothing yet'}"
            for entry in self.connections
        ]
        if self.not_connected:
            lines.append(f"not connected: {', '.join(self.not_connected)} (call one of its tools to get a link)")
        manage = f"The person manages this at {self.manage_url}"
        if self.problem is not None:
            manage = f"The person's pages can't be opened safely: {self.problem}"
        return "\n".join([*(lines or ["No accounts connected."]), manage])


def _end(entry: ConnectionEntry) -> str:
    if entry.ends_at is None or (entry.ends_unless_used and entry.status != "expiring"):
        return ""
    return f" (ends {entry.ends_at}{' unless used before then' if entry.ends_unless_used else ''})"


async def _refuse_call(api: UpstreamAPI, arguments: BaseModel, progress: Progress) -> BaseModel:
    raise RuntimeError("`connections` reads the vault; `look` answers it")


SPEC: Final = ToolSpec(
    name="connections",
    title="Connections",
    description=(
        "List the person's accounts that are connected to the vault, their status, the scopes you can "
        "use, and the page where the person manages them. Read-only."
    ),
    provider=None,
    scopes=frozenset(),
    effect="read",
    input=ConnectionsInput,
    output=ConnectionsOutput,
    call=_refuse_call,
)
