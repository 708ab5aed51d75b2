"""A group's connections: whose key seals them, who uses them, within which rule, and until when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import Room, principal_of
from tests.support.seeded_grant import SeededGrant, seed
from vault import connections, groups, shared_connections, users
from vault.exchange.decision import for_member
from vault.groups import Group
from vault.records import Connection
from vault.refresh.accounts import AccountQuery, read_accounts
from vault.refusals import (
    AccountRequired,
    ApprovalRequired,
    ConnectionRequired,
    DelegationRequired,
    TemporarilyUnavailable,
    TransitionRefused,
    VaultError,
)
from vault.shared_connections import SharingRule
from vault.upkeep import retention, revocations

READ, WRITE = frozenset({"channels:read"}), frozenset({"chat:write"})
BOTH = READ | WRITE
DAY = 86400


async def make_group(room: Room, *members: SeededGrant, days: int | None = None) -> Group:
    async with room.database.transaction() as transaction:
        group = await groups.create_group(transaction, "Sales", now=room.now)
        for one in members:
            end = None if days is None else room.now + days * DAY
            await groups.add_member(transaction, group.id, one.user.id, source="local", now=room.now, expires_at=end)
    return group


async def give(room: Room, connection: Connection, group: Group, *, rule: SharingRule | None = None) -> Connection:
    async with room.database.transaction() as transaction:
        return await shared_connections.give(
            transaction,
            room.vault.keys,
            connection,
            group,
            rule=rule or SharingRule(BOTH),
            by="alice",
            policy=room.vault.policies[connection.provider],
            now=room.now,
        )


async def leave(room: Room, group: Group, whose: SeededGrant) -> None:
    async with room.database.transaction() as transaction:
        assert await groups.remove_member(transaction, group.id, whose.user.id, source="local")


@pytest.mark.parametrize("is_groups", [True, False])
async def test_who_can_reconnect_an_account_is_said(room: Room, *, is_groups: bool) -> None:
    connection = await room.connect()
    whose = room.alice
    if is_groups:
        whose = await seed(room.database, name="bob", client_id="agent-2")
        connection = await give(room, connection, await make_group(room, whose))
        await room.allow(connection, BOTH, whose=whose)
    room.slack.families[0].is_alive = False
    room.pass_time(3600)
    for _ in range(2):  # by the refresh, then without one
        with pytest.raises(ConnectionRequired) as refused:
            await room.exchange("slack", *WRITE, whose=whose)
        giver = "Ask the person who gave this account to the group to reconnect it and give it again."
        assert refused.value.description.endswith(giver if is_groups else "Reconnect this account.")
        assert (refused.value.reason, refused.value.connection_id) == ("needs_reauth", connection.id)


@pytest.mark.parametrize("is_groups", [True, False])
async def test_who_can_reconnect_an_account_after_a_lost_answer_is_said(room: Room, *, is_groups: bool) -> None:
    connection = await room.connect()
    whose = room.alice
    if is_groups:
        whose = await seed(room.database, name="bob", client_id="agent-2")
        connection = await give(room, connection, await make_group(room, whose))
        await room.allow(connection, BOTH, whose=whose)
    (held,) = await read_accounts(room.database, AccountQuery(principal_of(whose), "slack", scope_key=""))
    lost = ConnectionRequired("?", provider="slack", reason="ambiguous", scopes=WRITE, connection_id=connection.id)
    told = for_member(lost, held)
    assert (told is lost) is not is_groups
    assert ("who gave this account" in told.description) is is_groups
    missing = ConnectionRequired("?", provider="slack", reason="missing", scopes=WRITE)
    assert for_member(missing, held) is missing


@pytest.mark.parametrize("is_groups", [True, False])
async def test_who_can_allow_more_to_an_account_is_said(room: Room, *, is_groups: bool) -> None:
    connection = await room.connect(scopes=READ)
    whose = room.alice
    if is_groups:
        whose = await seed(room.database, name="bob", client_id="agent-2")
        connection = await give(room, connection, await make_group(room, whose))
        await room.allow(connection, BOTH, whose=whose)
    with pytest.raises(ConnectionRequired, match="hasn't granted") as refused:
        await room.exchange("slack", *WRITE, whose=whose)
    assert refused.value.description.endswith(
        "Ask the person who gave this account to the group to reconnect it, allow that, and give it again."
        if is_groups
        else "Reconnect it and allow that."
    )


async def refusal_of(room: Room, *scopes: str, whose: SeededGrant | None = None) -> type[VaultError]:
    with pytest.raises(VaultError) as refused:
        await room.exchange("slack", *scopes, whose=whose)
    return type(refused.value)


async def test_a_member_uses_it_by_their_own_permission_and_is_named(room: Room) -> None:
    bob, carol = (
        await seed(room.database, name="bob", client_id="agent-2"),
        await seed(room.database, name="carol", client_id="agent-3"),
    )
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    assert given.user_id == group.id
    assert await refusal_of(room, whose=bob) is DelegationRequired
    await room.allow(given, BOTH, whose=bob)
    token = await room.exchange("slack", *BOTH, whose=bob)
    assert token.connection_id == given.id
    used = (await room.events("token.exchanged"))[-1]
    assert (used.user_id, used.connection_id) == (bob.user.id, given.id)
    with pytest.raises(TransitionRefused):
        await room.allow(given, BOTH, whose=carol)
    assert await refusal_of(room, whose=carol) is ConnectionRequired
    assert await refusal_of(room) is ConnectionRequired  # it no longer belongs to the person who gave it


async def test_a_member_who_leaves_loses_it_at_the_next_call_and_has_it_again_as_a_member(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(given, BOTH, whose=bob)
    assert await room.exchange(whose=bob)
    await leave(room, group, bob)
    assert await refusal_of(room, whose=bob) is ConnectionRequired
    async with room.database.transaction() as transaction:
        await groups.add_member(transaction, group.id, bob.user.id, source="scim", now=room.now)
    assert await room.exchange(whose=bob)


async def test_a_membership_by_a_sign_in_gives_it_until_its_end(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob, days=1)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(given, BOTH, whose=bob)
    room.pass_time(DAY - 60)
    assert await room.exchange(whose=bob)
    room.pass_time(60)
    assert await refusal_of(room, whose=bob) is ConnectionRequired


async def test_the_rule_limits_every_member(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group, rule=SharingRule(READ))
    await room.allow(given, BOTH, whose=bob)
    assert (await room.exchange("slack", *READ, whose=bob)).scopes == READ
    assert await refusal_of(room, *WRITE, whose=bob) is DelegationRequired


@pytest.mark.parametrize(("scopes", "is_reading"), [(BOTH, False), (READ, True)])
async def test_an_account_is_for_reading_if_the_rule_allows_less_than_it_has(
    room: Room, scopes: frozenset[str], *, is_reading: bool
) -> None:
    group = await make_group(room, room.alice)
    await give(room, await room.connect(scopes=BOTH), group, rule=SharingRule(scopes))
    (shared,) = await shared_connections.of_group(room.database, group)
    assert (shared.is_reading, shared.for_members.scopes) == (is_reading, scopes)


async def test_what_the_rule_asks_about_is_asked_of_the_member(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group, rule=SharingRule(BOTH, ask=WRITE))
    await room.allow(given, BOTH, whose=bob)
    assert await room.exchange("slack", *READ, whose=bob)
    assert await refusal_of(room, *WRITE, whose=bob) is ApprovalRequired


async def test_a_changed_rule_counts_from_the_next_call_on(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(given, BOTH, whose=bob)

    async def change(rule: SharingRule, *, in_group: Group = group) -> bool:
        [shared] = await shared_connections.of_group(room.database, group)
        async with room.database.transaction() as transaction:
            return await shared_connections.change_rule(transaction, replace(shared, group=in_group), rule)

    assert await room.exchange("slack", *WRITE, whose=bob)
    assert await change(SharingRule(READ))
    assert await refusal_of(room, *WRITE, whose=bob) is DelegationRequired
    assert (await room.exchange("slack", *READ, whose=bob)).scopes == READ
    assert await change(SharingRule(BOTH, ask=WRITE))
    assert await refusal_of(room, *WRITE, whose=bob) is ApprovalRequired
    assert await change(SharingRule(BOTH))
    assert await room.exchange("slack", *WRITE, whose=bob)
    async with room.database.transaction() as transaction:
        other = await groups.create_group(transaction, "Other", now=room.now)
    assert not await change(SharingRule(READ), in_group=other), "the account is another group's"
    assert await room.exchange("slack", *WRITE, whose=bob)


async def test_it_is_refreshed_and_outlives_the_person_who_gave_it(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(given, BOTH, whose=bob)
    async with room.database.transaction() as transaction:
        for one in await connections.list_connections(transaction, room.alice.user.id):
            await connections.disconnect(transaction, room.vault.keys, one, now=room.now)
        await users.delete_user(transaction, room.alice.user.id, now=room.now)
    await revocations.finish_deletions(room.vault)
    rows = await room.database.fetch("select user_id from keys.user_keys")
    assert {row["user_id"] for row in rows} == {group.id}
    before = await room.exchange(whose=bob)
    room.pass_time(13 * 3600)
    after = await room.exchange(whose=bob)
    assert after.generation > before.generation


@pytest.mark.parametrize("has_ends", [True, False])
async def test_giving_it_postpones_none_of_its_ends(room: Room, *, has_ends: bool) -> None:
    """Neither the token's nor the grant's, whose people are notified in time because it lived long."""
    lifetime, idle = (90 * DAY, 91 * DAY) if has_ends else (None, None)
    policy = replace(room.vault.policies["slack"], grant_lifetime=lifetime, grant_idle=idle)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
    connection = await room.connect(consented_ms=room.now * 1000 if has_ends else None)
    room.pass_time(89 * DAY)
    given = await give(room, connection, await make_group(room, room.alice))
    for one in (given, await connections.get_connection(room.database, given.id, user_id=given.user_id)):
        assert one is not None
        assert one.access_expires_at == connection.access_expires_at
        assert (one.grant_expires_at, one.idle_expires_at) == (connection.grant_expires_at, connection.idle_expires_at)
        assert one.consented_at == connection.created_at
        assert one.status(room.now) == ("expiring" if has_ends else "active")


async def test_of_the_persons_own_nothing_is_left(room: Room) -> None:
    own = await room.connect(scopes=BOTH)
    given = await give(room, own, await make_group(room))
    row = await room.database.fetch_one(
        "select refresh_sealed, access_sealed, ended_at from connections where id = :id", {"id": own.id}
    )
    assert row is not None
    assert (row["refresh_sealed"], row["access_sealed"]) == (None, None)
    assert row["ended_at"] is not None
    assert given.id != own.id
    with pytest.raises(TransitionRefused):
        await give(room, own, await groups_again(room))


async def test_what_is_given_still_opens_where_the_tokens_fell_back_and_the_keys_did_not(room: Room) -> None:
    own = await room.connect(scopes=BOTH)
    columns = "refresh_sealed, access_sealed, generation, access_generation"
    row = await room.database.fetch_one(f"select {columns} from connections where id = :id", {"id": own.id})
    assert row is not None
    await give(room, own, await make_group(room))
    key = await room.vault.keys.load_key(room.database, user_id=own.user_id, connection_id=own.id)
    assert connections.open_refresh_token(key, row, own)


async def test_nothing_is_given_to_a_group_that_was_deleted_meanwhile(room: Room) -> None:
    own, group = await room.connect(scopes=BOTH), await make_group(room)
    async with room.database.transaction() as transaction:
        await shared_connections.end_of_group(transaction, room.vault.keys, group, by="alice", now=room.now)
        await groups.delete_group(transaction, group.id)
    with pytest.raises(TransitionRefused, match="no longer exists"):
        await give(room, own, group)
    assert await room.exchange()
    for change in (
        lambda at: groups.change_group(at, group, name="X", external_id=None, is_provisioned=False, now=room.now),
        lambda at: shared_connections.end_of_group(at, room.vault.keys, group, by="alice", now=room.now),
    ):
        with pytest.raises(TransitionRefused, match="no longer exists"):
            async with room.database.transaction() as transaction:
                await change(transaction)
    assert (await give(room, own, await make_group(room))).user_id != group.id


@pytest.mark.parametrize(
    ("column", "value", "before", "said"),
    [("state", "needs_reauth", "active", "must be reconnected"), ("renewed_by", "other", None, "sign-in renews")],
)
async def test_an_account_that_has_no_grant_of_its_own_that_works_is_not_given(
    room: Room, column: str, value: str, before: str | None, said: str
) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(given, BOTH, whose=bob)
    own = await room.connect(scopes=BOTH)

    async def change(to: str | None) -> None:
        async with room.database.transaction() as transaction:
            await transaction.execute(
                f"update connections set {column} = :value where id = :id", {"value": to, "id": own.id}
            )

    await change(value)
    with pytest.raises(TransitionRefused, match=said):
        await give(room, own, group)
    assert await room.exchange("slack", *BOTH, whose=bob)  # the group's own account still works
    await change(before)
    assert (await give(room, own, group)).id == given.id


async def groups_again(room: Room) -> Group:
    found = await groups.find_group(room.database, "Sales")
    assert found is not None
    return found


async def test_while_it_is_being_refreshed_it_is_not_given(room: Room) -> None:
    own, group = await room.connect(scopes=BOTH), await make_group(room)
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set lease_owner = :owner, lease_until = :until where id = :id",
            {"owner": "x", "id": own.id, "until": room.now + 30},
        )
    with pytest.raises(TemporarilyUnavailable) as refused:
        await give(room, own, group)
    assert refused.value.retry_after == 2
    room.pass_time(30)
    assert (await give(room, own, group)).user_id == group.id


@pytest.mark.parametrize("fault", ["no token", "damaged", None])
async def test_tokens_that_cant_be_opened_are_not_given(room: Room, fault: str | None) -> None:
    own, group = await room.connect(scopes=BOTH), await make_group(room)
    async with room.database.transaction() as transaction:
        if fault is not None:
            await transaction.execute(
                "update connections set access_sealed = :sealed where id = :id",
                {"sealed": b"junk" if fault == "damaged" else None, "id": own.id},
            )
    if fault is None:
        assert (await give(room, own, group)).user_id == group.id
        return
    why = "has no tokens yet" if fault == "no token" else "can't be opened"
    with pytest.raises(TransitionRefused, match=why):
        await give(room, own, group)
    (kept,) = await connections.list_connections(room.database, room.alice.user.id)
    assert kept.id == own.id


async def test_giving_it_again_replaces_its_tokens_and_its_rule_and_keeps_permissions(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    first = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(first, BOTH, whose=bob)
    again = await give(room, await room.connect(scopes=BOTH), group, rule=SharingRule(READ))
    assert again.id == first.id
    assert (await room.exchange("slack", *READ, whose=bob)).connection_id == first.id
    assert await refusal_of(room, *WRITE, whose=bob) is DelegationRequired


async def test_beside_an_own_account_a_call_names_which_one_it_means(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    own = await room.connect(account="bob", scopes=BOTH, whose=bob)
    assert (await room.exchange(whose=bob)).connection_id == own.id
    await room.allow(given, BOTH, whose=bob)
    assert await refusal_of(room, whose=bob) is AccountRequired
    assert (await room.exchange(account="alice", whose=bob)).connection_id == given.id


async def test_a_deleted_groups_accounts_end_and_then_its_key(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.allow(given, BOTH, whose=bob)
    async with room.database.transaction() as transaction:
        ended = await shared_connections.end_of_group(transaction, room.vault.keys, group, by="alice", now=room.now)
        await groups.delete_group(transaction, group.id)
    assert ended == (given.id,)
    assert await refusal_of(room, whose=bob) is ConnectionRequired
    await revocations.revoke_upstream(room.vault, given.id)
    await revocations.finish_deletions(room.vault)
    rows = await room.database.fetch("select user_id from keys.user_keys")
    assert group.id not in {row["user_id"] for row in rows}


async def test_the_key_of_a_group_that_owned_something_once_goes_with_it(room: Room) -> None:
    group = await make_group(room)
    given = await give(room, await room.connect(scopes=BOTH), group)
    await room.disconnect(given)
    await revocations.revoke_upstream(room.vault, given.id)
    await revocations.finish_deletions(room.vault)
    assert group.id in {row["user_id"] for row in await room.database.fetch("select user_id from keys.user_keys")}
    async with room.database.transaction() as transaction:
        assert (
            await shared_connections.end_of_group(transaction, room.vault.keys, group, by="alice", now=room.now) == ()
        )
        await groups.delete_group(transaction, group.id)
    await revocations.finish_deletions(room.vault)
    assert group.id not in {row["user_id"] for row in await room.database.fetch("select user_id from keys.user_keys")}
    assert await room.database.fetch("select connection_id from shared_connections")
    await retention.forget_ended(room.database, before=room.now)
    assert not await room.database.fetch("select connection_id from shared_connections")


async def older_grant_of(room: Room, group: Group) -> Connection:
    """The group's account; its giver had an older grant for it, whose revocation is on hold."""
    await room.connect(scopes=BOTH)
    given = await give(room, await room.connect(scopes=BOTH), group)
    assert [one.outcome for one in await revocations.list_revocations(room.database, room.alice.user.id)] == ["held"]
    return given


async def test_what_the_giver_had_before_ends_at_the_provider_with_the_groups_account(room: Room) -> None:
    given = await older_grant_of(room, await make_group(room))
    again = await room.connect(scopes=BOTH)
    await room.disconnect(again)
    await revocations.run_due(room.vault)
    await revocations.run_due(room.vault)
    assert room.slack.revocations == []
    await room.disconnect(given)
    await revocations.run_due(room.vault)
    assert len(room.slack.revocations) == 3
    left = await revocations.list_revocations(room.database, room.alice.user.id)
    assert {one.outcome for one in left} == {"revoked"}


async def test_a_givers_deletion_leaves_the_groups_grant_and_no_key(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    await room.allow(await older_grant_of(room, group), BOTH, whose=bob)
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, room.alice.user.id, now=room.now)
    for _ in range(2):
        await revocations.run_due(room.vault)
    assert room.slack.revocations == []
    assert {one["user_id"] for one in await room.database.fetch("select user_id from keys.user_keys")} == {group.id}
    assert await room.exchange(whose=bob)
