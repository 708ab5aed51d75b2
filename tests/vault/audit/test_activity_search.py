"""Searching a person's events: by agent, account, tool, outcome and time, a page at a time."""

from __future__ import annotations

import pytest

from vault.audit import audit, search
from vault.audit.search import EventFilter
from vault.records import Event
from vault.storage.database import Database

START = 1_800_000_000
USER, OTHER = "user-1", "user-2"


async def record(database: Database, *events: Event, at: int) -> None:
    async with database.transaction() as transaction:
        await audit.append(transaction, *events, now=at)


def call(
    tool: str = "slack_post",
    *,
    outcome: str = "ok",
    user_id: str = USER,
    client_id: str = "agent-1",
    connection_id: str = "account-1",
) -> Event:
    details = {"tool": tool, "account": "alice"}
    return Event("tool.called", outcome, user_id, client_id, connection_id, details)


async def numbers(database: Database, wanted: EventFilter, **page: int) -> list[int]:
    found = await search.search(database, USER, wanted, **({"limit": 50} | page))
    return [event.sequence for event in found.events]


@pytest.fixture
async def database_with_events(database: Database) -> Database:
    """Events 1 to 6, a hundred seconds apart; the fifth is someone else's."""
    for number, event in enumerate((
        call(),
        call("slack_poster", client_id="agent-2"),
        call("calendar_list", connection_id="account-2"),
        call(outcome="refused"),
        call(user_id=OTHER),
        call("slack%post", outcome="failed"),
    )):  # fmt: skip
        await record(database, event, at=START + 100 * number)
    return database


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(), [6, 4, 3, 2, 1]),
        (EventFilter(client_id="agent-2"), [2]),
        (EventFilter(connection_id="account-2"), [3]),
        (EventFilter(client_id="agent-2", connection_id="account-2"), []),
        (EventFilter(tool="slack_post"), [4, 1]),  # neither a longer name nor what `_` would match in a pattern
        (EventFilter(tool="slack%post"), [6]),
        (EventFilter(outcome="refused"), [4]),
        (EventFilter(outcome="ok", tool="slack_post"), [1]),
        (EventFilter(since=START + 200), [6, 4, 3]),
        (EventFilter(until=START + 200), [2, 1]),
        (EventFilter(since=START + 101, until=START + 301), [4, 3]),
        (EventFilter(since=START + 10_000), []),
        (EventFilter(until=START), []),
    ],
)
async def test_a_filter_finds_exactly_its_events(
    database_with_events: Database, wanted: EventFilter, expected: list[int]
) -> None:
    assert await numbers(database_with_events, wanted) == expected


async def test_pages_follow_one_another_and_the_last_one_knows_it(database_with_events: Database) -> None:
    first = await search.search(database_with_events, USER, EventFilter(), limit=3)
    assert ([event.sequence for event in first.events], first.before) == ([6, 4, 3], 3)
    last = await search.search(database_with_events, USER, EventFilter(), limit=3, before=first.before)
    assert ([event.sequence for event in last.events], last.before) == ([2, 1], None)
    assert await numbers(database_with_events, EventFilter(), after=3) == [6, 4]


async def test_a_rare_tool_is_looked_for_in_bounded_steps(database: Database) -> None:
    await record(database, call("rare"), at=START)
    for _ in range(20):
        await record(database, *(call() for _ in range(500)), at=START + 1)
    first = await search.search(database, USER, EventFilter(tool="rare"), limit=50)
    assert first.events == ()
    assert first.before == 2
    second = await search.search(database, USER, EventFilter(tool="rare"), limit=50, before=first.before)
    assert ([event.sequence for event in second.events], second.before) == ([1], None)


