"""Lookups on PostgreSQL: simultaneous ones share a message, and each caller gets its own rows or refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from tests.conftest import Store
from vault.refresh import accounts
from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.database import Row, Value
from vault.storage.postgres import PostgresDatabase, translate
from vault.storage.postgres_lookups import LookUps, mark_caller

BOUND = 10.0  # seconds
NAMED = "select resource, created_at, cast(:seen as bigint) as seen from apis where resource = :resource"
INSERT = "insert into apis (tenant, resource, name, created_at) values (:tenant, :resource, :resource, :number)"


@pytest.fixture
async def database(postgres_store: Store) -> AsyncGenerator[PostgresDatabase]:
    """With twenty records, `api-0` to `api-19`."""
    opened = await postgres_store.open()
    assert isinstance(opened, PostgresDatabase)
    async with opened.transaction() as transaction:
        rows = [{"tenant": "default", "resource": f"api-{number}", "number": number} for number in range(20)]
        await transaction.execute_many(INSERT, rows)
    yield opened
    await opened.close()


class CallerCounts:
    """The number of callers in each message of a database's lookups."""

    def __init__(self, database: PostgresDatabase, *, is_away: bool = False) -> None:
        self.messages: list[int] = []
        self._database = database
        self._is_away = is_away
        self._look_ups = LookUps(self._ask, self._ask_many)

    async def _ask(self, query: str, values: Sequence[Value]) -> Sequence[Row]:
        self.messages.append(1)
        return await self._database._ask(query, values)

    async def _ask_many(self, query: str, values: Sequence[Sequence[Value]]) -> Sequence[Row]:
        self.messages.append(len(values))
        if self._is_away:
            raise StorageBusy("the database can't be reached", retry_after=1)
        return await self._database._ask_many(query, values)

    async def find(self, resource: str) -> Sequence[Row]:
        query, names = translate(NAMED)
        values = {"resource": resource, "seen": None}
        return await self._look_ups.find(query, [values[name] for name in names])


async def test_those_that_come_at_once_share_messages_and_get_their_own_rows(database: PostgresDatabase) -> None:
    watched = CallerCounts(database)
    found = await asyncio.gather(*(watched.find(f"api-{number}") for number in range(25)))
    expected = [[{"resource": f"api-{n}", "created_at": n, "seen": None}] if n < 20 else [] for n in range(25)]
    assert found == expected
    assert watched.messages == [16, 9]


async def test_one_that_comes_alone_is_sent_alone_with_the_same_rows(database: PostgresDatabase) -> None:
    watched = CallerCounts(database)
    together = await asyncio.gather(watched.find("api-1"), watched.find("api-1"))
    assert [await watched.find("api-1"), await watched.find("api-1")] == together
    assert watched.messages == [2, 1, 1]


async def test_every_row_of_a_caller_and_every_type_arrive(database: PostgresDatabase) -> None:
    sql = (
        "select number, cast(:word as text) as word, cast(:bytes as bytea) as bytes "
        "from generate_series(1, cast(:number as bigint)) as numbers (number) order by number"
    )
    asked: list[dict[str, Value]] = [{"word": f"{n}", "number": n, "bytes": bytes([n])} for n in range(4)]
    found = await asyncio.gather(*(database.look_up(sql, one) for one in asked))
    assert found == [[{"number": row + 1, "word": f"{n}", "bytes": bytes([n])} for row in range(n)] for n in range(4)]


async def test_a_value_that_no_column_can_hold_is_refused_to_its_caller_alone(database: PostgresDatabase) -> None:
    watched = CallerCounts(database)
    resources = ["api-0", "api-1", "nul\0", "half \ud800", "api-2"]
    found = await asyncio.gather(*(watched.find(one) for one in resources), return_exceptions=True)
    assert [isinstance(one, StorageUnavailable) for one in found] == [False, False, True, True, False]
    assert [one[0]["created_at"] for one in found if not isinstance(one, BaseException)] == [0, 1, 2]


async def test_callers_of_a_database_that_is_away_are_refused_at_once(database: PostgresDatabase) -> None:
    watched = CallerCounts(database, is_away=True)
    found = await asyncio.gather(*(watched.find(f"api-{number}") for number in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [StorageBusy] * 3
    assert watched.messages == [3]  # nobody waits for it again
    assert await watched.find("api-1")  # the twin


async def test_a_caller_that_leaves_takes_nobody_with_it(database: PostgresDatabase) -> None:
    watched = CallerCounts(database)
    callers = [asyncio.create_task(watched.find(f"api-{number}")) for number in range(4)]
    await asyncio.sleep(0)
    callers[0].cancel()  # this caller waits for the next round
    await asyncio.sleep(0)
    callers[1].cancel()  # this caller's statement has been sent
    async with asyncio.timeout(BOUND):
        found = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(one) for one in found[:2]] == [asyncio.CancelledError] * 2
    assert [len(one) for one in found[2:] if isinstance(one, list)] == [1, 1]
    assert watched.messages == [3]


async def test_the_shared_message_is_planned_as_the_statement_itself(database: PostgresDatabase) -> None:
    query, names = translate(accounts._READ)
    asked: list[tuple[str, list[Value]]] = [(query, [*names]), (mark_caller(query), [*names, 0])]
    plain, shared = [await database._ask(f"explain (costs off) {one}", values) for one, values in asked]
    assert plain == shared
    assert len(plain) > 10
