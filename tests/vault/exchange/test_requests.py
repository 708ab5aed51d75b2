"""Clients' requests in the vault: one token for one yes, even with simultaneous callers, and what ends them."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.rooms.vault_room import Room
from vault import grants
from vault.approvals import approvals, client_notices, requests
from vault.approvals.approvals import Approval
from vault.approvals.client_notices import DueNotice, IssuedTokens
from vault.approvals.requests import BackchannelRequest
from vault.refusals import TemporarilyUnavailable

REQUEST = BackchannelRequest(
    frozenset({"openid"}), "https://vault.example/mcp", "Order 1", ({"type": "payment", "n": 1},)
)


async def ask(
    room: Room, *, ping_token: str | None = None, is_pushed: bool = False, request: BackchannelRequest = REQUEST
) -> tuple[Approval, str]:
    async with room.database.transaction() as transaction:
        return await requests.ask(
            transaction,
            room.vault.keys,
            request=request,
            user_id=room.alice.user.id,
            client_id=room.alice.client.id,
            lifetime=300,
            ping_token=ping_token,
            is_pushed=is_pushed,
            now=room.now,
        )


async def decide(room: Room, approval: Approval, *, yes: bool = True) -> None:
    async with room.database.transaction() as transaction:
        await approvals.decide(
            transaction, approval.id, user_id=approval.user_id, is_approved=yes, now=room.now, kept_until=0
        )
        await client_notices.note(transaction, approval, due_at=room.now)


async def consume(room: Room, approval: Approval) -> bool:
    async with room.database.transaction() as transaction:
        return await requests.consume(transaction, approval, now=room.now)


async def test_a_request_is_read_back_as_it_was_asked_and_only_by_its_client(room: Room) -> None:
    asked, auth_req_id = await ask(room)
    found = await requests.find(room.database, room.vault.keys, auth_req_id, client_id=room.alice.client.id)
    assert found is not None
    assert (requests.request_of(found), found.id, found.ping) == (REQUEST, asked.id, None)
    assert auth_req_id not in repr(found)
    assert await requests.find(room.database, room.vault.keys, auth_req_id, client_id="another") is None


async def test_each_request_is_a_question_of_its_own_with_the_same_digest(room: Room) -> None:
    (first, _), (second, _) = await ask(room), await ask(room)
    other, _ = await ask(room, request=BackchannelRequest(REQUEST.scopes, REQUEST.resource, "Order 2"))
    assert first.id != second.id
    assert first.digest == second.digest != other.digest
    await decide(room, first)
    assert not await consume(room, second)
    assert await consume(room, first)


async def test_of_many_contenders_one_spends_the_yes(room: Room) -> None:
    asked, _ = await ask(room)
    assert not await consume(room, asked)
    await decide(room, asked)
    assert sorted(await asyncio.gather(*(consume(room, asked) for _ in range(10)))) == [False] * 9 + [True]


async def test_a_call_can_not_spend_a_request_nor_a_denied_one_be_spent(room: Room) -> None:
    asked, _ = await ask(room)
    await decide(room, asked, yes=False)
    assert not await consume(room, asked)
    counted = {"user_id": room.alice.user.id, "client_id": room.alice.client.id}
    assert await requests.count_refused(room.database, **counted, since=room.now - 60) == 1
    assert await requests.count_refused(room.database, **counted, since=room.now) == 0


async def test_too_many_open_requests_are_refused(room: Room) -> None:
    last, _ = [await ask(room) for _ in range(20)][-1]
    with pytest.raises(TemporarilyUnavailable) as refused:
        await ask(room)
    assert refused.value.retry_after == 60
    await decide(room, last)
    await ask(room)


@pytest.mark.parametrize("by", ["client", "person"])
async def test_a_yes_dies_with_the_access_of_its_client_or_person(room: Room, by: str) -> None:
    asked, _ = await ask(room)
    await decide(room, asked)
    async with room.database.transaction() as transaction:
        if by == "client":
            which = {"user_id": asked.user_id, "client_id": asked.client_id}
            await grants.revoke_client_grants(transaction, **which, reason="test", now=room.now)
        else:
            await grants.revoke_user_grants(transaction, asked.user_id, reason="test", now=room.now)
    assert not await consume(room, asked)


async def test_a_ping_is_taken_by_one_process_and_given_up_after_some_attempts(room: Room) -> None:
    quiet, _ = await ask(room)
    told, auth_req_id = await ask(room, ping_token="bearer")
    assert told.ping is not None
    assert (told.ping.auth_req_id, told.ping.token) == (auth_req_id, "bearer")
    await decide(room, quiet)
    await decide(room, told)

    async def take(now: int) -> tuple[DueNotice, ...]:
        async with room.database.transaction() as transaction:
            return await client_notices.take(transaction, now=now)

    taken = [one for found in await asyncio.gather(*(take(room.now) for _ in range(5))) for one in found]
    assert [one.approval_id for one in taken] == [told.id]
    assert await take(room.now + 59) == ()
    (again,) = await take(room.now + 60)  # the process that took it has died
    assert again.attempts == 2
    now = room.now + 60
    for pause in (30, 120, 600):
        async with room.database.transaction() as transaction:
            await client_notices.settle(transaction, again, is_over=False, now=now)
        assert await take(now + pause - 1) == ()
        (again,) = await take(now := now + pause)
    async with room.database.transaction() as transaction:
        await client_notices.settle(transaction, again, is_over=False, now=now)
    assert await take(now + 100_000) == ()


async def test_what_was_issued_is_kept_for_the_next_attempt_and_the_end_is_told_too(room: Room) -> None:
    pushed, _ = await ask(room, ping_token="bearer", is_pushed=True)

    async def take(now: int) -> tuple[DueNotice, ...]:
        async with room.database.transaction() as transaction:
            return await client_notices.take(transaction, now=now)

    assert await take(pushed.expires_at - 1) == ()
    (first,) = await take(pushed.expires_at)
    assert client_notices.issued_before(first, room.vault.keys) is None
    issued = IssuedTokens("grant", "the-refresh-token", 7)
    async with room.database.transaction() as transaction:
        await client_notices.keep_issued(transaction, room.vault.keys, pushed.id, issued)
        assert not await client_notices.settle(transaction, first, is_over=False, now=pushed.expires_at)
    assert await take(pushed.expires_at + 9) == ()
    (again,) = await take(pushed.expires_at + 10)
    assert client_notices.issued_before(again, room.vault.keys) == issued
    assert b"the-refresh-token" not in (again.sealed or b"")
    async with room.database.transaction() as transaction:
        assert await client_notices.settle(transaction, again, is_over=True, now=pushed.expires_at)
    assert await take(pushed.expires_at + 100_000) == ()
