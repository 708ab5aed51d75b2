"""Storing a consent: once, after another tab that was first, and only as long as that may help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import SLACK_SCOPES, Room
from vault.connections import list_connections
from vault.refresh import consents
from vault.refresh.consents import Consent, StoredConsent
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Conflict, Transaction
from vault.upkeep.revocations import run_due


async def store(room: Room, *, conflicts: int) -> StoredConsent | None:
    """Store a consent while other tabs connect the same account first, this often."""
    left = conflicts

    async def guard(_: Transaction) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Conflict("another tab was first")

    answer = room.slack.consent("alice", SLACK_SCOPES)
    consent = Consent(room.alice.user.id, "slack", SLACK_SCOPES)
    return await consents.store(room.vault, consent, answer, at_ms=room.now * 1000, guard=guard)


@pytest.mark.parametrize("conflicts", [0, 1, 3])
async def test_a_consent_that_comes_while_other_tabs_connect_the_account_is_stored_after_them(
    room: Room, conflicts: int
) -> None:
    stored = await store(room, conflicts=conflicts)
    assert stored is not None
    assert [one.id for one in await list_connections(room.database, room.alice.user.id)] == [stored.connection.id]


async def test_a_consent_that_others_keep_preceding_may_be_tried_again(room: Room) -> None:
    with pytest.raises(TemporarilyUnavailable):
        await store(room, conflicts=1000)
    assert await list_connections(room.database, room.alice.user.id) == ()


async def test_consents_are_ordered_by_the_clock_of_the_vault(room: Room) -> None:
    for passed in (0, 100_000):
        room.pass_time(passed)
        assert abs(consents.milliseconds(room.vault) - room.now * 1000) < 10_000


@pytest.mark.parametrize("names_account", [True, False])
async def test_a_grant_that_is_given_up_is_ended_with_its_account(room: Room, *, names_account: bool) -> None:
    answer = room.slack.consent("alice", SLACK_SCOPES)
    consent = Consent(room.alice.user.id, "slack", SLACK_SCOPES)
    await consents.give_up(room.vault, consent, answer if names_account else replace(answer, account=None))
    assert await run_due(room.vault) == 1
    assert room.slack.revocations == [(answer.refresh_token, answer.access_token)]
    assert room.slack.revoked_accounts == ["alice" if names_account else ""]
