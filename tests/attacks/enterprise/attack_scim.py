"""SCIM: others' tokens, people outside the directory, hostile filters and paths, costly requests, races."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from urllib.parse import quote

import pytest

from tests.attacks.administration.attack_administration import id_of, someone
from tests.attacks.enterprise.company import SCIM_GROUP, SCIM_USER, Company, is_signed_in
from tests.attacks.target import PASSWORD

SEARCH = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
PATHS = ("/ServiceProviderConfig", "/ResourceTypes", "/Schemas", "/Users", "/Groups", "/Me", "/Bulk", "/nothing")
OTHERS = ("alice", "mallory")


async def other_id(company: Company, name: str) -> str:
    target = company.target
    return await id_of(target.alice if name == "alice" else target.mallory)


# Who gets in


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_is_for_directories_only(company: Company, path: str) -> None:
    target, right = company.target, company.token
    agent = await target.agent(target.alice)
    kept = target.kept.get("admin token") or (await company.api("GET", "/me") and target.kept["admin token"])
    assert isinstance(kept, dict)
    tries: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        ("", agent.headers),
        ("", {"authorization": f"Bearer {kept['token']}"}),
        ("", {"authorization": f"Bearer {right}x"}),
        ("", {"authorization": f"Bearer {right[:-1]}"}),
        ("", {"authorization": f"Bearer {right.upper()}"}),
        ("", {"authorization": f"Basic {right}"}),
        ("", {"authorization": f"DPoP {right}"}),
        ("", {"authorization": right}),
        ("", {"authorization": "Bearer tvs_"}),
        ("", {"authorization": "Bearer tvs_" + "x" * 5000}),
        ("", {"x-authorization": f"Bearer {right}", "cookie": f"access_token={right}"}),
        (f"?access_token={right}", {}),
    ]
    for query, headers in tries:
        answer = await target.http.get(f"/scim/v2{path}{query}", headers=headers)
        assert answer.status_code == 401, (headers, answer.text[:200])
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["cache-control"] == "no-store"
    assert (await target.alice.http.get(f"/scim/v2{path}")).status_code == 401
    answer = await company.scim("GET", path)  # the twin
    assert answer.status_code in {200, 404, 405, 501}


async def test_two_authorizations_are_none(company: Company) -> None:
    right = f"Bearer {company.token}"
    for pair in ((right, right), (right, "Bearer x"), ("Bearer x", right)):
        sent = [("authorization", one) for one in pair]
        assert (await company.target.http.get("/scim/v2/Users", headers=sent)).status_code == 401


async def test_a_directorys_token_opens_nothing_else(company: Company) -> None:
    headers = {"authorization": f"Bearer {company.token}"}
    http = company.target.http
    for path in ("/admin/v1/people", "/userinfo", "/signals/acme", "/global-token-revocation", "/mcp"):
        for method in ("GET", "POST"):
            answer = await http.request(method, path, headers=headers, json={})
            assert answer.status_code in {400, 401, 404, 405}, (method, path, answer.text[:200])
    assert (await http.get("/administration", headers=headers)).status_code == 303
    answer = await company.target.exchange("backend", company.token, audience="slack", scope="chat:write")
    assert answer.status_code == 400


async def test_a_token_ends_at_once(company: Company) -> None:
    made = await company.call_api("POST", "/directory-tokens", {"name": "short"})
    assert (await company.scim("GET", "/Users?count=1", token=str(made["token"]))).status_code == 200  # the twin
    newer = await company.call_api("POST", "/directory-tokens", {"name": "short", "keep_hours": 0})
    assert (await company.scim("GET", "/Users?count=1", token=str(made["token"]))).status_code == 401
    assert (await company.scim("GET", "/Users?count=1", token=str(newer["token"]))).status_code == 200
    await company.call_api("DELETE", "/directory-tokens/short")
    assert (await company.scim("GET", "/Users?count=1", token=str(newer["token"]))).status_code == 401


# People outside the directory


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_somebody_who_is_not_the_directorys_is_not_there(company: Company, method: str, name: str) -> None:
    target = company.target
    content: dict[str, object] | None = {
        "PUT": {"schemas": [SCIM_USER], "userName": "owned", "active": False},
        "PATCH": {"Operations": [{"op": "replace", "path": "active", "value": False}]},
    }.get(method)
    answer = await company.scim(method, f"/Users/{await other_id(company, name)}", content)
    assert answer.status_code == 404, answer.text
    assert name not in answer.text
    assert await is_signed_in(target.alice if name == "alice" else target.mallory)


@pytest.mark.parametrize("name", ["alice", "ALICE", "ａlice", " alice ", "mallory"])
async def test_a_name_that_somebody_has_makes_nobody_the_directorys(company: Company, name: str) -> None:
    answer = await company.scim("POST", "/Users", {"schemas": [SCIM_USER], "userName": name})
    assert (answer.status_code, answer.json().get("scimType")) == (409, "uniqueness"), answer.text
    made = await company.provision_person()
    answer = await company.patch(f"/Users/{made['id']}", {"op": "replace", "path": "userName", "value": name})
    assert answer.status_code == 409
    assert (await company.scim("GET", f'/Users?filter=userName eq "{name}"')).json()["totalResults"] == 0


async def test_no_search_shows_anybody_else(company: Company) -> None:
    for wanted in ('userName co "a"', "id pr", 'not (userName eq "x")', 'userName sw "alice" or userName sw "mallory"'):
        answer = await company.scim("GET", f"/Users?count=200&filter={quote(wanted)}")
        assert answer.status_code == 200, answer.text
        assert not {"alice", "mallory"} & {one["userName"] for one in answer.json().get("Resources", [])}


MEMBERS = ("alice", "mallory", "unknown", "a group")


@pytest.mark.parametrize("who", MEMBERS)
async def test_nobody_else_becomes_a_member(company: Company, who: str) -> None:
    group, own = await company.provisioned_group(), await company.provision_person()
    member = {"unknown": "x", "a group": str((await company.provisioned_group())["id"])}.get(who)
    member = member or await other_id(company, who)
    where = f"/Groups/{group['id']}"
    for one in (
        await company.patch(where, {"op": "add", "path": "members", "value": [{"value": member}]}),
        await company.patch(where, {"op": "add", "value": {"members": [{"value": own["id"]}, {"value": member}]}}),
        await company.scim("PUT", where, {"displayName": group["displayName"], "members": [{"value": member}]}),
        await company.scim("POST", "/Groups", {"displayName": secrets.token_hex(4), "members": [{"value": member}]}),
    ):
        assert one.status_code == 400, one.text
    assert (await company.scim("GET", where)).json().get("members", []) == []
    answer = await company.patch(where, {"op": "add", "path": "members", "value": [{"value": own["id"]}]})  # the twin
    assert [one["value"] for one in answer.json()["members"]] == [own["id"]]


async def test_a_group_of_an_admin_is_neither_shown_nor_taken(company: Company) -> None:
    member, _ = await someone(company.target)
    name = f"ours {secrets.token_hex(4)}"
    group = await company.group(member, name=name)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        content = None if method in {"GET", "DELETE"} else {"displayName": "taken"}
        assert (await company.scim(method, f"/Groups/{group}", content)).status_code in {400, 404}
    for said in (name, name.upper(), f" {name} "):
        answer = await company.scim("POST", "/Groups", {"schemas": [SCIM_GROUP], "displayName": said})
        assert answer.status_code == 409, answer.text
    other = await company.provisioned_group()
    answer = await company.patch(f"/Groups/{other['id']}", {"op": "replace", "path": "displayName", "value": name})
    assert answer.status_code == 409
    assert [one["name"] for one in (await company.call_api("GET", f"/groups/{group}"))["people"]]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] -- parsed JSON


@pytest.fixture(scope="module")
async def owner(company: Company) -> str:
    """An owner whom the directory may manage, as set by the operator."""
    employee = await company.employee(is_admin=True)
    await company.target.command("users", "role", employee.name, "owner")
    await company.target.command("scim", "adopt", employee.name, "--external-id", "owner-oid")
    return employee.id


OWNED: dict[str, dict[str, object]] = {
    "disabled": {"op": "replace", "path": "active", "value": False},
    "known to the directory by another id": {"op": "replace", "path": "externalId", "value": "attacker"},
    "without an id": {"op": "remove", "path": "externalId"},
    "renamed": {"op": "replace", "path": "userName", "value": "somebody else"},
}


@pytest.mark.parametrize("how", OWNED)
async def test_an_owner_is_not_by_the_directory(company: Company, owner: str, how: str) -> None:
    """`externalId` maps the identity provider's people to accounts here: whoever sets it decides who an account is."""
    before = (await company.scim("GET", f"/Users/{owner}")).json()
    answer = await company.patch(f"/Users/{owner}", OWNED[how])
    assert answer.status_code == 403, answer.text
    assert (await company.scim("GET", f"/Users/{owner}")).json() == before
    assert (await company.scim("DELETE", f"/Users/{owner}")).status_code == 403
    own = await company.provision_person(externalId=secrets.token_hex(8))
    assert (await company.patch(f"/Users/{own['id']}", OWNED[how])).status_code == 200  # the twin
    assert (await company.scim("DELETE", f"/Users/{own['id']}")).status_code == 204


