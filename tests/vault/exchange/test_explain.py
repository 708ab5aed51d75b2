"""`explain` predicts the exchange before any call: each precondition, and the result once it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import Fault
from tests.support.rooms.vault_room import Room, open_room, principal_of
from tests.support.seeded_grant import seed
from tests.vault.exchange.test_shared_connections import give, leave, make_group
from vault import clients, connections, delegations, grants, users
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.exchange.explain import ExchangeQuestion, ExchangeStep, Explanation, explain
from vault.records import Connection
from vault.refresh.policy_checks import PolicyOutcome, PolicyQuestion, PolicyVerdict
from vault.refresh.rules import HANDLING
from vault.refusals import TemporarilyUnavailable, VaultError
from vault.storage.database import Reader, Row, Value
from vault.upstream import RotationMode, Silent

WANTED = frozenset({"chat:write"})


async def ask(
    room: Room, connection: Connection | str, *, scopes: frozenset[str] | None = WANTED, **changes: str
) -> Explanation:
    """Explain alice's agent; asserts that nothing was recorded, sent or changed."""
    before = (await room.kinds(), len(room.slack.sends), len(room.google.sends))
    named = connection if isinstance(connection, str) else connection.id
    question = ExchangeQuestion(room.alice.user.name, room.alice.client.id, named, scopes)
    found = await explain(replace(question, **changes), vault=room.vault, now=room.now)
    assert before == (await room.kinds(), len(room.slack.sends), len(room.google.sends))
    return found


async def refusal(room: Room, connection: Connection, scopes: frozenset[str] | None = WANTED) -> VaultError:
    """The refusal of the exchange itself."""
    request = ExchangeRequest(principal_of(room.alice), connection.provider, scopes, connection_id=connection.id)
    with pytest.raises(VaultError) as raised:
        await exchange(request, vault=room.vault, now=room.now)
    return raised.value


async def assert_same(
    room: Room, connection: Connection, step: ExchangeStep, scopes: frozenset[str] | None = WANTED
) -> None:
    """Assert that the explanation has the step, the code and the sentence of the exchange."""
    found = (await ask(room, connection, scopes=scopes)).first_failure
    assert found is not None
    assert found.step is step
    assert found.fix
    real = await refusal(room, connection, scopes)
    assert (found.code, found.sentence) == (real.code, real.description)


async def assert_works(room: Room, connection: Connection, scopes: frozenset[str] | None = WANTED) -> Explanation:
    found = await ask(room, connection, scopes=scopes)
    assert found.first_failure is None, found.first_failure
    assert set(ExchangeStep) - set(found.passed_steps) == {ExchangeStep.UPSTREAM}
    return found


def outcomes(found: Explanation) -> dict[str, str]:
    assert [one.step for one in found.steps] == list(ExchangeStep), "every step is there, once"
    return {one.step.value: one.outcome.value for one in found.steps}


async def test_what_would_work_says_with_which_scopes_and_how_they_hold(room: Room) -> None:
    connection = await room.connect()
    found = await assert_works(room, connection)
    token = await room.exchange("slack", "chat:write")
    assert (found.scopes, found.narrowing) == (token.scopes, token.narrowing.value)
    assert not found.refreshes
    room.pass_time(90_000)
    assert (await assert_works(room, connection)).refreshes
    everything = await assert_works(room, connection, None)
    assert everything.scopes == (await room.exchange(everything=True)).scopes


async def test_a_provider_that_narrows_is_explained_with_the_token_that_it_would_have_to_issue(room: Room) -> None:
    connection = await room.connect("google", delegated=frozenset({"calendar.readonly"}))
    first = await assert_works(room, connection, None)
    assert (first.narrowing, first.refreshes) == ("upstream", True)
    await room.exchange("google", "calendar.readonly")
    assert not (await assert_works(room, connection, None)).refreshes


