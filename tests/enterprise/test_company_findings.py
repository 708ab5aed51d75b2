"""What the vault says where a person's company connects nothing, and whose sign-in it counts on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.enterprise.test_connecting_by_assertion import PROVIDER_TOKEN, disconnect
from tests.support.rooms.company_room import IDENTITY, LINEAR, CompanyRoom
from vault import connections, users
from vault.exchange.explain import ExchangeQuestion, FailedStep, explain
from vault.records import Event
from vault.refresh import company as companies
from vault.refresh import leases
from vault.refusals import ConnectionRequired
from vault.upstream import Account, TokenAnswer, UpstreamPolicy


async def test_explain_says_why_a_company_connects_nothing(company: CompanyRoom) -> None:
    user, _ = await company.sign_in("carol")
    agent = await company.agent(user, allows={"linear": LINEAR})

    async def failure() -> FailedStep | None:
        question = ExchangeQuestion(user.name, agent.client_id, "linear")
        account = (await company.accounts(user)).get("linear")
        question = question if account is None else replace(question, connection_id=account.id)
        found = await explain(question, vault=company.vault, now=company.vault.database.now())
        return found.first_failure

    assert await failure() is None
    company.deny("linear", "carol")
    company.pass_time(2 * 86400)
    with pytest.raises(ConnectionRequired):
        await company.exchange(agent, "linear")
    found = await failure()
    assert found is not None
    assert "doesn't vouch for them at linear (access_denied)" in found.sentence
    assert "sign in through their identity provider again" in found.fix
    await disconnect(company, user, (await company.accounts(user))["linear"])
    found = await failure()
    assert found is not None
    assert "They disconnected their account there." in found.sentence
    await disconnect(company, user, (await company.accounts(user))[IDENTITY])
    found = await failure()
    assert found is not None
    assert found.fix == "let them sign in with Sandbox company"


async def test_explain_says_that_a_company_refused_a_first_connection(company: CompanyRoom) -> None:
    company.deny("linear", "carol")
    user, _ = await company.sign_in("carol")
    agent = await company.agent(user)
    question = ExchangeQuestion(user.name, agent.client_id, "linear")
    found = (await explain(question, vault=company.vault, now=company.vault.database.now())).first_failure
    assert found is not None
    assert "(access_denied)" in found.sentence
    assert "at the identity provider" in found.fix
    for kind, provider, code in (
        ("connection.unvouched", "linear", "identity_invalid_target"),
        ("connection.unvouched", "asana", "identity_server_error"),
        ("connection.refused", "linear", "identity_other"),
    ):
        details: dict[str, object] = {"provider": provider, "reason": code}
        await company.vault.activity.record(Event(kind, outcome="refused", user_id=user.id, details=details))
    found = (await explain(question, vault=company.vault, now=company.vault.database.now())).first_failure
    assert found is not None
    assert "(invalid_target)" in found.sentence, "the newest refusal at this service"


async def test_only_a_live_sign_in_at_the_identity_provider_connects_anything(company: CompanyRoom) -> None:
    company.deny("linear", "bob")
    user, _ = await company.sign_in("bob")
    company.allow("linear")
    identity = await leases.read(company.vault.database, (await company.accounts(user))[IDENTITY].id)
    assert identity is not None
    async with company.room.deployment.transaction() as transaction:
        assert await leases.end(transaction, identity, fence=identity.fence, reason="invalid_grant")
        await connections.open_connection(
            transaction,
            company.vault.keys,
            user_id=user.id,
            provider="slack",
            answer=TokenAnswer("token", account=Account("bob", "bob")),
            asked=LINEAR,
            policy=UpstreamPolicy("slack"),
            now=company.vault.database.now(),
        )
    answer = await companies.connect(company.vault, user.id, "linear", is_asked=True)
    assert (answer.connection, answer.refusal) == (None, "")
    finding = await companies.explain(company.vault, user.id, "linear")
    assert finding is not None
    assert finding.fix == "let them sign in with Sandbox company"
    await company.sign_in("bob")
    assert (await companies.connect(company.vault, user.id, "linear", is_asked=True)).connection is not None


@pytest.mark.parametrize("ends", [None, "needs a sign-in", "disconnected"])
async def test_a_refresh_token_whose_connection_ends_before_its_turn_is_not_shown(
    company: CompanyRoom, ends: str | None
) -> None:
    user, _ = await company.sign_in("bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    directory = company.simulator.sandbox.directory
    directory.renews_id_tokens, directory.takes_refresh_tokens = False, True
    company.pass_time(2 * 86400)
    token = await company.exchange(agent, "linear")
    identity, vault, may_end = (await company.accounts(user))[IDENTITY], company.vault, asyncio.Event()
    turn = asyncio.create_task(vault.tasks.take_turn(identity.id, may_end.wait))
    await asyncio.sleep(0)
    asked = len(company.simulator.books()["assertions"])
    waiting = asyncio.create_task(company.exchange(agent, "linear", spoiled=token.generation))
    while vault.tasks._turns[identity.id][1] < 2:  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0.01)
    if ends == "disconnected":
        await disconnect(company, user, identity)
    elif ends:
        facts = await leases.read(vault.database, identity.id)
        assert facts is not None
        async with company.room.deployment.transaction() as transaction:
            assert await leases.end(transaction, facts, fence=facts.fence, reason="invalid_grant")
    may_end.set()
    await turn
    if ends:
        with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
            await waiting
        assert len(company.simulator.books()["assertions"]) == asked
    else:
        assert (await waiting).value != token.value


async def test_a_disabled_person_is_told_so_and_connected_once_enabled(company: CompanyRoom) -> None:
    company.deny("linear", "bob")
    user, _ = await company.sign_in("bob")
    company.allow("linear")
    company.pass_time(2 * 86400)  # the earlier refusal doesn't count anymore
    missing = ConnectionRequired("Connect it.", provider="linear", reason="missing", scopes=LINEAR)
    async with company.room.deployment.transaction() as transaction:
        await users.disable_user(transaction, user.id, now=company.vault.database.now())
    with pytest.raises(ConnectionRequired) as refused:
        await companies.heal(company.vault, user.id, missing)
    assert refused.value.description == "This user is disabled, so nothing was connected.", "no page to connect it on"
    events = await company.room.events(user)
    assert "account_unknown" not in [one.details.get("reason") for one in events], "the company didn't refuse"
    async with company.room.deployment.transaction() as transaction:
        await users.enable_user(transaction, user.id, now=company.vault.database.now())
    for reason in ("ambiguous", "scopes"):
        other = ConnectionRequired("Reconnect it.", provider="linear", reason=reason, scopes=LINEAR)
        assert not await companies.heal(company.vault, user.id, other), "another connection wouldn't help"
    assert "linear" not in await company.accounts(user)
    assert await companies.heal(company.vault, user.id, missing)
    assert "linear" in await company.accounts(user)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("", ""),
        ("the sign-in ended", "after they sign in to the vault again"),
        ("the key was destroyed", "after they sign in to the vault again"),
        ("the person is disabled", "This user is disabled, so nothing was connected."),
        ("nobody answers", "didn't answer"),
    ],
)
async def test_each_reason_why_nothing_was_connected_is_told(company: CompanyRoom, what: str, said: str) -> None:
    company.deny("linear", "bob")
    user, _ = await company.sign_in("bob")
    company.allow("linear")
    company.pass_time(2 * 86400)  # the ID token ends
    sandbox, deployment = company.simulator.sandbox, company.room.deployment
    async with deployment.transaction() as transaction:
        match what:
            case "the sign-in ended":
                sandbox.inactive.add("bob")
            case "the key was destroyed":
                identity = (await company.accounts(user))[IDENTITY]
                await deployment.keys.destroy_connection_key(transaction, identity.id)
            case "the person is disabled":
                await users.disable_user(transaction, user.id, now=deployment.now())
            case "nobody answers":
                for _ in range(3):
                    company.simulator.fault(PROVIDER_TOKEN, "drop_before")
            case _:
                pass
    try:
        answer = await companies.connect(company.vault, user.id, "linear", is_asked=True)
    finally:
        sandbox.inactive.discard("bob")
    assert (answer.connection is None) is bool(what)
    assert said in answer.refusal