async def test_an_owner_who_is_disabled_is_not_enabled_by_the_directory(company: Company) -> None:
    employee = await company.employee(is_admin=True)
    await company.target.command("users", "role", employee.name, "owner")
    await company.target.command("scim", "adopt", employee.name)
    await company.call_api("PATCH", f"/people/{employee.id}", {"disabled": True})
    for content in ({"op": "replace", "path": "active", "value": True}, {"op": "replace", "value": {"active": True}}):
        assert (await company.patch(f"/Users/{employee.id}", content)).status_code == 403
    assert (await company.facts(employee.id))["disabled"] is True
    assert (await company.call_api("PATCH", f"/people/{employee.id}", {"disabled": False}))[
        "disabled"
    ] is False  # the twin


# What a request can give to a person


MEMBERS_SENT: tuple[dict[str, object], ...] = (
    {"role": "owner"}, {"roles": [{"value": "owner", "primary": True}]}, {"is_admin": True}, {"admin": True},
    {"id": "x"}, {"groups": [{"value": "GROUP"}]}, {"password": PASSWORD}, {"password_hash": "x"},
    {"meta": {"version": "x", "created": "1970-01-01T00:00:00Z"}}, {"disabled_at": None}, {"tenant": "other"},
    {"identities": [{"issuer": "https://evil.example", "subject": "x"}]}, {"entitlements": [{"value": "owner"}]},
    {"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {"manager": {"value": "x"}, "department": "x"}},
    {"user_id": "VICTIM"}, {"external_id": "x"}, {"attributes": {"role": "owner"}}, {"__class__": {"x": 1}},
)  # fmt: skip


@pytest.mark.parametrize("sent", MEMBERS_SENT, ids=lambda one: next(iter(one)))
async def test_what_is_no_attribute_is_given_to_nobody(company: Company, sent: dict[str, object]) -> None:
    group = await company.provisioned_group()
    text = json.dumps(sent).replace("GROUP", str(group["id"]))
    content = json.loads(text.replace("VICTIM", await other_id(company, "mallory")))
    made = await company.provision_person(**content)
    name = str(made["userName"])
    where = f"/Users/{made['id']}"
    await company.scim("PUT", where, {"schemas": [SCIM_USER], "userName": name, **content})
    await company.patch(where, {"op": "add", "value": content})
    for key, value in content.items():
        await company.patch(where, {"op": "add", "path": key, "value": value})
    found = (await company.scim("GET", where)).json()
    assert found["id"] == made["id"] != "x"
    assert found["userName"] == name
    assert {"groups", "password", "role", "roles"}.isdisjoint(found)
    facts = await company.facts(str(made["id"]))
    assert (facts["admin"], facts["role"], facts["identities"], facts["disabled"]) == (False, "member", [], False)
    person = await company.target.browser()
    assert (await person.sign_in(name, PASSWORD)).status_code != 200
    assert (await company.scim("GET", f"/Groups/{group['id']}")).json().get("members", []) == []


BAD_PATHS = (
    "id", "meta", "meta.version", "schemas", "groups", "groups[value pr]", "members[value eq", "a" * 5000, "a." * 3000,
    "emails[" * 200, "((((", "emails[not (value pr)].value", "__class__", "__dict__.x", "userName.x", "emails[].value",
    "urn:ietf:params:scim:schemas:core:2.0:Group:members", "externalId[value pr]", "active[", "\u202e",
    'emails[value eq "\\u0000"].value', "userName' or '1'='1", "$ref", "../Users",
)  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda one: one[:24])
async def test_a_path_leads_to_an_attribute_or_nowhere(company: Company, path: str) -> None:
    made = await company.provision_person(externalId="e")
    where = f"/Users/{made['id']}"
    for op in ("add", "replace", "remove"):
        value = {} if op == "remove" else {"value": "zzz"}
        answer = await company.patch(where, {"op": op, "path": path, **value})
        assert answer.status_code in {200, 400}, answer.text[:200]
    found = (await company.scim("GET", where)).json()
    same = ("id", "userName", "active", "schemas", "externalId")
    assert {name: found.get(name) for name in same} == {name: made.get(name) for name in same}
    assert "groups" not in found


