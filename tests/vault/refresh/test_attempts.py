"""A claim whose commit has an unknown result: what is cleaned up later affects only its own attempt."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import BUSY, LOST_REQUEST, Fault
from tests.support.rooms.vault_room import READ, WAIT, Room, open_room, second_process
from vault.records import Connection, Narrowing
from vault.refresh import attempts, leases, rotation, takeover
from vault.refresh.recovery import take_up, watch
from vault.refresh.rules import HANDLING, UnresolvedSends
from vault.refusals import StorageBusy, StorageUnavailable, TemporarilyUnavailable, VaultError
from vault.storage.database import Database, Transaction
from vault.upkeep.revocations import list_revocations
from vault.upstream import CredentialKind, Refusal, RotationMode


class Forgetful:
    """The same database behind a network that loses the answers to these commits, counted from the first."""

    def __init__(self, database: Database, *swallowed: int) -> None:
        self._database = database
        self.swallowed = set(swallowed)
        self.commits = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    @asynccontextmanager
    async def transaction(self, *, patient: bool = False, alone: bool = False) -> AsyncGenerator[Transaction]:
        async with self._database.transaction(patient=patient, alone=alone) as transaction:
            yield transaction
        self.commits += 1
        if self.commits in self.swallowed:
            raise StorageBusy("the database can't be reached", retry_after=1)


def forget(room: Room, *swallowed: int) -> Forgetful:
    forgetful = Forgetful(room.database, *swallowed)
    room.vault = replace(room.vault, database=forgetful)
    return forgetful


async def rename(room: Room, old: str, new: str) -> None:
    async with room.database.transaction() as transaction:
        await transaction.execute(f"alter table {old} rename to {new}")


async def connect_expired(room: Room) -> Connection:
    connection = await room.connect()
    room.pass_time(3600)
    return connection


async def sends(room: Room, connection: Connection) -> list[UnresolvedSends]:
    return list(await leases.list_unresolved(room.database, await room.row(connection)))


async def fail_to_claim(room: Room) -> list[attempts.Ending]:
    """A claim whose commit fails and didn't happen; returns what must be cleaned up for it."""
    await rename(room, "intents", "intents_away")
    facts = None
    try:
        with pytest.raises((StorageUnavailable, TemporarilyUnavailable)):
            await rotation._claim(room.vault, facts := await row_without_intents(room), gone=None)
    finally:
        await rename(room, "intents_away", "intents")
    assert facts is not None
    return list(room.vault.tasks.owed[facts.connection_id])


async def row_without_intents(room: Room) -> leases.ConnectionFacts:
    await rename(room, "intents_away", "intents")
    (row,) = await room.database.fetch("select id from connections")
    facts = await leases.read(room.database, str(row["id"]))
    await rename(room, "intents", "intents_away")
    assert facts is not None
    return facts


async def test_no_two_attempts_share_a_fence_although_they_read_the_same_row(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = await room.row(await connect_expired(room))
    fences = {leases.Lease.attempt(facts, owner=room.vault.owner).fence for _ in range(1000)}
    assert len(fences) == 1000
    assert min(fences) > facts.fence + 1  # the previous release increments by one
    assert max(fences) < 2**62
    monkeypatch.setattr("secrets.randbits", lambda bits: 0)
    assert leases.next_fence(facts.fence) > facts.fence + 1


async def test_a_claim_that_was_not_written_undoes_none_that_came_after_it(room: Room) -> None:
    connection = await connect_expired(room)
    owed = await fail_to_claim(room)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT), second_process(room) as other:
        sending = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        before = await room.row(connection)
        for ending in owed:  # however late
            async with room.database.transaction() as transaction:
                await ending(transaction)
        after = await room.row(connection)
        assert (after.lease_owner, after.fence, after.sent_at) == (room.vault.owner, before.fence, before.sent_at)
        assert not await takeover.is_free(other.vault, after, now=room.now)
        room.slack.gate.set()
        await sending
        assert len(room.slack.sends) == 1


