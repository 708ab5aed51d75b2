"""A company's rules don't admit an agent, but an access request does: for one person, until a set time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from server.administration import access_requests, agents
from server.administration import groups as administration
from server.administration.access_requests import AccessAnswer, AccessInput
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.issuer_settings import EnterpriseSettings
from server.oauth.enterprise import assertion_grant
from server.oauth.enterprise.explanation import explain_assertion
from server.oauth.enterprise.refusals import AssertionRefused
from server.oauth.parameters import Parameters
from server.oauth.token_request import TokenRequest
from tests.conftest import Store
from tests.oauth.enterprise.test_permissions import connect, live_scopes
from tests.support.inspection import get_grant
from tests.support.rooms.enterprise_room import Company, issuer_of
from tests.support.rooms.oauth_world import GENEROUS, claims_of, vault_with
from vault import users
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessRequest, Kind, RequestedAccess
from vault.refusals import TemporarilyUnavailable
from vault.upkeep import access_ends

DAY = 86400


@pytest.fixture
async def company(shared_company: Company) -> Company:
    """The company with a new person and a new agent that no rule names."""
    return await with_person(shared_company)


async def with_person(shared: Company) -> Company:
    subject = f"employee-{secrets.token_hex(4)}"
    user, caller = await shared.place.user(subject), await shared.place.caller()
    client = replace(caller.client, name="Newcomer")
    async with shared.place.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=shared.idp.url, subject=subject, user_id=user.id, now=shared.now()
        )
        await transaction.execute(
            "update clients set name = :name where id = :id", {"name": "Newcomer", "id": client.id}
        )
    return replace(shared, caller=replace(caller, client=client), user=user, subject=subject)


async def ask_admin(company: Company) -> AccessRequest:
    asking = AccessInput(company="acme", client_id=company.caller.client.id, reason="a trial", days=3)
    return (await access_requests.ask(company.place.deployment, company.user, asking))[0]


def operator(company: Company) -> Actor:
    return Actor(company.place.deployment, None, "command_line")


async def test_the_refusal_leads_to_the_page_and_the_answer_lets_the_agent_in(company: Company) -> None:
    connection = await connect(company)
    refused = await company.ask()
    assert (refused.status_code, refused.json()["error"]) == (400, "access_denied")
    link = urlsplit(refused.json()["access_request_uri"])
    assert link.path == "/access-requests/new"
    assert parse_qs(link.query) == {"company": ["acme"], "agent": [company.caller.client.id]}
    elsewhere = await company.ask(company.assertion(aud="https://other.example"))
    assert (elsewhere.status_code, "access_request_uri" in elsewhere.json()) == (400, False), "no admin can help"
    request = await ask_admin(company)
    assert (await company.ask()).status_code == 400
    with pytest.raises(ChangeRefused) as unknown:
        await access_requests.allow(operator(company), request.id, AccessAnswer(2, frozenset({"no rule"})))
    assert unknown.value.reason == "request_rules"
    with pytest.raises(ChangeRefused):
        await access_requests.allow(operator(company), request.id, AccessAnswer(2))
    await access_requests.allow(operator(company), request.id, AccessAnswer(2, frozenset({"everyone"})))
    assertion = company.assertion()
    explained = await explain_assertion(company.place.deployment, assertion)
    assert (explained.reason, explained.rules) == ("", ("everyone",))
    answer = await company.ask(assertion)
    assert answer.status_code == 200, answer.text
    assert "channels:read" in await live_scopes(company, connection)
    held = await company.permission()
    assert held.expires_at <= company.now() + 2 * DAY, "not as long as the company's own permissions"
    claims = claims_of(str(answer.json()["access_token"]))
    await access_requests.end(operator(company), request.id)
    grant = await get_grant(company.place.deployment.database, str(claims["gid"]))
    assert grant.revoked_at is not None
    assert await live_scopes(company, connection) == frozenset()
    again = await company.ask()
    assert again.json()["error"] == "access_denied"


@pytest.mark.parametrize("days", [0, 30])
async def test_no_page_is_named_where_nobody_can_ask(company: Company, days: int) -> None:
    deployment, client = company.place.deployment, company.caller.client
    settings = deployment.settings
    asking = settings.access_requests.model_copy(update={"longest_days": days})
    deployment = replace(deployment, settings=settings.model_copy(update={"access_requests": asking}))
    form = Parameters({"assertion": company.assertion()})
    with pytest.raises(AssertionRefused) as refused:
        await assertion_grant.redeem(deployment, TokenRequest(client, form, None, None, None, company.now()))
    assert refused.value.reason == "agent"
    assert ("access_request_uri" in refused.value.members) is (days > 0)


async def test_it_is_for_this_person_alone(company: Company) -> None:
    request = await ask_admin(company)
    await access_requests.allow(operator(company), request.id, AccessAnswer(2, frozenset({"everyone"})))
    other = await with_person(company)
    theirs = replace(other, caller=company.caller)
    refused = await theirs.ask()
    assert refused.json()["error"] == "access_denied"
    assert "access_request_uri" in refused.json()
    stranger = replace(company, subject="nobody-yet")
    before = await users.count_users(company.place.deployment.database)
    assert (await stranger.ask()).status_code == 400
    assert await users.count_users(company.place.deployment.database) == before
    assert (await company.ask()).status_code == 200


async def test_nobody_is_made_a_user_for_an_agent_that_is_admitted_for_another(company: Company) -> None:
    deployment, issuer, subject = company.place.deployment, issuer_of("creating"), secrets.token_hex(4)
    asking = AccessInput(company="creating", client_id=company.caller.client.id, reason="a trial", days=3)
    request = (await access_requests.ask(deployment, company.user, asking))[0]
    await access_requests.allow(operator(company), request.id, AccessAnswer(2, frozenset({"everyone"})))
    before = await users.count_users(deployment.database)
    refused = await company.ask(company.assertion(iss=issuer, sub=subject))
    assert refused.json()["error"] == "access_denied"
    assert await users.count_users(deployment.database) == before
    async with deployment.transaction() as transaction:
        now = company.now()
        await users.link_identity(transaction, issuer=issuer, subject=subject, user_id=company.user.id, now=now)
    assert (await company.ask(company.assertion(iss=issuer, sub=subject))).status_code == 200


@pytest.mark.parametrize("change", ["none", "ended", "other rules"])
async def test_a_change_of_the_request_while_its_token_is_made_counts(company: Company, change: str) -> None:
    request, deployment = await ask_admin(company), company.place.deployment
    await access_requests.allow(operator(company), request.id, AccessAnswer(2, frozenset({"everyone"})))
    names = frozenset({"writers" if change == "other rules" else "everyone"})
    read = assertion_grant.RequestedRules({}, request.id, names)
    if change == "ended":
        await access_requests.end(operator(company), request.id)
    async with deployment.transaction() as transaction:
        checking = assertion_grant._check_allowed(transaction, read, now=company.now())
        if change == "none":
            assert company.now() + DAY < await checking <= company.now() + 2 * DAY
        else:
            with pytest.raises(AssertionRefused if change == "ended" else TemporarilyUnavailable):
                await checking


async def test_it_ends_by_itself(company: Company) -> None:
    request = await ask_admin(company)
    await access_requests.allow(operator(company), request.id, AccessAnswer(1, frozenset({"everyone"})))
    answer = await company.ask()
    database = company.place.deployment.database
    async with company.place.deployment.transaction() as transaction:
        await transaction.execute(
            "update access_requests set expires_at = :now where id = :id", {"now": company.now(), "id": request.id}
        )
    assert (await company.ask()).json()["error"] == "access_denied"
    assert await access_ends.end_over(database) >= 1
    grant = await get_grant(database, str(claims_of(str(answer.json()["access_token"]))["gid"]))
    assert grant.revoked_at is not None
    assert (await company.place.events("permission.ended"))[-1].details["reason"] == "time"


async def test_an_agent_that_the_rules_know_asks_for_another_rule(shared_company: Company) -> None:
    person = await with_person(shared_company)
    caller = await shared_company.place.caller()
    company = replace(person, caller=caller)
    connection = await connect(company)
    assert (await company.ask()).status_code == 200
    assert "chat:write" not in await live_scopes(company, connection)
    request = await ask_admin(company)
    await access_requests.allow(operator(company), request.id, AccessAnswer(1, frozenset({"writers"})))
    assert (await company.ask()).status_code == 200
    assert "chat:write" in await live_scopes(company, connection)
    await access_requests.narrow(operator(company), request.id, scopes=frozenset({"writers"}), days=1)
    assert await live_scopes(company, connection) == frozenset(), "until the next assertion says what counts"
    assert (await company.ask()).status_code == 200
    assert "chat:write" in await live_scopes(company, connection)
    await access_requests.end(operator(company), request.id)
    assert (await company.ask()).status_code == 200
    assert "chat:write" not in await live_scopes(company, connection)


async def test_a_smaller_yes_takes_back_what_the_larger_one_gave(shared_company: Company) -> None:
    company = replace(await with_person(shared_company), caller=await shared_company.place.caller())
    connection = await connect(company)
    larger = await ask_admin(company)
    await access_requests.allow(operator(company), larger.id, AccessAnswer(2, frozenset({"everyone", "writers"})))
    assert (await company.ask()).status_code == 200
    assert "chat:write" in await live_scopes(company, connection)
    smaller = await ask_admin(company)
    await access_requests.allow(operator(company), smaller.id, AccessAnswer(2, frozenset({"everyone"})))
    assert await live_scopes(company, connection) == frozenset(), "until the next assertion says what counts"
    assert (await company.ask()).status_code == 200
    assert "chat:write" not in await live_scopes(company, connection)


async def test_an_assertion_that_comes_while_it_is_narrowed_gives_no_more(shared_company: Company) -> None:
    company = replace(await with_person(shared_company), caller=await shared_company.place.caller())
    connection, deployment = await connect(company), company.place.deployment
    request = await ask_admin(company)
    both = frozenset({"everyone", "writers"})
    given = await access_requests.allow(operator(company), request.id, AccessAnswer(2, both))
    async with asyncio.timeout(60):
        async with deployment.transaction() as transaction:
            await stored.narrow(
                transaction, given, scopes=frozenset({"everyone"}), expires_at=given.expires_at, now=company.now()
            )
            asked = asyncio.create_task(company.ask())
            await asyncio.sleep(1)  # normally, it reads the rules before the narrower ones are committed
        await asked
    assert "chat:write" not in await live_scopes(company, connection)
    assert (await company.ask()).status_code == 200


async def test_whoever_is_disabled_at_that_moment_allows_nothing(store: Store) -> None:
    async with vault_with(store.data, database={"url": store.url}, **GENEROUS) as (vault, _):
        await _answer_while_disabled(vault.deployment)


async def _answer_while_disabled(deployment: Deployment) -> None:
    by_command, now = Actor(deployment, None, "command_line"), deployment.now()
    group = await administration.create(by_command, "Sales")
    async with deployment.transaction() as transaction:
        mia, otto, dave = [
            await users.create_user(transaction, name, password_hash=None, now=now) for name in ("mia", "otto", "dave")
        ]
    await access_requests.set_manager(by_command, group, mia, is_manager=True)
    for disabled, gets in ((dave, True), (mia, False)):
        access = RequestedAccess(otto.id, "", Kind.GROUP, group.id, group.id, frozenset(), "cover", DAY)
        async with deployment.transaction() as transaction:
            request, _ = await stored.ask(transaction, access, now=now)
        async with asyncio.timeout(60):
            async with deployment.transaction() as transaction:
                await users.disable_user(transaction, disabled.id, now=now)
                own = Actor(deployment, mia, "administration")
                answering = asyncio.create_task(access_requests.allow(own, request.id, AccessAnswer(1)))
                await asyncio.sleep(1)  # normally, it has reached the person's row before the transaction ends
            (answer,) = await asyncio.gather(answering, return_exceptions=True)
        assert isinstance(answer, ChangeRefused) != gets, answer
        found = await access_requests.request_with_id(deployment, request.id)
        assert found.is_allowed(deployment.now()) == gets
        await access_requests.end(by_command, request.id)


async def test_only_an_agent_that_is_there_asks_a_company_that_has_rules(company: Company) -> None:
    deployment, agent = company.place.deployment, company.caller.client.id
    enterprise = deployment.settings.enterprise
    without_rules = {**enterprise, "acme": enterprise["acme"].model_copy(update={"allow": {}})}

    async def refusal_reason(changed: Deployment, client_id: str) -> str:
        asking = AccessInput(company="acme", client_id=client_id, reason="a trial", days=3)
        with pytest.raises(ChangeRefused) as found:
            await access_requests.ask(changed, company.user, asking)
        return found.value.reason

    assert await refusal_reason(with_companies(deployment, without_rules), agent) == "no_such_access"
    assert await refusal_reason(deployment, "another") == "no_such_access"
    assert await ask_admin(company)
    await agents.remove(operator(company), company.caller.client)
    assert await refusal_reason(deployment, agent) == "no_such_access"


async def test_a_company_that_left_the_settings_gives_nothing(company: Company) -> None:
    request, deployment = await ask_admin(company), company.place.deployment
    others = {name: one for name, one in deployment.settings.enterprise.items() if name != "acme"}
    answer = AccessAnswer(1, frozenset({"everyone"}))
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.allow(Actor(with_companies(deployment, others), None, "command_line"), request.id, answer)
    assert refused.value.reason == "request_rules"
    assert await access_requests.allow(operator(company), request.id, answer)


def with_companies(deployment: Deployment, companies: Mapping[str, EnterpriseSettings]) -> Deployment:
    return replace(deployment, settings=deployment.settings.model_copy(update={"enterprise": companies}))


async def test_only_admins_answer_for_a_company(company: Company) -> None:
    request, deployment = await ask_admin(company), company.place.deployment
    own = Actor(deployment, company.user, "administration")
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.allow(own, request.id, AccessAnswer(1, frozenset({"everyone"})))
    assert refused.value.reason == "not_approver"
    async with deployment.transaction() as transaction:
        await transaction.execute("update users set is_admin = 1 where id = :id", {"id": company.user.id})
    assert await access_requests.allow(own, request.id, AccessAnswer(1, frozenset({"everyone"})))
