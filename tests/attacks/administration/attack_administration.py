"""Administration pages and forms, used by members, former admins, and strangers; old forms; links and secrets."""

from __future__ import annotations

import asyncio
import re
import secrets
from urllib.parse import quote

import httpx2
import pytest

from tests.attacks.portal.attack_people import form_of, send
from tests.attacks.target import PASSWORD, Target
from tests.support.person import Form, Person, forms_of, without_own_markup

ROOT = "/administration"
PAGES = ("", "/providers", "/providers/slack", "/providers/linear/remove", "/people", "/people/new", "/people/{alice}")
PAGES += ("/people/{mallory}/delete", "/agents", "/agents/{agent}", "/agents/{agent}/cut-off", "/settings", "/activity")
PAGES += ("/activity?person={alice}", "/settings?show=all", "/people/{mallory}/connect")
FORMS = (
    "/people/new",
    "/people/{alice}/link",
    "/people/{alice}/disable",
    "/people/{alice}/enable",
    "/people/{alice}/admin",
)
FORMS += ("/people/{mallory}/admin", "/people/{alice}/not-admin", "/people/{alice}/delete", "/agents/{agent}/cut-off")
FORMS += ("/providers/linear", "/providers/linear/test", "/providers/linear/remove", "/people/{mallory}/connect/resend")


async def id_of(person: Person) -> str:
    """The vault's id of this person."""
    return str((await person.http.get("/account/data")).json()["user"]["id"])


def form_for(page: httpx2.Response, what: str) -> Form:
    """The form on this page with exactly this action."""
    return next(one for one in forms_of(page.text) if one.action.rpartition("/")[2] == what)


async def places(target: Target) -> dict[str, str]:
    """The ids for the paths above."""
    if not isinstance(found := target.kept.get("admin places"), dict):
        found = {"alice": await id_of(target.alice), "mallory": await id_of(target.mallory)}
        found["agent"] = (await target.agent(target.alice)).client_id
        target.kept["admin places"] = found
    return {str(name): str(one) for name, one in found.items()}


async def someone(target: Target, *, is_admin: bool = False) -> tuple[str, Person]:
    """A new person, added by alice and signed in with the link; also their id."""
    form = form_of(await target.alice.open(f"{ROOT}/people/new"), "/people/new")
    changes = {"name": f"p{secrets.token_hex(6)}"} | ({"admin": "yes"} if is_admin else {})
    answer = await send(target, target.alice, form, **changes)
    assert answer.status_code == 303, answer.text[:300]
    person = await target.browser()
    page = await person.open(line_of((await target.alice.open(answer.headers["location"])).text))
    said = await send(target, person, form_of(page, "/sign-in/link"), password=PASSWORD, password_again=PASSWORD)
    assert said.status_code == 303, said.text[:300]
    return answer.headers["location"].partition("?")[0].rpartition("/")[2], person


async def read_flags(target: Target, user_id: str) -> tuple[bool, bool]:
    """Whether this person is an admin, and disabled."""
    page = await target.alice.open(f"{ROOT}/people/{user_id}")
    assert page.status_code == 200, page.text[:300]
    actions = {form.action.rpartition("/")[2] for form in forms_of(page.text)}
    return "not-admin" in actions, "enable" in actions


def line_of(page: str) -> str:
    """The one-time link that the page shows."""
    (found,) = set(re.findall(r"https?://[^\s\"<]+/sign-in/link\?ticket=[A-Za-z0-9_-]+", page))
    return found


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_for_admins_only(target: Target, path: str) -> None:
    where = ROOT + path.format(**await places(target))
    member, stranger = await target.browser("mallory"), await target.browser()
    answer = await member.http.get(where)
    assert answer.status_code == 403, answer.text[:200]
    assert "alice" not in answer.text
    assert (await stranger.http.get(where)).status_code == 303
    page = await target.alice.http.get(where)  # the twin; nothing is stored for linear
    assert page.status_code == (404 if "linear" in path else 200), page.text[:300]
    assert "no-store" in page.headers["cache-control"]
    assert "<script" not in without_own_markup(page.text)


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_of_an_admin_does_nothing_for_a_member(target: Target, path: str) -> None:
    where = ROOT + path.format(**await places(target))
    member = await target.browser("mallory")
    own = dict(forms_of((await member.open("/account")).text)[0].fields).get("form_token", "")
    for token in ("", own):
        data = {"form_token": token, "name": "alice", "client_id": "x", "client_secret": "x", "revision": ""}
        answer = await member.http.post(where, data=data, headers={"origin": target.url})
        assert answer.status_code == 403, answer.text[:200]
    assert (await target.alice.http.get("/administration")).status_code == 200
    assert (await member.http.get("/administration")).status_code == 403


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_of_an_admin_is_no_address(target: Target, path: str) -> None:
    where = ROOT + path.format(**await places(target))
    for method in ("GET", "HEAD"):
        answer = await target.alice.http.request(method, where)
        assert answer.status_code in {200, 404, 405, 409}
    assert (await target.alice.http.get("/administration")).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
