"""The exchange: what an agent gets, what it is refused and why, and what is recorded first."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256

import pytest

from tests.support.doubles.upstream_double import INVALID_CLIENT, Fault
from tests.support.rooms.vault_room import READ, SLACK_SCOPES, WRITE, Room
from vault import clients, connections, delegations, grants, users
from vault.exchange import recent
from vault.exchange.exchange import exchange
from vault.records import Client, Narrowing
from vault.refresh.policy_checks import PolicyOutcome, PolicyQuestion, PolicyVerdict
from vault.refusals import (
    AccountRequired,
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    GrantEnded,
    ScopeRefused,
    TemporarilyUnavailable,
)
from vault.storage.database import Reader
from vault.upstream import CredentialKind, Refusal

# What an agent gets


async def test_a_delegated_account_gives_a_token_and_says_that_we_enforce_the_scopes(room: Room) -> None:
    connection = await room.connect()
    token = await room.exchange("slack", "chat:write")
    assert room.slack.issued[token.value] == SLACK_SCOPES
    assert token.scopes == {"chat:write"}
    assert token.granted == SLACK_SCOPES
    assert token.narrowing is Narrowing.ENFORCED
    assert (token.connection_id, token.account, token.label) == (connection.id, "alice", "alice@example.com")
    assert token.expires_at is not None
    assert abs(token.expires_at - room.now - 3600) <= 2
    assert room.slack.sends == []


async def test_what_the_agent_may_do_beside_the_call_is_told_and_what_the_person_is_asked_about_is_not(
    room: Room,
) -> None:
    connection = await room.connect()
    assert (await room.exchange("slack", "chat:write")).also_allowed == SLACK_SCOPES
    which = {"user_id": room.alice.user.id, "client_id": room.alice.client.id, "connection_id": connection.id}
    async with room.database.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=frozenset({"channels:read"}), now=room.now)
    assert (await room.exchange("slack", "chat:write")).also_allowed == {"chat:write"}
    await room.allow(connection, frozenset({"chat:write"}))
    async with room.database.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=frozenset(), now=room.now)
    assert (await room.exchange("slack", "chat:write")).also_allowed == {"chat:write"}


async def test_a_token_that_carries_exactly_the_request_is_narrow_by_itself(room: Room) -> None:
    await room.connect(scopes=frozenset({"chat:write"}))
    assert (await room.exchange()).narrowing is Narrowing.UPSTREAM


async def test_a_lasting_token_without_a_refresh_token_is_used_for_good(room: Room) -> None:
    await room.connect(refreshable=False)
    room.pass_time(400 * 86400)
    assert (await room.exchange()).expires_at is None


async def test_a_lasting_token_that_the_provider_refused_needs_the_person(room: Room) -> None:
    await room.connect(refreshable=False)
    token = await room.exchange()
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange(after_unauthorized=token.generation)
    assert refused.value.reason == "needs_reauth"
    assert "connection.needs_reauth" in await room.kinds()


async def test_asking_for_everything_gives_what_was_delegated(room: Room) -> None:
    await room.connect("google", delegated=frozenset({READ, WRITE}))
    token = await room.exchange("google", everything=True)
    assert token.scopes == {READ, WRITE}
    assert room.google.issued[token.value] == {READ, WRITE}


async def test_no_secret_shows_in_the_representation_of_a_token(room: Room) -> None:
    await room.connect()
    assert "CANARY" not in repr(await room.exchange())


# Refusals, each with its twin


async def test_without_a_connection_the_person_is_needed_and_with_one_not(room: Room) -> None:
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange()
    assert (refused.value.reason, refused.value.scopes) == ("missing", {"chat:write"})
    assert "connect" in refused.value.description.lower()
    await room.connect()
    assert await room.exchange()


async def test_an_account_that_granted_too_little_is_refused_until_it_grants_more(room: Room) -> None:
    connection = await room.connect(scopes=frozenset({"channels:read"}), delegated=SLACK_SCOPES)
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange("slack", "chat:write")
    assert (refused.value.reason, refused.value.connection_id) == ("scopes", connection.id)
    assert "chat:write" in refused.value.description
    await room.connect(scopes=SLACK_SCOPES)
    assert (await room.exchange("slack", "chat:write")).connection_id == connection.id


async def test_an_agent_without_a_delegation_is_refused_until_the_person_allows_it(room: Room) -> None:
    connection = await room.connect(delegated=frozenset())
    with pytest.raises(DelegationRequired) as refused:
        await room.exchange()
    assert (refused.value.connection_id, refused.value.scopes) == (connection.id, {"chat:write"})
    assert "Allow it" in refused.value.description
    await room.allow(connection, frozenset({"chat:write"}))
    assert await room.exchange()


async def test_a_delegation_that_is_too_narrow_names_what_is_missing(room: Room) -> None:
    connection = await room.connect(delegated=frozenset({"channels:read"}))
    assert await room.exchange("slack", "channels:read")
    with pytest.raises(DelegationRequired) as refused:
        await room.exchange("slack", "channels:read", "chat:write")
    assert "chat:write" in refused.value.description
    assert "channels:read" not in refused.value.description
    await room.allow(connection, SLACK_SCOPES)
    assert await room.exchange("slack", "channels:read", "chat:write")


async def test_a_delegation_ends_at_its_time(room: Room) -> None:
    connection = await room.connect(delegated=frozenset())
    await room.allow(connection, SLACK_SCOPES, expires_at=room.now + 100)
    assert await room.exchange()
    room.pass_time(100)
    with pytest.raises(DelegationRequired) as refused:
        await room.exchange()
    assert "has ended" in refused.value.description


async def test_a_revoked_delegation_ends_the_very_next_call(room: Room) -> None:
    connection = await room.connect()
    assert await room.exchange()
    assert await room.revoke(connection)
    with pytest.raises(DelegationRequired):
        await room.exchange()


async def test_several_accounts_are_never_chosen_for_the_agent(room: Room) -> None:
    await room.connect(account="alice")
    assert (await room.exchange()).account == "alice"
    await room.connect(account="work")
    with pytest.raises(AccountRequired) as refused:
        await room.exchange()
    assert refused.value.accounts == ("alice@example.com", "work@example.com")
    for name in ("work", "work@example.com", "WORK@example.com"):
        assert (await room.exchange(account=name)).account == "work"
    with pytest.raises(DelegationRequired) as unknown:
        await room.exchange(account="nobody@example.com")
    assert unknown.value.accounts == ("alice@example.com", "work@example.com")


async def test_the_only_account_that_an_agent_may_use_is_the_one_that_is_meant(room: Room) -> None:
    await room.connect(account="alice")
    await room.connect(account="private", delegated=frozenset())
    assert (await room.exchange()).account == "alice"
    with pytest.raises(DelegationRequired):
        await room.exchange(account="private")


async def test_an_agent_is_shown_only_the_accounts_that_it_may_use(room: Room) -> None:
    for account in ("alice", "work"):
        await room.connect(account=account)
    await room.connect(account="private", delegated=frozenset())
    with pytest.raises(AccountRequired) as refused:
        await room.exchange()
    assert refused.value.accounts == ("alice@example.com", "work@example.com")


@pytest.mark.parametrize("name", [None, "alice", "nobody"])
async def test_an_agent_that_may_use_no_account_is_shown_none(room: Room, name: str | None) -> None:
    first = await room.connect(account="alice", delegated=frozenset())
    for _ in range(2):
        with pytest.raises(DelegationRequired) as refused:
            await room.exchange(account=name)
        assert refused.value.scopes == {"chat:write"}
        assert "work" not in refused.value.description
        await room.connect(account="work", delegated=frozenset())
    await room.connect(account="narrow", scopes=frozenset({"users:read"}), delegated=frozenset())
    with pytest.raises(DelegationRequired):  # what it hasn't granted isn't revealed either
        await room.exchange(account="narrow")
    await room.allow(first, frozenset({"chat:write"}))
    assert (await room.exchange()).account == "alice"


async def test_the_person_can_choose_which_account_is_meant_where_an_agent_names_none(room: Room) -> None:
    await room.connect(account="alice")
    work = await room.connect(account="work")
    bob = await room.connect("google")

    async def choose(connection_id: str | None) -> bool:
        async with room.database.transaction() as transaction:
            return await delegations.set_default(
                transaction,
                user_id=room.alice.user.id,
                client_id=room.alice.client.id,
                provider="slack",
                connection_id=connection_id,
                now=room.now,
            )

    assert await choose(work.id)
    assert not await choose(work.id)
    assert (await room.exchange()).account == "work"
    assert (await room.exchange(account="alice")).account == "alice"
    await room.revoke(work)
    assert (await room.exchange()).account == "alice"  # the default doesn't apply if the agent may no longer use it
    await room.allow(work, frozenset({"chat:write"}))
    assert await choose(None)
    with pytest.raises(AccountRequired):
        await room.exchange()
    assert not await choose(bob.id)  # an account at another provider


async def test_the_operators_ceiling_can_never_be_passed(room: Room) -> None:
    await room.connect()
    policies = room.vault.policies
    limited = replace(policies["slack"], operator_scopes=frozenset({"channels:read"}))
    room.vault = replace(room.vault, policies={**policies, "slack": limited})
    with pytest.raises(ScopeRefused) as refused:
        await room.exchange("slack", "chat:write")
    assert refused.value.missing == {"chat:write"}
    assert await room.exchange("slack", "channels:read")


async def test_an_unknown_provider_is_refused(room: Room) -> None:
    await room.connect()
    with pytest.raises(ScopeRefused):
        await exchange(replace(room.request(), provider="nowhere"), vault=room.vault, now=room.now)


async def test_a_dead_connection_asks_for_the_person_and_connecting_again_heals_it(room: Room) -> None:
    connection = await room.connect()
    room.slack.families[0].is_alive = False
    room.pass_time(3600)
    for _ in range(2):
        with pytest.raises(ConnectionRequired) as refused:
            await room.exchange()
        assert (refused.value.reason, refused.value.connection_id) == ("needs_reauth", connection.id)
    assert len(room.slack.sends) == 1
    await room.connect()
    assert (await room.exchange()).connection_id == connection.id


@pytest.mark.requirement("S-086")
@pytest.mark.parametrize("ending", ["grant", "client", "user", "connection"])
async def test_whatever_ends_an_agents_access_ends_the_very_next_exchange(room: Room, ending: str) -> None:
    connection = await room.connect()
    assert await room.exchange()
    async with room.database.transaction() as transaction:
        match ending:
            case "grant":
                await grants.revoke_grant(transaction, room.alice.grant.id, reason="test", now=room.now)
            case "client":
                await clients.remove_client(transaction, room.alice.client.id, now=room.now)
            case "user":
                await users.disable_user(transaction, room.alice.user.id, now=room.now)
            case _:
                await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)
    with pytest.raises(ConnectionRequired if ending == "connection" else GrantEnded):
        await room.exchange()


@pytest.mark.parametrize(
    "ending", ["removed_at of clients", "disabled_at of users", "stopped_at of users", "revoked_at of grants"]
)
async def test_each_end_counts_by_itself(room: Room, ending: str) -> None:
    column, _, table = ending.split()
    await room.connect()
    assert await room.exchange()
    async with room.database.transaction() as transaction:
        await transaction.execute(f"update {table} set {column} = :now", {"now": room.now})
    with pytest.raises(GrantEnded):
        await room.exchange()
    async with room.database.transaction() as transaction:
        await transaction.execute(f"update {table} set {column} = null")
    assert await room.exchange()


async def test_a_request_without_scopes_still_needs_a_delegation(room: Room) -> None:
    connection = await room.connect(delegated=frozenset())
    request = replace(room.request(), scopes=frozenset())
    with pytest.raises(DelegationRequired):
        await exchange(request, vault=room.vault, now=room.now)
    await room.allow(connection, frozenset({"channels:read"}))
    token = await exchange(request, vault=room.vault, now=room.now)
    assert (token.scopes, token.narrowing) == (frozenset(), Narrowing.ENFORCED)


# The provider says 401


async def test_a_grant_that_died_early_is_refused_although_its_token_has_not_expired(room: Room) -> None:
    await room.connect()
    token = await room.exchange()
    room.slack.families[0].is_alive = False
    with pytest.raises(ConnectionRequired):
        await room.exchange(after_unauthorized=token.generation)
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange()
    assert refused.value.reason == "needs_reauth"


async def test_a_token_that_the_provider_refused_is_refreshed_once_before_its_time(room: Room) -> None:
    await room.connect()
    stale = await room.exchange()
    answers = await asyncio.gather(*(room.exchange(after_unauthorized=stale.generation) for _ in range(5)))
    assert {answer.value for answer in answers} != {stale.value}
    assert len({answer.value for answer in answers}) == 1
    assert len(room.slack.sends) == 1
    assert (await room.exchange()).value == answers[0].value


async def test_a_narrow_token_that_the_provider_refused_is_replaced_by_a_narrow_one(room: Room) -> None:
    await room.connect("google")
    stale = await room.exchange("google", READ)
    fresh = await room.exchange("google", READ, after_unauthorized=stale.generation)
    assert fresh.value != stale.value
    assert room.google.issued[fresh.value] == {READ}


@pytest.mark.parametrize("everything", [True, False])
async def test_a_named_connection_that_is_gone_is_asked_for_with_the_wanted_scopes(
    room: Room, *, everything: bool
) -> None:
    gone, other = await room.connect(account="gone"), await room.connect()
    await room.disconnect(gone)
    request = room.request(everything=everything)
    with pytest.raises(ConnectionRequired) as refused:
        await exchange(replace(request, connection_id=gone.id), vault=room.vault, now=room.now)
    assert refused.value.reason == "missing"
    assert refused.value.scopes == (request.scopes or frozenset())
    token = await exchange(replace(request, connection_id=other.id), vault=room.vault, now=room.now)
    assert token.connection_id == other.id


# What is written down


@pytest.mark.requirement("V-09")
async def test_every_exchange_is_written_down_before_the_token_is_given(room: Room) -> None:
    connection = await room.connect()
    token = await room.exchange("slack", "chat:write")
    (event,) = await room.events("token.exchanged")
    assert (event.user_id, event.client_id) == (room.alice.user.id, room.alice.client.id)
    assert (event.connection_id, event.outcome) == (connection.id, "ok")
    assert event.details["scopes"] == "chat:write"
    assert event.details["narrowing"] == "enforced"
    assert event.details["account"] == "alice@example.com"
    assert event.details["purpose"] == "a_tool"
    assert event.details["token_thumbprint"] == urlsafe_b64encode(sha256(token.value.encode()).digest()).decode()[:43]


async def test_what_a_replay_of_rules_needs_is_written_down_only_where_rules_are_asked(room: Room) -> None:
    await room.connect()
    request = replace(room.request(), wire={"method": "GET"})
    await exchange(request, vault=room.vault, now=room.now)
    await exchange(request, vault=replace(room.vault, policy_check=allow), now=room.now)
    unasked, asked = await room.events("token.exchanged")
    assert unasked.details.keys() & {"method", "strong"} == set()
    assert (asked.details["method"], asked.details["strong"]) == ("GET", False)


async def allow(_question: PolicyQuestion, _reader: Reader, /, *, now: int) -> PolicyVerdict:
    return PolicyVerdict(PolicyOutcome.ALLOW)


@pytest.mark.parametrize(("changes", "is_given"), [(1, True), (99, False)])
async def test_an_account_that_changes_during_each_answer_of_the_policy_is_read_again_only_a_few_times(
    room: Room, changes: int, *, is_given: bool
) -> None:
    held, asked = [await room.connect(account="account 0")], list[PolicyQuestion]()

    async def slow_service(question: PolicyQuestion, _reader: Reader, /, *, now: int) -> PolicyVerdict:
        asked.append(question)
        if len(held) <= changes:
            await room.disconnect(held[-1])
            held.append(await room.connect(account=f"account {len(held)}"))
        return PolicyVerdict(PolicyOutcome.ALLOW, has_waited=True)

    room.vault = replace(room.vault, policy_check=slow_service)
    if is_given:
        assert (await room.exchange()).connection_id == held[-1].id
    else:
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange()
        assert refused.value.retry_after == 2
        (event,) = await room.events("exchange.refused")
        assert event.details["code"] == refused.value.code
    assert len(asked) == (2 if is_given else 6)
    assert [one.connection_id for one in asked] == [one.id for one in held[: len(asked)]]


async def test_what_a_token_was_decided_by_is_kept_only_on_request_and_without_rules(room: Room) -> None:
    await room.connect()
    kept = replace(room.request(), is_kept=True)
    assert (await exchange(kept, vault=room.vault, now=room.now)).basis is not None
    assert (await exchange(room.request(), vault=room.vault, now=room.now)).basis is None
    assert (await exchange(kept, vault=replace(room.vault, policy_check=allow), now=room.now)).basis is None


async def test_what_a_token_was_decided_by_is_current_until_its_client_accounts_or_grant_change(room: Room) -> None:
    connection = await room.connect()
    basis = (await exchange(replace(room.request(), is_kept=True), vault=room.vault, now=room.now)).basis
    client = await clients.get_client(room.database, room.alice.client.id)
    assert basis is not None and client is not None

    async def is_current(client: Client) -> bool:
        return recent.are_of(await recent.look(room.database, basis), basis, client=client)

    assert await is_current(client)
    assert not await is_current(replace(client, name="Another"))
    await room.set_ask(connection, "chat:write")
    assert not await is_current(client)
    await room.set_ask(connection)
    assert await is_current(client)
    async with room.database.transaction() as transaction:
        await grants.revoke_grant(transaction, room.alice.grant.id, reason="user", now=room.now)
    assert not await is_current(client)


async def test_what_a_fallback_was_decided_by_is_not_kept(room: Room) -> None:
    """The next exchange must try again to narrow."""
    await room.connect("google")
    kept = replace(room.request("google", READ), is_kept=True)
    assert (await exchange(kept, vault=room.vault, now=room.now)).basis is not None
    room.pass_time(4000)
    await room.exchange("google", READ, WRITE, everything=True)  # this leaves a valid full token
    room.google.faults.append(Fault(before=Refusal("invalid_scope", "Bad Request", ends_grant=False)))
    fallback = await exchange(kept, vault=room.vault, now=room.now)
    assert (fallback.narrowing, fallback.basis) == (Narrowing.ENFORCED, None)


async def test_every_refusal_is_written_down_with_its_code(room: Room) -> None:
    with pytest.raises(ConnectionRequired):
        await room.exchange()
    connection = await room.connect(delegated=frozenset())
    with pytest.raises(DelegationRequired):
        await room.exchange()
    missing, undelegated = await room.events("exchange.refused")
    assert (missing.details["code"], missing.details["reason"]) == ("connection_required", "missing")
    assert (undelegated.details["code"], undelegated.connection_id) == ("delegation_required", connection.id)
    assert {missing.outcome, undelegated.outcome} == {"refused"}


async def test_no_event_holds_a_token(room: Room) -> None:
    await room.connect("google")
    await room.connect("slack")
    await room.exchange("google", READ)
    await room.exchange("slack")
    room.pass_time(3600)
    room.slack.faults.append(INVALID_CLIENT)
    with pytest.raises(TemporarilyUnavailable):
        await room.exchange("slack")
    assert "CANARY" not in repr(await room.events())


# Sealed values that were moved or altered


@pytest.mark.requirement("V-01")
@pytest.mark.parametrize("column", ["access_sealed", "refresh_sealed"])
async def test_a_ciphertext_of_another_row_does_not_open_and_nobody_else_is_affected(room: Room, column: str) -> None:
    mine = await room.connect(account="alice")
    other = await room.connect(account="work")
    async with room.database.transaction() as transaction:
        await transaction.execute(
            f"update connections set {column} = (select o.{column} from connections o where o.id = :other)"
            " where id = :mine",
            {"mine": mine.id, "other": other.id},
        )
    if column == "refresh_sealed":
        room.pass_time(3600)
    with pytest.raises(CiphertextRejected):
        await room.exchange(account="alice")
    (alarm,) = await room.events("connection.ciphertext_rejected")
    assert (alarm.connection_id, alarm.outcome) == (mine.id, "failed")
    assert alarm.details["column"] == column.replace("sealed", "token")
    (refused,) = await room.events("exchange.refused")
    assert refused.details["code"] == "ciphertext_rejected"
    assert (await room.exchange(account="work")).account == "work"


@pytest.mark.requirement("V-01")
async def test_an_older_generation_of_the_same_row_does_not_open(room: Room) -> None:
    connection = await room.connect()
    read = "select access_sealed from connections where id = :id"
    older = await room.database.fetch_one(read, {"id": connection.id})
    assert older is not None
    room.pass_time(3600)
    assert await room.exchange()
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set access_sealed = :older where id = :id",
            {"id": connection.id, "older": older["access_sealed"]},
        )
    with pytest.raises(CiphertextRejected):
        await room.exchange()


async def test_a_narrow_token_of_other_scopes_does_not_open(room: Room) -> None:
    await room.connect("google")
    await room.exchange("google", READ)
    await room.exchange("google", WRITE)
    swap = "update narrowed_tokens set sealed = (select max(o.sealed) from narrowed_tokens o), generation = 3"
    async with room.database.transaction() as transaction:
        await transaction.execute(swap)
    outcomes = await asyncio.gather(
        room.exchange("google", READ), room.exchange("google", WRITE), return_exceptions=True
    )
    assert any(isinstance(outcome, CiphertextRejected) for outcome in outcomes)
    alarms = await room.events("connection.ciphertext_rejected")
    assert {one.details["column"] for one in alarms} == {"narrowed_token"}, "without the scopes"
    opened = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert all(room.google.issued[token.value] == token.scopes for token in opened)


async def test_a_destroyed_key_is_the_end_of_its_tokens(room: Room) -> None:
    connection = await room.connect()
    assert await room.exchange()
    async with room.database.transaction() as transaction:
        await room.vault.keys.destroy_connection_key(transaction, connection.id)
    with pytest.raises(CiphertextRejected):
        await room.exchange()


@pytest.mark.parametrize("how", ["turned off", "gone"])
async def test_a_key_is_used_only_while_its_provider_is_set_up(room: Room, how: str) -> None:
    await room.connect()
    policy = replace(room.vault.policies["slack"], credential=CredentialKind.KEY)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
    assert (await room.exchange()).value in room.slack.issued
    upstreams = room.vault.upstreams
    if how == "gone":
        room.vault = replace(room.vault, upstreams={})
    room.slack.is_configured = False
    with pytest.raises(TemporarilyUnavailable, match="slack is no longer set up") as refused:
        await room.exchange()
    assert refused.value.retry_after == 60
    room.slack.is_configured = True
    room.vault = replace(room.vault, upstreams=upstreams)
    assert (await room.exchange()).value in room.slack.issued
