"""A vault whose Slack and Google are a scripted server, and agents with handles: the starting point for proxy tests."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from providers.definitions.catalog import load_catalog
from providers.simulator.local_server import running_simulator
from tests.support.accounts import open_account
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.harness import RunningVault, running_vault
from tests.support.inspection import read_events
from tests.support.rooms.mcp_room import Agent, Room
from vault import handles
from vault.records import Connection, Event
from vault.upstream import Account, TokenAnswer

READ = frozenset({"channels:read"})
POST = frozenset({"chat:write"})
ALL = frozenset({"chat:write", "channels:read", "channels:history"})
UPSTREAM_TOKEN = "xoxp-canary/0123456789=+abcdef"
HOUR = 3600


@dataclass
class ProxyRoom(Room):
    """A room in which accounts need no consent: `provider` answers whatever a test wants."""

    provider: ScriptedServer = field(kw_only=True)

    async def account(
        self,
        agent: Agent,
        *,
        provider: str = "slack",
        name: str = "T1:U1",
        scopes: frozenset[str] = ALL,
        delegated: frozenset[str] | None = None,
        token: str = UPSTREAM_TOKEN,
    ) -> Connection:
        """An account of the agent's user with this upstream token, and the permission to use it."""
        deployment = self.vault.deployment
        async with deployment.transaction() as transaction:
            connection = await open_account(
                transaction,
                deployment,
                agent.principal.user_id,
                provider,
                TokenAnswer(token, "refresh-canary", scopes, 43200, Account(name, f"{name}@example")),
            )
        await self.allow(agent, connection, scopes if delegated is None else delegated)
        return connection

    async def handle(
        self,
        agent: Agent,
        connection: Connection,
        *,
        scopes: frozenset[str] = ALL,
        lifetime: int = HOUR,
        key_thumbprint: str | None = None,
    ) -> ProxyHandle:
        return await issue(self, agent, connection, scopes=scopes, lifetime=lifetime, key_thumbprint=key_thumbprint)

    async def ready(self, *, scopes: frozenset[str] = ALL, name: str = "T1:U1") -> ProxyHandle:
        """An agent with an account and a handle."""
        agent = await self.agent()
        connection = await self.account(agent, name=name)
        return await self.handle(agent, connection, scopes=scopes)

    async def events(self, handle: ProxyHandle) -> list[Event]:
        """`proxy.called`, oldest first, of this agent."""
        deployment = self.vault.deployment
        found = await read_events(deployment)
        return [
            one for one in found if one.kind == "proxy.called" and one.client_id == handle.agent.principal.client_id
        ]


@dataclass
class ProxyHandle:
    """A handle, and where calls with it go."""

    vault: RunningVault
    agent: Agent
    connection: Connection
    value: str = field(repr=False)

    def base(self, api: str = "web") -> str:
        return f"{self.vault.url}/proxy/{self.connection.id}/{api}"

    async def call(
        self,
        method: str = "POST",
        path: str = "/chat.postMessage",
        *,
        api: str = "web",
        scheme: str = "Bearer",
        headers: Mapping[str, str] | None = None,
        verify: bool | ssl.SSLContext = True,
        **options: object,
    ) -> httpx2.Response:
        """A call with the handle; adds nothing to what the caller specifies."""
        sent = {"authorization": f"{scheme} {self.value}"} | dict(headers or {})
        async with httpx2.AsyncClient(timeout=30, trust_env=False, verify=verify) as http:
            return await http.request(method, self.base(api) + path, headers=sent, **options)


async def issue(
    room: Room,
    agent: Agent,
    connection: Connection,
    *,
    scopes: frozenset[str],
    lifetime: int = HOUR,
    key_thumbprint: str | None = None,
) -> ProxyHandle:
    """A handle in the state in which the token endpoint leaves it."""
    deployment = room.vault.deployment
    now = deployment.now()
    async with deployment.transaction() as transaction:
        value = await handles.issue(
            transaction,
            principal=agent.principal,
            connection_id=connection.id,
            provider=connection.provider,
            scopes=scopes,
            key_thumbprint=key_thumbprint,
            expires_at=now + lifetime,
            now=now,
        )
    return ProxyHandle(room.vault, agent, connection, value)


def post_reply(_: Arrival) -> Reply:
    """What Slack answers to a post."""
    return json_reply({"ok": True, "channel": "C1", "ts": "1.2"})


@asynccontextmanager
async def proxy_room(
    data: Path,
    *,
    database_url: str | None = None,
    apis_at: str | None = None,
    others: Mapping[str, str] = {},
    settings: Mapping[str, Mapping[str, object]] = {},
    **overrides: object,
) -> AsyncGenerator[ProxyRoom]:
    """A vault with Slack, Google and GitHub at one scripted server; with `apis_at`, their APIs are elsewhere. `others`:
    further providers, each with its API at `/NAME` there. `settings`: further settings, by provider.
    """
    secret = secrets.token_urlsafe(8)
    async with running_simulator() as simulator, scripted_server(post_reply) as server:
        providers = {
            name: {
                "client_id": "ours",
                "client_secret": secret,
                "authorize_url": f"{server.url}/{name}/authorize",
                "token_url": f"{server.url}/{name}/token",
                "revoke_url": f"{server.url}/{name}/revoke",
                "apis": {
                    key: f"{apis_at or server.url}/{name}" + ("" if key == api else f"-{key}")
                    for key in load_catalog().provider(name).apis
                },
            }
            for name, api in (("slack", "web"), ("google", "calendar"), ("github", "rest"), *others.items())
        }
        for name in others:
            providers[name]["userinfo_url"] = f"{server.url}/{name}/userinfo"
            if load_catalog().provider(name).long_lived is not None:
                providers[name]["long_lived_url"] = f"{server.url}/{name}/long"
        for name, more in settings.items():
            providers[name] |= more
        providers["google"]["userinfo_url"] = f"{server.url}/google/userinfo"
        async with running_vault(
            data, database_url=database_url, providers=providers, overrides=overrides or None
        ) as vault:
            yield ProxyRoom(vault, simulator, provider=server)