async def test_a_form_with_a_right_token_from_elsewhere_changes_nobody(target: Target, origin: str) -> None:
    user_id, _ = await someone(target)
    form = form_for(await target.alice.open(f"{ROOT}/people/{user_id}"), "admin")
    for sites in ({}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        answer = await target.alice.http.post(form.action, data=dict(form.fields), headers={"origin": origin, **sites})
        assert answer.status_code == 403
    assert not (await read_flags(target, user_id))[0]
    assert (await send(target, target.alice, form)).status_code == 303  # the twin
    assert (await read_flags(target, user_id))[0]


@pytest.mark.parametrize("how", ["not-admin", "disable"])
async def test_a_page_that_an_admin_opened_is_worth_nothing_once_they_are_none(target: Target, how: str) -> None:
    user_id, person = await someone(target, is_admin=True)
    where = await places(target)
    page = await person.open(f"{ROOT}/people/{where['mallory']}")
    forms = [form_for(page, part) for part in ("link", "admin", "disable")]
    new = form_of(await person.open(f"{ROOT}/people/new"), "/people/new")
    ending = form_for(await target.alice.open(f"{ROOT}/people/{user_id}"), how)
    assert (await send(target, target.alice, ending)).status_code == 303
    for form in [*forms, new]:
        answer = await send(target, person, form, name="intruder")
        assert answer.status_code in {303, 403}
        assert answer.headers.get("location", "/sign-in").startswith("/sign-in")
    assert await read_flags(target, where["mallory"]) == (False, False)
    assert "intruder" not in (await target.alice.open(f"{ROOT}/people?find=intruder")).text.replace(
        'value="intruder"', ""
    )


async def test_changes_that_race_with_the_end_of_their_admin_are_whole_or_refused(target: Target) -> None:
    user_id, person = await someone(target, is_admin=True)
    ids = [(await someone(target))[0] for _ in range(4)]
    forms = [form_for(await person.open(f"{ROOT}/people/{one}"), "admin") for one in ids]
    ending = form_for(await target.alice.open(f"{ROOT}/people/{user_id}"), "not-admin")
    answers = await asyncio.gather(*(send(target, person, form) for form in forms), send(target, target.alice, ending))
    for one, answer in zip(ids, answers, strict=False):
        has_become = (await read_flags(target, one))[0]
        assert has_become == (answer.headers.get("location", "").startswith(ROOT)), answer.text[:200]
    late = form_for(await target.alice.open(f"{ROOT}/people/{(await someone(target))[0]}"), "admin")
    assert (await person.http.post(late.action, data=dict(late.fields))).status_code == 403


async def test_two_admins_that_remove_each_other_at_once_leave_one(target: Target) -> None:
    """alice stays an admin throughout, so the vault has one more than these two."""
    (one_id, one), (other_id, other) = await someone(target, is_admin=True), await someone(target, is_admin=True)
    form = form_for(await one.open(f"{ROOT}/people/{other_id}"), "not-admin")
    back = form_for(await other.open(f"{ROOT}/people/{one_id}"), "not-admin")
    answers = await asyncio.gather(send(target, one, form), send(target, other, back))
    left = [(await read_flags(target, each))[0] for each in (one_id, other_id)]
    assert left.count(True) == 1, [answer.status_code for answer in answers]


async def test_nobody_ends_themselves_by_a_made_up_form(target: Target) -> None:
    alice = (await places(target))["alice"]
    for what in ("disable", "delete"):
        page = await target.alice.open(f"{ROOT}/people/{alice}")
        assert f"{alice}/{what}" not in page.text
        answer = await target.alice.http.get(f"{ROOT}/people/{alice}/delete")
        assert answer.status_code == 409
    assert (await target.alice.http.get(ROOT)).status_code == 200


@pytest.mark.parametrize("name", ["", "alice", "Mallory ", "intruder"])
async def test_a_person_is_deleted_only_with_their_own_name(target: Target, name: str) -> None:
    user_id, _ = await someone(target)
    form = form_for(await target.alice.open(f"{ROOT}/people/{user_id}/delete"), "delete")
    assert (await send(target, target.alice, form, name=name)).status_code == 400
    assert await read_flags(target, user_id) == (False, False)


async def test_a_link_that_was_just_made_is_shown_once_and_to_its_maker(target: Target) -> None:
    user_id, _ = await someone(target)
    maker, other = await target.browser("alice"), await target.browser("alice")
    answer = await send(target, maker, form_for(await maker.open(f"{ROOT}/people/{user_id}"), "link"))
    there = answer.headers["location"]
    assert "ticket" not in there
    for stranger in (other, await target.browser("mallory"), await target.browser()):
        assert "/sign-in/link" not in (await stranger.open(there)).text
    link = line_of((await maker.open(there)).text)
    assert "/sign-in/link" not in (await maker.open(there)).text
    assert (await (await target.browser()).open(link)).status_code == 200


async def test_an_earlier_link_and_a_used_one_sign_nobody_in(target: Target) -> None:
    user_id, _ = await someone(target)
    links: list[str] = []
    for _ in range(2):
        answer = await send(target, target.alice, form_for(await target.alice.open(f"{ROOT}/people/{user_id}"), "link"))
        links.append(line_of((await target.alice.open(answer.headers["location"])).text))
    first, second = links
    assert (await (await target.browser()).http.get(first)).status_code == 403
    person = await target.browser()
    page = await person.open(second)
    new = {"password": "quite another password", "password_again": "quite another password"}
    tries = await asyncio.gather(*(send(target, person, form_of(page, "/sign-in/link"), **new) for _ in range(6)))
    assert [one.status_code for one in tries].count(303) == 1
    assert (await (await target.browser()).http.get(second)).status_code == 403


async def test_a_link_ends_what_the_old_password_opened(target: Target) -> None:
    user_id, person = await someone(target)
    agent = await target.agent(person)
    answer = await send(target, target.alice, form_for(await target.alice.open(f"{ROOT}/people/{user_id}"), "link"))
    link = line_of((await target.alice.open(answer.headers["location"])).text)
    new = {"password": "quite another password", "password_again": "quite another password"}
    fresh = await target.browser()
    assert (await send(target, fresh, form_of(await fresh.open(link), "/sign-in/link"), **new)).status_code == 303
    assert (await person.http.get("/agents")).status_code == 303
    assert (await target.mcp(agent, "tools/list")).status_code == 401
    assert (
        "signed in with an administrator" in (await fresh.open("/activity")).text.lower()
        or "link" in (await fresh.open("/activity")).text
    )


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a\r\nset-cookie: x=y", "\u202eadmin", "", "x" * 500, "Alice", "ＡＬＩＣＥ"]
)
async def test_a_name_for_a_new_person_is_refused_or_harmless(target: Target, name: str) -> None:
    page = await target.alice.open(f"{ROOT}/people/new")
    answer = await send(target, target.alice, form_of(page, "/people/new"), name=name)
    assert answer.status_code == (303 if name.startswith("<") else 400)
    shown = await target.alice.open(answer.headers["location"]) if answer.status_code == 303 else answer
    assert "<script>alert" not in shown.text
    assert "set-cookie: x" not in str(answer.headers)


