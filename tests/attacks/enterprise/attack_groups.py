"""Roles and groups: auditors who make changes, administrators who exceed their role, group accounts after leaving."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import cast

import httpx2
import pytest

from server.api.operations import AdminOperation
from server.api.table import OPERATIONS
from tests.attacks.administration.attack_admin_api import SCOPES, ask, call, new_account, path_of
from tests.attacks.administration.attack_administration import ROOT, id_of
from tests.attacks.enterprise.company import ADMINS, AUDITORS, Company, Employee
from tests.attacks.portal.attack_people import form_of, send
from tests.attacks.wire.handles import handle, ready
from tests.support.person import forms_of

CHANGES = tuple(one for _, some in OPERATIONS for one in some if one.changes and one.scope)
NAMES = [f"{one.method} {one.template}" for one in CHANGES]


async def role_group(company: Company, name: str) -> str:
    """The group to which the settings assign a role."""
    items = cast("list[dict[str, object]]", (await company.call_api("GET", "/groups?limit=200"))["items"])
    ids = [str(one["id"]) for one in items if one["name"] == name]
    return ids[0] if ids else await company.group(name=name)


async def with_role(company: Company, role: str) -> Employee:
    employee = await company.employee()
    await company.call_api("PATCH", f"/people/{employee.id}", {"role": role})
    return employee


async def token_of(company: Company, employee: Employee, *scopes: str) -> str:
    """A token of this person's own service account; all scopes by default."""
    credentials = await new_account(company.target, *(scopes or SCOPES), admin=employee.name)
    answer = await ask(company.target, credentials)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@pytest.fixture(scope="module")
async def auditor(company: Company) -> tuple[Employee, str]:
    """An auditor who was an administrator with all scopes, and the token from that time."""
    employee = await with_role(company, "administrator")
    token = await token_of(company, employee)
    await company.call_api("PATCH", f"/people/{employee.id}", {"role": "auditor"})
    return employee, token


@pytest.fixture(scope="module")
async def administrator(company: Company) -> tuple[Employee, str]:
    """An administrator who isn't an owner."""
    employee = await with_role(company, "administrator")
    return employee, await token_of(company, employee)


# Auditors


@pytest.mark.parametrize("one", CHANGES, ids=NAMES)
async def test_an_auditor_changes_nothing_through_the_api(
    company: Company, auditor: tuple[Employee, str], one: AdminOperation
) -> None:
    answer = await call(company.target, one.method, await path_of(company.target, one), auditor[1], json={})
    assert answer.status_code == 403, answer.text[:200]
    assert answer.json()["code"] in {"forbidden", "insufficient_scope"}


async def test_an_auditor_reads_through_the_api(company: Company, auditor: tuple[Employee, str]) -> None:
    """The twin."""
    for path in ("/people", "/groups", "/me", "/agents"):
        assert (await company.api("GET", path, token=auditor[1])).status_code == 200


ADMIN_PAGES = ("", "/people", "/people/new", "/people/{other}", "/people/{other}/delete", "/groups", "/groups/{group}",
               "/agents", "/providers", "/providers/slack", "/settings", "/webhooks", "/keys")  # fmt: skip


@pytest.mark.parametrize("path", ADMIN_PAGES)
async def test_an_auditor_changes_nothing_through_a_page(
    company: Company, auditor: tuple[Employee, str], path: str
) -> None:
    """Try every form of an administrator's page, with the auditor's own form token."""
    target, (employee, _) = company.target, auditor
    other, group = await id_of(target.mallory), await role_group(company, AUDITORS)
    where = ROOT + path.format(other=other, group=group)
    shown = await target.alice.http.get(where)
    forms = [one for one in forms_of(shown.text) if "form_token" in dict(one.fields) and one.action.startswith(ROOT)]
    theirs = forms_of((await employee.browser.open("/account")).text)
    own = dict(theirs[0].fields).get("form_token", "")
    shown = await employee.browser.http.get(where)
    assert shown.status_code in {200, 303, 403, 404}
    own_forms = [one for one in forms_of(shown.text) if one.action.startswith(ROOT)]
    assert not [one for one in own_forms if "form_token" in dict(one.fields)], where
    for form in forms:
        for given in (own, dict(form.fields).get("form_token", "")):
            data = dict(form.fields) | {"form_token": given, "name": "x", "role": "owner"}
            answer = await employee.browser.http.post(form.action, data=data, headers={"origin": target.url})
            assert answer.status_code == 403, (form.action, answer.status_code)
    assert (await company.facts(employee.id))["role"] == "auditor"
    assert (await company.facts(other))["role"] == "member"


