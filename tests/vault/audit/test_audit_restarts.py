"""Which log is the current one, and which restore ended the one before it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.conftest import Store
from tests.vault.audit.test_audit_keyed_head import change, fill
from tests.vault.audit.test_audit_log import start_log
from vault import envelope
from vault.audit import log as logs
from vault.audit.audit import ChainBroken, append
from vault.audit.log import Restart, find_log, load_logs, restart_after, restarted_after, rotate_log_key
from vault.keys.key_ring import KeyRing
from vault.records import Event
from vault.storage.database import Database, binary, text


async def restore(database: Database, **details: object) -> None:
    async with database.transaction() as transaction:
        await append(transaction, Event("vault.restored", details=details), now=database.now())


async def stored_keys(database: Database) -> list[tuple[str, bytes]]:
    rows = await database.fetch("select id, sealed from keys.ring where purpose = :p order by id", {"p": logs.PURPOSE})
    return [(text(row, "id"), binary(row, "sealed")) for row in rows]


async def store_facts(database: Database, identity: str, content: bytes) -> None:
    """Seal other content as the key's."""
    key = database.event_key
    assert key is not None
    sealed = envelope.seal(content, key=key, key_id="events", context=logs._context(identity))
    await change(database, "update keys.ring set sealed = :sealed where id = :id", sealed=sealed, id=identity)


async def test_the_current_log_is_found_until_a_restore_and_again_from_the_next_one(
    database: Database, key_ring: KeyRing
) -> None:
    assert await find_log(database) is None
    log = await start_log(database)
    assert await find_log(database) == log
    for _ in range(2):
        await restore(database)
        assert await find_log(database) is None
        log = await start_log(database)
        assert await find_log(database) == log


async def test_processes_that_begin_a_log_at_once_after_a_restore_begin_one(store: Store) -> None:
    databases = [await store.open() for _ in range(3)]
    try:
        for one in databases:
            await store.open_keys(one)
        first = await start_log(databases[0])
        await restore(databases[0])
        async with asyncio.timeout(60):
            begun = await asyncio.gather(*(start_log(one) for one in databases))
        assert len({one.origin for one in begun} | {first.origin}) == 2
        assert begun == [(await load_logs(databases[0], databases[0].event_key or b""))[-1]] * 3
    finally:
        for one in databases:
            await one.close()


async def test_a_restore_recorded_further_back_than_it_went_ends_a_log_before_its_event(
    database: Database, key_ring: KeyRing
) -> None:
    log = await start_log(database)
    await fill(database, 2)
    await restore(database, known=9)  # the activity was longer before it
    assert await restarted_after(database, log) == 2


async def test_a_restore_whose_event_was_pruned_is_remembered_without_it(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await fill(database, 2)
    await restore(database, known=2)
    found = await restart_after(database, log)
    assert found is not None
    assert (found.sequence, found.at, found.known) == (3, database.now(), 2)
    later = await start_log(database)
    await change(database, "delete from events where kind = :kind", kind="vault.restored")
    assert await restart_after(database, log, later=[later]) == Restart(0, 0, found.name, 2)
    assert await restart_after(database, log) is None


async def test_a_log_of_a_release_that_stored_no_restarts_comes_before_the_next_one(
    database: Database, key_ring: KeyRing
) -> None:
    await fill(database, 9)
    await start_log(database)
    ((identity, sealed),) = await stored_keys(database)
    key = database.event_key
    assert key is not None
    facts = json.loads(envelope.open_sealed(sealed, key=key, context=logs._context(identity)))
    earlier = {name: facts[name] for name in ("origin", "base", "after", "number", "seed")}
    await store_facts(database, identity, json.dumps(earlier).encode())
    log = await start_log(database)
    assert (log.ordinal, log.after, log.restarts) == (0, 9, None)
    await rotate_log_key(database, log, now=database.now())
    log = await start_log(database)
    assert (len(log.keys), log.restarts) == (2, None)
    await restore(database)
    assert await restarted_after(database, log) == 10  # after the event that names the new key
    newest = await start_log(database)
    assert newest.origin != log.origin
    assert await load_logs(database, key) == (log, newest)


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '{"seed":"00"}', '{"seed":7}'])
async def test_a_key_with_other_content_is_refused(database: Database, key_ring: KeyRing, content: str) -> None:
    await start_log(database)
    ((identity, _),) = await stored_keys(database)
    await store_facts(database, identity, content.encode())
    with pytest.raises(ChainBroken, match="wasn't made by this vault") as broken:
        await find_log(database)
    assert (broken.value.sequence, broken.value.after) == (1, 0)
