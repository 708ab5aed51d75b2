"""Which signed checkpoints a destination has, and whose turn it is to send them."""

from __future__ import annotations

from dataclasses import replace

from vault.audit.deliveries import Delivery, end_turn, list_deliveries, note_delivery, take_turn
from vault.audit.notes import TreeHead
from vault.storage.database import Database

NOW = 1000
HEAD = TreeHead("log.example/one", 7, bytes(32))


async def test_a_destination_keeps_its_newest_checkpoint_and_why_a_later_one_didnt_come(database: Database) -> None:
    assert await list_deliveries(database) == {}
    await note_delivery(database, "folder", HEAD, now=NOW, failure=None)
    delivered = Delivery("folder", HEAD.origin, 7, NOW, None)
    assert await list_deliveries(database) == {"folder": delivered}
    assert delivered.has(HEAD)
    assert not delivered.has(replace(HEAD, size=8))
    assert not delivered.has(replace(HEAD, origin="log.example/two"))
    await note_delivery(database, "folder", replace(HEAD, size=8), now=NOW + 1, failure="it is full")
    failed = replace(delivered, failure="it is full")
    assert await list_deliveries(database) == {"folder": failed}
    assert not failed.has(HEAD)
    await note_delivery(database, "bucket", HEAD, now=NOW, failure="no answer")
    assert (await list_deliveries(database))["bucket"] == Delivery("bucket", HEAD.origin, 0, None, "no answer")
    await note_delivery(database, "folder", replace(HEAD, size=8), now=NOW + 2, failure=None)
    assert (await list_deliveries(database))["folder"] == Delivery("folder", HEAD.origin, 8, NOW + 2, None)


async def test_one_process_sends_at_a_time_until_it_is_done_or_too_late(database: Database) -> None:
    first = await take_turn(database, now=NOW, seconds=10)
    assert first is not None
    assert await take_turn(database, now=NOW + 9, seconds=10) is None
    second = await take_turn(database, now=NOW + 10, seconds=10)
    assert second not in (None, first)
    await end_turn(database, first)  # it is another's by now
    assert await take_turn(database, now=NOW + 11, seconds=10) is None
    assert second is not None
    await end_turn(database, second)
    assert await take_turn(database, now=NOW + 11, seconds=10) is not None
    assert await list_deliveries(database) == {}
