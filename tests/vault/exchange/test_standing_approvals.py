"""Standing approvals: for one agent, tool, account and target, so many calls a day until a date, and not one more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room, principal_of, second_process
from vault import connections, delegations, users
from vault.approvals import standing_approvals
from vault.approvals.approvals import ToolCall
from vault.approvals.standing_approvals import Binding
from vault.exchange.exchange import UpstreamToken, exchange
from vault.exchange.explain import ExchangeQuestion, explain
from vault.records import DAY, Connection
from vault.refusals import ApprovalRequired, GrantEnded, ScopeRefused, TransitionRefused

TARGET: Mapping[str, object] = {"channel": "C1"}
TOOL = "slack_post"


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        let_stand(opened, TOOL)
        yield opened


def let_stand(room: Room, *tools: str, ask: frozenset[str] = frozenset()) -> None:
    """What the operator's settings allow."""
    policies = room.vault.policies
    assert isinstance(policies, dict)
    policies["slack"] = replace(policies["slack"], standing_tools=frozenset(tools), ask=ask)


def call_of(text: str = "hello", *, tool: str = TOOL, target: Mapping[str, object] | None = TARGET) -> ToolCall:
    return ToolCall(tool, lambda: {**(target or {}), "text": text}, target=lambda: target)


async def run(room: Room, call: ToolCall, *, account: str | None = None) -> UpstreamToken:
    return await exchange(replace(room.request(account=account), call=call), vault=room.vault, now=room.now)


async def is_asked(room: Room, call: ToolCall, *, account: str | None = None) -> bool:
    try:
        await run(room, call, account=account)
    except ApprovalRequired:
        return True
    return False


async def connect_asking(room: Room, account: str = "alice") -> Connection:
    """A Slack account for whose writes the person wants to be asked."""
    connection = await room.connect(account=account)
    await room.set_ask(connection, "chat:write")
    return connection


def binding_of(room: Room, connection: Connection, target: Mapping[str, object] = TARGET) -> Binding:
    return Binding(room.alice.user.id, room.alice.client.id, connection.id, tool=TOOL, target=target)


async def give(room: Room, connection: Connection, *, per_day: int = 3, seconds: int = 7 * DAY) -> str:
    async with room.database.transaction() as transaction:
        return await standing_approvals.give(
            transaction,
            room.vault.keys,
            binding=binding_of(room, connection),
            provider="slack",
            account=connection.label,
            names={"channel": "#general"},
            per_day=per_day,
            expires_at=room.now + seconds,
            now=room.now,
        )


async def test_calls_go_through_until_the_days_are_used_and_again_on_the_next_day(room: Room) -> None:
    connection = await connect_asking(room)
    assert await is_asked(room, call_of())
    standing_id = await give(room, connection, per_day=2)
    assert (await run(room, call_of("one"))).approval == f"standing approval {standing_id}, call 1 of 2 today"
    assert (await run(room, call_of("two"))).approval == f"standing approval {standing_id}, call 2 of 2 today"
    assert await is_asked(room, call_of("three"))
    room.pass_time(DAY)
    assert not await is_asked(room, call_of("three"))
    uses = await room.events("approval.standing_used")
    assert sorted(str(one.details["used"]) for one in uses) == ["1", "1", "2"]
    assert uses[0].details["standing"] == standing_id
    assert uses[0].connection_id == connection.id


async def test_of_many_calls_at_once_in_two_processes_no_more_than_are_left_go_through(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection, per_day=3)
    await run(room, call_of())
    await run(room, call_of())
    async with second_process(room) as other:
        let_stand(other, TOOL)
        rooms = [room, other] * 6
        asked = await asyncio.gather(*(is_asked(one, call_of(str(n))) for n, one in enumerate(rooms)))
    assert asked.count(False) == 1, "one call was left"
    (held,) = await standing_approvals.list_live(room.database, room.vault.keys, room.alice.user.id, now=room.now)
    assert held.used_today(room.now) == 3
    assert len(await room.events("approval.standing_used")) == 3


async def test_calls_at_the_turn_of_the_day_share_the_new_days_calls(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection, per_day=2)
    await run(room, call_of())
    room.pass_time(DAY)
    asked = await asyncio.gather(*(is_asked(room, call_of(str(number))) for number in range(8)))
    assert asked.count(False) == 2


async def test_a_clock_that_goes_back_gives_no_further_calls(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection, per_day=1)
    room.pass_time(DAY)
    await run(room, call_of())
    room.pass_time(-DAY)
    assert await is_asked(room, call_of())