SEARCHES = ("%", "_", "%25%", "'", "\\", "\x00", "\ud800", "x" * 9000, "<img src=x onerror=alert(1)>", "\u202e")


@pytest.mark.parametrize("wanted", SEARCHES)
async def test_a_search_means_itself(target: Target, wanted: str) -> None:
    sent = quote(wanted.encode("utf-8", "surrogatepass"), safe="")
    paths = (f"/people?find={sent}", f"/people?after={sent}", f"/agents?find={sent}", f"/agents?before={sent}")
    for path in (*paths, f"/providers?find={sent}", f"/activity?before={sent}", f"/activity?person={sent}"):
        answer = await target.alice.http.get(ROOT + path)
        assert answer.status_code < 500, path
        assert "<img src=x" not in answer.text
    if wanted in {"%", "_", "%25%"}:
        assert "mallory" not in (await target.alice.http.get(f"{ROOT}/people?find={sent}")).text


SECRET = "lin_canary_" + "x" * 30


async def save(target: Target, page: httpx2.Response, **changes: str) -> httpx2.Response:
    form = next(one for one in forms_of(page.text) if one.action == f"{ROOT}/providers/linear")
    return await send(target, target.alice, form, **changes)


async def test_a_client_secret_is_never_shown_again_and_an_old_page_changes_nothing(target: Target) -> None:
    page = await target.alice.open(f"{ROOT}/providers/linear")
    old = page
    answer = await save(target, page, client_id="a" * 32, client_secret=SECRET)
    assert answer.status_code == 303, answer.text[:500]
    for path in ("/providers/linear", "/providers", "/settings?show=all", "/activity", "/providers/linear/remove"):
        assert SECRET not in (await target.alice.open(ROOT + path)).text, path
    stale = await save(target, old, client_id="b" * 32, client_secret="another secret of some length")
    assert stale.status_code == 409
    current = await target.alice.open(f"{ROOT}/providers/linear")
    assert "a" * 32 in current.text
    # Changing the client id doesn't keep the stored secret.
    assert (await save(target, current, client_id="c" * 32, client_secret="")).status_code == 400
    both = await asyncio.gather(*(save(target, current, client_id=one * 32, client_secret=SECRET) for one in "de"))
    assert sorted(one.status_code for one in both) == [303, 409]
    page = await target.alice.open(f"{ROOT}/providers/linear/remove")
    assert (await send(target, target.alice, form_of(page, "/remove"))).status_code == 303
    for place in (target.place.data, target.server.data):
        for file in place.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


