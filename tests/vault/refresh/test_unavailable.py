"""A 503 that names a time, at a token endpoint whose tokens rotate: the token may have been used."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import Fault
from tests.support.rooms.mcp_room import Room, room
from tests.support.rooms.vault_room import GRACE, connection_status, open_room
from vault.refresh.breakers import Breakers
from vault.refresh.concurrency import RefreshTasks
from vault.refresh.rotation import refresh
from vault.refresh.rules import (
    SendDecision,
    UnresolvedSends,
    may_send,
    pause_after,
    seconds_of_grace,
)
from vault.refusals import TemporarilyUnavailable, VaultError
from vault.upstream import RotationMode, Silent, UpstreamPolicy

SCOPES = frozenset({"chat:write", "channels:read"})
ASKED = 300


def busy() -> Fault:
    return Fault(before=Silent("status 503", retry_after=ASKED))


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("unavailable") / "data") as opened:
        yield opened


def refresh_outcomes(place: Room) -> list[str]:
    """What the provider did with the refreshes that it saw."""
    books: dict[str, list[dict[str, object]]] = place.simulator.books()
    return [str(one["outcome"]) for one in books["refreshes"]]


@pytest.mark.parametrize("status", [503, 429])
async def test_no_used_token_is_sent_again_while_the_access_token_lives(place: Room, status: int) -> None:
    """The twin: a rate limit applies before the token is looked at, so the token is sent again."""
    place.simulator.control("reset")
    place.simulator.control("rotation", face="slack", mode="reuse_revokes_family")
    deployment = place.vault.deployment
    policies = deployment.vault.policies
    strict = {**policies, "slack": replace(policies["slack"], rotation=RotationMode.REVOKES, grace=0)}
    vault = replace(deployment.vault, policies=strict, tasks=RefreshTasks())
    agent = await place.agent(f"person {status}")
    connection = await place.connect(agent, "slack", scopes=SCOPES)
    when = "after" if status == 503 else "before"
    place.simulator.fault("slack.token.refresh", "rate_limited", status=status, retry_after=1, when=when)

    with pytest.raises(TemporarilyUnavailable):
        await refresh(vault, connection.id, if_generation=1)
    before = len(refresh_outcomes(place))
    await vault.tasks.close()
    vault = replace(vault, tasks=RefreshTasks())  # as if the pauses were over
    async with deployment.transaction() as transaction:
        await transaction.execute("update connections set retry_at = null where id = :id", {"id": connection.id})
    try:
        generation: int | None = await refresh(vault, connection.id, if_generation=1)
    except VaultError:
        generation = None
    assert (generation, len(refresh_outcomes(place)) - before) == ((None, 0) if status == 503 else (2, 1))
    assert not any(one.startswith("refused") for one in refresh_outcomes(place))
    await vault.tasks.close()


async def test_the_next_try_waits_as_long_as_the_provider_asks(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(busy())
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        room.pass_time(ASKED - 5)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert len(room.slack.sends) == 1
        assert await connection_status(room, connection) == "waiting"
        room.pass_time(10)
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 2


CALLS_EVERY = 12  # seconds
UNKNOWN = Silent("status 500", is_over=True)


@pytest.mark.parametrize("asked", [None, 3, 30, 39, ASKED, 10 * 86400])
@pytest.mark.parametrize("fails", [1, 2])
async def test_a_grace_does_not_end_while_the_provider_asks_to_wait(
    store: Store, asked: int | None, fails: int
) -> None:
    """The access token lives on, so that after the provider's grace, nothing would be sent before it is too late."""
    unheard = Silent("status 503", retry_after=asked) if asked else UNKNOWN
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        room.slack.has_grace = True
        connection = await room.connect()
        room.pass_time(3600 - 59)
        room.slack.faults.extend([Fault(after=unheard), *[Fault(before=unheard)] * (fails - 1)])
        await room.exchange()
        await room.settle()
        for _ in range(CALLS_EVERY, GRACE, CALLS_EVERY):
            room.pass_time(CALLS_EVERY)
            with contextlib.suppress(TemporarilyUnavailable):
                await room.exchange()
            await room.settle()
        room.slack.has_grace = False  # whoever comes now comes too late
        room.pass_time(3600)
        assert room.slack.issued[(await room.exchange()).value]
        assert await connection_status(room, connection) == "active"


