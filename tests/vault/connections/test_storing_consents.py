"""Storing a consent: once, after another tab that was first, and only as long as that may help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import SLACK_SCOPES, Room
from vault import tickets
from vault.connections import list_connections
from vault.records import TicketPurpose
from vault.refresh import consents
from vault.refresh.consents import Consent, StoredConsent
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Conflict, Transaction
from vault.upkeep import revocations
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


async def use_state(room: Room) -> Consent:
    """A person comes back from the provider, and their answer is kept."""
    database, keys = room.database, room.vault.keys
    payload = {"provider": "slack", "scopes": "chat:write", "delegated": "chat:write"}
    purpose, whose = TicketPurpose.UPSTREAM_STATE, {"user_id": room.alice.user.id, "client_id": room.alice.client.id}
    async with database.transaction() as transaction:
        secret = await tickets.issue(
            transaction, keys, purpose=purpose, payload=payload, lifetime=600, now=room.now, **whose
        )
        ticket = await tickets.consume(transaction, keys, secret, purpose=purpose, now=room.now)
        consent = consents.consent_of(ticket)
        key = await consents.make_key(transaction, room.vault, consent)
    answer = room.slack.consent("alice", SLACK_SCOPES)
    assert await consents.keep(room.vault, consent, answer, key=key, at_ms=room.now * 1000)
    return consent


@pytest.mark.parametrize("is_kept", [True, False])
async def test_what_was_kept_of_a_stored_consent_is_wiped_from_the_files(room: Room, *, is_kept: bool) -> None:
    consent = await use_state(room) if is_kept else Consent(room.alice.user.id, "slack", SLACK_SCOPES)
    room.vault.tasks.has_traces = False
    assert await consents.store(room.vault, consent, room.slack.consent("alice", SLACK_SCOPES), at_ms=room.now * 1000)
    assert room.vault.tasks.has_traces is is_kept
    assert await room.vault.journal.find(consent.name) == ()
    await revocations.scrub(room.vault, ())
    assert not room.vault.tasks.has_traces


async def test_consents_are_ordered_by_the_clock_of_the_vault(room: Room) -> None:
    for passed in (0, 100_000):
        room.pass_time(passed)
        assert abs(consents.milliseconds(room.vault) - room.now * 1000) < 10_000


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_grant_that_is_given_up_is_ended_with_its_account_and_scopes(room: Room, *, is_told: bool) -> None:
    """`is_told`: the provider's answer names them."""
    answer, granted = room.slack.consent("alice", SLACK_SCOPES), frozenset({"chat:write"})
    consent = Consent(room.alice.user.id, "slack", SLACK_SCOPES)
    told = replace(answer, scopes=granted) if is_told else replace(answer, scopes=None, account=None)
    await consents.give_up(room.vault, consent, told)
    (ended,) = await list_connections(room.database, room.alice.user.id, include_ended=True)
    assert (ended.account, ended.scopes) == (("alice", granted) if is_told else ("", SLACK_SCOPES))
    assert await run_due(room.vault) == 1
    assert room.slack.revocations == [(answer.refresh_token, answer.access_token)]
    assert room.slack.revoked_accounts == ["alice" if is_told else ""]