async def test_a_registration_of_the_settings_is_not_changed_here(target: Target) -> None:
    form = {"client_id": "stolen", "client_secret": "stolen secret of some length", "revision": ""}
    page = await target.alice.open(f"{ROOT}/providers/github")
    assert all(one.action != f"{ROOT}/providers/github" for one in forms_of(page.text))
    assert "upstream-secret-canary" not in page.text
    answer = await target.alice.http.post(f"{ROOT}/providers/github", data=form, headers={"origin": target.url})
    assert answer.status_code in {403, 409}


HOSTS = (
    "evil.example",
    "evil.example/",
    "x.evil.example#",
    "a@evil.example",
    "127.0.0.1",
    "x/../y",
    "x\\y",
    "x?y",
    "a b",
)


@pytest.mark.parametrize("value", HOSTS)
async def test_an_input_of_a_provider_file_leads_to_no_other_host(target: Target, value: str) -> None:
    """Zendesk's subdomain is part of its hosts."""
    page = await target.alice.open(f"{ROOT}/providers/zendesk")
    form = next(one for one in forms_of(page.text) if one.action == f"{ROOT}/providers/zendesk")
    names = [name for name, _ in form.fields if name.startswith("input.")]
    assert names
    sent: dict[str, str | None] = dict.fromkeys(names, value)
    answer = await send(target, target.alice, form, client_id="ours", client_secret="a secret of length 12", **sent)
    assert answer.status_code == 400, answer.headers.get("location")


async def test_ids_that_are_none_are_not_there(target: Target) -> None:
    for path in (
        "/people/x",
        "/people/%2e%2e",
        "/people/%00",
        "/agents/x",
        "/agents/..%2f..%2fx",
        "/providers/nowhere",
        "/x",
    ):
        for tail in ("", "/delete", "/cut-off", "/remove"):
            answer = await target.alice.http.get(f"{ROOT}{path}{tail}")
            expected = {404, 405, *([400] if "%00" in path else [])}
            assert answer.status_code in expected, (path, tail, answer.status_code)
            assert "traceback" not in answer.text.lower()
