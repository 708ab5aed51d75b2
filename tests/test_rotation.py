"""Refreshing: exactly one send at a time, the answer never lost, an unknown outcome never repeated carelessly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import pytest

from tests.conftest import Store
from tests.exchanging import READ, Room, open_room, second_process
from tests.upstream_double import (
    BUSY,
    INVALID_CLIENT,
    LOST_ANSWER,
    LOST_REQUEST,
    UNREACHABLE,
    Fault,
)
from vault import connections, leases
from vault.connections import get_connection, list_connections
from vault.exchange import UpstreamToken
from vault.flights import Flights, Wish
from vault.records import Connection
from vault.refusals import ConnectionRequired, TemporarilyUnavailable, VaultError
from vault.rotation import refresh
from vault.upstream import Rotation

WAIT = 20.0  # seconds: the bound of every wait here
ROTATING = [Rotation.GRACE, Rotation.STRICT, Rotation.REVOKES]


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


@pytest.mark.parametrize("rotation", list(Rotation))
async def test_fifty_exchanges_at_expiry_cost_one_refresh(store: Store, rotation: Rotation) -> None:
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
    flights, order = Flights(), list[str]()

    async def fly(name: str) -> int:
        async def work() -> int:
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")
            return 1

        return await flights.take_turn("connection", work)

    narrow = Wish("connection", 1, scopes=frozenset({READ}))
    one = flights.join(Wish("connection", 1), lambda: fly("full"))
    assert flights.join(Wish("connection", 1), lambda: fly("full")) is one
    other = flights.join(narrow, lambda: fly("narrow"))
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
    async with open_room(store, rotation=Rotation.NONE) as room:
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
            await transaction.execute("alter table narrowed_tokens rename to narrowed_tokens_away")
        with noticed:
            room.slack.gate.set()
            await noticed.event.wait()
        assert not waiting.done()
        async with room.database.transaction() as transaction:
            await transaction.execute("alter table narrowed_tokens_away rename to narrowed_tokens")
        assert room.slack.issued[(await waiting).value]
    assert len(room.slack.sends) == 1


async def test_a_storage_that_cannot_take_the_intent_lets_nothing_be_sent(room: Room) -> None:
    """R-12: refuse the refresh before it is sent, and be none the worse for it."""
    connection = await room.connect()
    room.pass_time(3600)
    breaks, mends = (
        "alter table intents add constraint broken check (sent_at < 0)",
        "alter table intents drop constraint broken",
    )
    if room.store.is_sqlite:
        breaks = "create trigger vault.broken before insert on intents begin select raise(abort, 'broken'); end"
        mends = "drop trigger vault.broken"
    async with room.database.transaction() as transaction:
        await transaction.execute(breaks)
    for _ in range(2):
        with pytest.raises(VaultError):
            await room.exchange()
    assert room.slack.sends == []
    async with room.database.transaction() as transaction:
        await transaction.execute(mends)
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


@pytest.mark.parametrize("rotation", ROTATING)
@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_ANSWER], ids=["request lost", "answer lost"])
async def test_a_rotating_token_is_never_sent_again_while_its_fate_is_unknown(
    store: Store, rotation: Rotation, fault: Fault
) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(fault)
        for _ in range(3):
            with pytest.raises(TemporarilyUnavailable) as refused:
                await room.exchange()
            assert 0 < refused.value.retry_after <= 60
        assert await shown(room, connection) == "ambiguous"
        room.pass_time(61)
        with pytest.raises(ConnectionRequired) as ended:
            await room.exchange()
        assert (ended.value.reason, ended.value.connection_id) == ("ambiguous", connection.id)
        assert len(room.slack.sends) == 1
        facts = await room.row(connection)
        assert facts.refresh_sealed is not None
        assert "connection.refresh_unanswered" in await room.kinds()
        await room.connect()
        assert await shown(room, connection) == "active"
        assert await room.exchange()


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
    async with open_room(store, rotation=Rotation.NONE) as room:
        await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(LOST_ANSWER)
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 2


async def test_a_provider_that_stays_silent_is_asked_twice_and_the_connection_stays(store: Store) -> None:
    async with open_room(store, rotation=Rotation.NONE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.extend([LOST_ANSWER, LOST_REQUEST])
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert len(room.slack.sends) == 2
        assert await shown(room, connection) == "active"
        assert await room.exchange()


@pytest.mark.parametrize("rotation", [Rotation.NONE, Rotation.REVOKES])
async def test_a_process_that_died_with_its_answer_leaves_the_truth_behind(store: Store, rotation: Rotation) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await room.connect()
        room.pass_time(3600)
        facts = await room.row(connection)
        async with room.database.transaction() as transaction:
            assert await leases.claim(transaction, facts, owner="died-long-ago", now=room.now)
        room.pass_time(61)
        if rotation is Rotation.NONE:
            assert await room.exchange()
            room.pass_time(3600)
            assert await room.exchange()
            assert list(await room.database.fetch("select owner from intents")) == []
            return
        with pytest.raises(ConnectionRequired) as refused:
            await room.exchange()
        assert refused.value.reason == "ambiguous"
        assert room.slack.sends == []
        assert await shown(room, connection) == "ambiguous"


# Refusals of the provider


async def test_a_dead_grant_is_marked_once_and_its_token_kept(room: Room) -> None:
    connection = await room.connect()
    room.slack.families[0].is_alive = False
    room.pass_time(3600)
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange()
    assert refused.value.reason == "needs_reauth"
    assert "Connect this account again" in refused.value.description
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
        await leases.release(transaction, first, was_sent=True)
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
