"""MCP servers behind the vault in the Admin API; `server.remote` makes the changes."""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field

from server.api.operations import AdminCall, ApiOutput, Instant, Strict, instant_of, operation
from server.remote import servers
from server.remote.tool_reviews import ToolReview, review_of
from vault.mcp.servers import McpServer, list_servers

Choice = Literal["read", "write", "ask", "leave"]


class McpServerRecord(ApiOutput):
    """An MCP server behind the vault, and how many of its tools are in which state."""

    name: str
    url: str
    title: str
    disabled: bool = Field(description="An admin disabled it: its tools aren't offered to agents")
    usable: int = Field(description="Accepted tools")
    held: int = Field(description="New or changed tools that wait for a review")
    left: int = Field(description="Tools that an admin left out")
    absent: int = Field(description="Accepted tools that the server no longer offers")
    problem: str = Field(description="Why it can't be used; empty if it can")
    connect_url: str = Field(description="Where people connect their account")
    added_at: Instant


class McpServers(ApiOutput):
    """All servers, in the order in which they were added."""

    items: list[McpServerRecord]


class NewMcpServer(Strict):
    """A server to add."""

    name: str = Field(max_length=64, description="Its tools are named NAME_tool")
    url: str = Field(
        max_length=2000, description="Its address (streamable HTTP), or `program:NAME` of the settings' `local_servers`"
    )
    title: str = Field(default="", max_length=60, description="Name shown to people")
    client_id: str = Field(default="", max_length=2000, description="A client that you registered there")
    client_secret: str = Field(default="", repr=False, max_length=2000, description="The secret of that client")
    issuer: str = Field(default="", max_length=2000, description="Its authorization server, if on another host")
    sign_in: Literal["oauth", "key", "open"] = Field(
        default="oauth", description="`key`: people enter a key; `open`: no sign-in is needed"
    )
    key_header: str = Field(default="", max_length=100, description="For a key: its header, `NAME` or `NAME: SCHEME`")


class ReviewedLineRecord(ApiOutput):
    """One line; `same`, `added`, or `removed` since the tool was accepted."""

    mark: Literal["same", "added", "removed"]
    text: str


class ReviewedPartRecord(ApiOutput):
    """A part of a tool's description; for a changed tool, only the changes."""

    name: str = Field(description="`title`, `description`, `arguments`, `result`, or `claims`")
    lines: list[ReviewedLineRecord]


class McpToolRecord(ApiOutput):
    """A tool in the server's words, and what was decided about it."""

    name: str
    state: str = Field(description="`new`, `changed`, `absent`, `returned`, `accepted`, or `left`: left out")
    choice: Choice = Field(description="The earlier decision if it still counts, otherwise `ask`")
    problem: str = Field(description="Why it can't be used; empty if it can")
    claims: list[str] = Field(description="What the server claims about its effect")
    parts: list[ReviewedPartRecord]


class McpReview(ApiOutput):
    """A server's tools, and the digest to accept them with."""

    digest: str
    tools: list[McpToolRecord]


class McpDecisions(Strict):
    """Decisions about the reviewed tools. Tools that aren't named stay unchanged."""

    digest: str = Field(max_length=64, description="`digest` of the review")
    tools: dict[str, Choice] = Field(max_length=500, description="By name: `read`, `write`, `ask`, or `leave`")
    forget_absent: bool = Field(default=False, description="Stop listing tools that the server no longer offers")


class AcceptedMcpTools(ApiOutput):
    """The tools that are offered to agents from now on."""

    accepted: list[str]


class McpServerChange(Strict):
    """What to change."""

    disabled: bool


class DisconnectedAccounts(ApiOutput):
    """How many accounts were disconnected. GET /receipts has the result for each."""

    accounts: int


@operation("GET", "/mcp-servers", scope="admin:read")
async def list_mcp_servers(call: AdminCall) -> McpServers:
    """List the MCP servers behind the vault."""
    return McpServers(items=[_record(call, one) for one in await list_servers(call.deployment.database)])


@operation("POST", "/mcp-servers", scope="admin:providers", status=201)
async def add_mcp_server(call: AdminCall, body: NewMcpServer) -> McpServerRecord:
    """Put an MCP server behind the vault. Its tools can be called once you accept them."""
    client = None
    if client_id := body.client_id.strip():
        client = servers.EnteredClient(client_id, body.client_secret.strip() or None)
    key = servers.key_of(body.sign_in, body.key_header)
    server = servers.NewServer(body.name, body.url, body.title, client, body.issuer or None, key)
    return _record(call, await servers.add(call.actor, server))


@operation("GET", "/mcp-servers/{provider}/review", scope="admin:read")
async def review_mcp_server(call: AdminCall) -> McpReview:
    """Show a server's tools in its own words: what is new, changed, or gone. Untrusted text."""
    server = await _server(call)
    found = await asyncio.to_thread(review_of, server)
    return McpReview(digest=server.digest, tools=[_tool_record(one) for one in found])


@operation("POST", "/mcp-servers/{provider}/decisions", scope="admin:providers", refusals=["changed_meanwhile"])
async def decide_mcp_tools(call: AdminCall, body: McpDecisions) -> AcceptedMcpTools:
    """Decide about the reviewed tools: accept them with an effect, or leave them out."""
    server = await _server(call)
    decision = servers.decision_of(body.digest, body.tools, forgets=body.forget_absent)
    return AcceptedMcpTools(accepted=list(await servers.accept(call.actor, server.name, decision)))


@operation("PATCH", "/mcp-servers/{provider}", scope="admin:providers")
async def change_mcp_server(call: AdminCall, body: McpServerChange) -> McpServerRecord:
    """Disable or enable a server. Accounts, permissions, and decisions stay."""
    server = await _server(call)
    await servers.set_disabled(call.actor, server.name, is_disabled=body.disabled)
    return _record(call, await _server(call))


@operation("DELETE", "/mcp-servers/{provider}/accounts", scope="admin:access")
async def disconnect_mcp_server(call: AdminCall) -> DisconnectedAccounts:
    """Disconnect every account from a server and revoke it there, with receipts."""
    server = await _server(call)
    return DisconnectedAccounts(accounts=await servers.disconnect_all(call.actor, server.name))


@operation("DELETE", "/mcp-servers/{provider}", scope="admin:providers", status=204, refusals=["conflict"])
async def remove_mcp_server(call: AdminCall) -> None:
    """Remove a server to which no account is connected."""
    await servers.remove(call.actor, (await _server(call)).name)


async def _server(call: AdminCall) -> McpServer:
    return await servers.server_named(call.deployment, call.param("provider"))


def _record(call: AdminCall, server: McpServer) -> McpServerRecord:
    connect_url, added_at = servers.connect_url(call.deployment, server.name), instant_of(server.added_at)
    state = servers.state_of(call.deployment, server)
    return McpServerRecord.model_validate({**state, "connect_url": connect_url, "added_at": added_at})


def _tool_record(one: ToolReview) -> McpToolRecord:
    return McpToolRecord(
        name=one.name,
        state="left" if one.choice == "leave" and one.state != "absent" else one.state,
        choice=one.choice,
        problem=one.problem,
        claims=list(one.claims),
        parts=[
            ReviewedPartRecord(
                name=part.name, lines=[ReviewedLineRecord(mark=line.mark, text=line.text) for line in part.lines]
            )
            for part in one.parts
        ],
    )


OPERATIONS = (
    list_mcp_servers,
    add_mcp_server,
    review_mcp_server,
    decide_mcp_tools,
    change_mcp_server,
    disconnect_mcp_server,
    remove_mcp_server,
)