FILTERS = (
    'userName eq "x" or 1=1', "userName eq \"' or ''='\"", 'userName eq "%"', 'userName eq "_"', 'userName co "%"',
    "(" * 3000, "not (" * 3000, 'userName eq "' + "\\" * 3001, 'userName eq "\\ud800"', 'id eq "\\u0000"', "id eq null",
    "password pr", 'password sw "a"', 'meta.version eq "x"', 'userName eq "x"; drop table users', "userName", "eq",
    'emails[value co "x"', 'externalId eq ""', 'externalId eq "*"', "id gt 5", 'userName regex "(a+)+$"',
    " and ".join(['userName co "zzz"'] * 2000), 'urn:ietf:params:scim:schemas:core:2.0:User:userName eq "\'"',
)  # fmt: skip


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda one: one[:24])
@pytest.mark.parametrize("kind", ["Users", "Groups"])
async def test_a_filter_finds_what_it_says_only(company: Company, kind: str, wanted: str) -> None:
    await company.provision_person(externalId="found?")
    started = time.monotonic()
    answers = [await company.scim("POST", f"/{kind}/.search", {"schemas": [SEARCH], "filter": wanted})]
    if len(wanted) < 2000:
        answers.append(await company.scim("GET", f"/{kind}?filter={quote(wanted)}"))
    for answer in answers:
        assert answer.status_code in {200, 400}, answer.text[:200]
        assert answer.status_code == 400 or answer.json()["totalResults"] == 0
    assert time.monotonic() - started < 30


