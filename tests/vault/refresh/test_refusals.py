"""Refusals by the provider, and what they end."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.doubles.upstream_double import BUSY, INVALID_CLIENT, LOST_REQUEST, UNREACHABLE, Fault
from tests.support.rooms.vault_room import WAIT, Room, connection_status
from vault.connections import list_connections
from vault.refresh import leases
from vault.refresh.rotation import refresh
from vault.refusals import ConnectionRequired, TemporarilyUnavailable
from vault.upstream import NotSent


async def test_a_dead_grant_is_marked_once_and_its_token_kept(room: Room) -> None:
    connection = await room.connect()
    room.slack.families[0].is_alive = False
    room.pass_time(3600)
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange()
    assert refused.value.reason == "needs_reauth"
    assert "Reconnect this account" in refused.value.description
    (event,) = await room.events("connection.needs_reauth")
    assert event.details["reason"] == "invalid_grant"
    facts = await room.row(connection)
    assert facts.refresh_sealed is not None
    assert await connection_status(room, connection) == "needs_reauth"


async def test_a_refusal_of_a_token_that_was_replaced_meanwhile_uses_the_newer_one(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.families[0].is_alive = False
    async with room.held_refresh() as slow:
        await room.connect()
        room.slack.gate.set()
        assert room.slack.issued[(await slow).value]
    assert await room.events("connection.needs_reauth") == []


async def test_a_refusal_of_our_registration_touches_no_connection(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    for _ in range(2):
        with pytest.raises(
            TemporarilyUnavailable, match=r"slack rejected this server's request \(invalid_client\)"
        ) as refused:
            await room.exchange()
        assert 55 < refused.value.retry_after <= 60
    assert len(room.slack.sends) == 1
    assert await connection_status(room, connection) == "active"
    assert "connection.refresh_refused" in await room.kinds()
    room.pass_time(61)
    assert await room.exchange()


async def test_connecting_again_ends_the_pause_after_a_refusal_of_our_registration(room: Room) -> None:
    connection = await room.connect()
    await room.connect(account="bob")
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange(account="alice")
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange(account="bob")
    assert len(room.slack.sends) == 1
    assert (await room.connect()).id == connection.id  # the operator has corrected the registration
    generation = (await room.exchange(account="alice")).generation
    again = await room.exchange(account="alice", after_unauthorized=generation)
    assert again.generation == generation + 1
    assert await room.exchange(account="bob")


async def test_a_refusal_of_our_registration_spares_the_provider_all_other_accounts(room: Room) -> None:
    await room.connect(account="alice")
    await room.connect(account="work")
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    for account in ("alice", "work", "alice"):
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange(account=account)
        assert 0 < refused.value.retry_after <= 60
    assert len(room.slack.sends) == 1
    room.pass_time(61)
    assert await room.exchange(account="work")
    assert await room.exchange(account="alice")


async def test_a_provider_that_stays_silent_is_not_asked_for_a_while_and_others_are(room: Room) -> None:
    accounts = [f"account{number}" for number in range(7)]
    for account in accounts:
        await room.connect(account=account)
    await room.connect("google")
    room.pass_time(3600)
    room.slack.faults.extend([LOST_REQUEST] * 5)
    for account in accounts:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    assert len(room.slack.sends) == 5
    assert await room.exchange("google")
    room.pass_time(31)
    room.slack.faults.append(LOST_REQUEST)
    for account in accounts[5:]:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    assert len(room.slack.sends) == 6  # the probe failed, so the breaker is open again
    room.pass_time(31)
    for account in accounts:
        assert await room.exchange(account=account)


async def test_a_provider_that_hangs_for_some_accounts_is_asked_for_the_others(room: Room) -> None:
    hung = [f"account{number}" for number in range(6)]
    for account in (*hung, "healthy", "other"):
        await room.connect(account=account)
    room.pass_time(3600)
    assert await room.exchange(account="healthy")
    room.slack.faults.extend([LOST_REQUEST] * 6)
    for account in hung:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    assert len(room.slack.sends) == 7  # the provider answered recently, so it isn't down
    assert await room.exchange(account="other")


async def test_while_a_provider_is_silent_one_account_at_a_time_tries_and_an_answer_frees_all(room: Room) -> None:
    hung = [f"account{number}" for number in range(5)]
    for account in (*hung, "healthy", "other"):
        await room.connect(account=account)
    room.pass_time(3600)
    room.slack.faults.extend([LOST_REQUEST] * 5)
    for account in hung:
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account=account)
    room.pass_time(6)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange(account=hung[0])  # this account got no answer, so it must wait
    room.slack.gate = asyncio.Event()
    probe = asyncio.create_task(room.exchange(account="healthy"))
    async with asyncio.timeout(WAIT):
        room.slack.arrived.clear()
        await room.slack.arrived.wait()
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange(account="other")
        room.slack.gate.set()
        assert await probe
    assert await room.exchange(account="other")


async def test_a_request_that_never_left_may_be_repeated(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(UNREACHABLE)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    assert await connection_status(room, connection) == "active"
    assert await room.exchange()


@pytest.mark.parametrize("lacks_secret", [True, False])
async def test_a_secret_that_cannot_be_read_is_not_the_provider_s_fault(room: Room, *, lacks_secret: bool) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(Fault(before=NotSent("op:// can't be read", lacks_secret=lacks_secret)))
    with pytest.raises(TemporarilyUnavailable) as refused:
        await room.exchange()
    text = refused.value.description
    assert refused.value.retry_after == 2
    assert ("can't read its client secret of slack" in text, "slack can't be asked for a new token" in text) == (
        lacks_secret,
        not lacks_secret,
    )


async def test_a_provider_that_asks_for_patience_gets_it(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(BUSY)
    for _ in range(3):
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange()
        assert 25 <= refused.value.retry_after <= 30
        assert refused.value.description == "slack is rate limiting."
    assert len(room.slack.sends) == 1
    room.pass_time(31)
    assert await room.exchange()


async def test_fewer_scopes_are_an_alarm_and_not_an_update(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(Fault(scopes=frozenset({"chat:write"})))
    assert await room.exchange()
    (alarm,) = await room.events("connection.scopes_shrunk")
    assert (alarm.outcome, alarm.details["lost"]) == ("failed", ["channels:read"])
    assert (await room.row(connection)).scopes == {"chat:write", "channels:read"}


async def test_more_scopes_are_noted_so_that_no_token_passes_for_narrow(room: Room) -> None:
    connection = await room.connect(scopes=frozenset({"chat:write"}))
    room.pass_time(3600)
    room.slack.faults.append(Fault(scopes=frozenset({"chat:write", "admin"})))
    token = await room.exchange()
    assert token.narrowing.value == "enforced"
    assert (await room.row(connection)).scopes == {"chat:write", "admin"}
    assert "connection.scopes_grew" in await room.kinds()


async def test_a_provider_that_is_not_set_up_any_more_loses_nothing(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.is_configured = False
    with pytest.raises(TemporarilyUnavailable, match="no longer set up") as refused:
        await room.exchange()
    assert refused.value.retry_after == 60
    assert await connection_status(room, connection) == "active"
    room.slack.is_configured = True
    assert await room.exchange()


async def test_a_disconnected_connection_is_not_refreshed(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    with pytest.raises(ConnectionRequired) as refused:
        await refresh(room.vault, connection.id, if_generation=1)
    assert (refused.value.provider, refused.value.scopes) == ("slack", frozenset())
    read = frozenset({"channels:read"})
    with pytest.raises(ConnectionRequired) as refused:
        await refresh(room.vault, connection.id, scopes=read, if_generation=1)
    assert (refused.value.reason, refused.value.scopes) == ("missing", read)
    with pytest.raises(ConnectionRequired) as refused:
        await refresh(room.vault, "never was", if_generation=1)
    assert refused.value.provider == ""
    assert room.slack.sends == []


async def test_a_claim_is_void_once_anybody_claimed_since_the_row_was_read(room: Room) -> None:
    connection = await room.connect()
    facts = await room.row(connection)
    async with room.database.transaction() as transaction:
        first = await leases.claim(transaction, facts, owner="one", now=room.now)
        assert first is not None
        await leases.settle(transaction, first, now=room.now)
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, facts, owner="two", now=room.now) is None
    again = await room.row(connection)
    assert again.sent_at is not None
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, again, owner="two", now=room.now)


async def test_a_listing_shows_every_account_with_its_state(room: Room) -> None:
    await room.connect(account="alice")
    await room.connect(account="work")
    listed = await list_connections(room.database, room.alice.user.id)
    assert {one.label for one in listed} == {"alice@example.com", "work@example.com"}
    assert {one.status(room.now) for one in listed} == {"active"}