async def test_an_unknown_or_disabled_user(room: Room) -> None:
    connection = await room.connect()
    assert (await ask(room, connection, user_name="nobody")).first_failure.step is ExchangeStep.USER
    async with room.database.transaction() as transaction:
        await users.disable_user(transaction, room.alice.user.id, now=room.now)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.step, found.code) == (ExchangeStep.USER, (await refusal(room, connection)).code)
    assert "users enable alice" in found.fix
    async with room.database.transaction() as transaction:
        await users.enable_user(transaction, room.alice.user.id, now=room.now)
    after = (await ask(room, connection)).first_failure
    assert after is not None  # disabling also ended the agent's grant
    assert after.step is ExchangeStep.GRANT


async def test_an_unknown_or_removed_client(room: Room) -> None:
    connection = await room.connect()
    await assert_works(room, connection)
    assert (await ask(room, connection, client_id="nobody")).first_failure.step is ExchangeStep.CLIENT
    async with room.database.transaction() as transaction:
        await clients.remove_client(transaction, room.alice.client.id, now=room.now)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.step, found.code) == (ExchangeStep.CLIENT, (await refusal(room, connection)).code)


async def test_a_grant_that_was_ended(room: Room) -> None:
    connection = await room.connect()
    await assert_works(room, connection)
    async with room.database.transaction() as transaction:
        await grants.revoke_grant(transaction, room.alice.grant.id, reason="user", now=room.now)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.step, found.code) == (ExchangeStep.GRANT, (await refusal(room, connection)).code)
    assert "sign in again" in found.fix


async def test_a_connection_that_is_not_there_or_was_disconnected(room: Room) -> None:
    connection = await room.connect()
    await assert_works(room, connection)
    assert (await ask(room, "nothing")).first_failure.step is ExchangeStep.CONNECTION
    await room.disconnect(connection)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.step, found.code) == (ExchangeStep.CONNECTION, (await refusal(room, connection)).code)
    assert "was disconnected" in found.sentence


async def test_another_users_connection_is_not_there(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    connection = await room.connect(whose=bob)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.step, found.sentence) == (ExchangeStep.CONNECTION, "alice has no such connection.")
    assert (await ask(room, connection, user_name="bob", client_id="agent-2")).first_failure is None


async def test_a_groups_account_is_explained_to_its_members_only(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    group = await make_group(room, bob)
    given = await give(room, await room.connect(), group)

    async def explanation() -> Explanation:
        return await ask(room, given, user_name="bob", client_id="agent-2")

    assert (await explanation()).first_failure.step is ExchangeStep.DELEGATION
    await room.allow(given, WANTED, whose=bob)
    found, token = await explanation(), await room.exchange("slack", *WANTED, whose=bob)
    assert (found.first_failure, found.scopes) == (None, token.scopes)
    refused = (await ask(room, given)).first_failure  # alice, who gave it, isn't a member
    assert refused is not None
    assert (refused.step, refused.sentence) == (ExchangeStep.CONNECTION, "alice has no such connection.")
    assert refused.code == (await refusal(room, given)).code
    await leave(room, group, bob)
    refused = (await explanation()).first_failure
    assert refused is not None
    assert (refused.step, refused.sentence) == (ExchangeStep.CONNECTION, "bob has no such connection.")


@pytest.mark.parametrize("is_groups", [True, False])
async def test_who_reconnects_a_dead_account_is_who_gave_it(room: Room, *, is_groups: bool) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    connection = await room.connect(whose=None if is_groups else bob)
    if is_groups:
        connection = await give(room, connection, await make_group(room, bob))
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set state = :state where id = :id", {"id": connection.id, "state": "needs_reauth"}
        )
    found = (await ask(room, connection, user_name="bob", client_id="agent-2")).first_failure
    assert found is not None
    again = "run token-vault connections connect slack"
    assert found.step is ExchangeStep.STATE
    assert found.fix == (f"let the person who gave it {again} and token-vault groups give" if is_groups else again)