@pytest.mark.parametrize(("asked", "sent_at"), [(0, [0, 0, 10, 20, 30, 40]), (ASKED, [0, 10, 20, 30])])
async def test_the_tries_of_a_grace_are_a_deadline_apart_to_its_end(
    store: Store, asked: int, sent_at: list[int]
) -> None:
    """However many callers there are, and whether or not the provider asks to wait."""
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        await room.connect()
        room.pass_time(3600)
        unheard = Silent("status 503", retry_after=asked) if asked else UNKNOWN
        room.slack.faults.extend([Fault(before=unheard)] * 50)
        began, seen = room.now, list[int]()
        while room.now < began + GRACE:
            for _ in range(4):
                before = len(room.slack.sends)
                with pytest.raises(TemporarilyUnavailable):
                    await room.exchange()
                seen += [room.now - began] * (len(room.slack.sends) - before)
            room.vault.tasks.breakers = Breakers()  # as if the provider answered about other accounts
            room.pass_time(1)
        assert seen == sent_at


@pytest.mark.parametrize(
    ("rotation", "sends", "asked", "pause"),  # all sends were just now
    [
        (RotationMode.NONE, 1, ASKED, 0),
        (RotationMode.STRICT, 1, 0, 0),
        (RotationMode.STRICT, 1, ASKED, ASKED),
        (RotationMode.REVOKES, 1, 0, 30),
        (RotationMode.REVOKES, 1, 5, 30),
        (RotationMode.REVOKES, 1, ASKED, ASKED),
        (RotationMode.REVOKES, 2, 5, 60),
        (RotationMode.REVOKES, 2, ASKED, ASKED),
        (RotationMode.REVOKES, 1, 3601, 3600),
        (RotationMode.REVOKES, 2, 3601, 3600),
        (RotationMode.GRACE, 1, 0, 0),
        (RotationMode.GRACE, 1, 5, 5),
        (RotationMode.GRACE, 2, 5, 10),
        (RotationMode.GRACE, 1, ASKED, (GRACE - 20) // 4),
    ],
)
def test_a_pause_is_what_the_provider_asks_within_what_is_safe(
    rotation: RotationMode, sends: int, asked: int, pause: int
) -> None:
    policy = UpstreamPolicy("slack", rotation=rotation, grace=GRACE)
    unresolved = [UnresolvedSends("one", 1000, sends, is_settled=True)]
    assert pause_after(policy, unresolved, now=1000, is_over=False, asked=asked) == pause


@pytest.mark.parametrize(
    ("grace", "sends", "left", "asked", "pause"),
    [
        (60, 1, 39, ASKED, 9),
        (60, 1, 4, ASKED, 1),
        (60, 1, 3, ASKED, 0),
        (60, 1, 1, ASKED, 0),
        (60, 1, 0, ASKED, ASKED),
        (60, 1, 0, 0, 30),
        (60, 2, 39, ASKED, 10),
        (60, 2, 11, ASKED, 10),  # one more try fits
        (60, 2, 10, 0, 10),  # none fits
        (60, 2, 10, ASKED, ASKED),
        (60, 2, 1, 0, 10),
        (60, 2, 1, 9, 10),
        (60, 2, 0, 0, 60),
        (600, 1, 580, 144, 144),
        (600, 2, 580, ASKED, 145),
    ],
)
def test_in_a_grace_a_pause_leaves_time_for_a_try(grace: int, sends: int, left: int, asked: int, pause: int) -> None:
    """`left`: the seconds in which a retry may start."""
    policy = UpstreamPolicy("slack", rotation=RotationMode.GRACE, grace=grace)
    now = 1000 + grace - 20 - left
    unresolved = [UnresolvedSends("one", 1000, sends, is_settled=True)]
    assert seconds_of_grace(policy, unresolved, now=now) == left
    assert pause_after(policy, unresolved, now=now, is_over=False, asked=asked) == pause


@pytest.mark.parametrize(("silent_for", "pause"), [(0, 60), (243, 60), (244, 61), (4000, 1000), (5 * 86400, 86400)])
def test_the_next_try_waits_for_a_quarter_of_the_silence(silent_for: int, pause: int) -> None:
    policy = UpstreamPolicy("slack", rotation=RotationMode.STRICT)
    unresolved = [UnresolvedSends("one", 1000, 2, is_settled=True)]
    assert pause_after(policy, unresolved, now=1000 + silent_for, is_over=True, asked=0) == pause


def test_a_long_silence_pauses_for_a_day_at_most_and_another_clock_keeps_to_it() -> None:
    policy = UpstreamPolicy("slack", rotation=RotationMode.STRICT)
    unresolved = [UnresolvedSends("one", 0, 40, is_settled=True)]
    now = 10 * 86400
    pause = pause_after(policy, unresolved, now=now, is_over=True, asked=0)
    assert pause == 86400
    for behind, decision in ((0, SendDecision.WAIT), (2, SendDecision.WAIT), (3, SendDecision.SEND)):
        decided = may_send(policy, unresolved, now=now - behind, access_expires_at=None, retry_at=now + pause)
        assert decided is decision
