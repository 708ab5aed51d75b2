"""Refreshing: exactly one send at a time, the answer never lost, an unknown outcome never repeated carelessly."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.exchanging import READ, Room, open_room, second_process
from tests.support.upstream_double import BUSY, INVALID_CLIENT, LOST_ANSWER, LOST_REQUEST, UNREACHABLE, Fault
from vault import connections
from vault.connections import get_connection, list_connections
from vault.exchange.exchange import UpstreamToken
from vault.records import Connection
from vault.refresh import breakers, leases
from vault.refresh.concurrency import RefreshTasks, TokenWish
from vault.refresh.recovery import take_up
from vault.refresh.rotation import refresh
from vault.refresh.rules import HANDLING, PAUSE
from vault.refusals import ConnectionRequired, ProviderSilent, TemporarilyUnavailable, VaultError
from vault.storage import postgres_owners
from vault.storage.liveness import OwnerLocks
from vault.upstream import RotationMode, Silent

WAIT = 20.0  # seconds: the bound of every wait here
ROTATING = [RotationMode.GRACE, RotationMode.STRICT, RotationMode.REVOKES]


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        yield opened


async def shown(room: Room, connection: Connection) -> str:
    found = await get_connection(room.database, connection.id, user_id=room.alice.user.id)
    assert found is not None
    return found.status(room.now)


async def herd(*rooms: Room, each: int) -> list[UpstreamToken]:
    async with asyncio.timeout(WAIT):
        return list(await asyncio.gather(*(one.exchange() for one in rooms for _ in range(each))))


# One refresh for everybody


@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_fifty_exchanges_at_expiry_cost_one_refresh(store: Store, rotation: RotationMode) -> None:
    async with open_room(store, rotation=rotation) as room:
        await room.connect()
        room.pass_time(3600)
        answers = await herd(room, each=50)
        assert len({answer.value for answer in answers}) == 1
        assert [send.outcome for send in room.slack.sends] == ["Rotated"]
        assert len(await room.events("token.exchanged")) == 50


async def test_two_processes_at_expiry_cost_one_refresh(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    async with second_process(room) as other:
        answers = await herd(room, other, each=20)
    assert len({answer.value for answer in answers}) == 1
    assert [send.outcome for send in room.slack.sends] == ["Rotated"]


async def test_a_process_that_watches_takes_the_answer_of_the_one_that_sends(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with second_process(room) as other, asyncio.timeout(WAIT):
        sending = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        watching = asyncio.create_task(other.exchange())
        for _ in range(3):
            await leases.read(other.database, "nothing")
        assert not watching.done()
        room.slack.gate.set()
        assert (await sending).value == (await watching).value
    assert len(room.slack.sends) == 1


async def test_different_scope_sets_of_one_account_are_sent_one_after_the_other(room: Room) -> None:
    connection = await room.connect("google")
    scopes = (READ, "calendar.events", "drive")
    async with asyncio.timeout(WAIT):
        answers = await asyncio.gather(*(room.exchange("google", scope) for scope in scopes for _ in range(5)))
    assert len({answer.value for answer in answers}) == 3
    assert len(room.google.sends) == 3
    assert (await room.row(connection)).generation == 4


async def test_callers_of_one_token_share_one_task_and_one_account_takes_turns() -> None:
    tasks, order = RefreshTasks(), list[str]()

    async def fly(name: str) -> int:
        async def work() -> int:
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")
            return 1

        return await tasks.take_turn("connection", work)

    narrow = TokenWish("connection", 1, scopes=frozenset({READ}))
    one = tasks.join(TokenWish("connection", 1), lambda: fly("full"))
    assert tasks.join(TokenWish("connection", 1), lambda: fly("full")) is one
    other = tasks.join(narrow, lambda: fly("narrow"))
    assert other is not one
    async with asyncio.timeout(WAIT):
        await asyncio.gather(one, other)
    assert order == ["full begins", "full ends", "narrow begins", "narrow ends"]


# When a refresh happens


async def test_nobody_refreshes_before_the_last_minute(room: Room) -> None:
    await room.connect()
    room.pass_time(3600 - 75)
    await room.exchange()
    await room.settle()
    assert room.slack.sends == []


async def test_in_the_last_minute_callers_keep_the_good_token_while_one_refresh_runs(room: Room) -> None:
    await room.connect()
    before = await room.exchange()
    room.pass_time(3600 - 45)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        assert {token.value for token in await herd(room, each=10)} == {before.value}
        await room.slack.arrived.wait()
        room.slack.gate.set()
        await room.settle()
    assert len(room.slack.sends) == 1
    assert (await room.exchange()).value != before.value


async def test_a_token_in_use_is_refreshed_ahead_although_nobody_calls_in_its_last_moments(room: Room) -> None:
    room.slack.lifetime = 20  # ages at 18 s
    await room.connect()
    room.pass_time(17)
    before = await room.exchange()
    assert len(room.vault.tasks.timers) == 1
    async with asyncio.timeout(WAIT):
        await room.slack.arrived.wait()
    await room.settle()
    assert len(room.slack.sends) == 1
    assert (await room.exchange()).value != before.value
    assert room.vault.tasks.waits == 0


async def test_a_token_that_nobody_uses_is_not_refreshed_ahead(room: Room) -> None:
    await room.connect()
    assert len(room.vault.tasks.timers) == 0
    await room.exchange()
    await room.exchange()
    assert len(room.vault.tasks.timers) == 1


async def test_a_narrow_token_is_refreshed_ahead_in_the_last_tenth_of_its_own_life(room: Room) -> None:
    await room.connect("google")
    room.google.lifetime = 50
    narrow = await room.exchange("google", READ)
    room.pass_time(40)
    assert (await room.exchange("google", READ)).value == narrow.value
    await room.settle()
    assert len(room.google.sends) == 1
    room.pass_time(6)
    assert (await room.exchange("google", READ)).value == narrow.value
    await room.settle()
    assert len(room.google.sends) == 2


async def test_where_a_refresh_kills_the_old_token_it_serves_to_its_end(room: Room) -> None:
    killing = replace(room.vault.policies["slack"], refresh_ends_access_token=True)
    twin, room.vault = room.vault, replace(room.vault, policies={**room.vault.policies, "slack": killing})
    await room.connect()
    before = await room.exchange()
    assert len(room.vault.tasks.timers) == 0
    room.pass_time(3600 - 45)
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert room.slack.sends == []
    room.vault = twin
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert len(room.slack.sends) == 1


async def test_a_failed_refresh_ahead_disturbs_nobody(room: Room) -> None:
    await room.connect()
    before = await room.exchange()
    room.pass_time(3600 - 45)
    room.slack.faults.append(UNREACHABLE)
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert (await room.exchange()).value == before.value


# The answer is kept


async def test_a_caller_that_is_cancelled_does_not_lose_the_answer(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        impatient = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        room.slack.gate.set()
        await room.settle()
        assert room.slack.issued[(await room.exchange()).value]
    assert [send.outcome for send in room.slack.sends] == ["Rotated"]
    assert room.slack.families[0].is_alive


async def test_an_answer_without_a_refresh_token_keeps_the_old_one(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.NONE) as room:
        await room.connect()
        for _ in range(3):
            room.pass_time(3600)
            assert await room.exchange()
        assert len({send.refresh_token for send in room.slack.sends}) == 1


async def test_rotated_refresh_tokens_are_spent_in_their_order(room: Room) -> None:
    await room.connect()
    for _ in range(3):
        room.pass_time(3600)
        assert await room.exchange()
    assert len({send.refresh_token for send in room.slack.sends}) == 3
    assert room.slack.families[0].is_alive


async def test_an_answer_is_stored_even_when_its_lease_has_lapsed(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        slow = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        room.pass_time(61)
        async with second_process(room) as other:
            with pytest.raises(TemporarilyUnavailable):  # by its clock; ours may be off
                await other.exchange()
            other.pass_time(60)
            with pytest.raises(ConnectionRequired) as refused:
                await other.exchange()
            assert refused.value.reason == "ambiguous"
        assert await shown(room, connection) == "ambiguous"
        room.slack.gate.set()
        assert room.slack.issued[(await slow).value]
    assert await shown(room, connection) == "active"
    assert len(room.slack.sends) == 1


async def test_an_answer_overrules_a_process_that_gave_the_connection_up_meanwhile(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        slow = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        facts = await room.row(connection)
        async with room.database.transaction() as transaction:
            assert await leases.end(transaction, facts, fence=facts.fence, reason="invalid_grant")
        room.slack.gate.set()
        assert room.slack.issued[(await slow).value]
    assert await shown(room, connection) == "active"


async def test_connecting_again_wins_over_the_answer_of_an_older_consent(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        slow = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        await room.connect()
        room.slack.gate.set()
        token = await slow
    newest = (await room.row(connection)).generation
    assert token.generation == newest == 2
    room.pass_time(3600)
    assert await room.exchange()
    assert room.slack.sends[-1].refresh_token not in room.slack.families[0].spent


async def test_an_answer_on_its_way_survives_a_consent_that_brought_no_refresh_token(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        slow = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        await room.connect(refreshable=False)
        room.slack.gate.set()
        await slow
        room.slack.gate = None
    assert await shown(room, connection) == "active"
    room.pass_time(3600)
    assert await room.exchange()
    assert [send.outcome for send in room.slack.sends] == ["Rotated", "Rotated"]


async def test_an_answer_that_the_storage_refuses_is_offered_again_until_it_is_stored(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    noticed = Noticed("answer not stored yet")
    async with asyncio.timeout(WAIT):
        waiting = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        async with room.database.transaction() as transaction:  # the storage breaks while the answer is on its way
            await transaction.execute("alter table intents rename to intents_away")
        with noticed:
            room.slack.gate.set()
            await noticed.event.wait()
        assert not waiting.done()
        async with room.database.transaction() as transaction:
            await transaction.execute("alter table intents_away rename to intents")
        assert room.slack.issued[(await waiting).value]
    assert len(room.slack.sends) == 1


async def test_a_storage_that_cannot_take_the_intent_lets_nothing_be_sent(room: Room) -> None:
    """R-12: refuse the refresh before it is sent, and be none the worse for it."""
    connection = await room.connect()
    room.pass_time(3600)
    breaks, repairs = (
        "alter table intents add constraint broken check (sent_at < 0)",
        "alter table intents drop constraint broken",
    )
    if room.store.is_sqlite:
        breaks = "create trigger vault.broken before insert on intents begin select raise(abort, 'broken'); end"
        repairs = "drop trigger vault.broken"
    async with room.database.transaction() as transaction:
        await transaction.execute(breaks)
    for _ in range(2):
        with pytest.raises(VaultError):
            await room.exchange()
    assert room.slack.sends == []
    async with room.database.transaction() as transaction:
        await transaction.execute(repairs)
    assert await shown(room, connection) == "active"
    assert await room.exchange()


class Noticed(logging.Handler):
    """Sets an event when a message is logged."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.event = asyncio.Event()
        self._message = message

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == self._message:
            self.event.set()

    def __enter__(self) -> None:
        logging.getLogger("token_vault.rotation").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("token_vault.rotation").removeHandler(self)


