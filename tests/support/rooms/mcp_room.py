"""A running vault with the simulator behind it, agents that hold tokens, and the raw messages of both protocol eras."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent
from typer.testing import CliRunner

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent
from server.cli import app
from server.oauth import tokens
from tests.support.harness import RunningVault, running_vault
from vault import clients, connections, delegations, grants, users
from vault.records import Client as OAuthClient
from vault.records import ClientKind, Connection, Principal, new_id
from vault.storage.database import Transaction

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
SLACK = frozenset({"chat:write", "channels:read", "channels:history"})
ACCEPT = "application/json, text/event-stream"


@dataclass(frozen=True)
class Agent:
    """A client of a user, with a live access token."""

    principal: Principal
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass
class Room:
    """Vault and simulator."""

    vault: RunningVault
    simulator: Simulator

    @property
    def url(self) -> str:
        return self.vault.url

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    async def agent(
        self,
        name: str = "alice",
        *,
        scopes: frozenset[str] = frozenset({"tools", "connections"}),
        audience: str | None = None,
        client_name: str = "Test agent",
    ) -> Agent:
        """An agent of the user, in the state in which the authorization server leaves it."""
        deployment = self.vault.deployment
        now = deployment.now()
        async with deployment.transaction() as transaction:
            user = await users.find_user(transaction, name) or await users.create_user(transaction, name, now=now)
            client = OAuthClient(
                id=new_id(),
                kind=ClientKind.DYNAMIC,
                name=client_name,
                auth_method="none",
                redirect_uris=("http://127.0.0.1:33418/callback",),
                created_at=now,
            )
            await clients.save_client(transaction, client)
            grant = await grants.create_grant(
                transaction,
                user_id=user.id,
                client_id=client.id,
                scopes=scopes,
                resource=audience or f"{self.url}/mcp",
                redirect_uri="http://127.0.0.1/callback",
                now=now,
            )
        token, _ = tokens.mint(deployment, grant, scopes=scopes, audience=grant.resource, now=now)
        return Agent(Principal(user.id, client.id, grant.id, scopes, grant.resource), token)

    async def connect(
        self,
        agent: Agent,
        provider: str,
        *,
        scopes: frozenset[str],
        delegated: frozenset[str] | None = None,
        account: str = "alice",
    ) -> Connection:
        """Connect an account at the simulator, and let the agent use it with `delegated` (default: all)."""
        deployment = self.vault.deployment
        upstream, policy = deployment.vault.upstreams[provider], deployment.vault.policies[provider]
        callback, verifier = f"{self.url}/connect/callback/{provider}", secrets.token_urlsafe(48)
        back = await consent(
            upstream.authorization_url(redirect_uri=callback, state="s", scopes=scopes, code_verifier=verifier),
            account=account,
        )
        code = parse_qs(urlsplit(back).query)["code"][0]
        answer = await upstream.redeem(code=code, redirect_uri=callback, code_verifier=verifier)
        now = deployment.now()
        async with deployment.transaction() as transaction:
            connection = await connections.open_connection(
                transaction,
                deployment.keys,
                user_id=agent.principal.user_id,
                provider=provider,
                answer=answer,
                asked=scopes,
                policy=policy,
                now=now,
            )
            # at once, as in the product: a waiting caller must not find the connection without it
            await self._allow(transaction, agent, connection, scopes if delegated is None else delegated)
        return connection

    async def allow(self, agent: Agent, connection: Connection, scopes: frozenset[str]) -> None:
        """Let the agent use the connection with exactly these scopes."""
        async with self.vault.deployment.transaction() as transaction:
            await self._allow(transaction, agent, connection, scopes)

    async def _allow(
        self, transaction: Transaction, agent: Agent, connection: Connection, scopes: frozenset[str]
    ) -> None:
        await delegations.allow(
            transaction,
            user_id=agent.principal.user_id,
            client_id=agent.principal.client_id,
            connection_id=connection.id,
            scopes=scopes,
            now=self.vault.deployment.now(),
        )

    def http(self, agent: Agent | None = None) -> httpx2.AsyncClient:
        """A plain HTTP client at the vault, with the agent's token."""
        headers = {} if agent is None else agent.headers
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    @asynccontextmanager
    async def client(self, agent: Agent, *, transport: str = "http", **options: object) -> AsyncGenerator[Client]:
        """The official client, over streamable HTTP or SSE."""
        async with contextlib.AsyncExitStack() as stack:
            if transport == "sse":
                way = sse_client(f"{self.url}/sse", headers=agent.headers)
            else:
                http = await stack.enter_async_context(self.http(agent))
                way = streamable_http_client(f"{self.url}/mcp", http_client=http)
            yield await stack.enter_async_context(Client(way, **options))


@asynccontextmanager
async def room(data: Path, *, database_url: str | None = None, **overrides: object) -> AsyncGenerator[Room]:
    """A vault with Slack and Google at the simulator."""
    async with (
        running_simulator() as simulator,
        running_vault(
            data, database_url=database_url, providers=simulator.settings(), overrides=overrides or None
        ) as vault,
    ):
        yield Room(vault, simulator)


async def connect_agent(place: Room, name: str = "alice", *, delegated: frozenset[str] = SLACK) -> Agent:
    """An agent of the user with a Slack account."""
    agent = await place.agent(name)
    await place.connect(agent, "slack", scopes=SLACK, delegated=delegated)
    return agent


def count_posts(place: Room) -> int:
    """How many messages Slack got."""
    return len(place.simulator.books()["posts"])


def text_of(result: CallToolResult) -> str:
    """What a person would read."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


async def run_client_config(place: Room, client: str, *options: str) -> str:
    """What the command `client-config` prints for a client of this vault."""
    arguments = ["client-config", client, *options, "--data", str(place.vault.deployment.data)]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def modern(method: str, params: Mapping[str, object] | None = None, **more: object) -> dict[str, object]:
    """One request of 2026-07-28, with its envelope."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **(params or {})}} | more


def modern_headers(method: str, name: str | None = None, **more: str) -> dict[str, str]:
    """The headers that belong to it."""
    found = {
        "accept": ACCEPT,
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": method,
    }
    return found | ({} if name is None else {"mcp-name": name}) | more


def legacy_headers(session: str | None = None, **more: str) -> dict[str, str]:
    """Headers of a handshake session."""
    found = {"accept": ACCEPT, "content-type": "application/json", "mcp-protocol-version": LEGACY}
    return found | ({} if session is None else {"mcp-session-id": session}) | more


INITIALIZE: dict[str, object] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": LEGACY,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


async def legacy_session(http: httpx2.AsyncClient, *, capabilities: Mapping[str, object] | None = None) -> str:
    """Open a handshake session; return its ID."""
    message = {**INITIALIZE, "params": {**INITIALIZE["params"], "capabilities": dict(capabilities or {})}}
    answer = await http.post("/mcp", json=message, headers=legacy_headers())
    assert answer.status_code == 200, answer.text
    session = answer.headers["mcp-session-id"]
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await http.post("/mcp", json=ready, headers=legacy_headers(session))).status_code == 202
    return session