async def test_a_rare_agent_is_looked_for_among_a_bounded_number_of_entries(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ENTRIES", 20)
    await record(database, call(client_id="rare"), *(call() for _ in range(20)), at=START)
    wanted = EventFilter(client_id="rare")
    first = await search.search(database, USER, wanted, limit=50)
    assert (first.events, first.before) == ((), 2)
    second = await search.search(database, USER, wanted, limit=50, before=first.before)
    assert ([event.sequence for event in second.events], second.before) == ([1], None)
    everything = await search.search(database, USER, EventFilter(), limit=50)  # the index is used for each of these
    assert (len(everything.events), everything.before) == (21, None)


@pytest.mark.parametrize(
    ("user_id", "wanted", "read"),
    [
        (USER, EventFilter(client_id="rare"), "entries"),
        (USER, EventFilter(connection_id="rare"), "entries"),
        (USER, EventFilter(tool="rare"), "events"),
        (USER, EventFilter(outcome="failed"), "events"),
        (USER, EventFilter(account="rare"), "events"),
        (USER, EventFilter(client_id="rare", outcome="failed"), "events"),
        (None, EventFilter(client_id="rare"), "events"),
        (None, EventFilter(connection_id="rare"), "events"),
        (None, EventFilter(), "everything"),
    ],
)
async def test_a_search_reads_more_only_where_the_index_has_what_it_looks_for(
    database: Database, monkeypatch: pytest.MonkeyPatch, user_id: str | None, wanted: EventFilter, read: str
) -> None:
    monkeypatch.setattr(search, "PATIENCE", 60.0)
    monkeypatch.setattr(search, "SLICE", 4)
    monkeypatch.setattr(search, "EXAMINED", 10)
    monkeypatch.setattr(search, "ENTRIES", 30)
    details = {"tool": "rare", "account": "rare"}
    rare = Event("tool.called", "failed", USER, "rare", "rare", details)
    await record(database, rare, *(call() for _ in range(40)), at=START)
    found = await search.search(database, user_id, wanted, limit=50)
    assert found.before == {"events": 41 - 10 + 1, "entries": 41 - 30 + 1, "everything": None}[read]


@pytest.mark.parametrize("patience", [0.0, 60.0])
async def test_a_search_that_takes_long_reads_no_further_slice(
    database: Database, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(search, "SLICE", 10)
    monkeypatch.setattr(search, "PATIENCE", patience)
    rare = call(client_id="rare")
    await record(database, rare, *(call() for _ in range(20)), rare, *(call() for _ in range(15)), at=START)
    found: list[list[int]] = []
    before = None
    while not found or before is not None:
        page = await search.search(database, USER, EventFilter(client_id="rare"), limit=50, before=before)
        found.append([event.sequence for event in page.events])
        before = page.before
    assert found == ([[22, 1]] if patience else [[], [22], [], [1]])


async def test_each_event_is_in_one_slice(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SLICE", 4)
    await record(database, *(call() for _ in range(22)), at=START)
    assert await numbers(database, EventFilter(outcome="ok")) == list(range(22, 0, -1))
    assert await numbers(database, EventFilter(outcome="ok"), limit=6) == [22, 21, 20, 19, 18, 17]


@pytest.mark.parametrize("count", range(1, 9))
async def test_the_first_event_at_an_instant_is_found_among_any_number(database: Database, count: int) -> None:
    for number in range(count):
        await record(database, call(), call(), at=START + 10 * number)
    for number in range(count):
        for at in (START + 10 * number - 1, START + 10 * number):
            assert await search.first_at(database, at) == 2 * number + 1
    assert await search.first_at(database, START + 10 * count) == 2 * count + 1  # one after the last


@pytest.mark.parametrize(("limit", "rest"), [(5, None), (4, 2), (6, None)])
async def test_a_page_that_holds_the_last_event_has_no_next_one(
    database_with_events: Database, limit: int, rest: int | None
) -> None:
    found = await search.search(database_with_events, USER, EventFilter(), limit=limit)
    assert (len(found.events), found.before) == (min(limit, 5), rest)


@pytest.mark.parametrize("text", ["100%_done!", 'a "quoted" letter%_!\\'])
async def test_no_letter_of_a_tool_or_an_account_stands_for_another(database: Database, text: str) -> None:
    others = (text.replace("%", "x"), text.replace("_", "x"), text.replace("!", "x"), f"{text}s", text.upper())
    for value in (text, *others):
        details = {"tool": value, "account": value}
        await record(database, Event("tool.called", user_id=USER, details=details), at=START)
    named = Event("tool.called", user_id=USER, details={"other_tool": text, "other_account": text})
    await record(database, named, at=START)
    for wanted in (EventFilter(tool=text), EventFilter(account=text)):
        assert await numbers(database, wanted) == [1]


@pytest.mark.parametrize("kept", [{}, {"other": "\ud83d"}, {"ids": ["x" * 400] * 30}])
@pytest.mark.parametrize("text", ["José’s mail", "カレンダー", "Jos"])
async def test_letters_beyond_ascii_are_found_however_they_are_stored(
    database: Database, text: str, kept: dict[str, object]
) -> None:
    """Events of an earlier release, and those whose details were shortened, have them escaped."""
    for value in (text, "José’s other mail", "Jose's mail"):
        event = Event("tool.called", user_id=USER, details={"tool": value, "account": value, **kept})
        await record(database, event, at=START)
    for wanted in (EventFilter(tool=text), EventFilter(account=text)):
        assert await numbers(database, wanted) == [1]
