"""A vault whose provider is a third-party authorization server in a separate process, and an account there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from starlette.datastructures import Headers

from server.connecting.links import connect_link
from server.deployment import Deployment
from server.oauth import tokens
from tests.conftest import Store
from tests.support.foreign.foreign import Driver, Somebody, drive_program, newcomer
from tests.support.harness import RunningVault, free_socket, running_vault
from tests.support.person import Person
from vault import connections
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, ConnectionState, Principal
from vault.refusals import ConnectionRequired

LIFETIME = 600  # seconds, of the provider's access tokens
BOTH = frozenset({"files:read", "files:write"})
CLIENT = {"client_id": "vault", "client_secret": "a-secret-of-the-vault"}


# The operator's file for each; its URLs and special parts go between the two.
FIRST = """
name = "foreign"
title = "Foreign Files"
client_auth = "client_secret_basic"
"""
LAST = """
[identity]
url = "{issuer}/me"
id = "{{sub}}"
label = "{{email}}"

[apis]
files = "{issuer}/files"

[scopes."files:read"]
title = "Read your files"

[scopes."files:write"]
title = "Change your files"
"""


@dataclass(frozen=True)
class Service:
    """A third-party program, what the operator's file says about it, and what a person does on its pages."""

    script: str
    file: str
    agree: Callable[[Person, httpx2.Response], Awaitable[httpx2.Response]]


@dataclass
class Place:
    """The provider, the vault, a person with accounts at both, and an agent."""

    service: Service
    provider: Driver
    issuer: str
    vault: RunningVault
    somebody: Somebody
    agent: Principal

    @property
    def callback(self) -> str:
        """Our redirect URI there."""
        return f"{self.vault.url}/connect/callback/foreign"

    @property
    def deployment(self) -> Deployment:
        return self.vault.deployment

    async def books(self) -> dict[str, int]:
        return await self.provider.ask(ask="books")

    async def scope_of(self, token: UpstreamToken) -> str | None:
        """What the provider itself reports about a token; None if it is dead."""
        return (await self.provider.ask(ask="token", value=token.value))["scope"]

    def order(self, **more: object) -> dict[str, object]:
        """What a separate process needs to know about this vault and this agent."""
        principal = {
            "user_id": self.agent.user_id,
            "client_id": self.agent.client_id,
            "grant_id": self.agent.grant_id,
            "audience": self.agent.audience,
        }
        return {
            "data": str(self.deployment.data),
            "settings": {
                "database": {"url": self.vault.settings.database_url()},
                "providers": {"foreign": CLIENT},
                "provider_folders": [str(folder) for folder in self.vault.settings.provider_folders],
                "sandbox": {"loopback_upstreams": True},
            },
            "accounts": {"carol": {"principal": principal, "provider": "foreign", "scopes": sorted(BOTH)}},
            **more,
        }

    async def end_access_tokens(self) -> None:
        """For processes whose clock is the real one."""
        async with self.deployment.transaction() as transaction:
            ended = {"at": self.deployment.now() - 1}
            await transaction.execute("update connections set access_expires_at = :at", ended)

    def let_expire(self) -> None:
        self.deployment.database.clock_offset += LIFETIME + 1

    async def exchange(self, *scopes: str, where: Deployment | None = None) -> UpstreamToken:
        deployment = where or self.deployment
        wanted = frozenset(scopes) or None
        return await exchange(
            ExchangeRequest(self.agent, "foreign", wanted, purpose="test"), vault=deployment.vault, now=deployment.now()
        )

    async def connect(self) -> Connection:
        """Follow our connect page, the provider's sign-in and consent pages, and our callback."""
        link = await connect_link(
            self.deployment, principal=self.agent, provider="foreign", scopes=BOTH, reason="missing", tool="test"
        )
        assert link is not None
        browser = self.somebody.browser
        page = await browser.submit(await browser.open(link.url), form="/connect/", button=("decision", "allow"))
        async with Person(self.issuer) as there:
            page = await self.service.agree(there, await there.open(page.headers["location"]))
        page = await browser.open(page.headers["location"])
        assert page.status_code == 200, page.text
        [connection] = await connections.list_connections(self.deployment.database, self.agent.user_id)
        return connection

    async def rotate(self, connection: Connection, times: int) -> None:
        """Let the new account's tokens expire repeatedly; each call gets a new one with all scopes."""
        assert connection.label == "carol@foreign.example"
        assert connection.scopes >= BOTH
        seen: list[str] = []
        for _ in range(times):
            token = await self.exchange()
            assert token.scopes == BOTH
            assert set((await self.scope_of(token) or "").split()) >= BOTH
            seen.append(token.value)
            self.let_expire()
        assert len(set(seen)) == times

    async def disconnect(self, connection: Connection) -> None:
        """On our page."""
        browser = self.somebody.browser
        page = await browser.open(f"/connections/{connection.id}/disconnect")
        assert (await browser.submit(page, form="/disconnect")).status_code == 200

    async def check_that_it_must_be_reconnected(self, connection: Connection) -> None:
        """The provider ends the grant: the next call reports that, and connecting again restores the same account."""
        self.let_expire()
        with pytest.raises(ConnectionRequired) as refused:
            await self.exchange()
        assert refused.value.reason == "needs_reauth"
        [kept] = await connections.list_connections(self.deployment.database, self.agent.user_id)
        assert (kept.id, kept.state) == (connection.id, ConnectionState.NEEDS_REAUTH)
        again = await self.connect()
        assert again.id == connection.id
        assert (await self.exchange()).scopes == BOTH


@asynccontextmanager
async def open_place(folder: Path, service: Service, store: Store | None = None) -> AsyncGenerator[Place]:
    """Start the service and a vault that knows it."""
    with free_socket() as listening:
        redirect = f"http://localhost:{listening.getsockname()[1]}/connect/callback/foreign"
        async with drive_program(service.script, redirect, folder=folder) as provider:
            issuer = (await provider.answer())["issuer"]
            files = folder / "providers"
            files.mkdir()
            (files / "foreign.toml").write_text((FIRST + service.file + LAST).format(issuer=issuer))
            async with (
                running_vault(
                    folder / "data" if store is None else store.data,
                    database_url=None if store is None else store.url,
                    providers={"foreign": CLIENT},
                    overrides={"provider_folders": [str(files)]},
                    listening=listening,
                ) as vault,
                newcomer(vault) as somebody,
            ):
                held = await vault.agent(somebody.browser, name=somebody.name)
                headers = Headers({"authorization": f"Bearer {held.access_token}"})
                agent = await tokens.authenticate(vault.deployment, headers, method="POST", path="/mcp")
                yield Place(service, provider, issuer, vault, somebody, agent)