async def test_an_auditor_makes_no_service_account_that_changes(company: Company) -> None:
    employee = await with_role(company, "auditor")
    words = ("--admin", employee.name, "--admin-scope", "admin:read", "--admin-scope", "admin:people", "--json")
    code, out, _ = await company.target.place.run("clients", "add", "Aud", "--confidential", *words)
    if code:
        return
    answer = await ask(company.target, {name: str(json.loads(out)[name]) for name in ("client_id", "client_secret")})
    token = answer.json().get("access_token", "")
    answer = await company.api("POST", "/people", {"name": "by an auditor"}, token=token)
    assert answer.status_code in {401, 403}


# Administrators who exceed their role


CHANGES: tuple[dict[str, object], ...] = (
    {"role": "owner"}, {"role": "owner", "admin": True}, {"admin": True, "role": "owner", "disabled": False},
    {"role": "OWNER"}, {"role": ["owner"]}, {"role": "owner", "roles": ["owner"]}, {"is_owner": True},
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_an_administrator_makes_no_owner(
    company: Company, administrator: tuple[Employee, str], change: dict[str, object]
) -> None:
    employee, token = administrator
    other = await company.employee()
    for person_id in (employee.id, other.id):
        answer = await company.api("PATCH", f"/people/{person_id}", change, token=token)
        assert answer.status_code in {400, 403, 422}, answer.text
    assert (await company.facts(employee.id))["role"] == "administrator"
    assert (await company.facts(other.id))["role"] != "owner"
    page = await employee.browser.open(f"{ROOT}/people/{other.id}")
    for form in forms_of(page.text):
        if form.action.startswith(ROOT):
            for name in ("role", "admin"):
                data = dict(form.fields) | {name: "owner"}
                if form.action.rpartition("/")[2] in {"disable", "delete", "link"}:
                    continue
                await employee.browser.http.post(form.action, data=data, headers={"origin": company.target.url})
    assert (await company.facts(other.id))["role"] != "owner"


TO_OWNER: dict[str, tuple[str, str, object]] = {
    "disable": ("PATCH", "", {"disabled": True}),
    "demote": ("PATCH", "", {"role": "member"}),
    "not admin": ("PATCH", "", {"admin": False}),
    "make administrator": ("PATCH", "", {"role": "administrator"}),
    "delete": ("DELETE", "", None),
    "make a link": ("POST", "/sign-in-links", None),
    "link an identity": ("POST", "/identities", {"issuer": "https://evil.example", "subject": "x"}),
    "let the directory manage": ("POST", "/directory", {"external_id": "evil"}),
}
FRESH = ("subject", "external_id")  # values that only one person can have


@pytest.mark.parametrize("how", TO_OWNER)
async def test_an_administrator_does_nothing_to_an_owner(
    company: Company, administrator: tuple[Employee, str], how: str
) -> None:
    owner = await with_role(company, "owner")
    method, path, content = TO_OWNER[how]
    answer = await company.api(method, f"/people/{owner.id}{path}", content, token=administrator[1])
    assert answer.status_code == 403, answer.text
    facts = await company.facts(owner.id)
    assert (facts["role"], facts["disabled"]) == ("owner", False)
    member = await company.employee()
    if isinstance(content, dict):
        content = content | {name: secrets.token_hex(4) for name in FRESH if name in content}
    answer = await company.api(method, f"/people/{member.id}{path}", content, token=administrator[1])  # the twin
    assert answer.status_code < 300, answer.text


async def test_an_administrator_enables_no_owner_whom_another_owner_disabled(
    company: Company, administrator: tuple[Employee, str]
) -> None:
    owner = await with_role(company, "owner")
    await company.call_api("PATCH", f"/people/{owner.id}", {"disabled": True})
    answer = await company.api("PATCH", f"/people/{owner.id}", {"disabled": False}, token=administrator[1])
    assert answer.status_code == 403, answer.text
    page = await administrator[0].browser.open(f"{ROOT}/people/{owner.id}")
    for form in forms_of(page.text):
        if form.action.endswith("/enable"):
            await send(company.target, administrator[0].browser, form)
    assert (await company.facts(owner.id))["disabled"] is True
    assert (await company.call_api("PATCH", f"/people/{owner.id}", {"disabled": False}))[
        "disabled"
    ] is False  # the twin


async def test_a_link_that_an_administrator_kept_opens_no_owner(
    company: Company, administrator: tuple[Employee, str]
) -> None:
    person = await company.employee()
    made = await company.api("POST", f"/people/{person.id}/sign-in-links", token=administrator[1])
    await company.call_api("PATCH", f"/people/{person.id}", {"role": "owner"})
    stranger = await company.target.browser()
    assert (await stranger.http.get(str(made.json()["url"]))).status_code == 403
    await company.call_api("PATCH", f"/people/{person.id}", {"role": "member"})
    made = await company.api("POST", f"/people/{person.id}/sign-in-links", token=administrator[1])  # the twin
    assert (await stranger.http.get(str(made.json()["url"]))).status_code == 200


async def test_who_administers_by_a_group_is_no_owner_and_none_after_it(company: Company) -> None:
    employee, group = await company.employee(), await role_group(company, ADMINS)
    await company.call_api("PUT", f"/groups/{group}/people/{employee.id}")
    assert (await employee.browser.http.get(ROOT)).status_code == 200
    alice = await id_of(company.target.alice)
    old = form_of(await employee.browser.open(f"{ROOT}/people/new"), "/people/new")
    page = await employee.browser.open(f"{ROOT}/people/{alice}")
    for form in forms_of(page.text):
        if form.action.rpartition("/")[2] in {"disable", "not-admin", "link"}:
            answer = await send(company.target, employee.browser, form)
            assert answer.status_code in {400, 403, 409}, (form.action, answer.status_code)
    assert (await company.facts(alice))["role"] == "owner"
    await company.call_api("DELETE", f"/groups/{group}/people/{employee.id}")
    assert (await employee.browser.http.get(ROOT)).status_code == 403
    answer = await send(company.target, employee.browser, old, name=secrets.token_hex(4))
    assert answer.status_code == 403


NEAR = (f"{ADMINS} ", ADMINS.upper(), ADMINS.replace("a", "а"), ADMINS + "\u200b", ADMINS.replace(" ", "  "), "Vault",
        ADMINS.replace("V", "Ｖ"), "owner", "administrator")  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
async def test_a_group_that_looks_like_one_with_a_role_gives_none(company: Company, name: str) -> None:
    """Either the name means that group, which only administrators and the directory can fill, or it grants nothing."""
    await role_group(company, ADMINS)
    answer = await company.api("POST", "/groups", {"name": name})
    assert answer.status_code in {201, 400, 409}, answer.text
    if answer.status_code == 201:
        employee = await company.employee()
        await company.call_api("PUT", f"/groups/{answer.json()['id']}/people/{employee.id}")
        assert (await employee.browser.http.get(ROOT)).status_code == 403
        await company.call_api("DELETE", f"/groups/{answer.json()['id']}")


async def test_the_last_owners_that_unmake_each_other_at_once_leave_one(company: Company) -> None:
    """alice stays an owner throughout, so either of these two may be demoted, but only by somebody else."""
    one, other = await with_role(company, "owner"), await with_role(company, "owner")
    first, second = await token_of(company, one), await token_of(company, other)
    answers = await asyncio.gather(
        company.api("PATCH", f"/people/{other.id}", {"role": "member"}, token=first),
        company.api("PATCH", f"/people/{one.id}", {"role": "member"}, token=second),
    )
    roles = [(await company.facts(each.id))["role"] for each in (one, other)]
    assert sorted(roles) == ["member", "owner"], [each.status_code for each in answers]


# Members


async def test_a_member_reads_and_changes_no_group(company: Company) -> None:
    employee, group = await company.employee(), await company.group()
    for path in ("/groups", f"/groups/{group}"):
        assert (await employee.browser.http.get(ROOT + path)).status_code == 403
        answer = await employee.browser.http.post(
            ROOT + path, data={"name": "x", "person": employee.id}, headers={"origin": company.target.url}
        )
        assert answer.status_code in {403, 405}
    assert cast("list[object]", (await company.call_api("GET", f"/groups/{group}"))["people"]) == []


# Accounts of a group


async def share_account(company: Company, *members: Employee, **rule: object) -> tuple[str, str]:
    """Make a group with these members and a Slack account from alice; return group and connection."""
    target = company.target
    await target.connect(target.alice, "slack", account="bob")
    mine = (await target.connection_ids("alice"))["slack"]
    group = await company.group(*(one.id for one in members))
    given = await company.call_api("POST", f"/groups/{group}/connections", {"connection_id": mine, **rule})
    return group, str(given["id"])


async def use(company: Company, employee: Employee, connection: str, scope: str = "chat:write") -> httpx2.Response:
    """Exchange for the group's account, after this person allows it."""
    return await ready(company.target, connection, scope, person=employee.browser)


async def test_who_left_a_group_uses_its_account_no_more(company: Company) -> None:
    member, stranger = await company.employee(), await company.employee()
    group, connection = await share_account(company, member)
    answer = await use(company, stranger, connection)
    assert "access_token" not in answer.text
    one = await handle(company.target, connection, "chat:write", person=member.browser)
    agent = await company.target.agent(member.browser, client="backend", scope="tools exchange offline_access")
    body = {"channel": "general", "text": "x"}
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code == 200  # the twin
    racing = [asyncio.ensure_future(one.call("POST", "/chat.postMessage", json=body)) for _ in range(5)]
    await company.call_api("DELETE", f"/groups/{group}/people/{member.id}")
    await asyncio.gather(*racing)
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code in {401, 403, 404}
    answer = await company.target.exchange("backend", agent.token, audience=connection, scope="chat:write")
    assert answer.status_code in {400, 403}, answer.text
    assert "access_token" not in answer.text
    for path in (f"/connections/{connection}", f"/connections/{connection}/disconnect"):
        assert (await member.browser.http.get(path)).status_code in {303, 403, 404}
    assert connection not in (await member.browser.http.get("/connections")).text
    again = await company.group(member.id)  # another group grants nothing of this one
    assert again != group
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code in {401, 403, 404}


@pytest.mark.parametrize("how", ["group deleted", "account ended", "person disabled", "rule narrowed"])
async def test_what_ends_at_a_group_ends_for_its_members(company: Company, how: str) -> None:
    member = await company.employee()
    group, connection = await share_account(company, member)
    one = await handle(company.target, connection, "chat:write", person=member.browser)
    body = {"channel": "general", "text": "x"}
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code == 200  # the twin
    match how:
        case "group deleted":
            await company.call_api("DELETE", f"/groups/{group}")
        case "account ended":
            await company.call_api("DELETE", f"/groups/{group}/connections/{connection}")
        case "person disabled":
            await company.call_api("PATCH", f"/people/{member.id}", {"disabled": True})
        case _:
            await company.call_api("PUT", f"/groups/{group}/connections/{connection}", {"reads_only": True})
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code in {401, 403, 404}


async def test_a_member_neither_ends_nor_gives_on_what_is_the_groups(company: Company) -> None:
    member, admin = await company.employee(), await with_role(company, "administrator")
    group, connection = await share_account(company, member, admin, reads_only=True)
    agent = await company.target.agent(member.browser, client="backend", scope="tools exchange")
    answer = await company.target.exchange("backend", agent.token, audience=connection, scope="chat:write")
    assert "access_token" not in answer.text, "the rule leaves reading only"
    page = await member.browser.open(f"/connections/{connection}/disconnect")
    for form in forms_of(page.text):
        if connection in form.action:
            await send(company.target, member.browser, form)
    own = dict(forms_of((await member.browser.open("/account")).text)[0].fields).get("form_token", "")
    answer = await member.browser.http.post(
        f"/connections/{connection}/disconnect", data={"form_token": own}, headers={"origin": company.target.url}
    )
    assert answer.status_code in {303, 400, 403, 404, 405}
    token, elsewhere = await token_of(company, admin), await company.group()
    answer = await company.api("POST", f"/groups/{elsewhere}/connections", {"connection_id": connection}, token=token)
    assert answer.status_code in {400, 403, 404, 409}, answer.text
    items = cast("list[dict[str, object]]", (await company.call_api("GET", f"/groups/{group}/connections"))["items"])
    assert [(one["id"], one["status"]) for one in items] == [(connection, "active")]


async def test_nobody_gives_away_what_is_somebody_elses(company: Company, administrator: tuple[Employee, str]) -> None:
    group = await company.group()
    victim = (await company.target.connection_ids("mallory"))["slack"]
    for token in (administrator[1], None):
        answer = await company.api("POST", f"/groups/{group}/connections", {"connection_id": victim}, token=token)
        assert answer.status_code == 404, answer.text
    for sent in ({"connection_id": victim, "person": "mallory"}, {"connection_id": victim, "by": "mallory"}):
        assert (await company.api("POST", f"/groups/{group}/connections", sent)).status_code in {400, 422}
    assert (await company.target.connection_ids("mallory"))["slack"] == victim


async def test_an_account_of_one_group_is_not_reached_through_another(company: Company) -> None:
    group, connection = await share_account(company)
    other = await company.group()
    for method, content in (("PUT", {"reads_only": False}), ("DELETE", None)):
        answer = await company.api(method, f"/groups/{other}/connections/{connection}", content)
        assert answer.status_code == 404, answer.text
    await company.call_api("PUT", f"/groups/{group}/connections/{connection}", {"asks_writes": True})  # the twin


async def test_a_directory_that_takes_a_member_out_ends_their_use(company: Company) -> None:
    member = await company.employee()
    await company.target.command("scim", "adopt", member.name)
    group = await company.provisioned_group(member.id)
    await company.target.connect(company.target.alice, "slack", account="bob")
    mine = (await company.target.connection_ids("alice"))["slack"]
    given = await company.call_api("POST", f"/groups/{group['id']}/connections", {"connection_id": mine})
    one = await handle(company.target, str(given["id"]), "chat:write", person=member.browser)
    body = {"channel": "general", "text": "x"}
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code == 200  # the twin
    where = f"/Groups/{group['id']}"
    answer = await company.patch(where, {"op": "remove", "path": f'members[value eq "{member.id}"]'})
    assert answer.status_code == 200, answer.text
    assert (await one.call("POST", "/chat.postMessage", json=body)).status_code in {401, 403, 404}


async def test_a_role_is_none_of_the_command_lines_made_up_words(company: Company) -> None:
    employee = await company.employee()
    for word in ("root", "OWNER ", "owner,administrator", ""):
        code, _, _ = await company.target.place.run("users", "role", employee.name, word)
        assert code != 0, word
    assert (await company.facts(employee.id))["role"] == "member"


async def test_pages_of_a_group_and_a_person_have_their_own_forms_only(company: Company) -> None:
    """A form of one group that is sent to another group's URL is refused or changes the group in the URL."""
    one, other, employee = await company.group(), await company.group(), await company.employee()
    page = await company.target.alice.open(f"{ROOT}/groups/{one}")
    for form in forms_of(page.text):
        if one in form.action and form.action.rpartition("/")[2] != "delete":
            data = dict(form.fields) | {"person": employee.id, "name": employee.name}
            answer = await company.target.alice.http.post(
                form.action.replace(one, other), data=data, headers={"origin": "https://evil.example"}
            )
            assert answer.status_code == 403
    assert cast("list[object]", (await company.call_api("GET", f"/groups/{other}"))["people"]) == []