# Silence


async def go_silent(room: Room, fault: Fault, *, before_end: int = 0) -> Connection:
    """A connection whose refresh got no answer, this long before its access token ends."""
    connection = await room.connect()
    room.pass_time(3600 - before_end)
    room.slack.faults.append(fault)
    if before_end:
        await room.exchange()
        await room.settle()
    else:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
    assert len(room.slack.sends) == 1
    assert "connection.refresh_unanswered" in await room.kinds()
    return connection


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_ANSWER], ids=["request lost", "answer lost"])
async def test_where_re_use_revokes_a_token_of_unknown_fate_waits_for_the_end_of_the_old_one(
    room: Room, fault: Fault
) -> None:
    connection = await go_silent(room, fault, before_end=45)
    assert await shown(room, connection) == "waiting"
    with pytest.raises(ProviderSilent) as refused:
        await refresh(room.vault, connection.id, if_generation=1)
    assert 0 < refused.value.retry_after <= 60
    assert len(room.slack.sends) == 1
    room.pass_time(45)
    if fault is LOST_REQUEST:  # the provider never saw it: the try saves the connection
        assert room.slack.issued[(await room.exchange()).value]
        assert await shown(room, connection) == "active"
    else:  # it is lost, and now everybody knows
        with pytest.raises(ConnectionRequired) as ended:
            await room.exchange()
        assert ended.value.reason == "needs_reauth"
    assert len(room.slack.sends) == 2
    assert (await room.row(connection)).refresh_sealed is not None


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_ANSWER], ids=["request lost", "answer lost"])
async def test_inside_the_grace_a_silent_refresh_is_sent_again_and_nothing_is_lost(store: Store, fault: Fault) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        room.slack.has_grace = True
        connection = await go_silent(room, fault, before_end=45)
        room.pass_time(30)
        await room.exchange()
        await room.settle()
        assert len(room.slack.sends) == 2
        assert await shown(room, connection) == "active"
        room.pass_time(3600)
        assert room.slack.issued[(await room.exchange()).value]