async def test_a_provider_whose_file_is_gone(room: Room) -> None:
    connection = await room.connect()
    policies = dict(room.vault.policies)
    room.vault = replace(room.vault, policies={"google": policies["google"]})
    await assert_same(room, connection, ExchangeStep.PROVIDER)
    room.vault = replace(room.vault, policies=policies)
    await assert_works(room, connection)


async def test_the_operators_limit(room: Room) -> None:
    connection = await room.connect()
    policies = dict(room.vault.policies)
    limited = replace(policies["slack"], operator_scopes=frozenset({"channels:read"}))
    room.vault = replace(room.vault, policies={**policies, "slack": limited})
    await assert_same(room, connection, ExchangeStep.OPERATOR)
    await assert_works(room, connection, frozenset({"channels:read"}))


async def test_a_connection_that_the_provider_no_longer_accepts(room: Room) -> None:
    connection = await room.connect()
    await assert_works(room, connection)
    room.slack.families[0].is_alive = False
    room.pass_time(90_000)
    await refusal(room, connection)
    await assert_same(room, connection, ExchangeStep.STATE)


async def test_scopes_that_the_account_has_not_granted(room: Room) -> None:
    connection = await room.connect(scopes=frozenset({"channels:read"}))
    await assert_same(room, connection, ExchangeStep.SCOPES)
    await assert_works(room, connection, frozenset({"channels:read"}))


@pytest.mark.parametrize("how", ["never", "ended", "revoked", "narrow"])
async def test_an_agent_that_is_not_allowed(room: Room, how: str) -> None:
    connection = await room.connect(delegated=frozenset())
    allowed = frozenset({"channels:read"}) if how == "narrow" else WANTED
    if how != "never":
        await room.allow(connection, allowed, expires_at=room.now + 60 if how == "ended" else None)
    if how == "ended":
        room.pass_time(61)
    if how == "revoked":
        async with room.database.transaction() as transaction:
            which = {"user_id": room.alice.user.id, "client_id": room.alice.client.id}
            await delegations.revoke(transaction, **which, connection_id=connection.id, now=room.now)
    await assert_same(room, connection, ExchangeStep.DELEGATION)
    await room.allow(connection, WANTED)
    await assert_works(room, connection)


async def test_an_expired_token_that_nothing_can_refresh(room: Room) -> None:
    connection = await room.connect()
    async with room.database.transaction() as transaction:
        await transaction.execute("update connections set refresh_sealed = null where id = :id", {"id": connection.id})
    await assert_works(room, connection)  # the existing token is still valid
    room.pass_time(90_000)
    await assert_same(room, connection, ExchangeStep.TOKEN)


