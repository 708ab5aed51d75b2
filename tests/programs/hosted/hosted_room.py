"""A vault with a simulated Slack that runs MCP servers on this machine, alice and bob, and their agents."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, TextContent

from providers.simulator.local_server import running_simulator
from server.administration.actor import Actor
from server.programs.hosted.pool import HostedServers
from server.programs.hosted.sandbox import find_problem, interpreter
from server.remote import servers
from tests.conftest import unavailable
from tests.support.accounts import open_account, revoke
from tests.support.harness import running_vault
from tests.support.inspection import read_events
from tests.support.rooms.mcp_room import SLACK, Agent, Room
from vault import connections
from vault.mcp.servers import get_server
from vault.records import Connection, Event
from vault.upstream import Account, TokenAnswer

SERVERS = Path(__file__).parent / "servers"
NODE_MODULES = Path(__file__).parents[2] / "node" / "node_modules"
PYPI = Path(__file__).parents[3] / ".venv" / "sdks" / "servers"
CURIOUS: dict[str, Any] = {
    "command": str(interpreter()),
    "args": ["-I", str(SERVERS / "curious.py")],
    "folders": [str(SERVERS)],
    "providers": ["slack"],
}


@cache
def _missing_requirement() -> str:
    found = find_problem()
    return "" if found is None else str(found)


def needs_sandbox() -> None:
    """Skip the test if no sandbox can be created."""
    if reason := _missing_requirement():
        pytest.skip(reason)


def npm_server(package: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """The settings of an npm server, as its package is installed."""
    folder = NODE_MODULES / package
    if not folder.is_dir() or (node := shutil.which("node")) is None:
        pytest.skip(f"{package} or Node isn't installed; run make node")
    (script,) = json.loads((folder / "package.json").read_text())["bin"].values()
    own = [] if Path(node).is_relative_to("/usr") else [str(Path(node).resolve().parents[1])]
    return {
        "command": str(Path(node).resolve()) if own else "node",
        "args": [str(folder / script), *arguments],
        "folders": [str(NODE_MODULES), *own],
        **more,
    }


def pypi_server(script: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """The settings of a PyPI server, as `make sdks` installs its package."""
    if not (PYPI / "bin" / script).is_file():
        unavailable("the servers from PyPI need: make sdks")
    return {"command": str(PYPI / "bin" / script), "args": list(arguments), "folders": [str(PYPI)], **more}


@dataclass
class HostedRoom:
    """The vault, and what each person's agent may do. `named` listens at a port that a program may reach."""

    room: Room
    named: socket.socket | None = None
    files: Path | None = None

    @property
    def named_port(self) -> int:
        assert self.named is not None
        return self.named.getsockname()[1]

    @property
    def deployment(self):
        return self.room.vault.deployment

    @property
    def hosted_servers(self) -> HostedServers:
        assert self.deployment.hosted is not None
        return self.deployment.hosted

    @property
    def operator(self) -> Actor:
        return Actor(self.deployment, None, "command_line")

    async def add(self, name: str, *, reads: tuple[str, ...] = ()) -> None:
        """Put the program behind the vault, let an agent look, and accept all tools; those in `reads` only read."""
        await servers.add(self.operator, servers.NewServer(name, f"program:{name}"))
        agent = await self.agent(name, scopes=frozenset({"list:tools"}))
        looked = await self.call(agent, name, "tools")
        assert not looked.is_error, text(looked)
        found = await get_server(self.deployment.database, name)
        assert found is not None
        asked = [one.name for one in found.tools if one.name not in reads]
        await servers.accept(self.operator, name, servers.ReviewDecision(found.digest, reads=reads, unasked=asked))

    async def agent(self, *names: str, person: str = "alice", scopes: frozenset[str] | None = None) -> Agent:
        """An agent of the person that may use everything on these servers."""
        agent = await self.room.agent(person)
        for name in names:
            access = await self.access(agent, name)
            allowed = self.deployment.catalog.provider(name).own_scopes if scopes is None else scopes
            await self.room.allow(agent, access, allowed)
        return agent

    async def access(self, agent: Agent, name: str) -> Connection:
        """The person's access to the program; created the first time."""
        deployment = self.deployment
        who = agent.principal.user_id
        for one in await connections.list_connections(deployment.database, who):
            if one.provider == name:
                return one
        scopes = deployment.catalog.provider(name).all_scopes - deployment.catalog.provider(name).own_scopes
        async with deployment.transaction() as transaction:
            return await open_account(
                transaction,
                deployment,
                who,
                name,
                TokenAnswer('{"key": "open"}', None, scopes, None, Account("mine", "mine")),
            )

    async def slack(self, agent: Agent, scopes: frozenset[str] = SLACK) -> Connection:
        """Let the agent use its person's Slack account with these scopes."""
        who = agent.principal.user_id
        for one in await connections.list_connections(self.deployment.database, who):
            if one.provider == "slack":
                await self.room.allow(agent, one, scopes)
                return one
        return await self.room.connect(agent, "slack", scopes=SLACK, delegated=scopes)

    async def forbid(self, agent: Agent, connection: Connection) -> None:
        """Remove a permission."""
        await revoke(self.deployment, agent.principal, connection)

    async def call(self, agent: Agent, server: str, tool: str, **arguments: Any) -> CallToolResult:
        """Call one of the server's tools."""
        async with self.room.client(agent, mode="auto") as client:
            return await client.call_tool(f"{server}_{tool}", arguments)

    async def ask(self, agent: Agent, tool: str, **arguments: Any) -> Any:
        """The answer of the curious server; a failure is returned as text."""
        told = await self.call(agent, "curious", tool, **arguments)
        if told.is_error:
            return text(told)
        return json.loads(told.structured_content["text"][0])

    async def events(self, kind: str, agent: Agent) -> list[Event]:
        """The agent's events, newest first."""
        found = await read_events(self.deployment, limit=1000)
        return [one for one in reversed(found) if one.kind == kind and one.client_id == agent.principal.client_id]


def _with_unruled_slack(providers: dict[str, Any]) -> dict[str, Any]:
    return {**providers, "slack": {**providers["slack"], "unruled_calls": "any"}}


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@asynccontextmanager
async def hosted_room(
    data: Path, *, most: int = 16, more: Mapping[str, object] | None = None, **local_servers: Any
) -> AsyncGenerator[HostedRoom]:
    """A vault whose settings declare these servers, at most this many at once. `more`: settings of other providers."""
    async with (
        running_simulator() as simulator,
        running_vault(
            data,
            providers=_with_unruled_slack(simulator.settings()) | dict(more or {}),
            overrides={"local_servers": local_servers, "tools": {"list_limit": 0, "local_processes": most}},
        ) as vault,
    ):
        yield HostedRoom(Room(vault, simulator))
