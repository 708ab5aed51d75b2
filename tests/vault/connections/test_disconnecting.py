"""Disconnecting: the account is refused at once, and its grant is ended at the provider.

However late or often the provider answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.doubles.upstream_double import Fault
from tests.support.rooms.vault_room import GOOGLE_SCOPES, Room, connection_status
from tests.support.seeded_grant import seed
from vault.connections import list_connections
from vault.records import ConnectionState
from vault.refresh import consents, grant_checks
from vault.refresh.consents import Consent
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    TemporarilyUnavailable,
    TransitionRefused,
)
from vault.storage.database import integer
from vault.upkeep import revocations
from vault.upstream import NotSent, RevokeOutcome, Silent


async def test_a_disconnected_account_is_refused_at_once_and_can_be_connected_anew(room: Room) -> None:
    first = await room.connect()
    await room.exchange()
    await room.disconnect(first)
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange()
    assert refused.value.reason == "missing"
    second = await room.connect(delegated=frozenset())
    assert second.id != first.id
    with pytest.raises(DelegationRequired):  # the agents of the old connection may not use this one
        await room.exchange()
    listed = await list_connections(room.database, room.alice.user.id, include_ended=True)
    assert {(one.id, one.state) for one in listed} == {
        (first.id, ConnectionState.REVOKED),
        (second.id, ConnectionState.ACTIVE),
    }
    (event,) = await room.events("connection.closed")
    assert event.connection_id == first.id


async def test_disconnecting_twice_is_refused(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    with pytest.raises(TransitionRefused):
        await room.disconnect(connection)


async def test_nobody_disconnects_another_users_account(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    connection = await room.connect()
    with pytest.raises(TransitionRefused):
        await room.disconnect(replace(connection, user_id=bob.user.id))
    assert await room.exchange()


@pytest.mark.requirement("S-147")
async def test_disconnecting_ends_the_grant_at_the_provider_and_destroys_the_key(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await room.connect("google")
    narrow = await room.exchange("google")
    assert narrow.value
    await room.disconnect(connection)
    assert await revocations.revoke_upstream(room.vault, connection.id) == "revoked"
    assert not room.google.families[0].is_alive
    assert room.google.revocations == [("CANARY-rt-1", "CANARY-at-2")]
    assert room.google.revoked_accounts == [connection.account]
    with pytest.raises(CiphertextRejected):
        await room.vault.keys.load_key(room.database, user_id=room.alice.user.id, connection_id=connection.id)
    row = await room.database.fetch_one(
        "select k.refresh_sealed, k.access_sealed, r.sealed, (select count(*) from narrowed_tokens) as narrowed"
        " from connections k join upstream_revocations r on r.connection_id = k.id"
    )
    assert row is not None
    assert list(row.values()) == [None, None, None, 0]
    (event,) = await room.events("connection.upstream_revoked")
    assert event.connection_id == connection.id
    assert "grant not ended at the provider" not in caplog.messages
    assert await revocations.revoke_upstream(room.vault, connection.id) == "revoked"
    assert len(room.google.revocations) == 1


@pytest.mark.requirement("S-147")
async def test_a_revocation_that_fails_is_shown_and_repeated_with_backoff(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    room.slack.revoke_outcomes.extend([RevokeOutcome.FAILED, RevokeOutcome.FAILED])
    assert await revocations.run_due(room.vault) == 1
    assert await revocations.run_due(room.vault) == 0
    (pending,) = await revocations.list_revocations(room.database, room.alice.user.id)
    assert (pending.outcome, pending.attempts, pending.done_at) == ("failed", 1, None)
    assert pending.next_at is not None
    assert room.slack.families[0].is_alive
    room.pass_time(31)
    assert await revocations.run_due(room.vault) == 1
    room.pass_time(31)
    assert await revocations.run_due(room.vault) == 0
    room.pass_time(120)
    assert await revocations.run_due(room.vault) == 1
    assert not room.slack.families[0].is_alive
    assert len(await room.events("connection.upstream_revocation_failed")) == 2
    (done,) = await revocations.list_revocations(room.database, room.alice.user.id)
    assert (done.outcome, done.next_at) == ("revoked", None)


async def test_a_revocation_that_never_works_is_given_up_and_the_key_destroyed(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    room.slack.revoke_outcomes.extend([RevokeOutcome.FAILED] * 50)
    for _ in range(20):
        await revocations.run_due(room.vault)
        room.pass_time(24 * 3600)
    pending = await revocations.find_revocation(room.database, connection.id)
    assert pending is not None
    assert (pending.outcome, pending.sealed) == ("given_up", None)
    assert len(room.slack.revocations) == 10
    assert caplog.messages.count("grant not ended at the provider") == 1
    with pytest.raises(CiphertextRejected):
        await room.vault.keys.load_key(room.database, user_id=room.alice.user.id, connection_id=connection.id)


@pytest.mark.parametrize(("age", "outcome"), [(79_949, "failed"), (79_950, "given_up")])
async def test_a_revocation_is_given_up_22_hours_after_the_disconnection_at_the_earliest(
    room: Room, age: int, outcome: str
) -> None:
    """Even if all attempts were made before, as when its person asked for them."""
    connection = await room.connect()
    await room.disconnect(connection)
    async with room.database.transaction() as transaction:
        await transaction.execute("update upstream_revocations set attempts = 9")
    room.pass_time(age)
    room.slack.revoke_outcomes.append(RevokeOutcome.FAILED)
    assert await revocations.revoke_upstream(room.vault, connection.id) == outcome


async def test_a_provider_without_revocation_is_said_to_have_none(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    room.slack.revoke_outcomes.append(RevokeOutcome.UNSUPPORTED)
    assert await revocations.revoke_upstream(room.vault, connection.id) == "unsupported"
    (event,) = await room.events("connection.upstream_revocation_failed")
    assert event.details["reason"] == "unsupported"


async def test_a_provider_that_is_not_set_up_is_tried_again_later(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    room.slack.is_configured = False
    assert await revocations.revoke_upstream(room.vault, connection.id) == "failed"
    assert room.slack.revocations == []


async def test_two_processes_make_one_attempt(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    await asyncio.gather(*(revocations.revoke_upstream(room.vault, connection.id) for _ in range(8)))
    assert len(room.slack.revocations) == 1


async def test_nothing_is_revoked_for_a_connection_that_lives(room: Room) -> None:
    connection = await room.connect()
    assert await revocations.revoke_upstream(room.vault, connection.id) is None
    assert room.slack.revocations == []


async def test_tokens_that_do_not_open_any_more_still_let_the_account_go(room: Room) -> None:
    connection = await room.connect()
    async with room.database.transaction() as transaction:
        await transaction.execute("update connections set refresh_sealed = access_sealed")
    pending = await room.disconnect(connection)
    assert pending.due_at is None
    assert await revocations.revoke_upstream(room.vault, connection.id) == "unreadable"
    assert await room.vault.database.fetch("select salt from keys.connection_keys") == []


async def test_an_account_without_a_refresh_token_is_ended_by_its_access_token(room: Room) -> None:
    connection = await room.connect(refreshable=False)
    token = (await room.exchange()).value
    await room.disconnect(connection)
    assert await revocations.revoke_upstream(room.vault, connection.id) == "revoked"
    assert room.slack.revocations == [(None, token)]


async def test_a_pending_revocation_that_was_swapped_is_not_sent(room: Room) -> None:
    one, other = await room.connect(account="alice"), await room.connect(account="work")
    await room.disconnect(one)
    await room.disconnect(other)
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update upstream_revocations set sealed = (select r.sealed from upstream_revocations r"
            " where r.connection_id = :other) where connection_id = :one",
            {"one": one.id, "other": other.id},
        )
    assert await revocations.revoke_upstream(room.vault, one.id) == "unreadable"
    assert room.slack.revocations == []
    assert await revocations.revoke_upstream(room.vault, other.id) == "revoked"


async def test_the_answer_of_a_refresh_on_its_way_is_what_gets_revoked(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        pending = await room.disconnect(connection)
        assert pending.due_at is not None
        assert pending.due_at > room.now  # the refresh token that we hold may be in use
        assert await revocations.revoke_upstream(room.vault, connection.id) == "pending"
        room.slack.gate.set()
        with pytest.raises(ConnectionRequired):
            await slow
    newest = room.slack.families[0].refresh_token
    assert await revocations.revoke_upstream(room.vault, connection.id) == "revoked"
    assert [refresh_token for refresh_token, _ in room.slack.revocations] == [newest]


async def answer_after_the_revocation(room: Room, *outcomes: RevokeOutcome) -> None:
    """A refresh is answered after its account was disconnected and revoked; then the provider has these outcomes."""
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.disconnect(connection)
        room.pass_time(61)
        assert await revocations.revoke_upstream(room.vault, connection.id) == "revoked"
        room.slack.families[0].is_alive = True  # this provider revokes only single tokens
        room.slack.revoke_outcomes.extend(outcomes)
        room.slack.gate.set()
        with pytest.raises(ConnectionRequired):
            await slow


async def test_an_answer_that_comes_after_the_revocation_is_revoked_by_itself(room: Room) -> None:
    await answer_after_the_revocation(room)
    late = room.slack.families[0].refresh_token
    assert await revocations.run_due(room.vault) == 1
    assert room.slack.revocations[-1][0] == late
    assert not room.slack.families[0].is_alive


async def test_an_answer_after_the_revocation_is_ended_later_where_the_provider_is_away(room: Room) -> None:
    await answer_after_the_revocation(room, RevokeOutcome.FAILED)
    assert await revocations.run_due(room.vault) == 1
    assert room.slack.families[0].is_alive
    room.pass_time(revocations.BACKOFF[0] + 1)
    assert await revocations.run_due(room.vault) == 1
    assert not room.slack.families[0].is_alive


async def test_newer_tokens_that_come_during_an_attempt_are_revoked_next(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.revoke_gate = asyncio.Event()
    async with room.held_refresh() as slow:
        await room.disconnect(connection)
        room.pass_time(61)
        attempt = asyncio.create_task(revocations.revoke_upstream(room.vault, connection.id))
        await room.slack.revoke_arrived.wait()
        room.slack.gate.set()
        with pytest.raises(ConnectionRequired):
            await slow
        room.slack.revoke_gate.set()
        assert await attempt == "pending"
    room.slack.families[0].is_alive = True  # this provider revokes only single tokens
    assert await revocations.run_due(room.vault) == 1
    assert room.slack.revocations[-1][0] == room.slack.families[0].refresh_token
    assert not room.slack.families[0].is_alive


async def test_a_silent_refresh_of_a_disconnected_account_harms_nothing(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(Fault(before=Silent("timeout")))
    async with room.held_refresh() as slow:
        await room.disconnect(connection)
        room.slack.gate.set()
        with pytest.raises(TemporarilyUnavailable):
            await slow
    room.pass_time(61)
    assert await revocations.revoke_upstream(room.vault, connection.id) == "revoked"


async def test_a_revocation_is_overdue_five_minutes_after_it_was_due(room: Room) -> None:
    await room.disconnect(await room.connect())
    row = await room.database.fetch_one("select next_at from upstream_revocations")
    assert row is not None
    due = integer(row, "next_at")
    for late, expected in ((due + 300, (0, due + 300)), (due + 301, (1, due))):
        assert await revocations.count_overdue(room.database, now=late) == expected


async def test_a_provider_that_does_not_answer_is_left_alone_for_half_a_minute(room: Room) -> None:
    await room.disconnect(await room.connect())
    room.slack.revoke_outcomes.append(Silent("timeout"))
    assert await revocations.run_due(room.vault) == 1
    await room.disconnect(await room.connect(account="other"))
    for passed, count in ((29, 0), (1, 2)):
        room.pass_time(passed)
        assert await revocations.run_due(room.vault) == count


@pytest.mark.parametrize(("left", "is_fresh"), [(31, True), (30, False)])
async def test_only_an_access_token_with_half_a_minute_left_proves_that_it_was_revoked(
    room: Room, left: int, *, is_fresh: bool
) -> None:
    await room.disconnect(await room.connect())
    async with room.database.transaction() as transaction:
        await transaction.execute("update connections set access_expires_at = :end", {"end": room.now + left})
    assert await revocations.run_due(room.vault) == 1
    assert [fresh for _, _, fresh in room.slack.probes] == [is_fresh]


@pytest.mark.parametrize("account", ["alice", "alice@work"])
async def test_an_account_connected_while_its_earlier_grant_ends_is_checked(room: Room, account: str) -> None:
    upstream = room.google
    upstream.ends_everything, upstream.revoke_gate = account == "alice", asyncio.Event()
    first = await room.connect("google")
    await room.disconnect(first)
    ending = asyncio.create_task(revocations.revoke_upstream(room.vault, first.id))
    await upstream.revoke_arrived.wait()
    second = await room.connect("google", account=account)
    upstream.revoke_gate.set()
    assert await ending == "revoked"
    assert await grant_checks.run_due(room.vault) == (1 if account == "alice" else 0)
    assert await connection_status(room, second) == ("needs_reauth" if account == "alice" else "active")


@pytest.mark.parametrize(("answer", "checks"), [(RevokeOutcome.FAILED, 1), (NotSent("paused"), 0)])
async def test_an_account_connected_during_an_attempt_that_fails_is_checked_if_anything_was_sent(
    room: Room, answer: RevokeOutcome | NotSent, checks: int
) -> None:
    upstream = room.google
    upstream.ends_everything, upstream.revoke_gate = True, asyncio.Event()
    upstream.revoke_outcomes.append(answer)
    first = await room.connect("google")
    await room.disconnect(first)
    ending = asyncio.create_task(revocations.revoke_upstream(room.vault, first.id))
    await upstream.revoke_arrived.wait()
    await room.connect("google")
    upstream.revoke_gate.set()
    assert await ending == "failed"
    assert await grant_checks.run_due(room.vault) == checks


@pytest.mark.parametrize(
    ("agreed", "outcome", "checks"),
    [(-1, "revoked", 1), (600, "revoked", 1), (601, "revoked", 0), (601, "failed", 1)],
    ids=["before", "possibly before", "after", "while it is retried"],
)
async def test_a_consent_that_may_be_older_than_a_revocation_is_checked(
    room: Room, agreed: int, outcome: str, checks: int
) -> None:
    """The person agreed `agreed` seconds after the revocation was sent; the answer is stored at once."""
    upstream = room.google
    upstream.ends_everything = True
    if outcome == "failed":
        upstream.revoke_outcomes.append(RevokeOutcome.FAILED)
    first = await room.connect("google")
    await room.disconnect(first)
    answer = upstream.consent("alice", GOOGLE_SCOPES) if agreed < 0 else None
    assert await revocations.revoke_upstream(room.vault, first.id) == outcome
    if answer is None:
        room.pass_time(agreed)
        answer = upstream.consent("alice", GOOGLE_SCOPES)
    consent = Consent(room.alice.user.id, "google", GOOGLE_SCOPES)
    stored = await consents.store(room.vault, consent, answer, at_ms=room.now * 1000)
    assert stored is not None
    assert await grant_checks.run_due(room.vault) == checks
    assert await connection_status(room, stored.connection) == ("needs_reauth" if agreed < 0 else "active")


@pytest.mark.parametrize("is_whole", [True, False])
async def test_someone_elses_revocation_can_end_a_consent_where_it_ends_the_account(
    room: Room, *, is_whole: bool
) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    policy = replace(room.vault.policies["google"], revoke_ends_grant=False, revoke_ends_account=is_whole)
    room.vault.policies["google"] = policy
    first = await room.connect("google")
    await room.disconnect(first)
    answer = room.google.consent("alice", GOOGLE_SCOPES)
    assert await revocations.revoke_upstream(room.vault, first.id) == "revoked"
    consent = Consent(bob.user.id, "google", GOOGLE_SCOPES)
    assert await consents.store(room.vault, consent, answer, at_ms=room.now * 1000)
    assert await grant_checks.run_due(room.vault) == (1 if is_whole else 0)
