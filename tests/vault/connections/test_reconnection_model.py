"""The model of an account that is connected again while its earlier grant ends, and the same with the real vault."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.models.reconnection_model import Rules, way_to_false_hope
from tests.support.rooms.vault_room import Room, connection_status
from vault.refresh import grant_checks
from vault.upkeep import revocations


def test_a_connection_whose_grant_ended_is_always_checked() -> None:
    assert way_to_false_hope(Rules()) == []


@pytest.mark.parametrize(
    ("rules", "way"),
    [
        (Rules(after_attempt=False), ["agree", "claim", "store", "check", "act", "finish"]),
        (Rules(when_held=False), ["agree", "claim", "store", "check", "act", "kill", "hold"]),
        (Rules(when_stored=False), ["agree", "claim", "act", "finish", "store"]),
    ],
    ids=["after the attempt", "when held", "when stored"],
)
def test_without_a_rule_a_dead_connection_looks_active(rules: Rules, way: list[str]) -> None:
    assert way_to_false_hope(rules) == way


async def test_a_process_that_dies_after_it_sent_a_revocation_leaves_the_check_to_the_next(room: Room) -> None:
    upstream = room.google
    upstream.ends_everything, upstream.revoke_gate = True, asyncio.Event()
    first = await room.connect("google")
    await room.disconnect(first)
    ending = asyncio.create_task(revocations.revoke_upstream(room.vault, first.id))
    await upstream.revoke_arrived.wait()
    second = await room.connect("google")
    for family in upstream.families:  # the provider acts on it
        family.is_alive = False
    ending.cancel()
    await asyncio.wait({ending})
    assert await grant_checks.run_due(room.vault) == 0
    room.pass_time(revocations.BACKOFF[0])
    assert await revocations.revoke_upstream(room.vault, first.id) == "held"
    assert await grant_checks.run_due(room.vault) == 1
    assert await connection_status(room, second) == "needs_reauth"