PAGES = ("startIndex=99999999999999999999", "startIndex=-5&count=-3", "count=9223372036854775808", "count=1e9")
PAGES += ("startIndex=9223372036854775807", "startIndex=9223372036854775809", "count=x", "count=1&count=2", "count=")
PAGES += ("attributes=password", "attributes=" + "a," * 2000, "sortBy=password", "filter=", "x=%00", "%ff=%ff")


@pytest.mark.parametrize("query", PAGES, ids=lambda one: one[:24])
async def test_a_page_has_bounds(company: Company, query: str) -> None:
    for kind in ("Users", "Groups"):
        answer = await company.scim("GET", f"/{kind}?{query}")
        assert answer.status_code in {200, 400}, answer.text[:200]
        assert answer.status_code == 400 or len(answer.json().get("Resources", [])) <= 200


BODIES: dict[str, bytes] = {
    "no JSON": b"x", "a list": b"[]", "twice the same": b'{"userName":"a","userName":"b"}', "NaN": b'{"userName":NaN}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "NUL": b'{"userName":"a\\u0000b"}',
    "half a pair": b'{"userName":"\\ud800"}', "no text": b'{"userName":["a"]}', "a number": b'{"userName":1}',
    "nothing": b"", "empty name": b'{"userName":"  "}', "a long name": b'{"userName":"' + b"x" * 900_000 + b'"}',
    "latin": b'{"userName":"\xe4"}', "a long id": b'{"userName":"longid","externalId":"' + b"x" * 900_000 + b'"}',
    "half a pair as id": b'{"userName":"halfid","externalId":"\\ud800"}',
    "many addresses": json.dumps({"userName": "many", "emails": [{"value": "x@y"}] * 20_000}).encode(),
    "a long word": json.dumps({"userName": "longword", "displayName": "x" * 900_000}).encode(),
    "a big number": b'{"userName":' + b"1" * 100_000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_no_person_makes_none(company: Company, name: str) -> None:
    before = (await company.scim("GET", "/Users?count=0")).json()["totalResults"]
    answer = await company.scim("POST", "/Users", BODIES[name])
    assert answer.status_code == 400, answer.text[:200]
    assert len(answer.content) < 16 * 1024
    assert (await company.scim("GET", "/Users?count=0")).json()["totalResults"] == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/scim+json, x/y"])
async def test_a_body_of_another_type_is_not_read(company: Company, kind: str) -> None:
    content = {"schemas": [SCIM_USER], "userName": secrets.token_hex(6)}
    assert (await company.scim("POST", "/Users", content, content_type=kind)).status_code == 400
    assert (await company.scim("POST", "/Users", content)).status_code == 201  # the twin


async def test_a_body_over_the_limit_is_refused(company: Company) -> None:
    answer = await company.scim("POST", "/Users", b'{"userName":"' + b"x" * (1024 * 1024) + b'"}')
    assert answer.status_code == 413


# Cost


HUGE: dict[str, list[dict[str, object]]] = {
    "addresses": [{"op": "replace", "path": f'emails[type eq "t{n}"].value', "value": "a@b"} for n in range(8000)],
    "one attribute": [{"op": "replace", "path": "displayName", "value": str(n)} for n in range(12_000)],
    "nothing": [{"op": "remove", "path": "displayName"}] * 15_000,
}


@pytest.mark.parametrize("name", HUGE)
async def test_a_huge_patch_holds_nobody_up(company: Company, name: str) -> None:
    made = await company.provision_person()
    asking = asyncio.ensure_future(company.patch(f"/Users/{made['id']}", *HUGE[name]))
    await asyncio.sleep(0.5)
    started = time.monotonic()
    assert (await company.target.http.get("/sign-in")).status_code in {200, 303}
    assert time.monotonic() - started < 10
    assert (await asking).status_code in {400, 413}
    few = await company.patch(f"/Users/{made['id']}", *HUGE[name][:10])  # the twin
    assert few.status_code == 200, few.text


async def test_many_changes_of_a_group_hold_nobody_up(company: Company) -> None:
    group = await company.provisioned_group()
    ops = [{"op": "remove", "path": f'members[value eq "x{n}"]'} for n in range(10_000)]
    asking = asyncio.ensure_future(company.patch(f"/Groups/{group['id']}", *ops))
    await asyncio.sleep(0.5)
    started = time.monotonic()
    assert (await company.target.http.get("/sign-in")).status_code in {200, 303}
    assert time.monotonic() - started < 10
    assert (await asking).status_code in {400, 413}
    assert (await company.patch(f"/Groups/{group['id']}", *ops[:50])).status_code == 200  # the twin


# Races


async def test_of_changes_of_one_version_one_counts(company: Company) -> None:
    made = await company.provision_person()
    where, tag = f"/Users/{made['id']}", str((await company.scim("GET", f"/Users/{made['id']}")).headers["etag"])
    ops = [{"op": "replace", "path": "displayName", "value": f"n{n}"} for n in range(8)]
    answers = await asyncio.gather(*(company.patch(where, one, if_match=tag) for one in ops))
    assert sorted(one.status_code for one in answers) == [200, *[412] * 7]
    assert (await company.scim("DELETE", where, if_match=tag)).status_code == 412
    for wrong in ('"x"', "x", tag[:-2] + '"', tag.removeprefix("W/")):
        assert (await company.patch(where, ops[0], if_match=wrong)).status_code == 412
    newest = str((await company.scim("GET", where)).headers["etag"])
    assert (await company.scim("DELETE", where, if_match=newest)).status_code == 204  # the twin


async def test_members_that_are_added_at_once_are_all_there(company: Company) -> None:
    group, people = await company.provisioned_group(), [await company.provision_person() for _ in range(6)]
    where = f"/Groups/{group['id']}"
    ops = [{"op": "add", "path": "members", "value": [{"value": one["id"]}]} for one in people]
    assert {one.status_code for one in await asyncio.gather(*(company.patch(where, op) for op in ops))} == {200}
    assert len((await company.scim("GET", where)).json()["members"]) == 6


async def test_of_people_with_one_name_made_at_once_one_is(company: Company) -> None:
    name = secrets.token_hex(6)
    spellings = (name, name.upper(), f" {name}", name.capitalize())
    answers = await asyncio.gather(
        *(company.scim("POST", "/Users", {"schemas": [SCIM_USER], "userName": one}) for one in spellings)
    )
    assert sorted(one.status_code for one in answers) == [201, 409, 409, 409]


async def test_what_ended_with_a_disabled_person_stays_ended(company: Company) -> None:
    """After disabling and enabling, neither session nor token comes back."""
    target, employee = company.target, await company.employee()
    agent = await target.agent(employee.browser)
    await target.command("scim", "adopt", employee.name)
    where = f"/Users/{employee.id}"
    assert await company.may_call(agent)
    for active in (False, True):
        assert (await company.patch(where, {"op": "replace", "path": "active", "value": active})).status_code == 200
        assert not await company.may_call(agent)
        assert not await is_signed_in(employee.browser)
        form = {"grant_type": "refresh_token", "client_id": agent.client_id, "refresh_token": agent.refresh or ""}
        assert (await target.token(form)).status_code == 400
    assert (await employee.browser.sign_in(employee.name, PASSWORD)).status_code == 200  # the twin


async def test_nobody_is_enabled_by_silence(company: Company) -> None:
    made = await company.provision_person(active=False)
    where, name = f"/Users/{made['id']}", made["userName"]
    for sent in ({"userName": name}, {"userName": name, "displayName": "x"}):
        answer = await company.scim("PUT", where, {"schemas": [SCIM_USER], **sent})
        assert (answer.status_code, answer.json()["active"]) == (200, False)
    answer = await company.scim("PUT", where, {"schemas": [SCIM_USER], "userName": name, "active": True})  # the twin
    assert answer.json()["active"] is True