async def test_with_less_than_two_deadlines_of_grace_left_nothing_is_sent(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        connection = await go_silent(room, LOST_ANSWER, before_end=55)
        room.pass_time(41)
        with pytest.raises(TemporarilyUnavailable):
            await refresh(room.vault, connection.id, if_generation=1)
        assert len(room.slack.sends) == 1


async def test_where_re_use_is_only_refused_a_silent_refresh_is_sent_again_at_once(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.STRICT) as room:
        await go_silent(room, LOST_REQUEST)
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 2


SERVER_ERROR = Fault(before=Silent("status 500", is_over=True))


async def test_a_silent_provider_is_asked_again_after_growing_pauses_however_eager_the_agents_are(room: Room) -> None:
    connection = await go_silent(room, SERVER_ERROR)
    room.slack.faults.extend([SERVER_ERROR] * 100)
    began, sent_at = room.now, list[int]()
    async with second_process(room) as other:
        while room.now - began < 86400:
            for process in (room, other, room):
                before = len(room.slack.sends)
                with pytest.raises(TemporarilyUnavailable):
                    await process.exchange()
                sent_at += [room.now] * (len(room.slack.sends) - before)
            assert await shown(room, connection) == "waiting"
            for process in (room, other):
                process.pass_time(20)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent_at)]
    assert all(earlier <= later + 25 for earlier, later in itertools.pairwise(pauses))  # calls come each 20 s
    assert (pauses[0] >= PAUSE[0], 4 * 3600 < pauses[-1] < 7 * 3600) == (True, True)
    assert 20 < len(sent_at) < 50


