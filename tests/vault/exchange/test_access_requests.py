"""Access requests for a group's account: what they allow one agent beyond the group's rule, and what ends that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room
from tests.support.seeded_grant import SeededGrant, seed
from tests.vault.exchange.test_shared_connections import BOTH, DAY, READ, WRITE, give, leave, make_group, refusal_of
from vault import clients, delegations, groups, users
from vault.approvals import access_requests
from vault.approvals.access_requests import MEMBERSHIP, AccessRequest, AccessState, Kind, RequestedAccess
from vault.groups import Group
from vault.records import Connection
from vault.refusals import ConnectionRequired, DelegationRequired, GrantEnded, TemporarilyUnavailable, TransitionRefused
from vault.shared_connections import SharingRule
from vault.storage.database import SWEEP_BATCH
from vault.upkeep import access_ends


@dataclass
class SharedAccount:
    """Bob's agent reads the group's account; `carol` answers requests."""

    room: Room
    group: Group
    account: Connection
    bob: SeededGrant
    carol: SeededGrant

    def access(
        self, *, client_id: str | None = None, scopes: frozenset[str] = WRITE, target: str = ""
    ) -> RequestedAccess:
        return RequestedAccess(
            self.bob.user.id,
            client_id or self.bob.client.id,
            Kind.ACCOUNT,
            target or self.account.id,
            self.group.id,
            scopes,
            reason="a reason",
            lifetime=3 * DAY,
        )

    async def ask(self, access: RequestedAccess | None = None) -> AccessRequest:
        async with self.room.database.transaction() as transaction:
            return (await access_requests.ask(transaction, access or self.access(), now=self.room.now))[0]

    async def allow(self, request: AccessRequest, *, days: int = 2, makes: bool = False) -> AccessRequest:
        """With `makes`, the yes also allows the agent to use the account."""
        now = self.room.now
        if makes:
            await self.room.allow(self.account, request.access.scopes, whose=self.bob, expires_at=now + days * DAY)
        async with self.room.database.transaction() as transaction:
            await access_requests.allow(
                transaction,
                request,
                by=self.carol.user.id,
                scopes=request.access.scopes,
                expires_at=now + days * DAY,
                made_permission=makes,
                now=now,
            )
        return await self.read_request(request)

    async def has_account(self) -> bool:
        held = await delegations.get(self.room.database, **self.which)
        return held is not None and held.is_live(self.room.now)

    @property
    def which(self) -> dict[str, str]:
        return {"user_id": self.bob.user.id, "client_id": self.bob.client.id, "connection_id": self.account.id}

    async def read_request(self, request: AccessRequest) -> AccessRequest:
        found = await access_requests.get(self.room.database, request.id)
        assert found is not None
        return found

    async def can_write(self) -> bool:
        try:
            return (await self.room.exchange("slack", *WRITE, whose=self.bob)).scopes == WRITE
        except (DelegationRequired, ConnectionRequired, GrantEnded):
            return False


@pytest.fixture
async def shared_account(store: Store) -> AsyncGenerator[SharedAccount]:
    async with open_room(store) as room:
        bob = await seed(room.database, name="bob", client_id="agent-2")
        carol = await seed(room.database, name="carol", client_id="agent-3")
        group = await make_group(room, bob)
        account = await give(room, await room.connect(scopes=BOTH), group, rule=SharingRule(READ))
        await room.allow(account, READ, whose=bob)
        yield SharedAccount(room, group, account, bob, carol)


async def test_a_yes_reaches_beyond_the_rule_for_this_agent_until_its_end(shared_account: SharedAccount) -> None:
    room = shared_account.room
    assert not await shared_account.can_write()
    request = await shared_account.ask()
    assert not await shared_account.can_write()
    allowed = await shared_account.allow(request)
    for one, status in ((request, "pending"), (allowed, "allowed")):
        assert [one.status(one.expires_at - left) for left in (1, 0)] == [status, "ended"]
    assert (await room.exchange("slack", *BOTH, whose=shared_account.bob)).scopes == BOTH
    dave = await seed(room.database, name="dave", client_id="agent-4")
    async with room.database.transaction() as transaction:
        await groups.add_member(transaction, shared_account.group.id, dave.user.id, source="local", now=room.now)
    await room.allow(shared_account.account, BOTH, whose=dave)
    assert await refusal_of(room, *WRITE, whose=dave) is DelegationRequired, "the rule is as it was for others"
    room.pass_time(2 * DAY - 60)
    assert await shared_account.can_write()
    room.pass_time(60)
    assert not await shared_account.can_write()
    assert (await room.exchange("slack", *READ, whose=shared_account.bob)).scopes == READ
    assert await access_ends.end_over(room.database) == 1
    ended = await shared_account.read_request(request)
    assert (ended.status(room.now), ended.ended_reason) == ("ended", "time")
    assert (await room.events("permission.ended"))[-1].details["request"] == request.id


async def test_what_an_agent_filed_gives_nothing_before_its_person_confirmed_it(shared_account: SharedAccount) -> None:
    request = await shared_account.allow(await shared_account.ask(replace(shared_account.access(), filed_by="agent")))
    assert request.is_allowed(shared_account.room.now)
    assert not await shared_account.can_write()
    async with shared_account.room.database.transaction() as transaction:
        await access_requests.confirm(transaction, request, now=shared_account.room.now)
    assert await shared_account.can_write()
    with pytest.raises(TransitionRefused):
        async with shared_account.room.database.transaction() as transaction:
            await access_requests.confirm(transaction, request, now=shared_account.room.now)


async def test_the_refusal_says_that_the_groups_rule_leaves_it_out(shared_account: SharedAccount) -> None:
    with pytest.raises(DelegationRequired, match="the group's rule leaves out chat:write"):
        await shared_account.room.exchange("slack", *WRITE, whose=shared_account.bob)


async def _leave(shared: SharedAccount) -> None:
    await leave(shared.room, shared.group, shared.bob)


async def _disable_asker(shared: SharedAccount) -> None:
    async with shared.room.database.transaction() as transaction:
        await users.disable_user(transaction, shared.bob.user.id, now=shared.room.now)


async def _disable_approver(shared: SharedAccount) -> None:
    async with shared.room.database.transaction() as transaction:
        await users.disable_user(transaction, shared.carol.user.id, now=shared.room.now)


async def _delete_approver(shared: SharedAccount) -> None:
    async with shared.room.database.transaction() as transaction:
        await users.delete_user(transaction, shared.carol.user.id, now=shared.room.now)


async def _remove_agent(shared: SharedAccount) -> None:
    async with shared.room.database.transaction() as transaction:
        await clients.remove_client(transaction, shared.bob.client.id, now=shared.room.now)


async def _revoke(shared: SharedAccount) -> None:
    await shared.room.revoke(shared.account, whose=shared.bob)


async def _disconnect(shared: SharedAccount) -> None:
    await shared.room.disconnect(shared.account)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_leave, "left_group"),
        (_disable_asker, "disabled"),
        (_disable_approver, "approver_disabled"),
        (_delete_approver, "approver_deleted"),
        (_remove_agent, "agent_removed"),
        (_revoke, "permission_ended"),
        (_disconnect, "account_ended"),
    ],
)
async def test_it_ends_at_the_next_call_with_what_it_stands_on(
    shared_account: SharedAccount, change: Callable[[SharedAccount], Awaitable[None]], reason: str
) -> None:
    request = await shared_account.allow(await shared_account.ask())
    assert await shared_account.can_write()
    assert await access_ends.end_over(shared_account.room.database) == 0
    await change(shared_account)
    assert not await shared_account.can_write()
    assert await access_ends.end_over(shared_account.room.database) == 1
    ended = await shared_account.read_request(request)
    assert (ended.state, ended.ended_reason) == (AccessState.ENDED, reason)
    assert (await shared_account.room.events("permission.ended"))[-1].details["reason"] == reason
    assert await access_ends.end_over(shared_account.room.database) == 0


async def test_it_does_not_come_back_with_the_agents_permission(shared_account: SharedAccount) -> None:
    await shared_account.allow(await shared_account.ask())
    await shared_account.room.allow(shared_account.account, READ, whose=shared_account.bob)
    assert await shared_account.can_write(), "the person changed the permission, and it never ended"
    await _revoke(shared_account)
    await shared_account.room.allow(shared_account.account, READ, whose=shared_account.bob)
    assert not await shared_account.can_write()


async def _leave_it(shared: SharedAccount) -> None:
    del shared


async def _allow_own(shared: SharedAccount) -> None:
    await shared.room.allow(shared.account, READ, whose=shared.bob, expires_at=shared.room.now + 30 * DAY)


async def _extend_own(shared: SharedAccount) -> None:
    async with shared.room.database.transaction() as transaction:
        await delegations.extend(transaction, **shared.which, scopes=READ, now=shared.room.now)


@pytest.mark.parametrize(("change", "stays"), [(_leave_it, False), (_allow_own, True), (_extend_own, True)])
async def test_the_end_takes_the_account_back_unless_its_person_allowed_it(
    shared_account: SharedAccount, change: Callable[[SharedAccount], Awaitable[None]], *, stays: bool
) -> None:
    await _revoke(shared_account)
    request = await shared_account.allow(await shared_account.ask(shared_account.access(scopes=BOTH)), makes=True)
    assert await shared_account.has_account()
    await change(shared_account)
    async with shared_account.room.database.transaction() as transaction:
        await access_ends.end(
            transaction, await shared_account.read_request(request), reason="by_approver", now=shared_account.room.now
        )
    assert not await shared_account.can_write()
    assert await shared_account.has_account() == stays


async def test_a_late_end_leaves_what_was_allowed_since(shared_account: SharedAccount) -> None:
    await _revoke(shared_account)
    first = await shared_account.allow(await shared_account.ask(), makes=True)
    await _revoke(shared_account)
    second = await shared_account.allow(await shared_account.ask(), days=3, makes=True)
    assert await access_ends.end_over(shared_account.room.database) == 1
    assert (await shared_account.read_request(first)).ended_reason == "permission_ended"
    assert (await shared_account.read_request(second)).is_allowed(shared_account.room.now)
    assert await shared_account.has_account()


@pytest.mark.parametrize("stop", [_disable_approver, _delete_approver])
async def test_what_a_stopped_yes_gave_ends_at_once(
    shared_account: SharedAccount, stop: Callable[[SharedAccount], Awaitable[None]]
) -> None:
    room, group_id = shared_account.room, shared_account.group.id
    await _revoke(shared_account)
    await shared_account.allow(await shared_account.ask(), makes=True)
    dave = await seed(room.database, name="dave", client_id="agent-4")
    joining = RequestedAccess(dave.user.id, "", Kind.GROUP, group_id, group_id, frozenset(), "a reason", 3 * DAY)
    await shared_account.allow(await shared_account.ask(joining))
    async with room.database.transaction() as transaction:
        await groups.add_member(transaction, group_id, dave.user.id, source=MEMBERSHIP, now=room.now)
        await users.disable_user(transaction, room.alice.user.id, now=room.now)
    assert await groups.is_member(room.database, group_id, dave.user.id, now=room.now), "another was disabled"
    assert await shared_account.has_account()
    await stop(shared_account)
    assert not await groups.is_member(room.database, group_id, dave.user.id, now=room.now)
    assert not await shared_account.has_account()
    assert await access_ends.end_over(room.database) == 2


async def test_one_round_ends_everything_that_is_over(shared_account: SharedAccount) -> None:
    access, room = shared_account.access(), shared_account.room
    async with room.database.transaction() as transaction:
        for number in range(SWEEP_BATCH + 1):
            await access_requests.ask(transaction, replace(access, user_id=f"person-{number}"), now=room.now)
    room.pass_time(access_requests.ANSWER_LIFETIME)
    assert await access_ends.end_over(room.database) == SWEEP_BATCH + 1


async def test_what_came_back_before_its_end_lasts(shared_account: SharedAccount) -> None:
    database, group_id = shared_account.room.database, shared_account.group.id
    request = await shared_account.allow(await shared_account.ask())
    await _leave(shared_account)
    async with asyncio.timeout(60):
        async with database.transaction() as transaction:
            await access_requests.hold(transaction, request.id)
            await groups.add_member(
                transaction, group_id, shared_account.bob.user.id, source="local", now=shared_account.room.now
            )
            ending = asyncio.create_task(access_ends.end_over(database))
            await asyncio.sleep(1)  # normally, it finds the request before the person is back
        assert await ending == 0
    assert (await shared_account.read_request(request)).is_allowed(shared_account.room.now)


async def _cut_off(shared: SharedAccount) -> None:
    async with shared.room.database.transaction() as transaction:
        await delegations.revoke_for_client(
            transaction, user_id=shared.bob.user.id, client_id=shared.bob.client.id, now=shared.room.now
        )


@pytest.mark.parametrize("take", [_revoke, _cut_off])
async def test_what_the_person_took_away_no_later_yes_gives(
    shared_account: SharedAccount, take: Callable[[SharedAccount], Awaitable[None]]
) -> None:
    request, before = await shared_account.ask(), shared_account.room.now
    await take(shared_account)
    with pytest.raises(TransitionRefused):
        await shared_account.allow(request)
    assert (await shared_account.read_request(request)).status(before) == "ended"
    assert await access_ends.end_over(shared_account.room.database) == 1
    assert (await shared_account.room.events("permission.over"))[-1].details["reason"] == "permission_ended"
    assert await shared_account.allow(await shared_account.ask()), "what they asked for since"


async def test_a_request_to_have_it_longer_outlives_the_one_before(shared_account: SharedAccount) -> None:
    await _revoke(shared_account)
    await shared_account.allow(await shared_account.ask(), days=1, makes=True)
    longer = await shared_account.ask()
    shared_account.room.pass_time(DAY + 60)
    assert await access_ends.end_over(shared_account.room.database) == 1
    assert not await shared_account.has_account()
    assert (await shared_account.allow(longer)).is_allowed(shared_account.room.now)


async def test_of_a_deleted_person_nothing_is_left(shared_account: SharedAccount) -> None:
    request = await shared_account.allow(await shared_account.ask())
    async with shared_account.room.database.transaction() as transaction:
        await users.delete_user(transaction, shared_account.bob.user.id, now=shared_account.room.now)
    assert not await shared_account.can_write()
    assert await access_requests.get(shared_account.room.database, request.id) is None


async def test_the_same_is_asked_for_once_at_a_time_and_not_without_end(shared_account: SharedAccount) -> None:
    request = await shared_account.ask()
    assert (await shared_account.ask()).id == request.id
    others = [shared_account.access(target=f"other-{number}") for number in range(9)]
    for one in others:
        await shared_account.ask(one)
    with pytest.raises(TemporarilyUnavailable) as refused:
        await shared_account.ask(shared_account.access(target="one more"))
    assert refused.value.retry_after == 3600
    async with shared_account.room.database.transaction() as transaction:
        await access_requests.deny(transaction, request, by=shared_account.carol.user.id, now=shared_account.room.now)
    assert await shared_account.ask(shared_account.access(target="one more"))
    assert (
        await access_requests.count_open(
            shared_account.room.database, shared_account.bob.user.id, now=shared_account.room.now
        )
        == 10
    )


async def test_what_nobody_answers_is_over_and_can_be_asked_again(shared_account: SharedAccount) -> None:
    request = await shared_account.ask()
    shared_account.room.pass_time(access_requests.ANSWER_LIFETIME)
    with pytest.raises(TransitionRefused):
        await shared_account.allow(request)
    again = await shared_account.ask()
    assert again.id != request.id
    assert await access_ends.end_over(shared_account.room.database) == 1
    assert (await shared_account.room.events("permission.over"))[-1].details["reason"] == "unanswered"
    assert await shared_account.allow(again)


async def test_a_request_is_answered_once(shared_account: SharedAccount) -> None:
    request = await shared_account.ask()
    async with shared_account.room.database.transaction() as transaction:
        await access_requests.deny(transaction, request, by=shared_account.carol.user.id, now=shared_account.room.now)
    with pytest.raises(TransitionRefused):
        await shared_account.allow(request)
    assert await shared_account.allow(await shared_account.ask())


async def test_a_new_yes_replaces_the_one_before(shared_account: SharedAccount) -> None:
    first = await shared_account.allow(await shared_account.ask(), days=1)
    second = await shared_account.allow(await shared_account.ask(), days=3)
    assert (await shared_account.read_request(first)).ended_reason == "replaced"
    shared_account.room.pass_time(2 * DAY)
    assert await shared_account.can_write()
    assert await access_ends.end_over(shared_account.room.database) == 0
    assert (await shared_account.read_request(second)).is_allowed(shared_account.room.now)


async def test_it_is_narrowed_and_never_widened(shared_account: SharedAccount) -> None:
    room = shared_account.room
    request = await shared_account.allow(await shared_account.ask(shared_account.access(scopes=BOTH)))
    assert await shared_account.can_write()
    for scopes, expires_at in (
        (BOTH | {"admin"}, request.expires_at),
        (BOTH, request.expires_at + 1),
    ):
        with pytest.raises(TransitionRefused):
            async with room.database.transaction() as transaction:
                await access_requests.narrow(transaction, request, scopes=scopes, expires_at=expires_at, now=room.now)
    async with room.database.transaction() as transaction:
        await access_requests.narrow(
            transaction, request, scopes=READ, expires_at=request.expires_at - DAY, now=room.now
        )
    assert not await shared_account.can_write()
    assert (await shared_account.read_request(request)).expires_at == request.expires_at - DAY


async def test_old_requests_are_forgotten(shared_account: SharedAccount) -> None:
    request = await shared_account.ask()
    async with shared_account.room.database.transaction() as transaction:
        await access_requests.end(transaction, request, reason="by_person", now=shared_account.room.now)
    for passed, left in ((90 * DAY - 1, True), (1, False)):
        shared_account.room.pass_time(passed)
        async with shared_account.room.database.transaction() as transaction:
            await access_requests.sweep(transaction, now=shared_account.room.now)
        assert (await access_requests.get(shared_account.room.database, request.id) is not None) == left


async def test_200_requests_are_listed(shared_account: SharedAccount) -> None:
    room, access = shared_account.room, shared_account.access()
    await shared_account.ask(access)
    row = await room.database.fetch_one("select * from access_requests")
    assert row is not None
    names = ", ".join(row)
    async with room.database.transaction() as transaction:
        await transaction.execute_many(
            f"insert into access_requests ({names}) values ({', '.join(f':{name}' for name in row)})",
            [{**row, "id": f"request-{number}", "target": f"target-{number}"} for number in range(200)],
        )
    for listed in (
        await access_requests.list_of_person(room.database, access.user_id),
        await access_requests.list_newest(room.database, now=room.now),
        await access_requests.list_pending(room.database, now=room.now),
    ):
        assert len(listed) == 200


async def test_managers_change_only_once(shared_account: SharedAccount) -> None:
    room, carol = shared_account.room, shared_account.carol.user.id

    async def put(*, is_manager: bool) -> bool:
        async with room.database.transaction() as transaction:
            return await access_requests.set_manager(
                transaction, shared_account.group.id, carol, is_manager=is_manager, now=room.now
            )

    assert [await put(is_manager=one) for one in (False, True, True)] == [False, True, False]
    assert await access_requests.managers(room.database, shared_account.group.id) == {carol}
    assert await access_requests.managed_by(room.database, carol) == {shared_account.group.id}
    assert [await put(is_manager=False) for _ in range(2)] == [True, False]
    assert await access_requests.managers(room.database, shared_account.group.id) == set()


async def test_a_waiting_request_is_found_by_what_it_asks_for_until_it_is_over(shared_account: SharedAccount) -> None:
    room, access = shared_account.room, shared_account.access()

    async def find_waiting_id(*, target: str = access.target, later: int = 0) -> str | None:
        request = await access_requests.find_waiting(
            room.database,
            user_id=access.user_id,
            client_id=access.client_id,
            kind=access.kind,
            target=target,
            now=room.now + later,
        )
        return None if request is None else request.id

    assert await find_waiting_id() is None
    request = await shared_account.ask(access)
    assert (await find_waiting_id(), await find_waiting_id(target="another")) == (request.id, None)
    assert await find_waiting_id(later=7 * DAY - 1) == request.id
    assert await find_waiting_id(later=7 * DAY) is None
    await shared_account.allow(request)
    assert await find_waiting_id() is None, "allowed, and its person asked for it themselves"
