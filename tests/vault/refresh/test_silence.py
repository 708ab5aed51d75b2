"""A refresh whose outcome is unknown is never repeated carelessly."""

from __future__ import annotations

import contextlib
import itertools

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import LOST_ANSWER, LOST_REQUEST, UNREACHABLE, Fault
from tests.support.rooms.vault_room import Room, connection_status, open_room, second_process
from vault.records import Connection
from vault.refresh import breakers, leases
from vault.refresh.recovery import take_up
from vault.refresh.rotation import refresh, refresh_ahead
from vault.refresh.rules import HANDLING, PAUSE
from vault.refusals import ConnectionRequired, ProviderSilent, TemporarilyUnavailable
from vault.upstream import RotationMode, Silent


async def go_silent(room: Room, fault: Fault, *, before_end: int = 0) -> Connection:
    """A connection whose refresh got no answer, this long before its access token expires."""
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
    assert await connection_status(room, connection) == "waiting"
    with pytest.raises(ProviderSilent) as refused:
        await refresh(room.vault, connection.id, if_generation=1)
    assert 0 < refused.value.retry_after <= 60
    assert len(room.slack.sends) == 1
    room.pass_time(45)
    if fault is LOST_REQUEST:  # the provider never saw it, so trying again saves the connection
        assert room.slack.issued[(await room.exchange()).value]
        assert await connection_status(room, connection) == "active"
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
        assert await connection_status(room, connection) == "active"
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


CALLS_EVERY = 60  # seconds
SERVER_ERROR = Fault(before=Silent("status 500", is_over=True))


@pytest.mark.long
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
            assert await connection_status(room, connection) == "waiting"
            for process in (room, other):
                process.pass_time(CALLS_EVERY)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent_at)]
    step = CALLS_EVERY + 5
    assert all(earlier <= later + step for earlier, later in itertools.pairwise(pauses))
    assert (pauses[0] >= PAUSE[0], 4 * 3600 < pauses[-1] < 7 * 3600) == (True, True)
    assert 20 < len(sent_at) < 50


async def test_connecting_again_ends_the_pause_after_a_silence(room: Room) -> None:
    connection = await go_silent(room, LOST_REQUEST)
    with pytest.raises(ProviderSilent, match="retries automatically"):
        await room.exchange()
    assert len(room.slack.sends) == 1
    await room.connect()
    assert await connection_status(room, connection) == "active"
    assert (await room.row(connection)).retry_at is None
    room.pass_time(3600)
    assert await room.exchange()


MINUTE, HOUR, DAY = 60, 3600, 86400
OUTAGES = (("sqlite", MINUTE), ("sqlite", HOUR), ("sqlite", DAY), ("postgres", HOUR))
OTHER_OUTAGES = (("postgres", MINUTE), ("postgres", DAY))


@pytest.mark.parametrize(
    ("store", "outage"),
    [*OUTAGES, *(pytest.param(*one, marks=pytest.mark.long) for one in OTHER_OUTAGES)],
    indirect=["store"],
)
@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_after_a_providers_bad_hour_every_account_works_again_by_itself_within_one_pause(
    store: Store, rotation: RotationMode, outage: int
) -> None:
    """Two processes, whose agents use three accounts all the time while the provider answers nothing useful."""
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
            assert len(room.slack.sends) >= sent + len(accounts)  # without any caller
        for account, connection in zip(accounts, connections_, strict=True):
            for process in (room, other):
                assert (await process.exchange(account=account)).value in room.slack.issued
            assert await connection_status(room, connection) == "active"


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
    assert await connection_status(room, connection) == "active"


async def test_no_refusal_says_that_nothing_is_lost_while_an_answer_may_be(room: Room) -> None:
    await go_silent(room, LOST_ANSWER)
    said = set[str]()
    for number in range(6):  # the last ones find the breaker open
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange()
        said.add(refused.value.description)
        room.vault.tasks.breakers.note_silence("slack", f"of somebody {number}", now=room.now)
    assert any("isn't working with this server" in one for one in said)
    assert any("retries automatically" in one for one in said)
    assert not any("lost" in one for one in said), said


@pytest.mark.parametrize(("others", "expected"), [(0, 0), (4, 1)])
async def test_the_log_says_when_a_provider_is_silent_to_many(
    room: Room, caplog: pytest.LogCaptureFixture, *, others: int, expected: int
) -> None:
    for number in range(others):
        room.vault.tasks.breakers.note_silence("slack", f"of somebody {number}", now=room.now)
    await go_silent(room, LOST_ANSWER)
    assert [one.message for one in caplog.records].count("provider is silent") == expected


async def test_a_request_that_its_provider_may_still_handle_is_not_followed_by_another(room: Room) -> None:
    """Rule 12."""
    connection = await go_silent(room, LOST_REQUEST)
    for _ in range(3):
        with pytest.raises(ProviderSilent):
            await room.exchange()
    assert len(room.slack.sends) == 1
    room.pass_time(HANDLING)
    assert await room.exchange()
    assert await connection_status(room, connection) == "active"