async def test_a_claim_that_was_written_and_reported_failed_is_let_go_by_the_next_refresh(room: Room) -> None:
    connection = await connect_expired(room)
    forgetful = forget(room, 1)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    async with asyncio.timeout(WAIT):
        assert (await room.exchange()).value in room.slack.issued
    assert forgetful.commits >= 4
    assert len(room.slack.sends) == 1
    assert await sends(room, connection) == []


async def test_an_undoing_that_is_reported_failed_and_done_again_leaves_an_earlier_send(room: Room) -> None:
    connection = await connect_expired(room)
    room.slack.faults.append(LOST_REQUEST)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    room.pass_time(HANDLING)
    forget(room, 1, 2)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    async with asyncio.timeout(WAIT):
        while room.vault.tasks.owed:
            await asyncio.sleep(0.01)
    assert [one.sends for one in await sends(room, connection)] == [1]
    assert (await room.row(connection)).lease_owner is None
    assert len(room.slack.sends) == 1


async def test_a_claim_that_was_not_written_leaves_an_earlier_send(room: Room) -> None:
    connection = await connect_expired(room)
    room.slack.faults.append(LOST_REQUEST)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    owed = await fail_to_claim(room)
    for ending in owed:
        async with room.database.transaction() as transaction:
            await ending(transaction)
    assert [one.sends for one in await sends(room, connection)] == [1]


