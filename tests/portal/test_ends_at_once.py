"""An agent that is let in and ended at the same moment: both are done, one after the other, without a deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import httpx2
import pytest

from server.administration import agents
from server.administration.actor import Actor
from server.oauth.backchannel import ciba_grant
from tests.conftest import Store
from tests.support.inspection import until_waiting
from tests.support.person import Person
from tests.support.rooms.ciba_room import Asker, asker_client
from tests.support.rooms.enterprise_room import running_company
from tests.support.rooms.oauth_world import World
from tests.support.rooms.portal_room import Room, running_room
from vault import clients, company_permissions
from vault.approvals import requests
from vault.records import Client

HOLD = "update clients set last_used_at = last_used_at where id = :id"
LIVE = "select id from grants where revoked_at is null and client_id = :id"
FAULTS = {  # while these are in place, no use can be recorded
    True: (
        "create trigger vault.unnoted before update of last_used_at on clients begin select raise(abort, 'away'); end",
        "drop trigger vault.unnoted",
    ),
    False: (
        "alter table clients add constraint unnoted check (last_used_at is null) not valid",
        "alter table clients drop constraint unnoted",
    ),
}


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    overrides = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as opened:
        yield opened


async def code_for(room: Room, person: Person) -> tuple[Client, Callable[[], Awaitable[httpx2.Response]]]:
    """A client that the person let in before but that hasn't been used for long, and how it redeems its next code."""
    client_id = str((await room.vault.register())["client_id"])
    answer, verifier = await room.vault.authorize(person, client_id)
    assert (await room.vault.redeem(client_id, answer["code"], verifier)).status_code == 200
    client = await clients.get_client(room.deployment.database, client_id)
    assert client is not None
    await until_used(room, client)  # recorded after the answer
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update clients set last_used_at = null where id = :id", {"id": client_id})
    again, proof = await room.vault.authorize(person, client_id)
    client = replace(client, last_used_at=None)
    return client, lambda: room.vault.redeem(client_id, again["code"], proof)


@pytest.mark.parametrize("by", ["person", "admin"])
async def test_a_code_that_is_redeemed_while_its_agent_is_ended_locks_nothing_up(
    room: Room, store: Store, by: str
) -> None:
    person = await room.signed_in(await room.user())
    client, redeem = await code_for(room, person)
    page = await person.open(f"/agents/{client.id}/cut-off") if by == "person" else None

    async def end() -> None:
        if page is not None:
            assert (await person.submit(page, form="/cut-off")).status_code < 400
        else:
            await agents.remove(Actor(room.deployment, None, "command_line"), client)

    async with room.deployment.database.transaction() as holding:
        await holding.execute(HOLD, {"id": client.id})
        ending = asyncio.create_task(end())
        await until_waiting(holding, number=1, is_sqlite=store.is_sqlite)
        redeeming = asyncio.create_task(redeem())
        await until_waiting(holding, number=2, is_sqlite=store.is_sqlite)
    await ending
    redeemed = await redeeming
    assert redeemed.status_code in {200, 400, 401}, redeemed.text
    rows = await room.deployment.database.fetch("select id from grants where revoked_at is null")
    assert rows == [], "what it got ended with it"


async def last_used(room: Room, client: Client) -> int | None:
    found = await clients.get_client(room.deployment.database, client.id)
    assert found is not None
    return found.last_used_at


async def test_a_use_that_can_not_be_noted_takes_no_token_away(room: Room, store: Store) -> None:
    person = await room.signed_in(await room.user())
    client, redeem = await code_for(room, person)
    fault, end = FAULTS[store.is_sqlite]
    async with room.deployment.database.transaction() as transaction:
        await transaction.execute(fault)
    redeemed = await redeem()
    assert redeemed.status_code == 200, redeemed.text
    await clients.note_use(room.deployment.database, client, now=room.deployment.now())
    assert await last_used(room, client) is None
    async with room.deployment.database.transaction() as transaction:
        await transaction.execute(end)
    later, redeem_later = await code_for(room, person)
    assert (await redeem_later()).status_code == 200
    await until_used(room, later)


async def test_an_answer_does_not_wait_until_its_use_is_noted(room: Room, store: Store) -> None:
    person = await room.signed_in(await room.user())
    client, redeem = await code_for(room, person)
    async with room.deployment.database.transaction() as holding:
        if not store.is_sqlite:  # on SQLite, the code can't be used meanwhile
            await holding.execute(HOLD, {"id": client.id})
            assert (await redeem()).status_code == 200
            await until_waiting(holding, number=1, is_sqlite=False)
    if store.is_sqlite:
        assert (await redeem()).status_code == 200
    await until_used(room, client)


async def until_used(room: Room, client: Client) -> None:
    async with asyncio.timeout(30):
        while await last_used(room, client) is None:
            await asyncio.sleep(0.01)


async def test_what_a_client_comes_for_while_it_is_removed_ends_with_it(room: Room, store: Store) -> None:
    deployment, now = room.deployment, room.deployment.now()
    user = await room.user()
    person = await room.signed_in(user)
    async with httpx2.AsyncClient(base_url=room.url, timeout=20) as http:
        world = World(room.vault, person, http)
        asker = Asker(world, await asker_client(world), user)
        first, second = await asker.ask_and_approve(), await asker.ask_and_approve()
        other = await asker.other()
        kept = await other.ask_and_approve()
        yes = {one: await requests.find(deployment.database, deployment.keys, one, client_id=asker.client.id)
               for one in (first, second)}  # fmt: skip
        found, late = yes[first], yes[second]
        assert found is not None
        assert late is not None
        async with deployment.database.transaction() as letting:
            assert await ciba_grant.issue(deployment, letting, found, asker.client, network="", now=now) is not None
            removing = asyncio.create_task(agents.remove(Actor(deployment, None, "command_line"), asker.client))
            await until_waiting(letting, number=1, is_sqlite=store.is_sqlite, unless=removing)
        assert len(await removing) == 1
        assert await deployment.database.fetch(LIVE, {"id": asker.client.id}) == []
        async with deployment.database.transaction() as letting:
            assert await ciba_grant.issue(deployment, letting, late, asker.client, network="", now=now) is None
        assert (await other.poll(kept)).status_code == 200
        assert len(await deployment.database.fetch(LIVE, {"id": other.client.id})) == 1
        await until_used(room, other.client)


async def test_an_assertion_that_comes_while_its_agent_is_removed_lets_nobody_in(store: Store) -> None:
    url = None if store.is_sqlite else store.url
    async with running_company(store.data, database_url=url) as company:
        deployment, client = company.place.deployment, company.caller.client
        async with deployment.database.transaction() as holding:
            await company_permissions.hold(
                holding, user_id=company.user.id, client_id=client.id, company="acme", now=company.now()
            )
            asking = asyncio.create_task(company.ask())
            await until_waiting(holding, number=1, is_sqlite=store.is_sqlite)
            removing = asyncio.create_task(agents.remove(Actor(deployment, None, "command_line"), client))
            await until_waiting(holding, number=2, is_sqlite=store.is_sqlite, unless=removing)
            await company_permissions.forget_client(holding, client.id, may_return=False)
        answer, _ = await asyncio.gather(asking, removing)
        assert answer.status_code in {200, 401}, answer.text
        assert await deployment.database.fetch(LIVE, {"id": client.id}) == []
        caller = await company.place.caller()
        assert (await company.ask(company.assertion(client_id=caller.client.id), caller=caller)).status_code == 200
        assert len(await deployment.database.fetch(LIVE, {"id": caller.client.id})) == 1
