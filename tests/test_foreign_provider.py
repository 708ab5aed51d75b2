"""A certified OpenID provider of other people as connection provider: its pages, its rotation, its reuse detection.

The operator describes it in a provider file of her own. It ends the whole grant when a refresh token is used twice, so
that every lost or doubled refresh of ours would show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from starlette.datastructures import Headers

from server.app import open_deployment
from server.connect import connect_link
from server.deployment import Deployment
from server.oauth import tokens
from tests.chaos.nursery import open_nursery
from tests.conftest import Store
from tests.foreign import Driver, Somebody, driving, newcomer, node
from tests.harness import RunningVault, free_socket, running_vault
from tests.person import Person
from vault import connections
from vault.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, ConnectionState, Narrowing, Principal
from vault.refusals import ConnectionRequired

pytestmark = pytest.mark.group("node")

LIFETIME = 600  # seconds, of the provider's access tokens
BOTH = frozenset({"files:read", "files:write"})
CLIENT = {"client_id": "vault", "client_secret": "a-secret-of-the-vault"}
FILE = """
name = "foreign"
title = "Foreign Files"
client_auth = "client_secret_basic"

[hosts]
authorize_url = "{issuer}/auth"
token_url = "{issuer}/token"
revoke_url = "{issuer}/token/revocation"

[scope]
default = ["files:read"]
offline = ["offline_access"]
identity = ["openid", "email"]

[params.authorize]
prompt = "consent"

[rotation]
mode = "revokes"

[downscope]
mode = "refresh_scope"

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


@dataclass
class Place:
    """The provider, the vault, somebody at both, and an agent."""

    provider: Driver
    issuer: str
    vault: RunningVault
    somebody: Somebody
    agent: Principal

    @property
    def deployment(self) -> Deployment:
        return self.vault.deployment

    async def books(self) -> dict[str, int]:
        return await self.provider.ask(ask="books")

    async def scope_of(self, token: UpstreamToken) -> str | None:
        """What the provider itself says of a token; None when it is dead."""
        return (await self.provider.ask(ask="token", value=token.value))["scope"]

    def order(self, **more: object) -> dict[str, object]:
        """What a process of its own is told of this vault and this agent."""
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
        """For processes whose clock is the true one."""
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
        """Our connect page, the provider's sign-in and consent pages, our callback."""
        link = await connect_link(
            self.deployment, principal=self.agent, provider="foreign", scopes=BOTH, reason="missing", tool="test"
        )
        browser = self.somebody.browser
        page = await browser.submit(await browser.open(link.url), form="/connect/", button=("decision", "allow"))
        async with Person(self.issuer) as there:
            page = await there.open(page.headers["location"])
            page = await there.submit(page, {"login": "carol", "password": "anything"})
            assert "files:write" in page.text
            page = await there.submit(page)
        page = await browser.open(page.headers["location"])
        assert page.status_code == 200, page.text
        [connection] = await connections.list_connections(self.deployment.database, self.agent.user_id)
        return connection


@asynccontextmanager
async def open_place(folder: Path, store: Store | None = None) -> AsyncGenerator[Place]:
    node()
    listening = free_socket()
    redirect = f"http://localhost:{listening.getsockname()[1]}/connect/callback/foreign"
    async with driving("openid_provider.mjs", redirect, folder=folder) as provider:
        issuer = (await provider.answer())["issuer"]
        files = folder / "providers"
        files.mkdir()
        (files / "foreign.toml").write_text(FILE.format(issuer=issuer))
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
            yield Place(provider, issuer, vault, somebody, agent)


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


async def test_an_account_lives_through_many_rotations_until_it_is_disconnected(place: Place) -> None:
    connection = await place.connect()
    assert connection.label == "carol@foreign.example"
    assert connection.scopes >= BOTH
    seen: list[str] = []
    for _ in range(4):
        token = await place.exchange()
        assert token.scopes == BOTH
        assert set((await place.scope_of(token) or "").split()) >= BOTH
        seen.append(token.value)
        place.let_expire()
    assert len(set(seen)) == 4
    assert await place.books() == {"refresh tokens": 4, "refreshes": 3}  # nothing refused, no grant ended

    narrow = await place.exchange("files:read")
    assert narrow.narrowing is Narrowing.UPSTREAM
    assert await place.scope_of(narrow) == "files:read"
    full = await place.exchange()
    assert set((await place.scope_of(full) or "").split()) >= BOTH  # the grant did not shrink
    assert await place.books() == {"refresh tokens": 6, "refreshes": 5}

    browser = place.somebody.browser
    page = await browser.open(f"/connections/{connection.id}/disconnect")
    assert (await browser.submit(page, form="/disconnect")).status_code == 200
    assert await place.scope_of(full) is None
    assert (await place.books())["ended grants"] == 1
    with pytest.raises(ConnectionRequired):
        await place.exchange()


async def test_two_processes_on_one_database_refresh_once(place: Place) -> None:
    await place.connect()
    async with open_deployment(place.vault.settings, data=place.deployment.data) as other:
        for round_number in (1, 2, 3):
            place.let_expire()
            other.database.clock_offset = place.deployment.database.clock_offset
            calls = [place.exchange(where=where) for where in (place.deployment, other) for _ in range(4)]
            found = await asyncio.gather(*calls)
            assert len({token.value for token in found}) == 1
            assert await place.scope_of(found[0]) is not None
            assert await place.books() == {"refresh tokens": 1 + round_number, "refreshes": round_number}


async def test_the_grant_survives_two_processes_of_which_one_is_killed_at_every_step_outside_the_gap(
    store: Store, tmp_path: Path
) -> None:
    async with open_place(tmp_path, store) as place, open_nursery() as nursery:
        await place.connect()
        living = await nursery.start(place.order())
        assert (await living.answer())["ready"]
        refreshes = 0
        for step in ("claimed", "journalled", "committed"):
            dying = await nursery.start(place.order(dies_at=step))
            assert (await dying.answer())["ready"]
            await place.end_access_tokens()
            dying.tell(exchange=None)
            await dying.gone()
            refreshes += 1
            assert (await living.ask(exchange=None))["calls"]["carol"][0] == "ok"
            assert await place.books() == {"refresh tokens": 1 + refreshes, "refreshes": refreshes}
        other = await nursery.start(place.order(takes_up=True))
        assert (await other.answer())["ready"]
        for _ in range(3):
            await place.end_access_tokens()
            refreshes += 1
            said = await asyncio.gather(*(process.ask(exchange=["carol"] * 4) for process in (living, other)))
            assert [one["calls"]["carol"][0] for one in said] == ["ok", "ok"]
            assert await place.books() == {"refresh tokens": 1 + refreshes, "refreshes": refreshes}


async def test_when_a_stolen_token_was_used_twice_the_person_is_asked_to_connect_again(place: Place) -> None:
    connection = await place.connect()
    place.let_expire()
    await place.exchange()
    assert (await place.provider.ask(ask="replay"))["error"] == "invalid_grant"
    assert (await place.books())["ended grants"] == 1
    place.let_expire()
    with pytest.raises(ConnectionRequired) as refused:
        await place.exchange()
    assert refused.value.reason == "needs_reauth"
    [kept] = await connections.list_connections(place.deployment.database, place.agent.user_id)
    assert (kept.id, kept.state) == (connection.id, ConnectionState.NEEDS_REAUTH)
    again = await place.connect()
    assert again.id == connection.id
    assert (await place.exchange()).scopes == BOTH