@pytest.mark.parametrize("written", [True, False])
async def test_a_silence_whose_writing_is_reported_failed_is_written_down_once(
    room: Room, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    connection = await connect_expired(room)
    monkeypatch.setattr(attempts, "WAIT", (0.01, 0.05))
    room.slack.faults.append(LOST_REQUEST)
    if written:
        forget(room, 2)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
    else:
        room.slack.gate = asyncio.Event()
        sending = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        await rename(room, "intents", "intents_away")
        room.slack.gate.set()
        with pytest.raises((StorageUnavailable, TemporarilyUnavailable)):
            await sending
        await rename(room, "intents_away", "intents")
    async with asyncio.timeout(WAIT):
        while room.vault.tasks.owed:
            await asyncio.sleep(0.01)
    assert [(one.sends, one.is_settled) for one in await sends(room, connection)] == [(1, True)]
    facts = await room.row(connection)
    assert (facts.lease_owner, facts.retry_at is not None) == (None, True)
    assert (await room.kinds()).count("connection.refresh_unanswered") == 1


async def test_an_answer_stored_and_reported_failed_changes_no_earlier_grant_of_the_account(room: Room) -> None:
    first = await room.connect()
    await room.connect()
    await room.disconnect(first)
    room.pass_time(3600)
    second = await room.connect()  # its generations are the same as the first one's
    before = await list_revocations(room.database, room.alice.user.id)
    room.pass_time(3600)
    forgetful = forget(room, 2)
    assert await room.exchange(account=second.id)
    assert forgetful.commits > 2
    assert (await room.row(second)).generation == 2
    assert await list_revocations(room.database, room.alice.user.id) == before


async def test_every_ending_that_is_owed_is_written_once_in_its_order(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    connection, written = await room.connect(), list[str]()

    def ending(name: str) -> attempts.Ending:
        async def write(_: Transaction) -> None:
            written.append(name)

        return write

    async with asyncio.timeout(WAIT):
        for name in ("first", "second", "third"):
            attempts.owe(room.vault, connection.id, ending(name))
        await room.vault.tasks.take_turn(connection.id, lambda: attempts.pay(room.vault, connection.id))
    await room.settle()
    assert written == ["first", "second", "third"]
    assert not room.vault.tasks.owed
    assert "claim left behind" not in caplog.text


async def test_a_late_settling_leaves_a_newer_send_alone(room: Room) -> None:
    connection = await connect_expired(room)
    facts = await room.row(connection)
    never = leases.Lease.attempt(facts, owner="me")
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, facts, owner="me", now=room.now)
        assert not await leases.settle(transaction, never, now=room.now)
        assert not await leases.resolve(transaction, never)
        assert not await leases.unsend(transaction, never, now=room.now)
    assert [(one.sends, one.is_settled) for one in await sends(room, connection)] == [(1, False)]
    assert (await room.row(connection)).lease_owner == "me"


async def test_owner_files_that_are_cleared_away_during_a_refresh_let_nobody_send_twice(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "PATIENCE", 1.3)
    async with asyncio.timeout(WAIT), open_room(sqlite_store, rotation=RotationMode.REVOKES) as room:
        connection = await connect_expired(room)
        async with second_process(room) as other:
            room.slack.gate = asyncio.Event()
            sending = asyncio.create_task(other.exchange())
            await room.slack.arrived.wait()
            shutil.rmtree(sqlite_store.data / "owners")
            with pytest.raises(TemporarilyUnavailable):
                await rotation.refresh(room.vault, connection.id, if_generation=1)
            room.pass_time(61)  # not even when the lease has expired; then the person may be asked
            with pytest.raises(VaultError):
                await rotation.refresh(room.vault, connection.id, if_generation=1)
            await watch(other.vault)  # its round every half minute
            assert await room.database.is_dead(other.vault.owner) is False
            assert list((sqlite_store.data / "owners").iterdir()) != []
            room.slack.gate.set()
            with suppress(TemporarilyUnavailable):  # its own wait may have timed out, but its answer is stored
                await sending
            await other.settle()
            assert (len(room.slack.sends), (await room.row(connection)).generation) == (1, 2)


async def test_a_death_is_written_down_while_there_is_proof_of_it(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        async with second_process(room) as dying:
            await dying.database.hold_liveness(dying.vault.owner)
            facts = await room.row(connection)
            async with room.database.transaction() as transaction:
                assert await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
            await take_up(room.vault)
            assert [one.is_settled for one in await sends(room, connection)] == [False]
        await take_up(room.vault)
        assert [one.is_settled for one in await sends(room, connection)] == [True]


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(before=Refusal("invalid_request", "", ends_grant=False)), "rejected this server's request"),
        (BUSY, "slack is rate limiting"),
        (LOST_REQUEST, "didn't answer"),
    ],
    ids=["refused", "limited", "silent sign-in"],
)
async def test_a_pause_holds_although_the_end_of_the_attempt_was_not_written(
    room: Room, fault: Fault, said: str, *, is_written: bool
) -> None:
    await connect_expired(room)
    policies = room.vault.policies
    if fault is LOST_REQUEST:
        session = replace(policies["slack"], credential=CredentialKind.SESSION, rotation=RotationMode.NONE)
        policies = {**policies, "slack": session}
    room.vault = replace(room.vault, policies=policies)
    room.slack.faults.append(fault)
    forget(room, *([] if is_written else [2]))
    with pytest.raises(TemporarilyUnavailable, match=said if is_written else "the database can't be reached"):
        await room.exchange()
    with pytest.raises(TemporarilyUnavailable, match=said):
        await room.exchange()
    assert len(room.slack.sends) == 1
    room.pass_time(61)
    assert await room.exchange()


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize("is_refused", [True, False], ids=["refused", "too wide"])
async def test_a_narrowing_is_not_asked_for_again_although_its_end_was_not_written(
    room: Room, *, is_refused: bool, is_written: bool
) -> None:
    await room.connect("google")
    refusal = Refusal("invalid_scope", "", ends_grant=False)
    room.google.faults.append(Fault(before=refusal) if is_refused else Fault(hides_scope=True))
    if is_written:
        await room.exchange("google", READ)
    elif is_refused:
        forget(room, 2)
        with pytest.raises(TemporarilyUnavailable, match="the database can't be reached"):
            await room.exchange("google", READ)
    else:
        await rename(room, "events", "events_away")
        with pytest.raises(StorageUnavailable):
            await room.exchange("google", READ)
        await rename(room, "events_away", "events")
    assert (await room.exchange("google", READ)).narrowing is Narrowing.ENFORCED
    assert len(room.google.sends) == 1
    room.pass_time(601)
    assert (await room.exchange("google", READ)).narrowing is Narrowing.UPSTREAM