async def test_a_refresh_that_was_never_answered(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        room.pass_time(90_000)
        await assert_works(room, connection)
        room.slack.faults.append(Fault(before=Silent("timeout")))
        await refusal(room, connection)
        await assert_same(room, connection, ExchangeStep.TOKEN)
        found = (await ask(room, connection)).first_failure
        assert found is not None
        assert found.fix == "no action needed: the vault retries until the provider answers"
        room.pass_time(HANDLING)  # the old token has expired, so trying again can't lose anything
        assert (await ask(room, connection)).first_failure is None
        await assert_works(room, connection)


async def test_a_refresh_that_may_still_be_answered(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        room.pass_time(3596)  # too late to use the token, too early to risk what is left of it
        assert (await assert_works(room, connection)).refreshes
        room.slack.faults.append(Fault(before=Silent("timeout")))
        await refusal(room, connection)
        await assert_same(room, connection, ExchangeStep.TOKEN)
        found = (await ask(room, connection)).first_failure
        assert found is not None
        assert (found.code, found.fix[:13]) == ("temporarily_unavailable", "no action nee")


async def test_what_ends_between_two_reads_is_said_to_have_changed(room: Room) -> None:
    connection = await room.connect()
    database = room.vault.database

    class Meanwhile:
        """The same database, but the connection ends just before its accounts are read."""

        def __getattr__(self, name: str) -> object:
            return getattr(database, name)

        async def look_up(self, sql: str, parameters: Mapping[str, Value]) -> Sequence[Row]:
            if "provider" in parameters:  # only the query for accounts has a provider
                async with database.transaction() as transaction:
                    await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)
            return await database.look_up(sql, parameters)

    question = ExchangeQuestion(room.alice.user.name, room.alice.client.id, connection.id, WANTED)
    late = replace(room.vault, database=Meanwhile())
    found = (await explain(question, vault=late, now=room.now)).first_failure
    assert found is not None
    assert (found.step, found.code) == (ExchangeStep.CONNECTION, "connection_required")
    assert "just changed" in found.fix


async def test_a_provider_that_is_not_set_up_any_more(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(90_000)
    upstreams = dict(room.vault.upstreams)
    room.vault = replace(room.vault, upstreams={})
    await assert_same(room, connection, ExchangeStep.TOKEN)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert "providers.slack.client_id" in found.fix
    room.vault = replace(room.vault, upstreams=upstreams)
    await assert_works(room, connection)
    room.slack.is_configured = False  # without a registration
    await assert_same(room, connection, ExchangeStep.TOKEN)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert "providers.slack.client_id" in found.fix


async def test_an_account_that_nobody_vouches_for_any_more(room: Room) -> None:
    connection, identity = await room.connect(), await room.connect("google")
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set renewed_by = :by where id = :id", {"by": identity.id, "id": connection.id}
        )
    room.pass_time(90_000)
    await assert_same(room, connection, ExchangeStep.TOKEN)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.code, found.fix) == ("temporarily_unavailable", "wait a minute and ask again")
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set state = :state where id = :id", {"state": "needs_reauth", "id": identity.id}
        )
    await assert_same(room, connection, ExchangeStep.TOKEN)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert found.code == "connection_required"


async def test_a_destroyed_key(room: Room) -> None:
    connection = await room.connect()
    await assert_works(room, connection)
    async with room.database.transaction() as transaction:
        await room.vault.keys.destroy_connection_key(transaction, connection.id)
    found = (await ask(room, connection)).first_failure
    assert found is not None
    assert (found.step, found.code) == (ExchangeStep.TOKEN, (await refusal(room, connection)).code)


async def test_each_step_is_checked_on_its_own_and_the_first_failure_is_that_of_the_exchange(room: Room) -> None:
    """A dead account without permission: both are reported; checks that depend on them weren't made."""
    connection = await room.connect(scopes=frozenset({"channels:read"}), delegated=frozenset())
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set state = :state where id = :id", {"id": connection.id, "state": "needs_reauth"}
        )
    await assert_same(room, connection, ExchangeStep.STATE)
    said = outcomes(await ask(room, connection))
    assert [step for step, outcome in said.items() if outcome == "failed"] == ["state", "scopes", "delegation"]
    unchecked = [step for step, outcome in said.items() if outcome == "not checked"]
    assert unchecked == ["token", "policy", "approval", "upstream"]


@pytest.mark.parametrize("is_dead", [True, False])
async def test_a_dead_account_is_said_to_be_dead_without_a_grant(room: Room, *, is_dead: bool) -> None:
    connection = await room.connect()
    async with room.database.transaction() as transaction:
        await grants.revoke_grant(transaction, room.alice.grant.id, reason="user", now=room.now)
        if is_dead:
            await transaction.execute(
                "update connections set state = :state where id = :id", {"id": connection.id, "state": "needs_reauth"}
            )
    said = outcomes(await ask(room, connection))
    assert (said["grant"], said["connection"], said["provider"]) == ("failed", "ok", "ok")
    assert said["state"] == ("failed" if is_dead else "ok")
    assert {said[step] for step in ("scopes", "delegation", "token", "approval", "upstream")} == {"not checked"}


