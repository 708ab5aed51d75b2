"""The provider's answer is never lost, even if the caller left, the answer is late, or the storage refuses it."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import (
    SLACK_SCOPES,
    WAIT,
    Room,
    connection_status,
    open_room,
    second_process,
)
from vault import connections
from vault.refresh import leases
from vault.refresh.concurrency import UpstreamTokenRequest
from vault.refresh.refresh_request import Spender, open_refresh_token
from vault.refusals import ConnectionRequired, TemporarilyUnavailable, VaultError
from vault.upkeep.revocations import revoke_upstream, run_due
from vault.upstream import RotationMode, TokenAnswer


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
    assert [send.outcome for send in room.slack.sends] == ["Rotation"]
    assert room.slack.families[0].is_alive


async def test_an_answer_without_a_refresh_token_keeps_the_old_one(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.NONE) as room:
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
    assert room.vault.tasks.waits == 3


async def test_an_answer_is_stored_even_when_its_lease_has_lapsed(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        room.pass_time(61)
        async with second_process(room) as other:
            with pytest.raises(TemporarilyUnavailable):  # according to its clock, and ours may be wrong
                await other.exchange()
            assert (await room.row(connection)).lease_owner == room.vault.owner, "it isn't given up yet"
            other.pass_time(20)
            with pytest.raises(TemporarilyUnavailable) as waiting:
                await other.exchange()
            assert waiting.value.retry_after == 40
            other.pass_time(40)
            with pytest.raises(ConnectionRequired) as refused:
                await other.exchange()
            assert refused.value.reason == "ambiguous"
        assert await connection_status(room, connection) == "ambiguous"
        room.slack.gate.set()
        assert room.slack.issued[(await slow).value]
    assert await connection_status(room, connection) == "active"
    assert len(room.slack.sends) == 1


async def test_an_answer_overrules_a_process_that_gave_the_connection_up_meanwhile(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        facts = await room.row(connection)
        async with room.database.transaction() as transaction:
            assert await leases.end(transaction, facts, fence=facts.fence, reason="invalid_grant")
        room.slack.gate.set()
        assert room.slack.issued[(await slow).value]
    assert await connection_status(room, connection) == "active"


async def test_connecting_again_wins_over_the_answer_of_an_older_consent(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.connect()
        room.slack.gate.set()
        token = await slow
    newest = (await room.row(connection)).generation
    assert token.generation == newest == 2
    room.pass_time(3600)
    assert await room.exchange()
    assert room.slack.sends[-1].refresh_token not in room.slack.families[0].spent


async def test_an_answer_that_comes_after_its_revocation_ends_no_newer_consent(room: Room) -> None:
    room.slack.ends_everything = True
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.disconnect(connection)
        room.pass_time(61)
        assert await revoke_upstream(room.vault, connection.id) == "revoked"
        room.slack.families[0].is_alive = True  # as at a provider that is slow to revoke
        again = await room.connect()
        room.slack.gate.set()
        with suppress(VaultError):
            await slow
        room.slack.gate = None
    late = room.slack.families[0].refresh_token
    await run_due(room.vault)
    assert room.slack.families[-1].is_alive
    room.pass_time(3600)
    assert await room.exchange()
    await room.disconnect(again)
    await run_due(room.vault)
    assert late in {token for token, _ in room.slack.revocations}


async def test_an_access_token_that_comes_after_its_revocation_is_revoked_too(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.NONE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        async with room.held_refresh() as slow:
            await room.disconnect(connection)
            room.pass_time(61)
            assert await revoke_upstream(room.vault, connection.id) == "revoked"
            room.slack.families[0].is_alive = True  # as at a provider that is slow to revoke
            room.slack.gate.set()
            with suppress(VaultError):
                await slow
        late = list(room.slack.issued)[-1]
        await run_due(room.vault)
        assert [access_token for _, access_token in room.slack.revocations[1:]] == [late]


async def test_an_answer_of_an_older_consent_leaves_the_revocation_of_the_newest_alone(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.connect()
        await room.disconnect(connection)
        room.slack.gate.set()
        with suppress(VaultError):
            await slow
    room.pass_time(61)
    await run_due(room.vault)
    newest = {family.refresh_token for family in room.slack.families}
    assert {token for token, _ in room.slack.revocations} == newest


@pytest.mark.parametrize("refreshable", [True, False])
@pytest.mark.parametrize("is_over", [True, False])
@pytest.mark.parametrize("ends_grant", [True, False])
async def test_an_answer_that_comes_after_connecting_again_and_disconnecting_is_ended(
    room: Room, *, refreshable: bool, is_over: bool, ends_grant: bool
) -> None:
    """`refreshable`: the newer consent brought a refresh token; otherwise, the account kept the one that was sent.
    `is_over`: what the vault knew was revoked before the answer came.
    """
    policy = replace(room.vault.policies["slack"], revoke_ends_grant=ends_grant)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.connect(refreshable=refreshable)
        await room.disconnect(connection)
        if is_over:
            room.pass_time(61)
            await run_due(room.vault)
            room.slack.families[0].is_alive = True  # as at a provider that is slow to revoke
        room.slack.gate.set()
        with suppress(VaultError):
            await slow
    room.pass_time(61)
    await run_due(room.vault)
    assert [token for token, _ in room.slack.revocations].count(room.slack.families[0].refresh_token) == 1


@pytest.mark.parametrize("ends_grant", [True, False])
async def test_an_answer_to_an_earlier_grant_is_ended_without_the_newer_one(room: Room, *, ends_grant: bool) -> None:
    """The earlier grant may be over for the vault: it was revoked with the token that was sent."""
    policy = replace(room.vault.policies["slack"], revoke_ends_grant=ends_grant)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.connect()
        room.pass_time(61)
        assert await run_due(room.vault) == (0 if ends_grant else 1)
        room.slack.families[0].is_alive = True  # as at a provider that is slow to revoke
        room.slack.gate.set()
        await slow
        room.slack.gate = None
    late = room.slack.families[0].refresh_token
    await run_due(room.vault)
    assert (late in {token for token, _ in room.slack.revocations}) is not ends_grant
    room.pass_time(3600)
    assert await room.exchange()
    await room.disconnect(connection)
    room.pass_time(61)
    await run_due(room.vault)
    assert late in {token for token, _ in room.slack.revocations}


async def test_a_used_token_that_an_answer_leaves_alive_is_ended_whatever_else_is_answered(room: Room) -> None:
    connection = await room.connect()
    facts = await room.row(connection)
    policy = replace(room.vault.policies["slack"], revoke_ends_grant=False)
    room.vault, key = replace(room.vault, policies={"slack": policy}), facts.key(room.vault.keys)
    used, request = open_refresh_token(key, facts), UpstreamTokenRequest(connection.id, 1)
    spender = Spender(room.vault, room.slack, policy, facts=facts, request=request, key=key, refresh_token=used)
    generations: list[int | None] = []
    for number, leaves_earlier in ((1, True), (2, False)):
        answer = TokenAnswer(f"at-{number}", f"rt-{number}", expires_in=3600, leaves_earlier=leaves_earlier)
        lease = leases.Lease(connection.id, f"owner {number}", generation=1, fence=facts.fence + number)
        generations.append(await spender.commit(lease, answer, at=room.now))
    assert generations == [2, None]
    assert await run_due(room.vault) == 1
    assert room.slack.revocations == [(used, None)]


async def test_a_refresh_token_that_stays_is_revoked_with_the_access_token_that_came_late(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.NONE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        async with room.held_refresh() as slow:
            await room.disconnect(connection)
            room.slack.gate.set()
            with suppress(VaultError):
                await slow
        room.pass_time(61)
        await run_due(room.vault)
        assert room.slack.revocations == [(room.slack.families[0].refresh_token, list(room.slack.issued)[-1])]


async def test_an_answer_on_its_way_survives_a_consent_that_brought_no_refresh_token(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await room.connect(refreshable=False)
        room.slack.gate.set()
        await slow
        room.slack.gate = None
    assert await connection_status(room, connection) == "active"
    room.pass_time(3600)
    assert await room.exchange()
    assert [send.outcome for send in room.slack.sends] == ["Rotation", "Rotation"]


async def test_an_answer_on_its_way_does_not_replace_what_a_company_connected_instead(room: Room) -> None:
    """The account is renewed by identity assertions now: it has no refresh token that could be the used one."""
    connection = await room.connect()
    room.pass_time(3600)
    identity = await room.connect("google", account="identity")
    async with room.held_refresh() as slow:
        answer = room.slack.consent("alice", SLACK_SCOPES, refreshable=False)
        async with room.database.transaction() as transaction:
            again = await connections.open_connection(
                transaction,
                room.vault.keys,
                user_id=room.alice.user.id,
                provider="slack",
                answer=replace(answer, expires_in=3600),
                asked=SLACK_SCOPES,
                policy=room.vault.policies["slack"],
                now=room.now,
                renewed_by=identity.id,
            )
        assert again.id == connection.id
        room.slack.gate.set()
        with suppress(VaultError):
            await slow
    facts = await room.row(connection)
    assert facts.open_access_token(room.vault.keys) == answer.access_token
    assert facts.renewed_by == identity.id
    late = room.slack.families[0].refresh_token
    await room.disconnect(again)
    await run_due(room.vault)
    assert late in {token for token, _ in room.slack.revocations}


async def test_an_answer_that_the_storage_refuses_is_offered_again_until_it_is_stored(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    noticed = MessageAlarm("answer not stored yet")
    async with asyncio.timeout(WAIT):
        waiting = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        async with room.database.transaction() as transaction:  # the storage fails while the answer is on its way
            await transaction.execute("alter table intents rename to intents_away")
        with noticed:
            room.slack.gate.set()
            await noticed.event.wait()
        assert not waiting.done()
        async with room.database.transaction() as transaction:
            await transaction.execute("alter table intents_away rename to intents")
        assert room.slack.issued[(await waiting).value]
    assert len(room.slack.sends) == 1


@pytest.mark.parametrize("is_full", [False, True])
async def test_an_answer_that_the_journal_cannot_keep_is_stored_in_the_database(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_full: bool
) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        with monkeypatch.context() as disk:
            if is_full:
                disk.setattr(os, "pwrite", lambda descriptor, data, at: 0)
            room.slack.gate.set()
            token = await slow
    assert token.value in room.slack.issued
    assert bool(await room.vault.journal.find(connection.id)) is not is_full
    assert ("answer not journalled" in [one.message for one in caplog.records]) is is_full
    room.pass_time(3600)
    assert (await room.exchange()).value in room.slack.issued
    assert [send.outcome for send in room.slack.sends] == ["Rotation"] * 2


async def test_a_storage_that_cannot_take_the_intent_lets_nothing_be_sent(room: Room) -> None:
    """R-12: the refresh is refused before it is sent, and the refusal causes no harm."""
    connection = await room.connect()
    room.pass_time(3600)
    breaks, repairs = (
        "alter table intents add constraint broken check (sent_at < 0)",
        "alter table intents drop constraint broken",
    )
    if room.store.is_sqlite:
        breaks = "create trigger vault.broken before insert on intents begin select raise(abort, 'broken'); end"
        repairs = "drop trigger vault.broken"
    async with room.database.transaction() as transaction:
        await transaction.execute(breaks)
    for _ in range(2):
        with pytest.raises(VaultError):
            await room.exchange()
    assert room.slack.sends == []
    async with room.database.transaction() as transaction:
        await transaction.execute(repairs)
    assert await connection_status(room, connection) == "active"
    assert await room.exchange()


class MessageAlarm(logging.Handler):
    """Sets an event when a given message is logged."""

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
