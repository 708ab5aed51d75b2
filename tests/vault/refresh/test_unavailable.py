"""A 503 that names a time, at a token endpoint whose tokens rotate: the token may have been used."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import Fault
from tests.support.rooms.mcp_room import Room, room
from tests.support.rooms.vault_room import connection_status, open_room
from vault.refresh.concurrency import RefreshTasks
from vault.refresh.rotation import refresh
from vault.refresh.rules import HANDLING, PAUSE, UnresolvedSends, pause_after
from vault.refusals import TemporarilyUnavailable, VaultError
from vault.upstream import SEND_DEADLINE, RotationMode, Silent, UpstreamPolicy

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


async def test_a_grace_does_not_end_while_the_provider_asks_to_wait(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        room.slack.has_grace = True
        await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(busy())
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        for _ in range(30):
            room.pass_time(2)
            try:
                token = (await room.exchange()).value
            except TemporarilyUnavailable:
                continue
            assert room.slack.issued[token]
            break
        assert len(room.slack.sends) == 2


@pytest.mark.parametrize(
    ("rotation", "sends", "asked", "pause"),
    [
        (RotationMode.NONE, 1, ASKED, 0),
        (RotationMode.STRICT, 1, 0, 0),
        (RotationMode.STRICT, 1, ASKED, ASKED),
        (RotationMode.REVOKES, 1, 0, HANDLING),
        (RotationMode.REVOKES, 1, 5, HANDLING),
        (RotationMode.REVOKES, 1, ASKED, ASKED),
        (RotationMode.REVOKES, 2, 5, PAUSE[0]),
        (RotationMode.REVOKES, 2, ASKED, ASKED),
        (RotationMode.REVOKES, 2, 10 * PAUSE[1], PAUSE[1]),
        (RotationMode.GRACE, 1, 0, 0),
        (RotationMode.GRACE, 1, 5, 5),
        (RotationMode.GRACE, 2, 5, SEND_DEADLINE),
        (RotationMode.GRACE, 1, ASKED, 60 - 2 * SEND_DEADLINE - 1),
    ],
)
def test_a_pause_is_what_the_provider_asks_within_what_is_safe(
    rotation: RotationMode, sends: int, asked: int, pause: int
) -> None:
    policy = UpstreamPolicy("slack", rotation=rotation, grace=60)
    unresolved = [UnresolvedSends("one", 1000, sends, is_settled=True)]
    assert pause_after(policy, unresolved, now=1000, is_over=False, asked=asked) == pause
