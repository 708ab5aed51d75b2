"""What a request to end everything reports: how each receipt is counted, and when nothing is left to do."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.support.rooms.vault_room import Room
from vault.storage.database import Row
from vault.upkeep import panics
from vault.upkeep.panics import EndedCounts

OVER = {"verified_dead", "settled", "unverified"}


@pytest.mark.parametrize("name", [one.name for one in fields(EndedCounts)])
def test_every_grant_counts_once_and_is_over_or_not(name: str) -> None:
    found = EndedCounts(**{name: 3})
    assert (found.total, found.is_over) == (3, name in OVER)


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({}, "retried"),
        ({"is_final": 1}, "by_hand"),
        ({"is_held": 1}, "held"),
        ({"is_held": 1, "is_final": 1}, "held"),
        ({"result": "still_alive"}, "still_alive"),
        ({"result": "still_alive", "is_held": 1}, "still_alive"),
        ({"reason": "no_probe", "is_final": 1}, "unverified"),
        ({"reason": "no_probe", "is_settled": 1}, "settled"),
        ({"result": "still_alive", "is_settled": 1}, "settled"),
        ({"result": "verified_dead", "is_settled": 1, "is_final": 1}, "verified_dead"),
    ],
)
def test_a_receipt_counts_by_what_is_known_about_the_end(changes: dict[str, str | int], counted: str) -> None:
    row: Row = {"result": "unreachable", "reason": "no_answer", "is_final": 0, "is_settled": 0, "is_held": 0, **changes}
    assert panics._sort(row) == counted


async def test_the_newest_open_request_includes_the_earlier_ones(room: Room) -> None:
    user_id = room.alice.user.id

    async def start(subject: str) -> panics.Panic:
        async with room.database.transaction() as transaction:
            return await panics.start(transaction, "user", subject, by="alice", now=room.now)

    assert await panics.find_open(room.database, "user", user_id) is None
    first = await start(user_id)
    room.pass_time(10)
    second = await start(user_id)
    await start("another")
    found = await panics.find_open(room.database, "user", user_id)
    assert found is not None
    assert (found.id, found.since) == (second.id, first.requested_at)
    assert await panics.find_open(room.database, "client", user_id) is None
    assert await panics.go_on(room.vault, second) == 0
    assert await panics.find_open(room.database, "user", user_id) is None
    room.pass_time(10)
    third = await start(user_id)
    assert third.since == third.requested_at  # the finished ones don't count