async def test_connecting_again_ends_the_pause_after_a_silence(room: Room) -> None:
    connection = await go_silent(room, LOST_REQUEST)
    with pytest.raises(ProviderSilent, match="retries automatically"):
        await room.exchange()
    assert len(room.slack.sends) == 1
    await room.connect()
    assert await shown(room, connection) == "active"
    assert (await room.row(connection)).retry_at is None
    room.pass_time(3600)
    assert await room.exchange()


@pytest.mark.parametrize("outage", [60, 3600, 86400], ids=["1 min", "1 h", "1 day"])
@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_after_a_providers_bad_hour_every_account_works_again_by_itself_within_one_pause(
    store: Store, rotation: RotationMode, outage: int
) -> None:
    """Two processes, whose agents ask for three accounts all the time while the provider answers nothing useful."""
    accounts = ("alice", "bob", "carol")
    async with open_room(store, rotation=rotation) as room, second_process(room) as other:
        room.slack.has_grace = rotation is RotationMode.GRACE
        connections_ = [await room.connect(account=account) for account in accounts]

        def pass_time(seconds: int) -> None:
            for process in (room, other):
                process.pass_time(seconds)

        pass_time(3600)
        began, step = room.now, max(5, outage // 60)
        misbehaves = itertools.cycle([SERVER_ERROR, LOST_REQUEST])
        while room.now - began < outage:
            for account in accounts:
                for process in (room, other):
                    room.slack.faults.extend([next(misbehaves)] * 2)
                    with pytest.raises(TemporarilyUnavailable):
                        await process.exchange(account=account)
                    room.slack.faults.clear()
            pass_time(step)
        longest = max(PAUSE[0], (room.now - began) // 4) + breakers.PAUSE
        back, sent, upkeep = room.now, len(room.slack.sends), max(10, longest // 30)
        while room.now - back <= longest:
            await take_up(other.vault)
            pass_time(upkeep)
        if rotation is not RotationMode.NONE:
            assert len(room.slack.sends) >= sent + len(accounts)  # nobody called
        for account, connection in zip(accounts, connections_, strict=True):
            for process in (room, other):
                assert (await process.exchange(account=account)).value in room.slack.issued
            assert await shown(room, connection) == "active"


async def test_a_silence_is_asked_about_again_without_a_caller_when_its_pause_is_over(room: Room) -> None:
    connection = await go_silent(room, SERVER_ERROR)
    room.slack.faults.extend([SERVER_ERROR] * 2)
    assert await take_up(room.vault) == 1
    assert await take_up(room.vault) == 0
    room.pass_time(PAUSE[0])
    assert await take_up(room.vault) == 1
    assert await take_up(room.vault) == 0
    room.pass_time(PAUSE[0])
    assert await take_up(room.vault) == 1
    assert len(room.slack.sends) == 4
    assert await shown(room, connection) == "active"


async def test_a_request_that_its_provider_may_still_handle_is_not_followed_by_another(room: Room) -> None:
    """Rule 12."""
    connection = await go_silent(room, LOST_REQUEST)
    for _ in range(3):
        with pytest.raises(ProviderSilent):
            await room.exchange()
    assert len(room.slack.sends) == 1
    room.pass_time(HANDLING)
    assert await room.exchange()
    assert await shown(room, connection) == "active"


async def test_a_token_that_its_api_refused_is_not_waited_for_after_a_silence(room: Room) -> None:
    connection = await go_silent(room, SERVER_ERROR, before_end=45)
    with pytest.raises(ProviderSilent):
        await refresh(room.vault, connection.id, if_generation=1)
    assert len(room.slack.sends) == 1
    full = await room.exchange(everything=True)
    again = await room.exchange(everything=True, after_unauthorized=full.generation)
    assert (len(room.slack.sends), again.generation) == (2, full.generation + 1)


async def test_a_try_that_never_left_does_not_hide_an_earlier_silence(room: Room) -> None:
    connection = await go_silent(room, LOST_ANSWER)
    room.pass_time(HANDLING)
    room.slack.faults.append(UNREACHABLE)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    assert len(room.slack.sends) == 2
    assert await shown(room, connection) == "waiting"
    (left,) = await leases.list_unresolved(room.database, await room.row(connection))
    assert (left.sends, left.is_settled, left.owner) == (1, True, room.vault.owner)


async def test_while_the_old_token_lives_an_unknown_refresh_disturbs_nobody(room: Room) -> None:
    await room.connect()
    before = await room.exchange()
    room.pass_time(3600 - 45)
    room.slack.faults.append(LOST_ANSWER)
    await room.exchange()
    await room.settle()
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert len(room.slack.sends) == 1


async def test_a_token_that_outlives_its_use_is_sent_once_more_at_once(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.NONE) as room:
        await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(LOST_ANSWER)
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 2


async def test_a_provider_that_stays_silent_is_asked_twice_and_the_connection_stays(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.NONE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.extend([LOST_ANSWER, LOST_REQUEST])
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert len(room.slack.sends) == 2
        assert await shown(room, connection) == "active"
        assert await room.exchange()


async def left_behind(room: Room, owner: str) -> Connection:
    """A connection that `owner` claimed at its expiry, and never spoke of again."""
    connection = await room.connect()
    room.pass_time(3600)
    facts = await room.row(connection)
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, facts, owner=owner, now=room.now)
    return connection


@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_the_lease_of_a_dead_process_is_taken_over_at_once(sqlite_store: Store, rotation: RotationMode) -> None:
    async with open_room(sqlite_store, rotation=rotation) as room:
        died = OwnerLocks(sqlite_store.data)
        died.hold("died")
        died.close()
        connection = await left_behind(room, "died")
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 1
        assert await shown(room, connection) == "active"


async def test_a_process_that_other_hosts_cannot_see_is_dead_when_its_lease_is_over(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_owners, "SETTLE", 0.0)
    async with open_room(postgres_store) as room:
        connection = await left_behind(room, "of another host")
        with pytest.raises(TemporarilyUnavailable):
            await refresh(room.vault, connection.id, if_generation=1)
        assert room.slack.sends == []
        room.pass_time(61)
        assert await room.exchange()
        assert len(room.slack.sends) == 1


@pytest.mark.parametrize("rotation", [RotationMode.STRICT, RotationMode.REVOKES])
async def test_a_silent_process_that_lives_may_still_bring_the_answer(store: Store, rotation: RotationMode) -> None:
    async with open_room(store, rotation=rotation) as room, second_process(room) as other:
        await other.database.hold_liveness("paused")
        connection = await left_behind(room, "paused")
        room.pass_time(61)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        room.pass_time(60)
        for _ in range(2):
            with pytest.raises(ConnectionRequired) as refused:
                await room.exchange()
            assert refused.value.reason == "ambiguous"
        assert room.slack.sends == []
        assert await shown(room, connection) == "ambiguous"


@pytest.mark.parametrize("minutes", [5, -5])
@pytest.mark.parametrize("rotation", [RotationMode.GRACE, RotationMode.STRICT, RotationMode.REVOKES])
async def test_a_process_whose_clock_is_off_waits_for_the_answer_of_another(
    sqlite_store: Store, rotation: RotationMode, minutes: int
) -> None:
    """On SQLite each process reads a clock of its own."""
    async with open_room(sqlite_store, rotation=rotation) as room, second_process(room) as other:
        await room.connect()
        room.pass_time(4000)
        other.database.clock_offset = room.database.clock_offset + 60 * minutes
        await room.vault.database.hold_liveness(room.vault.owner)
        room.slack.gate = asyncio.Event()
        async with asyncio.timeout(WAIT):
            slow = asyncio.create_task(room.exchange())
            await room.slack.arrived.wait()
            theirs = asyncio.create_task(other.exchange())
            if minutes > 0:  # the lease has lapsed by its clock
                with pytest.raises(TemporarilyUnavailable):
                    await theirs
            room.slack.gate.set()
            assert room.slack.issued[(await slow).value]
            assert room.slack.issued[(await (theirs if minutes < 0 else other.exchange())).value]
        assert len({send.refresh_token for send in room.slack.sends}) == len(room.slack.sends)
        assert room.slack.families[0].is_alive


@pytest.mark.parametrize(("behind", "sends"), [(0, 2), (300, 1)])
async def test_a_clock_that_is_behind_prolongs_no_grace(sqlite_store: Store, behind: int, sends: int) -> None:
    async with open_room(sqlite_store, rotation=RotationMode.GRACE) as room, second_process(room) as other:
        room.slack.has_grace = True
        connection = await room.connect()
        room.pass_time(3600)
        other.database.clock_offset = room.database.clock_offset - behind
        room.slack.faults.append(LOST_ANSWER)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        with suppress(TemporarilyUnavailable):
            await refresh(other.vault, connection.id, if_generation=1)
        assert len(room.slack.sends) == sends


async def test_a_later_answer_replaces_an_earlier_one_that_came_in_under_its_lease(store: Store) -> None:
    """Grace that issues siblings: of two answers to one token the one that was asked for last is the live one."""
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.gate = asyncio.Event()
        async with asyncio.timeout(WAIT):
            slow = asyncio.create_task(room.exchange())
            await room.slack.arrived.wait()
            async with room.database.transaction() as transaction:  # somebody's earlier answer arrives first
                await transaction.execute(
                    "update connections set generation = generation + 1, refresh_sealed = access_sealed where id = :id",
                    {"id": connection.id},
                )
            room.slack.gate.set()
            assert room.slack.issued[(await slow).value]
        assert (await room.row(connection)).generation == 3
        room.pass_time(3600)
        assert room.slack.issued[(await room.exchange()).value]


async def test_a_refusal_ends_nothing_while_another_process_may_hold_a_newer_token(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room, second_process(room) as other:
        await other.database.hold_liveness("paused")
        connection = await left_behind(room, "paused")
        async with room.database.transaction() as transaction:
            await transaction.execute("update connections set lease_until = :now", {"now": room.now})
        room.slack.families[0].is_alive = False
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert len(room.slack.sends) == 1
        assert (await room.row(connection)).state.value == "active"


# Refusals of the provider


async def test_a_dead_grant_is_marked_once_and_its_token_kept(room: Room) -> None:
    connection = await room.connect()
    room.slack.families[0].is_alive = False
    room.pass_time(3600)
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange()
    assert refused.value.reason == "needs_reauth"
    assert "Reconnect this account" in refused.value.description
    (event,) = await room.events("connection.needs_reauth")
    assert event.details["reason"] == "invalid_grant"
    facts = await room.row(connection)
    assert facts.refresh_sealed is not None
    assert await shown(room, connection) == "needs_reauth"


async def test_a_refusal_of_a_token_that_was_replaced_meanwhile_uses_the_newer_one(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.families[0].is_alive = False
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        slow = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        await room.connect()
        room.slack.gate.set()
        assert room.slack.issued[(await slow).value]
    assert await room.events("connection.needs_reauth") == []


async def test_a_refusal_of_our_registration_touches_no_connection(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    for _ in range(2):
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
    assert len(room.slack.sends) == 1
    assert await shown(room, connection) == "active"
    assert "connection.refresh_refused" in await room.kinds()
    room.pass_time(61)
    assert await room.exchange()


async def test_connecting_again_ends_the_pause_after_a_refusal_of_our_registration(room: Room) -> None:
    connection = await room.connect()
    await room.connect(account="bob")
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange(account="alice")
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange(account="bob")
    assert len(room.slack.sends) == 1
    assert (await room.connect()).id == connection.id  # the operator has corrected it
    generation = (await room.exchange(account="alice")).generation
    again = await room.exchange(account="alice", after_unauthorized=generation)
    assert again.generation == generation + 1
    assert await room.exchange(account="bob")


async def test_a_refusal_of_our_registration_spares_the_provider_all_other_accounts(room: Room) -> None:
    await room.connect(account="alice")
    await room.connect(account="work")
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    for account in ("alice", "work", "alice"):
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange(account=account)
        assert 0 < refused.value.retry_after <= 60
    assert len(room.slack.sends) == 1
    room.pass_time(61)
    assert await room.exchange(account="work")
    assert await room.exchange(account="alice")


async def test_a_provider_that_stays_silent_is_not_asked_for_a_while_and_others_are(room: Room) -> None:
    accounts = [f"account{number}" for number in range(7)]
    for account in accounts:
        await room.connect(account=account)
    await room.connect("google")
    room.pass_time(3600)
    room.slack.faults.extend([LOST_REQUEST] * 5)
    for account in accounts:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    assert len(room.slack.sends) == 5
    assert await room.exchange("google")
    room.pass_time(31)
    room.slack.faults.append(LOST_REQUEST)
    for account in accounts[5:]:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    assert len(room.slack.sends) == 6  # the probe failed: it is open again
    room.pass_time(31)
    for account in accounts:
        assert await room.exchange(account=account)


async def test_a_provider_that_hangs_for_some_accounts_is_asked_for_the_others(room: Room) -> None:
    hung = [f"account{number}" for number in range(6)]
    for account in (*hung, "healthy", "other"):
        await room.connect(account=account)
    room.pass_time(3600)
    assert await room.exchange(account="healthy")
    room.slack.faults.extend([LOST_REQUEST] * 6)
    for account in hung:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    assert len(room.slack.sends) == 7  # it answered a moment ago: it is not down
    assert await room.exchange(account="other")


async def test_while_a_provider_is_silent_one_account_at_a_time_tries_and_an_answer_frees_all(room: Room) -> None:
    hung = [f"account{number}" for number in range(5)]
    for account in (*hung, "healthy", "other"):
        await room.connect(account=account)
    room.pass_time(3600)
    room.slack.faults.extend([LOST_REQUEST] * 5)
    for account in hung:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    room.pass_time(6)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange(account=hung[0])  # it was silent for this one: not yet
    room.slack.gate = asyncio.Event()
    probe = asyncio.create_task(room.exchange(account="healthy"))
    async with asyncio.timeout(WAIT):
        room.slack.arrived.clear()
        await room.slack.arrived.wait()
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account="other")
        room.slack.gate.set()
        assert await probe
    assert await room.exchange(account="other")


async def test_a_request_that_never_left_may_be_repeated(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(UNREACHABLE)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    assert await shown(room, connection) == "active"
    assert await room.exchange()


async def test_a_provider_that_asks_for_patience_gets_it(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(BUSY)
    for _ in range(3):
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange()
        assert 25 <= refused.value.retry_after <= 30
    assert len(room.slack.sends) == 1
    room.pass_time(31)
    assert await room.exchange()


async def test_fewer_scopes_are_an_alarm_and_not_an_update(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(Fault(scopes=frozenset({"chat:write"})))
    assert await room.exchange()
    (alarm,) = await room.events("connection.scopes_shrunk")
    assert (alarm.outcome, alarm.details["lost"]) == ("failed", ["channels:read"])
    assert (await room.row(connection)).scopes == {"chat:write", "channels:read"}


async def test_more_scopes_are_noted_so_that_no_token_passes_for_narrow(room: Room) -> None:
    connection = await room.connect(scopes=frozenset({"chat:write"}))
    room.pass_time(3600)
    room.slack.faults.append(Fault(scopes=frozenset({"chat:write", "admin"})))
    token = await room.exchange()
    assert token.narrowing.value == "enforced"
    assert (await room.row(connection)).scopes == {"chat:write", "admin"}
    assert "connection.scopes_grew" in await room.kinds()


async def test_a_provider_that_is_not_set_up_any_more_loses_nothing(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.is_configured = False
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    assert await shown(room, connection) == "active"
    room.slack.is_configured = True
    assert await room.exchange()


async def test_a_disconnected_connection_is_not_refreshed(room: Room) -> None:
    connection = await room.connect()
    async with room.database.transaction() as transaction:
        await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)
    with pytest.raises(ConnectionRequired):
        await refresh(room.vault, connection.id, if_generation=1)
    with pytest.raises(ConnectionRequired):
        await refresh(room.vault, "never was", if_generation=1)
    assert room.slack.sends == []


async def test_a_claim_is_void_once_anybody_claimed_since_the_row_was_read(room: Room) -> None:
    connection = await room.connect()
    facts = await room.row(connection)
    async with room.database.transaction() as transaction:
        first = await leases.claim(transaction, facts, owner="one", now=room.now)
        assert first is not None
        await leases.settle(transaction, first, now=room.now)
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, facts, owner="two", now=room.now) is None
    again = await room.row(connection)
    assert again.sent_at is not None
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, again, owner="two", now=room.now)


async def test_a_listing_shows_every_account_with_its_state(room: Room) -> None:
    await room.connect(account="alice")
    await room.connect(account="work")
    listed = await list_connections(room.database, room.alice.user.id)
    assert {one.label for one in listed} == {"alice@example.com", "work@example.com"}
    assert {one.status(room.now) for one in listed} == {"active"}
