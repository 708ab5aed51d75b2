"""An agent that is let in and ended at the same moment: both are done, one after the other, without a deadlock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx2
import pytest

from server.administration import agents
from server.administration.actor import Actor
from tests.conftest import Store
from tests.support.peeking import count_waiting
from tests.support.person import Person
from tests.support.rooms.portal_room import Room, running_room
from vault import clients
from vault.records import Client
from vault.storage.database import Transaction

HOLD = "update clients set last_used_at = last_used_at where id = :id"


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    overrides = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as opened:
        yield opened


async def code_for(room: Room, person: Person) -> tuple[Client, Callable[[], Awaitable[httpx2.Response]]]:
    """A client that the person let in before, but that was not used for long, and how it redeems its next code."""
    client_id = str((await room.vault.register())["client_id"])
    answer, verifier = await room.vault.authorize(person, client_id)
    assert (await room.vault.redeem(client_id, answer["code"], verifier)).status_code == 200
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update clients set last_used_at = null where id = :id", {"id": client_id})
    again, proof = await room.vault.authorize(person, client_id)
    client = await clients.get_client(room.deployment.database, client_id)
    assert client is not None
    return client, lambda: room.vault.redeem(client_id, again["code"], proof)


async def until_waiting(transaction: Transaction, *, number: int, is_sqlite: bool) -> None:
    """Until so many wait for a lock; on SQLite everybody waits for the one who writes, and nothing shows it."""
    ends = time.perf_counter() + (0.2 if is_sqlite else 20)
    while time.perf_counter() < ends:
        if not is_sqlite and await count_waiting(transaction) >= number:
            return
        await asyncio.sleep(0.01)
    assert is_sqlite


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
