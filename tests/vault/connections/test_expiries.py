"""Grants that their providers end: announced a week before, once, and kept alive where that costs nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from providers.definitions.catalog import ProviderOverrides, load_catalog
from server.lifecycle.periodic_steps import keep_alive
from tests.conftest import Store
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.vault_room import Room, open_room, second_process
from vault import replay
from vault.connections import get_connection
from vault.records import TENANT, Connection
from vault.refresh.concurrency import Vault
from vault.storage.database import Database, integer
from vault.upkeep.census import take_census
from vault.upkeep.expiries import (
    _RESTING,  # pyright: ignore[reportPrivateUsage] -- its plan is looked at
    _SOON,  # pyright: ignore[reportPrivateUsage] -- as above
    BATCH,
    announce,
    list_resting,
)
from vault.upstream import RotationMode

DAY = 86400
IDLE = 180 * DAY


def with_idle(room: Room, provider: str) -> Vault:
    policies = {**room.vault.policies, provider: replace(room.vault.policies[provider], grant_idle=IDLE)}
    return replace(room.vault, policies=policies)


async def test_the_end_of_a_grant_is_announced_once_a_week_before(store: Store) -> None:
    async with open_room(store) as room, second_process(room) as other:
        connection = await room.connect()
        await room.connect(account="lasting")
        async with room.database.transaction() as transaction:
            await transaction.execute(
                "update connections set grant_expires_at = :at where id = :id",
                {"at": room.now + 30 * DAY, "id": connection.id},
            )
        room.pass_time(23 * DAY - 60)
        assert await announce(room.database) == 0
        room.pass_time(61)
        other.pass_time(23 * DAY + 1)
        assert await announce(room.database) + await announce(other.database) == 1
        assert await announce(room.database) == 0
        (event,) = await room.events("connection.expiring")
        assert (event.connection_id, event.user_id) == (connection.id, room.alice.user.id)
        shown = await get_connection(room.database, connection.id, user_id=room.alice.user.id)
        assert shown is not None
        assert shown.status(room.now) == "expiring"
        room.pass_time(8 * DAY)
        assert await announce(room.database) == 0


@pytest.mark.parametrize(("hours", "is_news"), [(1, False), (48, False), (49, True)])
async def test_the_end_of_a_grant_that_is_always_near_is_no_news(store: Store, hours: int, *, is_news: bool) -> None:
    async with open_room(store) as room:
        now, connection = room.now, await room.connect()
        async with room.database.transaction() as transaction:
            await transaction.execute(
                "update connections set created_at = :created_at, consented_ms = :ms, grant_expires_at = :at"
                " where id = :id",
                {
                    "created_at": now - 30 * DAY,  # it was connected again later
                    "ms": now * 1000,
                    "at": now + hours * 3600,
                    "id": connection.id,
                },
            )
        assert await announce(room.database) == is_news
        assert await announce(room.database) == 0
        assert len(await room.events("connection.expiring")) == is_news
        shown = await get_connection(room.database, connection.id, user_id=room.alice.user.id)
        assert shown is not None
        assert shown.status(now) == ("expiring" if is_news else "active")
        assert shown.status(now + hours * 3600) == ("expiring" if is_news else "active")  # a refresh may still work
        without_renewal = replace(shown, has_refresh_token=False)
        assert without_renewal.status(now + hours * 3600 - 1) == ("expiring" if is_news else "active")
        assert without_renewal.status(now + hours * 3600) == "needs_reauth"
        ending = (await take_census(room.database)).ending
        assert ending == {1: 0, 7: is_news, 30: is_news}


@pytest.mark.parametrize(("left", "count"), [(0, 0), (60, 1)])
async def test_an_end_that_is_over_is_neither_announced_nor_put_off(store: Store, left: int, count: int) -> None:
    async with open_room(store) as room:
        await room.connect()
        async with room.database.transaction() as transaction:
            await transaction.execute(
                "update connections set created_at = :begun, consented_ms = :ms, idle_expires_at = :at",
                {"begun": room.now - 30 * DAY, "ms": (room.now - 30 * DAY) * 1000, "at": room.now + left},
            )
        assert len(await list_resting(room.database, "slack")) == count
        assert await announce(room.database) == count


async def test_the_next_end_is_announced_in_the_second_of_the_one_before(sqlite_store: Store) -> None:
    async with open_room(sqlite_store) as room:
        await room.connect()
        with stopped_clock(room.database) as now:
            async with room.database.transaction() as transaction:
                await transaction.execute(
                    "update connections set grant_expires_at = :now, idle_expires_at = :next",
                    {"now": now, "next": now + 1},
                )
            assert await announce(room.database) == 1
        (event,) = await room.events("connection.expiring")
        assert (event.details["ends_at"], event.details["why"]) == (now + 1, "unused")


async def test_the_end_of_an_unused_grant_is_shown_announced_and_put_off_by_use(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.STRICT) as room:
        room.vault = with_idle(room, "slack")
        connection = await room.connect()

        async def read_connection() -> Connection:
            found = await get_connection(room.database, connection.id, user_id=room.alice.user.id)
            assert found is not None
            return found

        assert (await read_connection()).ends_at in range(room.now + IDLE - 10, room.now + IDLE + 1)
        room.pass_time(IDLE - 6 * DAY)
        assert (await read_connection()).status(room.now) == "expiring"
        assert (await read_connection()).ends_unless_used
        assert await announce(room.database) == 1
        (event,) = await room.events("connection.expiring")
        assert event.details["why"] == "unused"
        assert await keep_alive(room.vault) == 0  # its refresh token rotates, so the person is told instead
        assert await room.exchange()
        assert (await read_connection()).status(room.now) == "active"
        assert (await read_connection()).ends_at in range(room.now + IDLE - 10, room.now + IDLE + 1)


@pytest.mark.parametrize(
    ("provider", "testing", "days", "why", "is_used"),
    [
        ("spotify", False, 183, "age", True),  # six months
        ("atlassian", False, 365, "age", True),
        ("atlassian", False, 90, "unused", False),
        ("google", True, 7, "age", True),
        ("google", False, 180, "unused", False),
    ],
)
async def test_the_lifetime_that_a_provider_file_names_is_shown_and_announced_before_it_strikes(
    sqlite_store: Store, provider: str, days: int, why: str, *, testing: bool, is_used: bool
) -> None:
    registered = ProviderOverrides(client_id="ours", client_secret="secret", testing=testing)
    policy = replace(load_catalog(overrides={provider: registered}).provider(provider).policy(), provider="slack")
    async with open_room(sqlite_store, rotation=policy.rotation) as room:
        room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
        connection = await room.connect()
        end = room.now + days * DAY

        async def read_connection() -> Connection:
            found = await get_connection(room.database, connection.id, user_id=room.alice.user.id)
            assert found is not None
            return found

        if days > 7:
            room.pass_time((days - 8) * DAY)
            if is_used:
                assert await room.exchange()
            assert (await read_connection()).status(room.now) == "active"
            assert await announce(room.database) == 0
            room.pass_time(DAY)
        if is_used:
            assert await room.exchange()  # this postpones the end of an unused grant, but no other end
        assert (await read_connection()).status(room.now) == "expiring"
        assert abs(((await read_connection()).ends_at or 0) - end) <= 2
        assert await announce(room.database) == 1
        (event,) = await room.events("connection.expiring")
        assert event.details["why"] == why


async def test_many_ends_at_one_time_are_announced_once_each_a_batch_at_a_time(database: Database) -> None:
    now = database.now()
    row: dict[str, str | int | None] = {
        "tenant": "default", "user_id": "u", "provider": "slack", "scopes": "", "state": "active", "metadata": "{}",
    }  # fmt: skip
    async with database.transaction() as transaction:
        await transaction.execute_many(
            "insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation,"
            " metadata, created_at, grant_expires_at, idle_expires_at) values (:tenant, :id, :user_id, :provider,"
            " :account, :account, :scopes, :state, 1, :metadata, 1, :at, :rest)",
            [
                # with an end by age, by idleness, and by both, so that either query finds it
                {
                    **row,
                    "id": f"c{n}",
                    "account": f"a{n}",
                    "at": now + DAY if n % 3 else None,
                    "rest": now + DAY + 1 if n % 3 < 2 else None,
                }
                for n in range(2 * BATCH + 50)
            ],
        )
    assert await announce(database) == 2 * BATCH + 50
    assert await announce(database) == 0
    batches = await database.fetch("select first_sequence, last_sequence from event_batches")
    sizes = [integer(row, "last_sequence") - integer(row, "first_sequence") + 1 for row in batches]
    assert sum(sizes) == 2 * BATCH + 50
    assert max(sizes) <= BATCH


async def test_an_end_that_is_announced_is_not_looked_at_again_until_it_is_another_one(store: Store) -> None:
    async with open_room(store) as room:
        connection = await room.connect()

        async def ends(age: int | None, rest: int | None) -> None:
            async with room.database.transaction() as transaction:
                await transaction.execute(
                    "update connections set grant_expires_at = :age, idle_expires_at = :rest where id = :id",
                    {"age": age, "rest": rest, "id": connection.id},
                )

        async def candidates() -> int:
            which = {"tenant": TENANT, "active": "active", "now": room.now, "soon": room.now + 7 * DAY}
            page = {"from": room.now + 1, "after": "", "limit": BATCH}
            return sum([len(await room.database.fetch(sql, {**which, **page})) for sql in _SOON])

        for age, rest in ((3 * DAY, None), (None, 2 * DAY), (4 * DAY, 5 * DAY), (5 * DAY, DAY), (9 * DAY, DAY + 9)):
            await ends(age and room.now + age, rest and room.now + rest)
            assert await candidates() > 0
            assert await announce(room.database) == 1, (age, rest)
            assert await candidates() == 0
            assert await announce(room.database) == 0


async def test_an_end_that_the_release_before_announced_is_not_announced_again(store: Store) -> None:
    async with open_room(store) as room:
        connection = await room.connect()
        end = room.now + 3 * DAY
        async with room.database.transaction() as transaction:
            await transaction.execute(
                "update connections set grant_expires_at = :end where id = :id", {"end": end, "id": connection.id}
            )
            value = f"{connection.id} {end}"
            assert await replay.first_use(transaction, "connection.expiring", value, expires_at=end, now=room.now)
        assert await announce(room.database) == 0
        row = await room.database.fetch_one(
            "select announced_end from connections where id = :id", {"id": connection.id}
        )
        assert row == {"announced_end": end}
        assert await room.events("connection.expiring") == []


def test_a_page_of_ends_is_not_sorted(sqlite_store: Store) -> None:
    """Otherwise, a hundred thousand ends in the same second would be sorted again for each page."""
    with closing(sqlite3.connect(sqlite_store.data / "vault.sqlite")) as connection:
        for sql in (*_SOON, _RESTING):
            names = dict.fromkeys(["tenant", "active", "provider", "from", "after", "soon", "now", "limit"], 1)
            plan = [row[3] for row in connection.execute(f"explain query plan {sql}", names)]
            assert not [line for line in plan if "TEMP B-TREE" in line], plan
            assert "_order (tenant=? AND (" in plan[0] or "_provider_idle (tenant=? AND provider=? AND (" in plan[0]


async def test_grants_that_are_left_to_die_do_not_hide_those_that_are_kept_alive(store: Store) -> None:
    """Two full pages of grants end earlier: of a provider that rotates, and of this one without an agent using them."""
    async with open_room(store) as room:
        room.vault = with_idle(room, "google")
        connection = await room.connect("google")
        now = room.now
        row = {"tenant": TENANT, "user_id": "u", "scopes": "", "state": "active", "metadata": "{}", "rest": now + DAY}
        async with room.database.transaction() as transaction:
            await transaction.execute_many(
                "insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation,"
                " refresh_sealed, metadata, created_at, idle_expires_at) values (:tenant, :id, :user_id, :provider,"
                " :id, :id, :scopes, :state, 1, :sealed, :metadata, 1, :rest)",
                [
                    {**row, "id": f"{name}-{n}", "provider": name, "sealed": b"sealed"}
                    for name in ("slack", "google")
                    for n in range(BATCH + 1)
                ],
            )
            await transaction.execute_many(
                "insert into delegations (tenant, user_id, client_id, connection_id, scopes, created_at, changed_at)"
                " values (:tenant, :user_id, :client_id, :id, :scopes, 1, 1)",
                [{**row, "client_id": "agent", "id": f"slack-{n}"} for n in range(BATCH + 1)],
            )
            await transaction.execute(
                "update connections set idle_expires_at = :at where id = :id",
                {"at": now + 2 * DAY, "id": connection.id},
            )
        assert await keep_alive(room.vault) == 1
        await room.settle()
        assert len(room.google.sends) == 1


async def test_an_unused_grant_is_refreshed_in_time_where_that_is_free(store: Store) -> None:
    async with open_room(store) as room:
        room.vault = with_idle(room, "google")
        await room.connect("google")
        room.pass_time(IDLE - 15 * DAY)
        assert await keep_alive(room.vault) == 0
        room.pass_time(2 * DAY)
        assert await keep_alive(room.vault) == 1
        await room.settle()
        assert len(room.google.sends) == 1
        assert await keep_alive(room.vault) == 0
        room.pass_time(10 * DAY)
        assert await announce(room.database) == 0


async def test_a_grant_that_no_agent_may_use_is_not_kept_alive(store: Store) -> None:
    async with open_room(store) as room:
        room.vault = with_idle(room, "google")
        connection = await room.connect("google", delegated=frozenset())
        room.pass_time(IDLE - 13 * DAY)
        assert await keep_alive(room.vault) == 0
        await room.allow(connection, connection.scopes)
        assert await keep_alive(room.vault) == 1
        await room.settle()
