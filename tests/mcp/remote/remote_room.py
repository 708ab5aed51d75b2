"""A vault with third-party MCP servers, an operator, people who connect, and their agents."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client
from mcp_types import CallToolResult, TextContent

from server.administration.actor import Actor
from server.remote import servers
from tests.support.doubles.mcp_double import RemoteDouble, RemoteSite, agree, running_site
from tests.support.harness import PASSWORD, running_vault
from tests.support.person import Person
from tests.support.rooms.mcp_room import Agent, Room
from vault.mcp.servers import McpServer
from vault.mcp.servers import get_server as read_server

CONNECT = "io.github.mcp-token-vault/connect"


@dataclass
class RemoteRoom:
    """A vault, the site of third-party servers, and alice's browser."""

    room: Room
    site: RemoteSite
    person: Person = field(repr=False)

    @property
    def deployment(self):
        return self.room.vault.deployment

    @property
    def operator(self) -> Actor:
        return Actor(self.deployment, None, "command_line")

    async def add(self, **changes: Any) -> tuple[str, RemoteDouble]:
        """Put a new third-party server behind the vault; returns its name and the server."""
        name = f"s{secrets.token_hex(4)}"
        double = self.site.add(name, **changes)
        await servers.add(self.operator, servers.NewServer(name, double.url))
        return name, double

    async def read_server(self, name: str) -> McpServer:
        found = await read_server(self.deployment.database, name)
        assert found is not None
        return found

    async def accept(self, name: str, **decisions: Any) -> tuple[str, ...]:
        digest = (await self.read_server(name)).digest
        return await servers.accept(self.operator, name, servers.ReviewDecision(digest, **decisions))

    async def follow(self, url: str, *, agrees: Any = agree) -> str:
        """Alice opens a link, allows what it asks for, and agrees at the server; returns the text of the last page."""
        page = await self.person.open(url)
        page = await self.person.submit(page, form="/connect/", button=("decision", "allow"))
        if "location" in page.headers:
            page = await self.person.open(await agrees(page.headers["location"]))
        assert page.status_code == 200, page.text
        return page.text

    async def call(self, client: Client, tool: str, arguments: dict[str, Any] | None = None) -> CallToolResult:
        """Make a call; alice follows the first link that it leads to."""
        result = await client.call_tool(tool, arguments or {})
        if (link := link_of(result)) is not None:
            await self.follow(link)
            result = await client.call_tool(tool, arguments or {})
        return result

    async def look(self, name: str, agent: Agent) -> CallToolResult:
        """The agent looks at what the server offers now."""
        self.deployment.live.sightings.forget(name)
        async with self.room.client(agent, mode="auto") as client:
            return await self.call(client, f"{name}_tools")

    async def ready(self, **changes: Any) -> tuple[str, RemoteDouble, Agent]:
        """A server whose tools were accepted without approvals, and an agent of alice's that may use its list."""
        name, double = await self.add(**changes)
        agent = await self.room.agent()
        await self.look(name, agent)
        await self.accept(name, reads=[tool["name"] for tool in double.tools])
        return name, double, agent


def link_of(result: CallToolResult) -> str | None:
    found = (result.meta or {}).get(CONNECT)
    return found["url"] if isinstance(found, dict) else None


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@asynccontextmanager
async def remote_room(data: Path, **options: Any) -> AsyncGenerator[RemoteRoom]:
    # Many tests share the vault, and each must find its tools in the list.
    always = {"sandbox": {"loopback_upstreams": True}, "tools": {"list_limit": 0}}
    overrides = {**always, **options.pop("overrides", {})}
    async with (
        running_site() as site,
        running_vault(data, overrides=overrides, **options) as vault,
        Person(vault.url) as person,
    ):
        await person.sign_in("alice", PASSWORD)
        yield RemoteRoom(Room(vault, None), site, person)  # pyright: ignore[reportArgumentType] -- no simulator here
