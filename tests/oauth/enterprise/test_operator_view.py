"""What an operator sees of companies and can do about them: commands, doctor, Admin API, and people's pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2
import pytest
import tomlkit

from providers.oauth.assertions import ID_JAG
from server.administration import companies
from server.administration.actor import Actor, ChangeRefused
from server.administration.company_checks import check_companies
from server.doctor.findings import Verdict
from server.oauth.enterprise.explanation import explain_assertion
from server.oauth.enterprise.refusals import REFUSALS
from tests.oauth.enterprise.test_assertions import LIES
from tests.support.commands import content, run
from tests.support.harness import PASSWORD
from tests.support.rooms.admin_room import AdminRoom
from tests.support.rooms.enterprise_room import RULES, Company, issuer_of, running_company
from tests.support.rooms.mcp_room import SLACK
from vault import delegations, users

STRANGE = {
    "strange": {
        "agents": ["Nobody at all"],
        "scopes": ["tools", "chat"],
        "accounts": {"slak": ["read"]},
        "tools": ["slack_pst"],
    }
}


@dataclass(frozen=True)
class Place:
    """Where commands find the vault."""

    data: Path


@pytest.fixture(scope="module")
async def company(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Company]:
    data = tmp_path_factory.mktemp("operating") / "data"
    async with running_company(data, rules={**RULES, **STRANGE}) as found:
        yield found


@pytest.fixture
def place(company: Company) -> Place:
    """The vault with its settings in a file next to it."""
    settings, data = company.place.deployment.settings, company.place.deployment.data
    rules: Mapping[str, object] = {**RULES, **STRANGE}
    written = {
        "server": {"port": urlsplit(company.place.url).port},
        "sandbox": {"loopback_openid": True},
        "enterprise": {"acme": {"issuer": settings.enterprise["acme"].issuer, "title": "Acme", "allow": rules}},
    }
    (data / "config.toml").write_text(tomlkit.dumps(written), encoding="utf-8")
    return Place(data)


async def admit(company: Company) -> None:
    answer = await company.ask()
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", LIES)
async def test_the_explanation_names_the_reason_of_each_refusal(company: Company, name: str) -> None:
    lie = LIES[name]
    expected = "" if name == "bound without a proof" else lie.reason  # the explanation assumes that the proof is valid
    token = company.assertion(header=lie.header, **lie.claims(company))
    found = await explain_assertion(company.place.deployment, token)
    assert found.reason == expected
    honest = {} if lie.honest is None else lie.honest(company)
    assert (await explain_assertion(company.place.deployment, company.assertion(**honest))).reason == ""


async def test_an_explanation_uses_nothing_up(company: Company) -> None:
    deployment, token = company.place.deployment, company.assertion()
    for _ in range(2):
        found = await explain_assertion(deployment, token)
        assert (found.reason, found.person, found.known_by) == ("", company.user, "link")
        assert found.rules == ("everyone",)
    assert (await company.ask(token)).status_code == 200
    assert (await explain_assertion(deployment, token)).reason == "replayed"


async def test_an_explanation_says_by_what_the_person_is_known(company: Company) -> None:
    dora = await company.place.user("dora@acme.example")
    address = {"email": "dora@acme.example", "email_verified": True, "sub": "d-1"}
    for where, by, person in (("matching", "address", dora), ("creating", "new", None)):
        found = await explain_assertion(company.place.deployment, company.assertion(iss=issuer_of(where), **address))
        assert (found.reason, found.known_by, found.person) == ("", by, person)


async def test_the_command_explains_an_assertion(company: Company, place: Place) -> None:
    good = await run(place, "enterprise", "explain", feed=company.assertion())
    assert good.exit_code == 0, good.output
    assert "slack: read" in good.stdout
    assert "connections tools" in good.stdout
    bad = await run(place, "enterprise", "explain", feed=company.assertion(aud="x"))
    assert bad.exit_code == 1
    assert "audience" in bad.stdout
    assert REFUSALS["audience"].fix in " ".join(bad.stdout.split())


async def test_the_admin_api_lists_companies_and_explains_an_assertion(company: Company) -> None:
    async with httpx2.AsyncClient(base_url=company.place.url, timeout=20) as http:
        admin = AdminRoom(company.place, http)
        token = await admin.token_with()

        async def explain(assertion: str) -> dict[str, object]:
            body = {"assertion": assertion}
            return (await admin.call("POST", "/companies/explanations", token=token, json=body)).json()

        every = (await admin.call("GET", "/companies", token=token)).json()["items"]
        (listed,) = [one for one in every if one["company"] == "acme"]
        assert {one["rule"] for one in listed["rules"]} == {*RULES, *STRANGE}
        good = await explain(company.assertion())
        assert (good["works"], good["accounts"]) == (True, {"slack": ["read"]})
        assert (good["company"], good["person_id"]) == ("acme", company.user.id)
        bad = await explain(company.assertion(aud="x"))
        assert (bad["works"], bad["reason"]) == (False, "audience")
        assert bad["fix"] == REFUSALS["audience"].fix.replace("enterprise.NAME", "enterprise.acme")


async def test_explain_says_what_companies_allow_the_agent(company: Company, place: Place) -> None:
    caller, erin = await company.place.caller(), await company.place.user("erin")
    async with company.place.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=company.idp.url, subject="e-1", user_id=erin.id, now=company.now()
        )

    async def lines() -> str:
        ran = await run(place, "explain", "--user", "erin", "--client", caller.client.id, "--connection", "none")
        return " ".join(ran.output.split())

    async def ask(**claims: object) -> int:
        assertion = company.assertion(client_id=caller.client.id, sub="e-1", **claims)
        return (await company.ask(assertion, caller=caller)).status_code

    assert "acme admits this agent by engineering, everyone, writers" in await lines()
    assert await ask() == 200
    assert "acme admits this agent (slack: read) until" in await lines()
    assert await ask(aud="x") == 400
    assert f"refused in the last day: {REFUSALS['audience'].description}" in await lines()
    assert (await run(place, "enterprise", "end", "erin", caller.client.id)).exit_code == 0
    assert f"assertions of acme are refused: {REFUSALS['ended_by_admin'].description}" in await lines()


async def test_the_commands_list_end_and_resume(company: Company, place: Place) -> None:
    await admit(company)
    rules = await content(place, "enterprise", "list")
    assert isinstance(rules, list)
    assert {one["rule"] for one in rules} == {*RULES, *STRANGE}
    client = company.caller.client.id
    [held] = await content(place, "enterprise", "permissions", "--user", "alice")  # pyright: ignore[reportGeneralTypeIssues]
    assert (held["company"], held["client_id"], held["ended_at"]) == ("acme", client, None)
    assert (await run(place, "enterprise", "end", "alice", client)).exit_code == 0
    refused = await company.ask()
    assert refused.json()["error_description"] == REFUSALS["ended_by_admin"].description
    await company.place.agent(company.caller)  # the person's own sign-in doesn't lift that
    assert (await company.ask()).status_code == 400
    assert (await run(place, "enterprise", "resume", "alice", client)).exit_code == 0
    await admit(company)
    again = await run(place, "enterprise", "resume", "alice", client)
    assert again.exit_code == 1
    assert "already accepted" in again.output


async def test_an_admins_end_takes_tokens_and_accounts(company: Company) -> None:
    deployment = company.place.deployment
    agent = await company.place.agent(company.caller)
    connection = await company.place.slack(await company.place.room.agent("alice"))
    await admit(company)
    which = {"user_id": company.user.id, "client_id": company.caller.client.id, "connection_id": connection.id}
    held = await delegations.get(deployment.database, **which)
    assert held is not None
    assert held.is_live(company.now())
    token = (await company.ask()).json()["access_token"]
    await companies.end(Actor(deployment, None, "command_line"), await company.permission())
    async with company.place.room.http() as http:
        sent = await http.get("/mcp", headers={"authorization": f"Bearer {token}"})
        own = await http.get("/mcp", headers=agent.headers)
        assert (sent.status_code, own.status_code != 401) == (401, True), "what the person allowed stays"
    held = await delegations.get(deployment.database, **which)
    assert held is not None
    assert not held.is_live(company.now())
    assert (await company.place.events("company.ended"))[-1].details["company"] == "acme"
    await companies.resume(Actor(deployment, None, "command_line"), await company.permission())
    await admit(company)
    held = await delegations.get(deployment.database, **which)
    assert held is not None
    assert held.is_live(company.now()), "what the admin ended comes back with it"
    with pytest.raises(ChangeRefused):
        await companies.resume(Actor(deployment, None, "command_line"), await company.permission())


async def test_the_doctor_knows_what_is_wrong_with_companies(company: Company) -> None:
    caller = await company.place.caller()
    wrong = company.assertion(client_id=caller.client.id, exp=company.now() + 5000)
    assert (await company.ask(wrong, caller=caller)).status_code == 400
    found = [one for one in await check_companies(company.place.deployment) if one.check == "enterprise.acme"]
    told = "\n".join(f"{one.sentence} {one.fix}" for one in found)
    assert all(one.verdict is Verdict.NOTE for one in found), told
    for part in ("chat isn't a scope", "slak isn't a provider", "slack_pst isn't a tool", "Nobody at all", "needs iat"):
        assert part in told, told
    assert "enterprise.acme.longest" in told


async def test_the_doctor_says_that_the_issuer_issues_no_assertions(company: Company) -> None:
    member = "identity_chaining_requested_token_types_supported"
    for listed, is_told in (([], True), ([ID_JAG], False)):
        company.idp.change_metadata = lambda metadata, listed=listed: {**metadata, member: listed}
        found = await check_companies(company.place.deployment)
        told = [one for one in found if "issues no identity assertions" in one.sentence]
        assert [one.check for one in told] == (["enterprise.acme"] if is_told else [])


async def test_the_doctor_finds_keys_that_cannot_be_read(tmp_path: Path) -> None:
    async with running_company(tmp_path / "data") as company:
        for broken, verdicts in (("not found", {Verdict.PROBLEM, Verdict.NOTE}), ("", {Verdict.NOTE})):
            company.idp.broken = broken
            found = [one for one in await check_companies(company.place.deployment) if one.check == "enterprise.acme"]
            assert {one.verdict for one in found} == verdicts, "one agent is registered nowhere"
            company.place.deployment.database.clock_offset += 60


async def test_people_see_what_their_company_allowed(company: Company) -> None:
    await company.place.room.connect(await company.place.room.agent("alice"), "slack", scopes=SLACK, account="bob")
    await admit(company)
    async with company.place.room.vault.person() as alice:
        await alice.sign_in("alice", PASSWORD)
        path = f"/agents/{quote(company.caller.client.id, safe='')}"
        page = (await alice.open(path)).text
        assert "By Acme" in page
        assert "<bdi>Acme</bdi> allowed <bdi>Invoices</bdi> to use" in page
        german = (await alice.http.get(path, headers={"accept-language": "de"})).text
        assert "Von Acme" in german
        [own] = (await alice.http.get("/account/data")).json()["permissions_by_companies"]
        assert (own["company"], own["accounts"]) == ("acme", {"slack": ["read"]})
