"""Rate counters and single-use values, on both databases."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Store
from vault import limits, replay
from vault.storage.database import Database

NOON = 1_800_000_000 - 1_800_000_000 % 3600


async def spend(database: Database, bucket: str, *, now: int, limit: int = 3, window: int = 60, cost: int = 1) -> bool:
    async with database.transaction() as transaction:
        return await limits.spend(transaction, bucket, limit=limit, window=window, now=now, cost=cost)


async def test_a_bucket_is_spent_up_to_its_limit_and_alone(database: Database) -> None:
    assert [await spend(database, "a", now=NOON) for _ in range(5)] == [True, True, True, False, False]
    assert await spend(database, "b", now=NOON)
    assert await spend(database, "a", now=NOON, window=61)  # another window with the same name counts separately
    assert not await spend(database, "c", now=NOON, cost=4)
    assert await spend(database, "c", now=NOON, cost=3)


async def test_what_was_refused_is_not_counted(database: Database) -> None:
    for _ in range(3):
        assert await spend(database, "a", now=NOON)
    for _ in range(20):
        assert not await spend(database, "a", now=NOON)
    assert await spend(database, "a", now=NOON + 90)  # half of the previous window's 3 still counts


async def test_the_window_slides(database: Database) -> None:
    for _ in range(4):
        assert await spend(database, "a", now=NOON + 59, limit=4)
    assert not await spend(database, "a", now=NOON + 60, limit=4)  # a fixed window would start over here
    assert not await spend(database, "a", now=NOON + 74, limit=4)
    assert await spend(database, "a", now=NOON + 75, limit=4)
    assert not await spend(database, "a", now=NOON + 75, limit=4)
    assert await spend(database, "a", now=NOON + 120 + 59, limit=4)


async def test_peeking_tells_what_spending_would_and_counts_nothing(database: Database) -> None:
    async def peek(now: int) -> bool:
        return await limits.peek(database, "a", limit=3, window=60, now=now)

    for _ in range(10):
        assert await peek(NOON)
    for _ in range(3):
        assert await peek(NOON)
        assert await spend(database, "a", now=NOON)
    assert not await peek(NOON)
    assert not await peek(NOON + 60)
    assert await peek(NOON + 120)


async def test_many_at_once_do_not_pass_the_limit(store: Store) -> None:
    databases = [await store.open() for _ in range(2)]
    try:
        attempts = (spend(databases[number % 2], "a", now=NOON, limit=10) for number in range(60))
        async with asyncio.timeout(60):
            assert sum(await asyncio.gather(*attempts)) == 10
    finally:
        for database in databases:
            await database.close()


async def test_a_window_is_between_a_second_and_a_day(database: Database) -> None:
    for window in (0, -1, 86401):
        with pytest.raises(ValueError, match="window"):
            await spend(database, "a", now=NOON, window=window)
    assert await spend(database, "a", now=NOON, window=86400)


async def test_old_counters_are_forgotten_and_living_ones_kept(database: Database) -> None:
    await spend(database, "old", now=NOON)
    await spend(database, "new", now=NOON + 3 * 86400)
    async with database.transaction() as transaction:
        assert await limits.sweep(transaction, NOON + 3 * 86400) == 1
    assert [row["bucket"] for row in await database.fetch("select bucket from limits")] == ["60:new"]


async def test_a_counter_is_forgotten_when_its_own_window_is_over(database: Database) -> None:
    for window in (60, 600, 900, 3600, 86400):
        await spend(database, "a", now=NOON, window=window)

    async def buckets_after_sweep(now: int) -> set[str]:
        async with database.transaction() as transaction:
            await limits.sweep(transaction, now)
        return {str(row["bucket"]) for row in await database.fetch("select bucket from limits")}

    assert await buckets_after_sweep(NOON + 120) == {
        "60:a",
        "600:a",
        "900:a",
        "3600:a",
        "86400:a",
    }  # the previous window still counts
    assert await buckets_after_sweep(NOON + 121) == {"600:a", "900:a", "3600:a", "86400:a"}
    assert await buckets_after_sweep(NOON + 1801) == {"3600:a", "86400:a"}
    assert await buckets_after_sweep(NOON + 7201) == {"86400:a"}
    assert await buckets_after_sweep(NOON + 3 * 86400) == set()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 40), min_size=5, max_size=40), start=st.integers(0, 10**6))
async def test_no_sliding_minute_passes_twice_the_limit(sqlite_store: Store, steps: list[int], start: int) -> None:
    database = await sqlite_store.open()
    allowed: list[int] = []
    now = NOON + start * 7200
    try:
        for step in steps:
            now += step
            if await spend(database, f"property {start}", now=now):
                allowed.append(now)
    finally:
        await database.close()
    for first in allowed:
        # the weighting assumes an even spread, so a burst may exceed the limit slightly, but never by a factor of two
        assert sum(first <= at < first + 60 for at in allowed) < 6


async def first_use(database: Database, value: str, *, now: int, purpose: str = "jti") -> bool:
    async with database.transaction() as transaction:
        return await replay.first_use(transaction, purpose, value, expires_at=now + 60, now=now)


async def test_a_value_is_new_once_until_it_expires(database: Database) -> None:
    assert await first_use(database, "a", now=NOON)
    assert not await first_use(database, "a", now=NOON)
    assert not await first_use(database, "a", now=NOON + 59)
    assert await first_use(database, "b", now=NOON)
    assert await first_use(database, "a", now=NOON, purpose="dpop")
    assert await first_use(database, "a", now=NOON + 60)
    assert not await first_use(database, "a", now=NOON + 61)


async def test_only_one_of_many_uses_is_the_first(store: Store) -> None:
    databases = [await store.open() for _ in range(2)]
    try:
        async with asyncio.timeout(60):
            uses = await asyncio.gather(*(first_use(databases[number % 2], "a", now=NOON) for number in range(40)))
        assert sum(uses) == 1
    finally:
        for database in databases:
            await database.close()


async def test_expired_values_are_forgotten_and_kept_only_as_hashes(database: Database) -> None:
    await first_use(database, "a-secret-nonce", now=NOON)
    await first_use(database, "later", now=NOON + 50)
    assert "a-secret-nonce" not in str(await database.fetch("select * from seen"))
    async with database.transaction() as transaction:
        assert await replay.sweep(transaction, NOON + 60) == 1
    assert not await first_use(database, "later", now=NOON + 60)


async def test_after_a_restore_what_was_made_before_it_counts_no_more_and_what_is_made_later_does(
    database: Database,
) -> None:
    async def use(value: str, *, made_at: int | None, now: int) -> bool:
        async with database.transaction() as transaction:
            return await replay.first_use(transaction, "jti", value, expires_at=now + 60, now=now, made_at=made_at)

    assert await use("before", made_at=NOON, now=NOON + 1)
    async with database.transaction() as transaction:
        await replay.note_restore(transaction, now=NOON + 10)
    assert not await use("a", made_at=NOON + 9, now=NOON + 11)
    assert not await use("b", made_at=NOON + 10, now=NOON + 11)
    assert await use("c", made_at=NOON + 11, now=NOON + 11)
    assert not await use("c", made_at=NOON + 11, now=NOON + 12)
    assert await use("no secret", made_at=None, now=NOON + 11)
    async with database.transaction() as transaction:
        await replay.sweep(transaction, NOON + 10 + 7199)
    assert not await use("d", made_at=NOON, now=NOON + 10 + 7199)
    async with database.transaction() as transaction:
        await replay.sweep(transaction, NOON + 10 + 7200)
    assert await use("e", made_at=NOON, now=NOON + 10 + 7200)