async def test_what_no_step_above_allows_to_check_is_not_said_to_be_ok(room: Room) -> None:
    connection = await room.connect()
    said = outcomes(await ask(room, connection, user_name="nobody"))
    assert [step for step, outcome in said.items() if outcome == "ok"] == ["client"]
    said = outcomes(await ask(room, connection, client_id="nobody"))
    assert [step for step, outcome in said.items() if outcome == "ok"] == ["user", "connection", "provider", "state"]


async def test_an_account_whose_grant_the_provider_ended_is_not_vouched_for(room: Room) -> None:
    """Nothing is sent, so only the provider knows: that step stays open even if the vault's record is fine."""
    connection = await room.connect()
    room.slack.families[0].is_alive = False
    said = outcomes(await ask(room, connection))
    assert said["upstream"] == "not checked"


async def test_a_call_that_needs_a_yes_is_said_to(room: Room) -> None:
    connection = await room.connect()
    which = {"user_id": room.alice.user.id, "client_id": room.alice.client.id, "connection_id": connection.id}
    async with room.database.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=WANTED, now=room.now)
    found = await ask(room, connection)
    assert (found.first_failure, found.asks, outcomes(found)["approval"]) == (None, True, "not checked")
    assert (await refusal(room, connection)).code == "approval_required"
    async with room.database.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=frozenset(), now=room.now)
    found = await ask(room, connection)
    assert (found.asks, outcomes(found)["approval"]) == (False, "ok")


async def test_the_operators_policy_is_asked_and_what_it_says_is_said(room: Room) -> None:
    connection = await room.connect()
    none = await assert_works(room, connection)
    assert "no operator's policy" in why(none, ExchangeStep.POLICY)
    asked: list[PolicyQuestion] = []
    answers: list[PolicyOutcome | TemporarilyUnavailable] = []

    async def check(question: PolicyQuestion, reader: Reader, /, *, now: int) -> PolicyVerdict:
        asked.append(question)
        answer = answers[-1]
        if isinstance(answer, TemporarilyUnavailable):
            raise answer
        return PolicyVerdict(answer)

    room = replace(room, vault=replace(room.vault, policy_check=check))
    answers.append(PolicyOutcome.ALLOW)
    allowed = await assert_works(room, connection)
    assert "allows" in why(allowed, ExchangeStep.POLICY)
    answers.append(PolicyOutcome.ASK)
    to_approve = await ask(room, connection)
    assert "approves each use" in why(to_approve, ExchangeStep.POLICY)
    assert (to_approve.asks, allowed.asks, none.asks) == (True, False, False)
    assert (asked[-1].connection_id, asked[-1].scopes) == (connection.id, WANTED)
    for answer in (
        PolicyOutcome.FORBID,
        TemporarilyUnavailable("The policy can't be asked.", retry_after=5, detail="refused"),
    ):
        answers.append(answer)
        await assert_same(room, connection, ExchangeStep.POLICY)
    count = len(asked)
    assert (await ask(room, connection, scopes=frozenset({"nothing:known"}))).first_failure is not None
    assert len(asked) == count, "what the vault refuses is not even asked about"


def why(found: Explanation, step: ExchangeStep) -> str:
    return next(one.why for one in found.steps if one.step is step)


async def test_stopped_agents_are_enabled_by_signing_in_unless_two_issuers_stopped_them(room: Room) -> None:
    connection, now = await room.connect(), room.now
    fixes: list[str] = []
    for issuer in ("https://one.example", "https://two.example"):
        async with room.database.transaction() as transaction:
            await users.stop_agents(transaction, room.alice.user.id, by=issuer, at=now, now=now)
        found = (await ask(room, connection)).first_failure
        assert found is not None
        assert found.step is ExchangeStep.USER
        fixes.append(found.fix)
    assert ["sign in" in fix for fix in fixes] == [True, False]
    assert all("users enable alice" in fix for fix in fixes)
