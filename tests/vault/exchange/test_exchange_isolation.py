"""No exchange reaches another user's account, another agent's permission, or a token of other scopes: many at once."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace

import pytest

from tests.support.rooms.vault_room import SLACK_SCOPES, Room, principal_of
from tests.support.seeded_grant import SeededGrant, agent, allow
from vault import clients, users
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, Principal
from vault.refusals import DelegationRequired, GrantEnded, VaultError

SCOPES = tuple(sorted(SLACK_SCOPES))
ACCOUNTS = ("private", "work")
CALLS = 60


@dataclass(frozen=True)
class Place:
    """One agent of one user."""

    seeded: SeededGrant
    principal: Principal


async def people(room: Room, *, how_many: int, agents: int) -> list[Place]:
    """Users who all use the same agents, so that only the grant distinguishes them."""
    places: list[Place] = []
    async with room.database.transaction() as transaction:
        made = [await users.create_user(transaction, f"person-{n}", now=room.now) for n in range(how_many)]
        shared = [agent(f"shared-{n}") for n in range(agents)]
        for client in shared:
            await clients.save_client(transaction, client)
    for user in made:
        for client in shared:
            seeded = SeededGrant(user, client, await allow(room.database, user, client))
            places.append(Place(seeded, principal_of(seeded)))
    return places


@pytest.mark.requirement("V-12")
@pytest.mark.requirement("S-161")
@pytest.mark.parametrize("seed", range(3))
async def test_no_call_of_many_mixed_ones_gets_what_is_not_its_own(room: Room, seed: int) -> None:
    chance = random.Random(seed)
    places = await people(room, how_many=4, agents=3)
    connected: dict[tuple[str, str], Connection] = {}
    allowed: dict[tuple[str, str, str], frozenset[str]] = {}
    for place in places:
        for account in ACCOUNTS:
            key = (place.seeded.user.id, account)
            if key not in connected:
                connected[key] = await room.connect(
                    account=f"{key[0]}-{account}", whose=place.seeded, delegated=frozenset()
                )
            scopes = frozenset(scope for scope in SCOPES if chance.random() < 0.5)
            if scopes:
                await room.allow(connected[key], scopes, whose=place.seeded)
            allowed[(*key, place.seeded.client.id)] = scopes
    owner = {token: connection for connection in connected.values() for token in await tokens_of(room, connection)}
    room.pass_time(chance.choice([0, 3600]))

    async def call() -> None:
        place, account = chance.choice(places), chance.choice(ACCOUNTS)
        wanted = frozenset(chance.sample(SCOPES, chance.randint(1, len(SCOPES))))
        connection = connected[place.seeded.user.id, account]
        request = ExchangeRequest(place.principal, "slack", wanted, account=connection.account)
        may = allowed[place.seeded.user.id, account, place.seeded.client.id]
        outcome = await attempt(room, request)
        if wanted <= may:
            assert isinstance(outcome, UpstreamToken)
            assert outcome.connection_id == connection.id
            assert outcome.scopes == wanted
            assert owner.get(outcome.value, connection) is connection
            owner[outcome.value] = connection
        else:
            assert isinstance(outcome, DelegationRequired)
            assert outcome.connection_id == (
                connection.id if may else None
            )  # without any permission, the account isn't named

    async with asyncio.timeout(60):
        await asyncio.gather(*(call() for _ in range(CALLS)))


async def tokens_of(room: Room, connection: Connection) -> list[str]:
    """The access tokens that the provider issued for this account."""
    number = next(n for n, family in enumerate(room.slack.families) if family.account.id == connection.account)
    return [list(room.slack.issued)[number]]


async def attempt(room: Room, request: ExchangeRequest) -> UpstreamToken | VaultError:
    try:
        return await exchange(request, vault=room.vault, now=room.now)
    except VaultError as refusal:
        return refusal


@pytest.mark.requirement("V-12")
async def test_another_users_account_cannot_be_named(room: Room) -> None:
    alice, bob = await people(room, how_many=2, agents=1)
    his = await room.connect(account="bob", whose=bob.seeded)
    mine = await room.connect(account="alice", whose=alice.seeded)
    for name in (his.id, his.account, his.label, mine.id.swapcase(), "", "%", "*"):
        outcome = await attempt(
            room, ExchangeRequest(alice.principal, "slack", frozenset({"chat:write"}), account=name)
        )
        assert isinstance(outcome, VaultError)
        assert his.label not in f"{outcome.description} {vars(outcome)}"
    for name in (mine.id, mine.account, mine.label):
        outcome = await attempt(
            room, ExchangeRequest(alice.principal, "slack", frozenset({"chat:write"}), account=name)
        )
        assert isinstance(outcome, UpstreamToken)


@pytest.mark.parametrize("field", ["user_id", "client_id", "grant_id"])
async def test_a_principal_whose_parts_do_not_belong_together_gets_nothing(room: Room, field: str) -> None:
    first, second = await people(room, how_many=1, agents=2)
    (other,) = (await people_named(room, "stranger"),)
    await room.connect(whose=first.seeded)
    request = ExchangeRequest(first.principal, "slack", frozenset({"chat:write"}))
    assert isinstance(await attempt(room, request), UpstreamToken)
    foreign = {"user_id": other.principal, "client_id": second.principal, "grant_id": second.principal}[field]
    mixed = replace(first.principal, **{field: getattr(foreign, field)})
    assert isinstance(await attempt(room, replace(request, principal=mixed)), GrantEnded)


async def people_named(room: Room, name: str) -> Place:
    async with room.database.transaction() as transaction:
        user = await users.create_user(transaction, name, now=room.now)
        client = agent("stranger")
        await clients.save_client(transaction, client)
    seeded = SeededGrant(user, client, await allow(room.database, user, client))
    return Place(seeded, principal_of(seeded))
