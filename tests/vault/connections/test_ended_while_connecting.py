"""An agent that is ended while an account is being connected for it gets no permission; the account is connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from providers.simulator.person import consent
from server.administration import agents
from server.administration.actor import Actor
from server.portal.access import access_changes
from server.sign_in import password
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.inspection import lock_row, until_waiting
from tests.support.rooms.portal_room import CHAT
from tests.vault.connections.test_consents import WAIT, Place, Trip, open_place
from vault import delegations
from vault.refresh import consents
from vault.refusals import StorageBusy

End = Callable[[Trip], Awaitable[None]]


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Place]:
    async with open_place(store) as one:
        yield one


async def end_agent(trip: Trip) -> None:
    await access_changes.end_agent(trip.room.deployment, trip.user, trip.client)


async def remove_agent(trip: Trip) -> None:
    await agents.remove(Actor(trip.room.deployment, None, "command_line"), trip.client)


async def change_password(trip: Trip) -> None:
    new = "another password that is long enough"
    await password.change_password(trip.room.deployment, trip.user, current=PASSWORD, new=new, address="127.0.0.1")


async def end_another(trip: Trip) -> None:
    await access_changes.end_agent(trip.room.deployment, trip.user, await trip.room.agent())
    await access_changes.end_agent(trip.room.deployment, await trip.room.user(), trip.client)


async def until_ended(end: End, trip: Trip) -> None:
    """End it; a server process may not know yet that the storage is back."""
    async with asyncio.timeout(WAIT):
        while True:
            try:
                return await end(trip)
            except StorageBusy:
                await asyncio.sleep(0.1)


async def live_scopes(trip: Trip) -> list[frozenset[str]]:
    now = trip.room.deployment.now()
    held = await delegations.list_for_user(trip.room.deployment.database, trip.user.id)
    return [one.scopes for one in held if one.is_live(now)]


@pytest.mark.parametrize(
    ("end", "is_allowed"), [(end_agent, False), (remove_agent, False), (change_password, False), (end_another, True)]
)
@pytest.mark.parametrize("stage", ["asked", "answered"])
async def test_an_agent_that_is_ended_while_the_code_is_redeemed_gets_no_permission(
    place: Place, end: End, is_allowed: bool, stage: str
) -> None:
    trip = await place.trip()

    async def at(reached: str) -> None:
        if reached == stage:
            await end(trip)

    place.watch(at)
    await trip.come_back()
    assert len(await trip.list_connections()) == 1
    assert await live_scopes(trip) == ([CHAT] if is_allowed else [])
    opened = [one for one in await trip.room.events(trip.user) if one.kind == "connection.opened"]
    assert [one.client_id for one in opened] == [trip.client.id if is_allowed else None]


@pytest.mark.parametrize(("end", "is_allowed"), [(end_agent, False), (remove_agent, False), (end_another, True)])
async def test_an_agent_that_is_ended_while_an_answer_waits_in_the_journal_gets_no_permission(
    place: Place, end: End, is_allowed: bool
) -> None:
    trip = await place.trip()
    place.fail_at("answered")
    assert (await trip.come_back()).status_code == 503
    place.die()
    await place.bring_storage_back()
    await until_ended(end, trip)
    assert await consents.adopt_all(place.room.deployment.vault) == 1
    assert len(await trip.list_connections()) == 1
    assert await live_scopes(trip) == ([CHAT] if is_allowed else [])


@pytest.mark.parametrize("is_taken", [True, False])
async def test_an_account_that_is_taken_away_during_a_reconnect_stays_away(place: Place, is_taken: bool) -> None:
    first = await place.trip()
    await first.come_back()
    (connection,) = await first.list_connections()
    room, deployment = place.room, place.room.deployment
    which = {"user_id": first.user.id, "client_id": first.client.id, "connection_id": connection.id}
    link = await room.link(first.user, first.client, scopes=CHAT | {"channels:read"})
    location = await room.to_provider(first.person, link)
    deployment.database.clock_offset += 5
    if is_taken:
        async with deployment.transaction() as transaction:
            assert await delegations.revoke(transaction, **which, now=deployment.now())
    second = Trip(room, first.user, first.person, first.client, await consent(location))
    await second.come_back()
    assert [one.id for one in await second.list_connections()] == [connection.id]
    assert await live_scopes(second) == ([] if is_taken else [CHAT | {"channels:read"}])


async def test_a_removal_that_waits_for_a_consent_ends_its_permission(place: Place, store: Store) -> None:
    trip = await place.trip()
    deployment = place.room.deployment
    async with deployment.transaction() as transaction:
        await lock_row(transaction, "clients", trip.client.id, is_sqlite=store.is_sqlite)
        returning = asyncio.ensure_future(trip.come_back())
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite)
        removing = asyncio.ensure_future(remove_agent(trip))
        await until_waiting(transaction, number=2, is_sqlite=store.is_sqlite)
    await asyncio.gather(returning, removing)
    assert await live_scopes(trip) == []
    assert len(await trip.list_connections()) == 1
