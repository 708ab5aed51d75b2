"""The outbox of notices on both databases: each event once, regardless of the number of processes."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Store
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.vault_room import open_room, second_process
from tests.support.seeded_grant import seed
from vault import groups, users
from vault.audit import audit
from vault.keys.key_ring import KeyRing
from vault.notices import channels, endpoints, outbox
from vault.notices.channels import NoticeSettings
from vault.notices.outbox import Notice
from vault.records import TENANT, Event
from vault.storage.database import SWEEP_BATCH, Transaction, Value


def at_once(settings: NoticeSettings, how: str, now: int) -> int:
    del settings, how
    return now


async def test_an_event_is_entered_once_and_taken_once_by_one_of_two_processes(store: Store) -> None:
    async with open_room(store) as room, second_process(room) as other:
        user_id, now = room.alice.user.id, room.now
        keys = room.vault.keys
        await outbox.enter(room.database, keys, due_at=at_once)  # start the feed
        async with room.database.transaction() as transaction:
            channel = await channels.add_channel(
                transaction, keys, user_id=user_id, kind="webhook", label="x", target="https://x.example/", now=now
            )
            await channels.save_settings(transaction, user_id, NoticeSettings(kinds={"expiring": "off"}))
            for kind in ("connection.needs_reauth", "connection.expiring", "tool.called", "connection.needs_reauth"):
                await audit.append(transaction, Event(kind, user_id=user_id), now=now)
        databases = (room.database, other.database) * 3
        entered = await asyncio.gather(*(outbox.enter(one, keys, due_at=at_once) for one in databases))
        assert sum(entered) == 2
        now = room.now  # possibly a second later: entries are due then, not before
        assert await outbox.list_due(room.database, now=now) == (channel.id,)

        async def hold_and_take(number: int) -> int:
            async with databases[number].transaction() as transaction:
                if not await outbox.hold(transaction, channel.id, now=now):
                    return 0
                return len(await outbox.take(transaction, channel.id, now=now))

        assert sorted(await asyncio.gather(*map(hold_and_take, range(6)))) == [0, 0, 0, 0, 0, 2]
        assert await outbox.list_due(other.database, now=now) == ()
        for passed, is_free in ((89, False), (90, True)):  # that process may have died
            async with other.database.transaction() as transaction:
                assert await outbox.hold(transaction, channel.id, now=now + passed) is is_free


@pytest.mark.parametrize("has_channel", [True, False])
async def test_only_a_confirmed_channel_gets_notices(store: Store, *, has_channel: bool) -> None:
    async with open_room(store) as room:
        user_id, now, keys = room.alice.user.id, room.now, room.vault.keys
        await outbox.enter(room.database, keys, due_at=at_once)
        async with room.database.transaction() as transaction:
            channel = await channels.add_channel(
                transaction, keys, user_id=user_id, kind="email", label="a", target="a@x.example", now=now
            )
            assert not await channels.confirm_channel(transaction, channel.id, user_id="somebody else", now=now)
            if has_channel:
                assert await channels.confirm_channel(transaction, channel.id, user_id=user_id, now=now)
            await audit.append(transaction, Event("connection.needs_reauth", user_id=user_id), now=now)
        assert await outbox.enter(room.database, keys, due_at=at_once) == int(has_channel)


async def test_what_happens_to_a_groups_account_reaches_its_members(store: Store) -> None:
    async with open_room(store) as room:
        now, keys = room.now, room.vault.keys
        people = [room.alice, await seed(room.database, name="bob", client_id="agent-2")]
        await outbox.enter(room.database, keys, due_at=at_once)
        async with room.database.transaction() as transaction:
            group = await groups.create_group(transaction, "Sales", now=now)
            for one in people:
                await channels.add_channel(
                    transaction, keys, user_id=one.user.id, kind="webhook", label="x", target="https://x.example/",
                    now=now,
                )  # fmt: skip
            await groups.add_member(transaction, group.id, people[1].user.id, source="local", now=now)
            await groups.add_member(
                transaction, group.id, people[0].user.id, source="openid:x", now=now, expires_at=now
            )
            await audit.append(transaction, Event("connection.needs_reauth", user_id=group.id), now=now)
        assert await outbox.enter(room.database, keys, due_at=at_once) == 1
        rows = await room.database.fetch("select user_id from notices")
        assert [one["user_id"] for one in rows] == [people[1].user.id]


async def test_50_members_of_a_group_are_told_and_50_notices_share_a_message(store: Store) -> None:
    async with open_room(store) as room:
        now, keys, alice = room.now, room.vault.keys, room.alice.user.id
        await outbox.enter(room.database, keys, due_at=at_once)
        async with room.database.transaction() as transaction:
            group = await groups.create_group(transaction, "Sales", now=now)
            for number in range(51):
                user = await users.create_user(transaction, f"user-{number}", now=now)
                await groups.add_member(transaction, group.id, user.id, source="local", now=now)
                await _add_channel(transaction, keys, user.id, now=now)
            await audit.append(transaction, Event("connection.needs_reauth", user_id=group.id), now=now)
        assert await outbox.enter(room.database, keys, due_at=at_once) == 50
        async with room.database.transaction() as transaction:
            channel_id = await _add_channel(transaction, keys, alice, now=now)
            for _ in range(51):
                await audit.append(transaction, Event("connection.needs_reauth", user_id=alice), now=now)
        assert await outbox.enter(room.database, keys, due_at=at_once) == 51
        for count in (50, 1):
            async with room.database.transaction() as transaction:
                assert len(await outbox.take(transaction, channel_id, now=room.now)) == count


async def _add_channel(transaction: Transaction, keys: KeyRing, user_id: str, *, now: int) -> str:
    made = await channels.add_channel(
        transaction, keys, user_id=user_id, kind="webhook", label="x", target="https://x.example/", now=now
    )
    return made.id


@pytest.mark.parametrize(
    ("kind", "details", "seconds"),
    [
        ("connection.needs_reauth", {}, 2 * 86400),
        ("approval.requested", {}, 600),
        ("approval.requested", {"until": 300}, 300),
    ],
)
async def test_a_notice_is_worth_sending_for_a_time(
    store: Store, kind: str, details: dict[str, int], seconds: int
) -> None:
    async with open_room(store) as room:
        now, keys, alice = room.now, room.vault.keys, room.alice.user.id
        await outbox.enter(room.database, keys, due_at=at_once)
        ends = {name: now + passed for name, passed in details.items()}
        async with room.database.transaction() as transaction:
            channel_id = await _add_channel(transaction, keys, alice, now=now)
            await audit.append(transaction, Event(kind, user_id=alice, details=ends), now=now)
        assert await outbox.enter(room.database, keys, due_at=at_once) == 1
        async with room.database.transaction() as transaction:
            (taken,) = await outbox.take(transaction, channel_id, now=room.now)
        assert taken.expires_at - now == seconds


@pytest.mark.parametrize(("age", "count"), [(2 * 86400 - 1, 1), (2 * 86400, 0)])
async def test_what_is_no_longer_worth_sending_is_not_entered(sqlite_store: Store, age: int, count: int) -> None:
    async with open_room(sqlite_store) as room:
        keys, alice = room.vault.keys, room.alice.user.id
        await outbox.enter(room.database, keys, due_at=at_once)
        with stopped_clock(room.database) as now:
            async with room.database.transaction() as transaction:
                await _add_channel(transaction, keys, alice, now=now)
                await audit.append(transaction, Event("connection.needs_reauth", user_id=alice), now=now - age)
            assert await outbox.enter(room.database, keys, due_at=at_once) == count


@pytest.mark.parametrize(("left", "state"), [(31, "waiting"), (30, "failed")])
async def test_a_notice_that_would_expire_before_the_next_try_fails(store: Store, left: int, state: str) -> None:
    async with open_room(store) as room:
        now, event = room.now, Event("connection.needs_reauth", sequence=1)
        async with room.database.transaction() as transaction:
            await transaction.execute_many(_ENTER, [_waiting_row("x", 1, due_at=now)])
            await outbox.try_again(transaction, [Notice("x", "reconnect", 1, now + left, event)], now=now)
        row = await room.database.fetch_one("select state, due_at from notices")
        assert row == {"state": state, "due_at": now + 30 if state == "waiting" else None}


async def test_of_an_endpoints_failed_events_the_newest_500_are_listed(store: Store) -> None:
    async with open_room(store) as room:
        rows = [_waiting_row("endpoint", number, due_at=room.now) for number in range(502)]
        async with room.database.transaction() as transaction:
            await transaction.execute_many(_ENTER, rows)
            await transaction.execute("update notices set state = :failed", {"failed": endpoints.FAILED})
        listed = await endpoints.list_failed(room.database, "endpoint")
        assert [one.sequence for one in listed] == list(range(501, 1, -1))


async def test_a_failed_notice_is_tried_a_bounded_number_of_times(store: Store) -> None:
    async with open_room(store) as room:
        user_id, now, keys = room.alice.user.id, room.now, room.vault.keys
        await outbox.enter(room.database, keys, due_at=at_once)
        async with room.database.transaction() as transaction:
            channel = await channels.add_channel(
                transaction, keys, user_id=user_id, kind="webhook", label="x", target="https://x.example/", now=now
            )
            await audit.append(transaction, Event("connection.needs_reauth", user_id=user_id), now=now)
        assert await outbox.enter(room.database, keys, due_at=at_once) == 1
        pauses, tries, now = (30, 120, 600, 3600, 0), 0, room.now
        entered_at = now
        while await outbox.list_due(room.database, now=now):
            async with room.database.transaction() as transaction:
                taken = await outbox.take(transaction, channel.id, now=now)
                tries += len(taken)
                await outbox.try_again(transaction, taken, now=now)
            now += pauses[tries - 1]
            assert await outbox.list_due(room.database, now=now - 1) == ()
        assert tries == 5
        async with room.database.transaction() as transaction:
            assert await outbox.sweep(transaction, now=entered_at + 7 * 86400 - 1) == 0
            assert await outbox.sweep(transaction, now=entered_at + 7 * 86400) == 1


@pytest.mark.parametrize("is_dead", [True, False])
async def test_a_backlog_of_one_channel_hides_no_other(store: Store, *, is_dead: bool) -> None:
    async with open_room(store) as room:
        now = room.now
        backlog = [_waiting_row("dead", number, due_at=now - 600) for number in range(SWEEP_BATCH + 50)]
        rows = [*(backlog if is_dead else backlog[:1]), _waiting_row("other", 1, due_at=now - 1)]
        async with room.database.transaction() as transaction:
            await transaction.execute_many(_ENTER, rows)
        assert await outbox.list_due(room.database, now=now) == ("dead", "other")


@pytest.mark.parametrize(("expires_in", "is_kept"), [(60, True), (0, False)])
async def test_what_is_sent_again_outlives_the_age_of_its_event(
    store: Store, *, expires_in: int, is_kept: bool
) -> None:
    async with open_room(store) as room:
        now = room.now
        row = _waiting_row("x", 1, due_at=now) | {"created_at": now - 7 * 86400 - 1, "expires_at": now + expires_in}
        async with room.database.transaction() as transaction:
            await transaction.execute_many(_ENTER, [row])
            assert await outbox.sweep(transaction, now=now) == (0 if is_kept else 1)


_ENTER = (
    "insert into notices (tenant, channel_id, sequence, user_id, kind, state, attempts, created_at, expires_at, due_at)"
    " values (:tenant, :id, :sequence, :id, :waiting, :waiting, 0, :created_at, :expires_at, :due_at)"
)


def _waiting_row(channel_id: str, sequence: int, *, due_at: int) -> dict[str, Value]:
    times: dict[str, Value] = {"created_at": due_at, "expires_at": due_at + 7 * 86400, "due_at": due_at}
    return {"tenant": TENANT, "id": channel_id, "sequence": sequence, "waiting": "waiting", **times}


async def test_what_happens_while_nobody_listens_is_skipped_and_what_happens_later_is_entered(store: Store) -> None:
    async with open_room(store) as room:
        user_id, now, keys = room.alice.user.id, room.now, room.vault.keys
        async with room.database.transaction() as transaction:
            await audit.append(transaction, Event("connection.needs_reauth", user_id=user_id), now=now)
        assert await outbox.skip_if_nobody_listens(room.database)
        assert await outbox.skip_if_nobody_listens(room.database)  # nothing is new
        async with room.database.transaction() as transaction:
            await channels.add_channel(
                transaction, keys, user_id=user_id, kind="webhook", label="x", target="https://x.example/", now=now
            )
            await audit.append(transaction, Event("connection.needs_reauth", user_id=user_id), now=now)
        assert not await outbox.skip_if_nobody_listens(room.database)
        assert await outbox.enter(room.database, keys, due_at=at_once) == 1
