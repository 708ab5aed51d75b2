"""Connections: opened, connected again, listed, disconnected, and ended at the provider."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.doubles.upstream_double import Fault
from tests.support.inspection import until_waiting
from tests.support.rooms.vault_room import SLACK_SCOPES, WAIT, Room
from tests.support.seeded_grant import seed
from vault import connections, endings
from vault.audit.audit import list_events
from vault.connections import find, get_connection, list_connections
from vault.records import ADVISED, DAY, EXPIRING, SHORT, Connection, ConnectionState
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    TemporarilyUnavailable,
    TransitionRefused,
)
from vault.storage.database import Conflict
from vault.upkeep import revocations
from vault.upstream import Account, RevokeOutcome, Silent, TokenAnswer


async def open_with(
    room: Room, answer: TokenAnswer, *, asked: frozenset[str] = SLACK_SCOPES, consented_ms: int | None = None
) -> Connection:
    async with room.database.transaction() as transaction:
        return await connections.open_connection(
            transaction,
            room.vault.keys,
            user_id=room.alice.user.id,
            provider="slack",
            answer=answer,
            asked=asked,
            policy=room.vault.policies["slack"],
            now=room.now,
            consented_ms=consented_ms,
        )


# Opening


async def test_an_opened_connection_holds_what_the_provider_granted(room: Room) -> None:
    answer = replace(room.slack.consent("alice", SLACK_SCOPES), metadata={"team": "Sandbox"})
    opened = await open_with(room, answer, asked=SLACK_SCOPES | {"admin"})
    assert opened.scopes == SLACK_SCOPES
    assert (opened.state, opened.generation, opened.has_refresh_token) == (ConnectionState.ACTIVE, 1, True)
    assert opened.metadata == {"team": "Sandbox"}
    assert (opened.account, opened.label) == ("alice", "alice@example.com")


async def test_an_answer_that_names_no_scopes_means_what_was_asked(room: Room) -> None:
    answer = replace(room.slack.consent("alice", SLACK_SCOPES), scopes=None)
    assert (await open_with(room, answer, asked=frozenset({"chat:write"}))).scopes == {"chat:write"}


@pytest.mark.parametrize("account", [None, Account("", "alice@example.com")])
async def test_an_answer_that_names_no_account_connects_nothing(room: Room, account: Account | None) -> None:
    answer = room.slack.consent("alice", SLACK_SCOPES)
    with pytest.raises(TransitionRefused):
        await open_with(room, replace(answer, account=account))
    assert await list_connections(room.database, room.alice.user.id) == ()
    assert await open_with(room, answer)


async def test_a_grant_that_dies_by_itself_is_shown_as_expiring(room: Room) -> None:
    policy = replace(room.vault.policies["slack"], grant_lifetime=10 * 86400)
    room.vault = replace(room.vault, policies={"slack": policy})
    opened = await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert opened.status(room.now) == "active"
    assert opened.status(room.now + 4 * 86400) == "expiring"


@pytest.mark.parametrize(("refreshable", "status"), [(True, "expiring"), (False, "active")])
async def test_a_grant_that_dies_unless_it_is_refreshed_is_shown_as_expiring_in_time(
    room: Room, *, refreshable: bool, status: str
) -> None:
    policy = replace(room.vault.policies["slack"], grant_idle=10 * DAY)
    room.vault = replace(room.vault, policies={"slack": policy})
    opened = await open_with(room, room.slack.consent("alice", SLACK_SCOPES, refreshable=refreshable))
    assert opened.status(room.now) == "active"
    assert opened.status(room.now + 4 * DAY) == status


async def test_an_access_token_without_an_end_is_used_as_long_as_the_provider_file_says(room: Room) -> None:
    policy = replace(room.vault.policies["slack"], access_lifetime=7200)
    room.vault = replace(room.vault, policies={"slack": policy})
    answer = replace(room.slack.consent("alice", SLACK_SCOPES), expires_in=None)
    await room.allow(await open_with(room, answer), SLACK_SCOPES)
    room.pass_time(3600)
    assert (await room.exchange()).value == answer.access_token
    assert room.slack.sends == []
    room.pass_time(3600)
    assert (await room.exchange()).value != answer.access_token
    assert len(room.slack.sends) == 1


@pytest.mark.parametrize(
    ("grant_end", "idle_end", "end", "is_postponed"),
    [
        (None, None, None, False),
        (100, None, 100, False),
        (None, 100, 100, True),
        (100, 200, 100, False),
        (200, 100, 100, True),
        (100, 100, 100, True),
    ],
)
async def test_a_grant_ends_at_the_earlier_of_its_ends_which_a_use_may_postpone(
    room: Room, grant_end: int | None, idle_end: int | None, end: int | None, *, is_postponed: bool
) -> None:
    connection = replace(await room.connect(), grant_expires_at=grant_end, idle_expires_at=idle_end)
    assert (connection.ends_at, connection.ends_unless_used) == (end, is_postponed)


NOW, NEVER = 1_800_000_000, None


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "active"),
        ({"state": ConnectionState.NEEDS_REAUTH, "is_ambiguous": True}, "needs_reauth"),
        ({"is_ambiguous": True, "is_settled": False}, "ambiguous"),
        ({"is_ambiguous": True, "is_settled": True}, "waiting"),
        ({"grant_expires_at": NOW + EXPIRING + 1}, "active"),
        ({"grant_expires_at": NOW + EXPIRING}, "expiring"),
        ({"grant_expires_at": NOW}, "expiring"),
        ({"grant_expires_at": NOW, "has_refresh_token": False}, "needs_reauth"),
        ({"grant_expires_at": NOW + 1, "has_refresh_token": False}, "expiring"),
        ({"grant_expires_at": NOW, "has_refresh_token": False, "metadata": {ADVISED: "1"}}, "expiring"),
        ({"grant_expires_at": NOW + 9, "created_at": NOW + 9 - SHORT}, "active"),
        ({"grant_expires_at": NOW + 9, "created_at": NOW + 8 - SHORT}, "expiring"),
        ({"grant_expires_at": NOW + 9, "consented_at": NOW + 9 - SHORT}, "active"),
        ({"grant_expires_at": NOW + 9, "created_at": NOW, "consented_at": NOW + 8 - SHORT}, "expiring"),
        ({"idle_expires_at": NOW + 9, "created_at": NOW}, "expiring"),
        ({"grant_expires_at": NOW - 1, "created_at": NOW - 9}, "active"),
    ],
)
async def test_the_status_says_what_the_person_has_to_know(room: Room, changes: dict[str, object], status: str) -> None:
    plain = replace(await room.connect(), created_at=NOW - 90 * DAY, grant_expires_at=NEVER, idle_expires_at=NEVER)
    assert replace(plain, **changes).status(NOW) == status


async def test_connecting_the_same_account_again_keeps_its_id_and_its_agents(room: Room) -> None:
    first = await room.connect(scopes=SLACK_SCOPES)
    again = await open_with(room, room.slack.consent("alice", frozenset({"chat:write", "files:read"})))
    assert again.id == first.id
    assert again.scopes == {"chat:write", "files:read"}
    assert again.generation == 2
    assert (await room.exchange("slack", "chat:write")).connection_id == first.id
    assert len(await list_connections(room.database, room.alice.user.id)) == 1


async def test_connecting_again_without_a_refresh_token_keeps_the_old_one(room: Room) -> None:
    await room.connect()
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES, refreshable=False))
    room.pass_time(3600)
    assert await room.exchange()
    assert room.slack.sends[0].refresh_token == "CANARY-rt-1"


@pytest.mark.parametrize(("refreshable", "status"), [(False, "expiring"), (True, "active")])
async def test_a_refresh_token_that_stays_keeps_its_end(room: Room, *, refreshable: bool, status: str) -> None:
    policy = replace(room.vault.policies["slack"], grant_lifetime=10 * DAY)
    room.vault = replace(room.vault, policies={"slack": policy})
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    room.pass_time(5 * DAY)
    again = await open_with(room, room.slack.consent("alice", SLACK_SCOPES, refreshable=refreshable))
    assert again.status(room.now) == status


async def test_connecting_again_at_an_mcp_server_keeps_nothing_of_an_account_that_may_be_another(room: Room) -> None:
    await room.connect()
    answer = room.slack.consent("alice", SLACK_SCOPES, refreshable=False)
    assert (await open_with(room, answer)).has_refresh_token
    policy = replace(room.vault.policies["slack"], is_remote=True)
    room.vault = replace(room.vault, policies={"slack": policy})
    assert not (await open_with(room, answer)).has_refresh_token


async def test_connecting_again_forgets_the_narrow_tokens_of_the_older_consent(room: Room) -> None:
    await room.connect("google")
    before = await room.exchange("google")
    await room.connect("google")
    assert (await room.exchange("google")).value != before.value


async def test_connecting_again_without_a_refresh_token_does_not_settle_an_unknown_refresh(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    room.slack.faults.append(Fault(after=Silent("timeout")))
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange()
    unsettled = await open_with(room, room.slack.consent("alice", SLACK_SCOPES, refreshable=False))
    assert (unsettled.id, unsettled.status(room.now)) == (connection.id, "waiting")
    settled = await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert settled.status(room.now) == "active"
    assert list(await room.database.fetch("select owner from intents")) == []


async def test_the_same_account_of_two_users_is_two_connections(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    mine, his = await room.connect(), await room.connect(whose=bob)
    assert mine.id != his.id
    assert await get_connection(room.database, his.id, user_id=room.alice.user.id) is None
    assert await get_connection(room.database, his.id, user_id=bob.user.id) is not None


async def test_an_account_is_found_by_its_id_its_label_and_the_connections_id(room: Room) -> None:
    one, other = await room.connect(account="alice"), await room.connect(account="work")
    user_id = room.alice.user.id
    assert {found.id for found in await find(room.database, user_id, provider="slack")} == {one.id, other.id}
    for name in ("work", "Work@example.com", other.id):
        (found,) = await find(room.database, user_id, provider="slack", account=name)
        assert found.id == other.id
    assert await find(room.database, user_id, provider="slack", account="nobody") == ()
    assert await find(room.database, user_id, provider="google") == ()


async def test_an_id_was_a_connections_also_after_its_end(room: Room) -> None:
    connection = await room.connect()
    assert await connections.exists(room.database, connection.id)
    await room.disconnect(connection)
    assert await connections.exists(room.database, connection.id)
    assert not await connections.exists(room.database, f"{connection.id}x")


async def test_a_fact_is_noted_beside_those_of_the_provider_until_the_account_is_connected_again(room: Room) -> None:
    answer = replace(room.slack.consent("alice", SLACK_SCOPES), metadata={"team": "Sandbox"})
    opened = await open_with(room, answer)

    async def note(value: str) -> dict[str, str]:
        async with room.database.transaction() as transaction:
            await connections.note_fact(transaction, opened.id, "name", value)
            await connections.note_fact(transaction, "unknown", "name", value)
        found = await get_connection(room.database, opened.id, user_id=room.alice.user.id)
        assert found is not None
        return dict(found.metadata)

    assert await note("One") == {"team": "Sandbox", "name": "One"}
    assert await note("Two") == {"team": "Sandbox", "name": "Two"}
    assert (await open_with(room, answer)).metadata == {"team": "Sandbox"}
    ended = await get_connection(room.database, opened.id, user_id=room.alice.user.id)
    assert ended is not None
    await room.disconnect(ended)
    assert "Three" not in (await note("Three")).values()


@pytest.mark.parametrize("has_tokens", [True, False])
async def test_without_tokens_there_is_nothing_to_end_at_the_provider(room: Room, *, has_tokens: bool) -> None:
    connection = await room.connect()
    if not has_tokens:
        async with room.database.transaction() as transaction:
            await transaction.execute("update connections set refresh_sealed = null, access_sealed = null")
    pending = await room.disconnect(connection)
    assert (pending.due_at is not None) is has_tokens
    events = [one for one in await list_events(room.database) if "revocation_pending" in one.details]
    assert [one.details["revocation_pending"] for one in events] == [has_tokens]


async def test_an_account_whose_salt_was_lost_is_connected_anew(room: Room) -> None:
    first = await room.connect()
    async with room.database.transaction() as transaction:
        await room.vault.keys.destroy_connection_key(transaction, first.id)
    with pytest.raises(CiphertextRejected):
        await room.exchange()
    again = await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert (again.id, again.has_refresh_token) == (first.id, True)
    assert (await room.exchange()).value in room.slack.issued
    room.pass_time(3600)
    assert (await room.exchange()).value in room.slack.issued
    (left,) = await revocations.list_revocations(room.database, room.alice.user.id)
    assert (left.outcome, left.is_superseded) == ("unreadable", True), "the grant before is known, and cannot be ended"


async def test_a_provider_that_does_not_answer_holds_up_no_other(room: Room) -> None:
    hung, ended = await room.connect(), await room.connect("google")
    for connection in (hung, ended):
        await room.disconnect(connection)
    room.slack.revoke_gate = asyncio.Event()
    working = asyncio.create_task(revocations.run_due(room.vault))
    async with asyncio.timeout(WAIT):
        while await outcomes(room) != ["pending", "revoked"]:
            await asyncio.sleep(0.01)
        room.slack.revoke_gate.set()
        assert await working == 2
    assert await outcomes(room) == ["revoked", "revoked"]


async def test_many_grants_that_are_due_at_once_are_ended_in_one_round(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "BATCH", 2)
    assert await revocations.run_rounds(room.vault, seconds=WAIT) == 0
    for number in range(5):
        await room.disconnect(await room.connect(account=f"account-{number}"))
    assert await revocations.run_rounds(room.vault, seconds=0) == 2
    assert await revocations.run_rounds(room.vault, seconds=WAIT) == 3
    assert await outcomes(room) == ["revoked"] * 5


async def test_what_was_due_first_is_ended_first_whatever_its_provider(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "BATCH", 1)
    for providers in (("slack", "google"), ("google", "slack")):
        for provider in providers:
            await room.disconnect(await room.connect(provider))
            room.pass_time(1)
        for provider in providers:
            assert await revocations.run_due(room.vault) == 1
            pending = await revocations.list_waiting(room.database, limit=9, now=room.now)
            assert provider not in [one.provider for one in pending]


# Connecting again: the grant before


def give(room: Room, *, ends_grant: bool | None) -> None:
    """Set what ending one grant does to the others at this provider."""
    policy = replace(room.vault.policies["slack"], revoke_ends_grant=ends_grant)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})


async def outcomes(room: Room) -> list[str]:
    return sorted(one.outcome for one in await revocations.list_revocations(room.database, room.alice.user.id))


def alive(room: Room) -> list[bool]:
    return [family.is_alive for family in room.slack.families]


async def test_where_a_revocation_ends_one_grant_the_one_before_is_ended_at_once(room: Room) -> None:
    give(room, ends_grant=False)
    first = await room.connect()
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert await revocations.run_due(room.vault) == 1
    assert alive(room) == [False, True]
    (event,) = await room.events("connection.upstream_revoked")
    assert event.connection_id != first.id
    assert (await room.exchange()).connection_id == first.id


@pytest.mark.parametrize("ends_grant", [True, None])
async def test_where_a_revocation_may_end_all_the_grants_before_are_ended_with_the_last(
    room: Room, *, ends_grant: bool | None
) -> None:
    give(room, ends_grant=ends_grant)
    room.slack.ends_everything = bool(ends_grant)
    first = await room.connect()
    for _ in range(2):
        await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert await revocations.run_due(room.vault) == 0
    assert await outcomes(room) == ["held", "held"]
    assert alive(room) == [True, True, True]
    room.pass_time(3600)
    assert (await room.exchange()).value in room.slack.issued
    await room.disconnect(first)
    assert await revocations.run_due(room.vault) == 3
    assert alive(room) == [False, False, False]
    assert await outcomes(room) == ["revoked"] * 3
    rows = await room.database.fetch("select connection_id from keys.connection_keys")
    assert list(rows) == []


@pytest.mark.parametrize("ends_account", [False, True])
async def test_where_a_revocation_ends_the_account_it_waits_for_the_last_person(
    room: Room, *, ends_account: bool
) -> None:
    policy = replace(room.vault.policies["slack"], revoke_ends_grant=None, revoke_ends_account=ends_account)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
    bob = await seed(room.database, name="bob", client_id="agent-2")
    mine, his = await room.connect(), await room.connect(whose=bob)
    assert mine.account == his.account
    await room.disconnect(mine)
    await revocations.run_due(room.vault)
    assert (await outcomes(room), alive(room)) == (["held" if ends_account else "revoked"], [ends_account, True])
    await room.disconnect(his)
    await revocations.run_due(room.vault)
    assert (await outcomes(room), alive(room)) == (["revoked"], [False, False])


async def test_the_grants_of_other_accounts_stay_held(room: Room) -> None:
    first = await room.connect()
    other = await room.connect(account="work")
    for account in ("alice", "work"):
        await open_with(room, room.slack.consent(account, SLACK_SCOPES))
    await room.disconnect(first)
    assert await revocations.run_due(room.vault) == 2
    assert await outcomes(room) == ["held", "revoked", "revoked"]
    assert alive(room) == [False, True, False, True]
    assert (await room.exchange()).connection_id == other.id


async def test_the_same_tokens_again_are_no_other_grant(room: Room) -> None:
    answer = room.slack.consent("alice", SLACK_SCOPES)
    await open_with(room, answer)
    await open_with(room, answer)
    lasting = room.slack.consent("work", SLACK_SCOPES, refreshable=False)
    await open_with(room, lasting)
    await open_with(room, lasting)
    assert await outcomes(room) == []


async def test_a_lasting_token_is_ended_once_another_one_replaces_it(room: Room) -> None:
    give(room, ends_grant=False)
    first, second = (room.slack.consent("alice", SLACK_SCOPES, refreshable=False) for _ in range(2))
    for answer in (first, second):
        connection = await open_with(room, answer)
    assert await revocations.run_due(room.vault) == 1
    assert room.slack.revocations == [(None, first.access_token)]
    await room.allow(connection, SLACK_SCOPES)
    assert (await room.exchange()).value == second.access_token


@pytest.mark.parametrize(("age", "left"), [(3599, ["held"]), (3600, [])])
async def test_a_token_without_a_refresh_token_is_kept_for_its_end_only_while_it_is_valid(
    room: Room, age: int, left: list[str]
) -> None:
    give(room, ends_grant=True)
    brief = replace(room.slack.consent("alice", SLACK_SCOPES, refreshable=False), expires_in=3600)
    await open_with(room, brief)
    room.pass_time(age)
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert await outcomes(room) == left


async def test_a_grant_that_the_provider_called_dead_is_not_ended_again(room: Room) -> None:
    await room.connect()
    room.slack.families[0].is_alive = False
    room.pass_time(3600)
    with pytest.raises(ConnectionRequired):
        await room.exchange()
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    assert await outcomes(room) == []


@pytest.mark.parametrize("ends_grant", [True, False])
async def test_the_answer_of_a_refresh_on_its_way_while_connecting_again_is_what_gets_ended(
    room: Room, *, ends_grant: bool
) -> None:
    give(room, ends_grant=ends_grant)
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
        room.slack.gate.set()
        assert (await slow).value in room.slack.issued
    newest = room.slack.families[0].refresh_token
    if ends_grant:
        await room.disconnect(connection)
    room.pass_time(61)
    await revocations.run_due(room.vault)
    assert [refresh_token for refresh_token, _ in room.slack.revocations].count(newest) == 1
    assert alive(room) == [False, not ends_grant]


@pytest.mark.parametrize("is_first_over", [False, True])
async def test_an_answer_that_comes_after_connecting_again_and_disconnecting_is_ended_once(
    room: Room, *, is_first_over: bool
) -> None:
    give(room, ends_grant=False)
    connection = await room.connect()
    room.pass_time(3600)
    async with room.held_refresh() as slow:
        await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
        (first,) = await revocations.list_revocations(room.database, room.alice.user.id)
        await room.disconnect(connection)
        room.pass_time(61)
        for ended in (connection.id, first.connection_id)[: 1 + is_first_over]:
            assert await revocations.revoke_upstream(room.vault, ended) == "revoked"
        room.slack.families[0].is_alive = True  # this provider revokes only single tokens
        room.slack.gate.set()
        with pytest.raises(ConnectionRequired):
            await slow
    newest = room.slack.families[0].refresh_token
    await revocations.run_due(room.vault)
    assert [refresh_token for refresh_token, _ in room.slack.revocations].count(newest) == 1
    assert alive(room) == [False, False]


@pytest.mark.parametrize("is_key_gone", [False, True])
async def test_tokens_that_come_just_as_the_grant_before_ends_are_ended_as_well(
    room: Room, *, is_key_gone: bool
) -> None:
    give(room, ends_grant=False)
    connection = await room.connect()
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES))
    (aside,) = await revocations.list_revocations(room.database, room.alice.user.id)
    late = endings.Aside(
        room.alice.user.id,
        "slack",
        connection.account,
        connection.label,
        scopes=SLACK_SCOPES,
        refresh_token="late-rt",
        access_token=None,
        generation=connection.generation,
    )

    async def store() -> bool:
        async with room.database.transaction() as transaction:
            return await endings.renew_aside(
                transaction,
                room.vault.keys,
                late,
                former=connection.id,
                policy=room.vault.policies["slack"],
                now=room.now,
                is_over=False,
            )

    async with room.database.transaction() as ending:
        if is_key_gone:
            await room.vault.keys.destroy_connection_key(ending, aside.connection_id)
        else:
            await ending.execute(
                "update upstream_revocations set outcome = :done, sealed = null, next_at = null, done_at = :now",
                {"done": "revoked", "now": room.now},
            )
            storing = asyncio.create_task(store())
            await until_waiting(ending, number=1, is_sqlite=room.store.is_sqlite)
    assert await (store() if is_key_gone else storing)
    await revocations.run_due(room.vault)
    assert "late-rt" in [refresh_token for refresh_token, _ in room.slack.revocations]


async def test_a_revocation_that_is_late_does_not_end_what_was_connected_since(room: Room) -> None:
    room.slack.ends_everything = True
    first = await room.connect()
    await room.disconnect(first)
    room.slack.revoke_outcomes.append(RevokeOutcome.FAILED)
    assert await revocations.revoke_upstream(room.vault, first.id) == "failed"
    second = await room.connect()
    room.pass_time(86400)
    assert await revocations.run_due(room.vault) == 1
    assert await outcomes(room) == ["held"]
    assert alive(room) == [True, True]
    await room.disconnect(second)
    assert await revocations.run_due(room.vault) == 2
    assert alive(room) == [False, False]


async def test_of_two_consents_at_once_the_newer_counts_whichever_is_stored_first(room: Room) -> None:
    older, newer = (room.slack.consent("alice", SLACK_SCOPES) for _ in range(2))

    async def store(answer: TokenAnswer, at: int) -> Connection:
        for _ in range(3):
            try:
                return await open_with(room, answer, consented_ms=at)
            except Conflict:
                continue
        raise AssertionError("there was always another one")

    first, second = await asyncio.gather(store(newer, 2000), store(older, 1000))
    assert first.id == second.id
    await room.allow(first, SLACK_SCOPES)
    room.pass_time(3600)
    assert await room.exchange()
    assert [send.refresh_token for send in room.slack.sends] == [newer.refresh_token]
    await room.disconnect(first)
    await revocations.run_due(room.vault)
    assert alive(room) == [False, False]


async def test_of_two_consents_in_one_millisecond_the_one_stored_last_counts(room: Room) -> None:
    first, last = (room.slack.consent("alice", SLACK_SCOPES) for _ in range(2))
    for answer in (first, last):
        connection = await open_with(room, answer, consented_ms=1000)
    await room.allow(connection, SLACK_SCOPES)
    room.pass_time(3600)
    assert await room.exchange()
    assert [send.refresh_token for send in room.slack.sends] == [last.refresh_token]


async def test_a_consent_that_comes_too_late_is_kept_with_its_scopes_to_be_ended(room: Room) -> None:
    late = room.slack.consent("alice", frozenset({"chat:write"}))
    newer = await open_with(room, room.slack.consent("alice", SLACK_SCOPES), consented_ms=2000)
    again = await open_with(room, late, consented_ms=1000)
    assert (again.id, again.scopes, again.generation) == (newer.id, SLACK_SCOPES, newer.generation)
    everything = await list_connections(room.database, room.alice.user.id, include_ended=True)
    assert [one.scopes for one in everything if one.id != newer.id] == [{"chat:write"}]


async def test_a_newer_consent_outdates_every_answer_that_a_journal_may_hold(room: Room) -> None:
    """A journal's answers have generations of rows that a restore took back, at most the time of their consent."""
    await open_with(room, room.slack.consent("alice", SLACK_SCOPES), consented_ms=1000)
    again = await open_with(room, room.slack.consent("alice", SLACK_SCOPES), consented_ms=5000)
    assert again.generation >= 5000
