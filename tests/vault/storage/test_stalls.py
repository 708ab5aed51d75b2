"""A replica is stopped while it holds what all others need; `make chaos` does the same at forty random moments."""

from __future__ import annotations

import pytest

from tests.chaos.crashes.stalls import LOCKS, MOST, force_stall, is_whole
from tests.conftest import Store
from vault.audit.audit import Activity, append, list_events
from vault.records import Event
from vault.storage import postgres


@pytest.mark.long
@pytest.mark.parametrize("what", LOCKS)
async def test_a_stopped_replica_holds_the_others_up_for_seconds_and_refuses_nobody(
    postgres_store: Store, what: str
) -> None:
    kind, lock = LOCKS[what]
    said, own = await force_stall(postgres_store, kind, lock)
    assert said.slowest <= MOST, said
    assert not said.refused, said
    assert own.ok, own  # it works again after it is resumed
    assert await is_whole(postgres_store)


async def test_who_has_appended_and_not_committed_yet_keeps_no_other_from_appending(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres.SESSION, "idle_in_transaction_session_timeout", "60000")  # no other way to free a lock
    first, second = await postgres_store.open(), await postgres_store.open()
    activity = Activity(second)
    try:
        async with first.transaction() as transaction:
            await append(transaction, Event("first"), now=first.now())
            await activity.record(Event("second"))
        assert sorted(event.kind for event in await list_events(first)) == ["first", "second"]
    finally:
        await activity.close()
        await first.close()
        await second.close()