@pytest.mark.parametrize(
    "other",
    [
        call_of(target={"channel": "C2"}),
        call_of(target={"channel": "C1", "domains": ["example.com"]}),
        call_of(target={}),
        call_of(target=None),
        call_of(tool="slack_reply"),
    ],
)
async def test_it_is_for_this_tool_and_target_only(room: Room, other: ToolCall) -> None:
    connection = await connect_asking(room)
    let_stand(room, TOOL, "slack_reply")
    await give(room, connection)
    assert await is_asked(room, other)
    assert not await is_asked(room, call_of())  # the twin


async def test_it_is_for_one_account(room: Room) -> None:
    first, _ = await connect_asking(room, "alice"), await connect_asking(room, "alice-too")
    await give(room, first)
    assert await is_asked(room, call_of(), account="alice-too")
    assert not await is_asked(room, call_of(), account="alice")


async def test_it_ends_on_its_day(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection, seconds=DAY)
    room.pass_time(DAY - 1)
    assert not await is_asked(room, call_of())
    room.pass_time(1)
    assert await is_asked(room, call_of())


@pytest.mark.parametrize("end", ["cut off", "taken away", "ran out", "disconnected", "forgotten", "nothing"])
async def test_it_ends_with_the_permission_and_does_not_come_back_with_it(room: Room, end: str) -> None:
    connection = await connect_asking(room)
    which = {"user_id": room.alice.user.id, "client_id": room.alice.client.id}
    scopes = frozenset({"chat:write"})
    await give(room, connection)
    async with room.database.transaction() as transaction:
        if end == "cut off":
            await delegations.revoke_for_client(transaction, **which, now=room.now)
        elif end == "taken away":
            await delegations.revoke(transaction, **which, connection_id=connection.id, now=room.now)
        elif end == "ran out":
            await transaction.execute("update delegations set expires_at = :now", {"now": room.now})
        elif end == "disconnected":
            await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)
        elif end == "forgotten":  # by the retention rule, long after its end
            await transaction.execute("delete from delegations")
    mine = room.alice.user.id
    live = await standing_approvals.list_live(room.database, room.vault.keys, mine, now=room.now)
    assert len(live) == (1 if end == "nothing" else 0)
    if end == "disconnected":
        connection = await room.connect()
    async with room.database.transaction() as transaction:
        await delegations.allow(transaction, **which, connection_id=connection.id, scopes=scopes, now=room.now)
        await delegations.set_ask(
            transaction, **which, connection_id=connection.id, ask=frozenset({"chat:write"}), now=room.now
        )
    assert await is_asked(room, call_of()) is (end != "nothing")


async def test_it_is_gone_with_the_person(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection)
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, room.alice.user.id, now=room.now)
    assert await room.database.fetch("select id from standing_approvals") == []
    with pytest.raises(GrantEnded):
        await run(room, call_of())


async def test_a_revoked_one_allows_nothing_and_taking_that_back_keeps_the_count(room: Room) -> None:
    connection = await connect_asking(room)
    standing_id = await give(room, connection, per_day=2)
    await run(room, call_of())
    mine, at = room.alice.user.id, room.now
    async with room.database.transaction() as transaction:
        assert not await standing_approvals.revoke(transaction, standing_id, user_id="somebody-else", now=at)
        assert await standing_approvals.revoke(transaction, standing_id, user_id=mine, now=at)
    assert await is_asked(room, call_of())
    async with room.database.transaction() as transaction:
        for who, then in ((mine, at - 1), ("somebody-else", at)):
            assert not await standing_approvals.give_back(
                transaction, standing_id, user_id=who, revoked_at=then, now=room.now
            )
        assert await standing_approvals.give_back(transaction, standing_id, user_id=mine, revoked_at=at, now=room.now)
    assert not await is_asked(room, call_of())
    assert await is_asked(room, call_of())


async def test_a_second_yes_to_the_same_does_not_give_the_days_calls_again(room: Room) -> None:
    connection = await connect_asking(room)
    first = await give(room, connection, per_day=1)
    await run(room, call_of())
    assert await give(room, connection, per_day=1) != first
    assert await is_asked(room, call_of())
    await give(room, connection, per_day=2)
    assert not await is_asked(room, call_of())


async def test_what_the_operator_requires_or_forbids_is_asked_each_time(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection, per_day=10)
    for tools, ask in (((), ()), ((TOOL,), ("tool:slack_post",)), ((TOOL,), ("chat:write",))):
        let_stand(room, *tools, ask=frozenset(ask))
        assert await is_asked(room, call_of())
    let_stand(room, TOOL, ask=frozenset({"channels:read", "tool:another"}))
    assert not await is_asked(room, call_of())  # the twin


