"""Services that issue no refresh tokens: the vault holds the access token itself, and never requests another.

With the shipped provider files, against the simulator in the service's mode.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from providers.check.trial import at_simulator
from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider, Registration
from providers.oauth.client import OAuthUpstream
from providers.outbound.client import AddressPolicy, Outbound
from providers.simulator import Simulator, consent, running_simulator
from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET
from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room, principal_of
from tests.support.simulator_apps import REDIRECT, VERIFIER, parameters
from vault import connections
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, ConnectionState, Narrowing
from vault.refresh.rotation import refresh
from vault.refusals import ConnectionRequired
from vault.upkeep.expiries import list_resting
from vault.upstream import Account, Refusal, TokenAnswer

NEVER = sorted(one.name for one in load_catalog().all_providers() if one.refresh_tokens == "never")


@dataclass
class Place:
    """The vault connected to one such service, over real HTTP."""

    provider: Provider
    simulator: Simulator
    room: Room
    upstream: OAuthUpstream

    async def connect(self) -> Connection:
        asked = self.provider.scope.default
        url = self.upstream.authorization_url(redirect_uri=REDIRECT, state="st", scopes=asked, code_verifier=VERIFIER)
        code = parameters(await consent(url))["code"]
        answer = await self.upstream.redeem(code=code, redirect_uri=REDIRECT, code_verifier=VERIFIER)
        async with self.room.database.transaction() as transaction:
            connection = await connections.open_connection(
                transaction,
                self.room.vault.keys,
                user_id=self.room.alice.user.id,
                provider=self.provider.name,
                answer=answer,
                asked=asked,
                policy=self.provider.policy(),
                now=self.room.now,
            )
        await self.room.allow(connection, asked)
        return connection

    async def exchange(self, wanted: frozenset[str], *, after: int | None = None) -> UpstreamToken:
        request = ExchangeRequest(principal_of(self.room.alice), self.provider.name, wanted, purpose="a_tool")
        return await exchange(request, vault=self.room.vault, now=self.room.now, after_unauthorized=after)

    async def read_connection(self, connection: Connection) -> Connection:
        found = await connections.get_connection(self.room.database, connection.id, user_id=self.room.alice.user.id)
        assert found is not None
        return found


@asynccontextmanager
async def place_for(name: str, store: Store) -> AsyncGenerator[Place]:
    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        provider = at_simulator(
            load_catalog().provider(name), f"{simulator.url}/families/known-{name}"
        ).with_registration(Registration(CLIENT_ID, CLIENT_SECRET))
        upstream = OAuthUpstream(provider, outbound, clock=simulator.now)
        async with open_room(store) as room:
            room.vault = replace(
                room.vault,
                policies={name: provider.policy()},
                upstreams={name: upstream},
                owner=secrets.token_urlsafe(16),
            )
            yield Place(provider, simulator, room, upstream)


def test_there_are_such_services() -> None:
    assert {"facebook", "github-oauth-app", "linkedin", "webflow"} <= set(NEVER)


async def test_a_lasting_token_is_held_and_handed_out_as_long_as_it_lives(sqlite_store: Store) -> None:
    async with place_for("webflow", sqlite_store) as place:
        connection = await place.connect()
        assert (connection.has_refresh_token, connection.access_expires_at) == (False, None)
        first = await place.exchange(place.provider.scope.default)
        place.room.pass_time(400 * 86400)
        again = await place.exchange(place.provider.scope.default)
        assert (again.value, again.expires_at, again.narrowing) == (first.value, None, Narrowing.UPSTREAM)
        assert place.simulator.books()["refreshes"] == []


async def test_less_than_the_grant_is_held_by_our_rules_there(sqlite_store: Store) -> None:
    async with place_for("clickup", sqlite_store) as place:
        await place.connect()
        token = await place.exchange(frozenset({"read"}))
        assert token.narrowing in {Narrowing.ENFORCED, Narrowing.UPSTREAM}
        assert place.simulator.books()["refreshes"] == []


async def test_a_token_that_ends_is_shown_to_end_and_needs_its_person_then(sqlite_store: Store) -> None:
    async with place_for("facebook", sqlite_store) as place:
        connection = await place.connect()
        ends = connection.grant_expires_at
        assert ends is not None and ends == connection.access_expires_at
        assert abs(ends - place.room.now - 60 * 86400) < 5
        assert connection.status(ends - 86400) == "expiring"
        await place.exchange(place.provider.scope.default)
        place.room.pass_time(61 * 86400)
        with pytest.raises(ConnectionRequired) as refused:
            await place.exchange(place.provider.scope.default)
        assert refused.value.reason == "needs_reauth"
        assert place.simulator.books()["refreshes"] == []


@pytest.mark.parametrize(("expires_in", "refresh_token", "ends"), [
    (3600, None, 3600),
    (None, None, None),
    (3600, "refresh", 90 * 86400),
])  # fmt: skip
async def test_a_grant_without_a_refresh_token_ends_with_its_access_token(
    store: Store, expires_in: int | None, refresh_token: str | None, ends: int | None
) -> None:
    """The service has refresh tokens, but this app or consent got none."""
    answer = TokenAnswer("access", refresh_token, frozenset({"read"}), expires_in, Account("1", "Alice"))
    async with open_room(store) as room:
        policy = replace(room.vault.policies["slack"], grant_lifetime=100 * 86400, grant_idle=90 * 86400)
        now = room.now
        async with room.database.transaction() as transaction:
            opened = await connections.open_connection(
                transaction,
                room.vault.keys,
                user_id=room.alice.user.id,
                provider="slack",
                answer=answer,
                asked=frozenset({"read"}),
                policy=policy,
                now=now,
            )
        assert opened.ends_at == (None if ends is None else now + ends)


async def test_a_token_that_the_service_ended_needs_its_person(sqlite_store: Store) -> None:
    async with place_for("github-oauth-app", sqlite_store) as place:
        connection = await place.connect()
        token = await place.exchange(place.provider.scope.default)
        with pytest.raises(ConnectionRequired):
            await place.exchange(place.provider.scope.default, after=token.generation)
        assert (await place.read_connection(connection)).state is ConnectionState.NEEDS_REAUTH
        assert place.simulator.books()["refreshes"] == []


@pytest.mark.parametrize("name", ["instagram", "threads"])
async def test_an_access_token_renews_itself_while_it_lives_and_no_longer(name: str, sqlite_store: Store) -> None:
    async with place_for(name, sqlite_store) as place:
        wanted = place.provider.scope.default
        connection = await place.connect()
        assert (connection.has_refresh_token, connection.grant_expires_at) == (True, None)
        first = await place.exchange(wanted)
        for _ in range(2):  # two weeks before its end, as the upkeep does it
            place.room.pass_time(50 * 86400)
            place.simulator.advance(50 * 86400)
            assert [one.connection_id for one in await list_resting(place.room.database, name)] == [connection.id]
            await refresh(
                place.room.vault, connection.id, if_generation=(await place.read_connection(connection)).generation
            )
            assert await list_resting(place.room.database, name) == ()
            assert (await place.read_connection(connection)).ends_at > place.room.now + 59 * 86400
        assert (await place.exchange(wanted)).value != first.value
        place.room.pass_time(61 * 86400)
        place.simulator.advance(61 * 86400)
        with pytest.raises(ConnectionRequired) as refused:
            await place.exchange(wanted)
        assert refused.value.reason == "needs_reauth"


@pytest.mark.parametrize("name", NEVER)
async def test_nobody_can_refresh_there(name: str) -> None:
    async with Outbound() as outbound:
        provider = load_catalog().provider(name).with_registration(Registration(CLIENT_ID, CLIENT_SECRET))
        refused = await OAuthUpstream(provider, outbound).refresh("anything")
        assert isinstance(refused, Refusal) and not refused.ends_grant
