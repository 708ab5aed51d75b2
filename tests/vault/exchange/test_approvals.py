"""Approvals in the vault: asked for each time, decided once, used once, bound to every byte of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import DRIVE, READ, WRITE, Room, principal_of
from vault import connections, delegations
from vault.approvals import approvals
from vault.approvals.approvals import ASK_LIFETIME, Approval, ToolCall
from vault.exchange.exchange import UpstreamToken, exchange
from vault.records import ApprovalState, Connection
from vault.refusals import ApprovalRequired, ScopeRefused, TemporarilyUnavailable, TransitionRefused
from vault.upstream import UpstreamPolicy

ARGUMENTS: Mapping[str, object] = {"channel": "C1", "text": "CANARY-hello"}


def call_of(arguments: Mapping[str, object] = ARGUMENTS, *, tool: str = "slack_post") -> ToolCall:
    return ToolCall(tool, lambda: arguments)


async def run(room: Room, call: ToolCall | None, *scopes: str) -> UpstreamToken:
    request = replace(room.request("slack", *scopes), call=call)
    return await exchange(request, vault=room.vault, now=room.now)


async def ask(room: Room, connection: Connection, call: ToolCall) -> tuple[Approval, bool]:
    async with room.database.transaction() as transaction:
        return await approvals.ask(
            transaction,
            room.vault.keys,
            call=call,
            principal=principal_of(room.alice),
            connection_id=connection.id,
            provider="slack",
            account=connection.account,
            label=connection.label,
            scopes=frozenset({"chat:write"}),
            now=room.now,
        )


async def decide(room: Room, approval: Approval, *, yes: bool = True, user_id: str | None = None) -> None:
    async with room.database.transaction() as transaction:
        await approvals.decide(
            transaction, approval.id, user_id=user_id or room.alice.user.id, is_approved=yes, now=room.now
        )


async def ask_and_approve(room: Room, connection: Connection, call: ToolCall) -> Approval:
    approval, _ = await ask(room, connection, call)
    await decide(room, approval)
    return approval


@pytest.mark.parametrize("entry", ["chat:write", "tool:slack_post"])
async def test_a_call_that_the_person_wants_to_be_asked_about_is_refused_until_they_said_yes(
    room: Room, entry: str
) -> None:
    connection = await room.connect()
    await room.set_ask(connection, entry)
    with pytest.raises(ApprovalRequired) as refused:
        await run(room, call_of())
    assert refused.value.can_ask
    assert refused.value.connection_id == connection.id
    await ask_and_approve(room, connection, call_of())
    assert (await run(room, call_of())).connection_id == connection.id
    assert "approval.consumed" in await room.kinds()


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ("slack_post", "The person approves each slack_post call (slack as "),
        (approvals.RELEASE, "The person approves each use of chat:write (slack as "),
    ],
)
async def test_a_refused_release_names_scopes_and_a_refused_call_its_tool(room: Room, tool: str, told: str) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    with pytest.raises(ApprovalRequired) as refused:
        await run(room, call_of(tool=tool))
    assert str(refused.value).startswith(told)


async def test_what_nobody_wants_to_be_asked_about_needs_no_approval(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "channels:read", "tool:another_tool")
    assert (await run(room, call_of())).connection_id == connection.id


async def test_an_approval_lets_one_call_through(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    await ask_and_approve(room, connection, call_of())
    await run(room, call_of())
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())


async def test_the_call_that_spent_an_approval_may_exchange_again_after_a_401(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    await ask_and_approve(room, connection, call_of())
    call = call_of()
    token = await run(room, call)
    request = replace(room.request(), call=call)
    again = await exchange(request, vault=room.vault, now=room.now, after_unauthorized=token.generation)
    assert again.generation > token.generation
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())


async def test_of_many_equal_calls_at_once_one_spends_the_approval(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    await ask_and_approve(room, connection, call_of())
    outcomes = await asyncio.gather(*(run(room, call_of()) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, UpstreamToken) for one in outcomes) == 1
    assert sum(isinstance(one, ApprovalRequired) for one in outcomes) == 7


@pytest.mark.parametrize(
    "changed",
    [
        call_of({**ARGUMENTS, "text": "CANARY-hellp"}),
        call_of({**ARGUMENTS, "text": "CANARY-hello "}),
        call_of({**ARGUMENTS, "extra": None}),
        call_of({"channel": "C1"}),
        call_of(tool="slack_reply"),
    ],
)
async def test_an_approval_is_of_these_bytes_and_no_others(room: Room, changed: ToolCall) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    await ask_and_approve(room, connection, call_of())
    with pytest.raises(ApprovalRequired):
        await run(room, changed)
    assert await run(room, call_of())  # the twin: the approved call itself


async def test_an_approval_is_for_one_account(room: Room) -> None:
    first = await room.connect(account="alice")
    second = await room.connect(account="alice-too")
    for connection in (first, second):
        await room.set_ask(connection, "chat:write")
    await ask_and_approve(room, first, call_of())
    for connection, is_allowed in ((second, False), (first, True)):
        request = replace(room.request(account=connection.account), call=call_of())
        if is_allowed:
            assert await exchange(request, vault=room.vault, now=room.now)
        else:
            with pytest.raises(ApprovalRequired):
                await exchange(request, vault=room.vault, now=room.now)


@pytest.mark.parametrize("end", ["cut off", "taken away", "ran out", "disconnected", "nothing"])
async def test_a_yes_ends_with_the_permission_it_was_given_under(room: Room, end: str) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    which = {"user_id": room.alice.user.id, "client_id": room.alice.client.id}
    scopes = frozenset({"chat:write"})
    async with room.database.transaction() as transaction:
        ends_at = room.now if end == "ran out" else None
        await delegations.allow(
            transaction, **which, connection_id=connection.id, scopes=scopes, now=room.now, expires_at=ends_at
        )
    await ask_and_approve(room, connection, call_of())
    async with room.database.transaction() as transaction:
        if end == "cut off":
            assert await delegations.revoke_for_client(transaction, **which, now=room.now) == 1
        elif end == "taken away":
            assert await delegations.revoke(transaction, **which, connection_id=connection.id, now=room.now)
        elif end == "disconnected":
            await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)
    if end == "disconnected":
        connection = await room.connect()
    async with room.database.transaction() as transaction:
        await delegations.allow(transaction, **which, connection_id=connection.id, scopes=scopes, now=room.now)
    await room.set_ask(connection, "chat:write")
    if end == "nothing":
        await run(room, call_of())
        return
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())
    _, is_new = await ask(room, connection, call_of())
    assert is_new, "the person is asked once more"


async def test_an_approval_ends_unused_after_minutes(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    approval = await ask_and_approve(room, connection, call_of())
    room.pass_time(299)
    assert await run(room, call_of())  # the twin: just in time
    await ask_and_approve(room, connection, call_of())
    room.pass_time(300)
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())
    found = await approvals.get(room.database, room.vault.keys, approval.id)
    assert found is not None
    assert found.status(room.now) == "consumed"


async def test_a_question_is_asked_once_while_it_is_open(room: Room) -> None:
    connection = await room.connect()
    first, is_new = await ask(room, connection, call_of())
    again, is_new_again = await ask(room, connection, call_of())
    assert (is_new, is_new_again) == (True, False)
    assert again.id == first.id
    other, _ = await ask(room, connection, call_of({**ARGUMENTS, "text": "another"}))
    assert other.id != first.id
    pending = await approvals.list_pending(room.database, room.vault.keys, room.alice.user.id, now=room.now)
    assert {one.id for one in pending} == {first.id, other.id}
    assert {one.id: one.arguments for one in pending}[first.id] == ARGUMENTS


async def test_an_agent_has_no_more_than_twenty_questions_open(room: Room) -> None:
    connection = await room.connect()
    asked = [(await ask(room, connection, call_of({"n": number})))[0] for number in range(20)]
    with pytest.raises(TemporarilyUnavailable, match="waiting for the person") as refused:
        await ask(room, connection, call_of({"n": 20}))
    assert refused.value.retry_after == 60
    assert await ask(room, connection, call_of({"n": 0})) == (asked[0], False)
    await decide(room, asked[0], yes=False)
    assert (await ask(room, connection, call_of({"n": 20})))[1]
    with pytest.raises(TemporarilyUnavailable):
        await ask(room, connection, call_of({"n": 21}))
    room.pass_time(ASK_LIFETIME)
    assert (await ask(room, connection, call_of({"n": 21})))[1]


async def test_a_refusal_holds_until_the_question_would_have_ended(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    approval, _ = await ask(room, connection, call_of())
    await decide(room, approval, yes=False)
    again, is_new = await ask(room, connection, call_of())
    assert not is_new
    assert again.state is ApprovalState.REFUSED
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())
    room.pass_time(ASK_LIFETIME)
    _, is_new = await ask(room, connection, call_of())
    assert is_new


async def test_an_answer_is_given_once(room: Room) -> None:
    connection = await room.connect()
    approval, _ = await ask(room, connection, call_of())
    await decide(room, approval)
    for answer in (True, False):
        with pytest.raises(TransitionRefused):
            await decide(room, approval, yes=answer)


async def test_only_the_person_who_was_asked_can_answer(room: Room) -> None:
    connection = await room.connect()
    approval, _ = await ask(room, connection, call_of())
    with pytest.raises(TransitionRefused):
        await decide(room, approval, user_id="somebody-else")
    await decide(room, approval)  # the twin


async def test_an_answer_after_ten_minutes_is_too_late(room: Room) -> None:
    connection = await room.connect()
    approval, _ = await ask(room, connection, call_of())
    room.pass_time(599)
    assert approval.status(room.now) == "pending"
    room.pass_time(1)
    assert approval.status(room.now) == "expired"
    with pytest.raises(TransitionRefused):
        await decide(room, approval)


async def test_what_is_asked_about_each_time_is_not_handed_out_for_later(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    with pytest.raises(ApprovalRequired) as refused:
        await run(room, None)
    assert not refused.value.can_ask
    assert await run(room, None, "channels:read")  # the twin: another scope


async def test_asking_for_a_tool_asks_for_its_scopes_where_no_tool_is_called(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "tool:slack_post")
    policies = room.vault.policies
    assert isinstance(policies, dict)
    policies["slack"] = replace(policies["slack"], tool_scopes={"slack_post": frozenset({"chat:write"})})
    with pytest.raises(ApprovalRequired):
        await run(room, None)
    assert await run(room, None, "channels:read")
    assert await run(room, call_of(tool="slack_reply"))  # another tool needs no approval


@pytest.mark.parametrize("entry", ["calendar", "tool:calendar_create"])
async def test_a_part_of_what_is_asked_about_is_asked_about_unless_it_only_reads_or_was_given_by_itself(
    room: Room, entry: str
) -> None:
    connection = await room.connect("google", scopes=frozenset({"calendar", DRIVE}))
    await room.set_ask(connection, entry)
    policies = room.vault.policies
    assert isinstance(policies, dict)
    tools = {"calendar_create": frozenset({"calendar"})}
    policies["google"] = replace(policies["google"], reading=frozenset({READ}), tool_scopes=tools)
    with pytest.raises(ApprovalRequired):
        await room.exchange("google", WRITE)
    assert await room.exchange("google", READ)
    assert await room.exchange("google", DRIVE)
    await room.allow(connection, frozenset({"calendar", WRITE}))
    assert await room.exchange("google", WRITE)
    with pytest.raises(ApprovalRequired):
        await room.exchange("google", "calendar")


@pytest.mark.parametrize("entry", ["chat:write", "tool:slack_post"])
async def test_the_operator_can_have_everybody_asked(room: Room, entry: str) -> None:
    connection = await room.connect()
    policies = room.vault.policies
    assert isinstance(policies, dict)
    before: UpstreamPolicy = policies["slack"]
    policies["slack"] = replace(before, ask=frozenset({entry}))
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())
    await ask_and_approve(room, connection, call_of())
    assert await run(room, call_of())
    policies["slack"] = before
    assert await run(room, call_of())


async def test_asking_outlives_a_change_of_the_permission(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    await room.allow(connection, frozenset({"chat:write"}))
    with pytest.raises(ApprovalRequired):
        await run(room, call_of())
    await room.set_ask(connection)
    assert await run(room, call_of())


async def test_arguments_are_stored_sealed_and_never_in_the_activity(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    approval = await ask_and_approve(room, connection, call_of())
    await run(room, call_of())
    stored = str(await room.database.fetch("select * from approvals")) + str(await room.events())
    assert "CANARY-hello" not in stored
    assert "CANARY-hello" not in repr(approval)


async def test_arguments_without_a_canonical_form_cannot_be_approved(room: Room) -> None:
    connection = await room.connect()
    await room.set_ask(connection, "chat:write")
    for arguments in ({"number": 2**60}, {"number": float("inf")}, {"text": "\ud800"}, {"\ud800": 1}):
        with pytest.raises(ScopeRefused):
            await run(room, call_of(arguments))


async def test_ended_approvals_are_forgotten_after_a_day(room: Room) -> None:
    connection = await room.connect()
    await ask(room, connection, call_of())
    for seconds, gone in ((600 + 86399, 0), (1, 1)):
        room.pass_time(seconds)
        async with room.database.transaction() as transaction:
            assert await approvals.sweep(transaction, now=room.now) == gone