async def test_the_second_exchange_of_a_call_spends_no_second_use_and_none_once_it_is_revoked(room: Room) -> None:
    connection = await connect_asking(room)
    standing_id = await give(room, connection, per_day=1)
    call = call_of()
    token = await run(room, call)
    again = replace(room.request(), call=call)
    renewed = await exchange(again, vault=room.vault, now=room.now, after_unauthorized=token.generation)
    assert renewed.generation > token.generation
    assert len(await room.events("approval.standing_used")) == 1
    async with room.database.transaction() as transaction:
        await standing_approvals.revoke(transaction, standing_id, user_id=room.alice.user.id, now=room.now)
    with pytest.raises(ApprovalRequired):
        await exchange(again, vault=room.vault, now=room.now)


@pytest.mark.parametrize(("per_day", "seconds"), [(0, DAY), (101, DAY), (1, 0), (1, 90 * DAY + 1)])
async def test_it_has_limits(room: Room, per_day: int, seconds: int) -> None:
    connection = await connect_asking(room)
    with pytest.raises(TransitionRefused):
        await give(room, connection, per_day=per_day, seconds=seconds)
    assert await give(room, connection, per_day=100, seconds=90 * DAY)  # the twin


async def test_equal_answers_add_up_and_a_no_starts_again(room: Room) -> None:
    connection = await connect_asking(room)
    binding, other = binding_of(room, connection), binding_of(room, connection, {"channel": "C2"})

    async def answer(*answers: bool) -> int:
        async with room.database.transaction() as transaction:
            for one in answers:
                await standing_approvals.count_answer(transaction, binding, is_approved=one, now=room.now)
            return await standing_approvals.count_approved(transaction, binding, now=room.now)

    assert await answer(True, True, True) == 3
    assert await standing_approvals.count_approved(room.database, other, now=room.now) == 0
    assert await answer(False) == 0
    assert await answer(True) == 1
    room.pass_time(30 * DAY - 1)
    assert await answer() == 1
    room.pass_time(1)
    assert await answer() == 0
    assert await answer(True) == 1


async def test_what_ended_a_day_ago_is_swept(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection, seconds=DAY)
    async with room.database.transaction() as transaction:
        binding = binding_of(room, connection)
        await standing_approvals.count_answer(transaction, binding, is_approved=True, now=room.now)
    for passed, swept in ((2 * DAY - 1, 0), (1, 1), (standing_approvals.ANSWERS_KEPT, 1)):
        room.pass_time(passed)
        async with room.database.transaction() as transaction:
            assert await standing_approvals.sweep(transaction, now=room.now) == swept


async def test_explain_names_the_standing_approvals_that_count(room: Room) -> None:
    connection = await connect_asking(room)
    standing_id = await give(room, connection)
    await run(room, call_of())
    question = ExchangeQuestion(room.alice.user.name, room.alice.client.id, connection.id, frozenset({"chat:write"}))
    found = await explain(question, vault=room.vault, now=room.now)
    assert found.asks
    assert [(one.id, one.left, one.per_day) for one in found.standing] == [(standing_id, 2, 3)]
    let_stand(room)
    assert (await explain(question, vault=room.vault, now=room.now)).standing == ()


async def test_what_was_bound_is_stored_sealed_and_shown_to_its_person(room: Room) -> None:
    connection = await connect_asking(room)
    await give(room, connection)
    (row,) = await room.database.fetch("select payload from standing_approvals")
    assert b"general" not in bytes(row["payload"])  # pyright: ignore[reportArgumentType] -- a bytea column
    (held,) = await standing_approvals.list_live(room.database, room.vault.keys, room.alice.user.id, now=room.now)
    assert (held.target, held.names, held.account) == (TARGET, {"channel": "#general"}, connection.label)
    theirs = principal_of(room.alice).client_id
    assert await standing_approvals.list_live(room.database, room.vault.keys, theirs, now=room.now) == ()


@pytest.mark.parametrize("target", [{"channel": "\ud800"}, {"\ud800": 1, "channel": "C1"}, {"channel": 2**60}])
def test_a_target_without_a_canonical_form_is_refused(target: Mapping[str, object]) -> None:
    with pytest.raises(ScopeRefused, match="approved in advance"):
        Binding("alice", "agent", "account", TOOL, target).digest  # noqa: B018
    assert Binding("alice", "agent", "account", TOOL, TARGET).digest