async def test_a_token_that_its_api_refused_is_not_waited_for_after_a_silence(room: Room) -> None:
    connection = await go_silent(room, SERVER_ERROR, before_end=45)
    with pytest.raises(ProviderSilent):
        await refresh(room.vault, connection.id, if_generation=1)
    assert len(room.slack.sends) == 1
    full = await room.exchange(everything=True)
    again = await room.exchange(everything=True, after_unauthorized=full.generation)
    assert (len(room.slack.sends), again.generation) == (2, full.generation + 1)


@pytest.mark.parametrize("rotation", [RotationMode.REVOKES, RotationMode.STRICT])
async def test_a_token_that_may_be_spent_is_sent_while_the_old_one_lives_only_if_re_use_does_no_harm(
    store: Store, rotation: RotationMode
) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await go_silent(room, LOST_ANSWER, before_end=45)
        room.pass_time(HANDLING + 5)  # the pause is over, and the access token has ten seconds left
        await take_up(room.vault)
        with contextlib.suppress(ProviderSilent, ConnectionRequired):
            await refresh(room.vault, connection.id, if_generation=1)
        assert (len(room.slack.sends) > 1) == (rotation is RotationMode.STRICT)


@pytest.mark.parametrize("rotation", RotationMode)
async def test_a_token_that_its_api_refused_early_is_replaced_after_the_token_endpoint_failed_once(
    store: Store, rotation: RotationMode
) -> None:
    """The old token seems to be valid for an hour, but waiting for its end wouldn't help."""
    async with open_room(store, rotation=rotation) as room:
        connection = await room.connect()
        first = await room.exchange()
        room.slack.faults.append(SERVER_ERROR)
        if rotation is RotationMode.NONE:  # repeated at once
            assert (await room.exchange(after_unauthorized=first.generation)).generation > first.generation
            return
        with contextlib.suppress(TemporarilyUnavailable):
            await room.exchange(after_unauthorized=first.generation)
        again = await room.exchange(after_unauthorized=first.generation)
        assert (again.generation, len(room.slack.sends)) == (first.generation + 1, 2)
        assert await connection_status(room, connection) == "active"


async def test_a_try_that_never_left_does_not_hide_an_earlier_silence(room: Room) -> None:
    connection = await go_silent(room, LOST_ANSWER)
    room.pass_time(HANDLING)
    room.slack.faults.append(UNREACHABLE)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    assert len(room.slack.sends) == 2
    assert await connection_status(room, connection) == "waiting"
    (left,) = await leases.list_unresolved(room.database, await room.row(connection))
    assert (left.sends, left.is_settled, left.owner) == (1, True, room.vault.owner)


async def test_while_the_old_token_lives_an_unknown_refresh_disturbs_nobody(room: Room) -> None:
    connection = await room.connect()
    before = await room.exchange()
    room.pass_time(3600 - 45)
    room.slack.faults.append(LOST_ANSWER)
    await room.exchange()
    await room.settle()
    for passed in (0, HANDLING + 5):  # the old token is due, but the new send waits until it expires
        room.pass_time(passed)
        assert (await room.exchange()).value == before.value
        refresh_ahead(room.vault, connection.id, provider="slack", if_generation=1)
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
        assert (await room.kinds()).count("connection.refresh_unanswered") == 1
        assert await connection_status(room, connection) == "active"
        assert await room.exchange()


def test_five_silences_in_a_row_open_a_breaker_unless_the_provider_answered_a_moment_ago() -> None:
    seen = breakers.Breakers()
    assert [seen.note_silence("slack", f"c{number}", now=100) for number in range(5)] == [*[False] * 4, True]
    assert seen.waits("other", "c9", now=100, generation=1, answered_at=None) == 0
    for passed, is_open in ((14, False), (15, True)):
        seen.note_answer("slack", now=100)
        silences = [seen.note_silence("slack", f"c{number}", now=100 + passed) for number in range(5)]
        assert silences[-1] is is_open


def test_an_open_breaker_lets_one_connection_probe_and_the_silent_ones_wait_longer() -> None:
    seen = breakers.Breakers()
    for number in range(5):
        seen.note_silence("slack", f"c{number}", now=100)

    def waits(connection_id: str, now: int) -> int:
        return seen.waits("slack", connection_id, now=now, generation=1, answered_at=None)

    assert (waits("c0", 100), waits("other", 100), waits("other", 104), waits("other", 105)) == (30, 5, 1, 0)
    assert (waits("third", 105), waits("other", 116), waits("third", 116), waits("third", 117)) == (12, 0, 1, 0)


def test_after_a_refusal_of_our_registration_everyone_waits_for_a_minute() -> None:
    seen = breakers.Breakers()
    seen.note_refusal_of_us("slack", "c0", generation=1, now=100)
    assert [seen.waits("slack", "c1", now=now, generation=1, answered_at=None) for now in (100, 159, 160)] == [60, 1, 0]
