"""Pages: foreign forms, frames, sessions, redirects, other people's ids, stale forms and races."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.attacks.target import PASSWORD, Target, query_of
from tests.support.person import Person, forms_of, without_own_markup

PAGES = (
    "/connections",
    "/agents",
    "/activity",
    "/account",
    "/device",
    "/connections/connect?provider=slack",
    "/approvals",
)
PUBLIC = ("/sign-in", "/first-run", "/authorize", "/consent?request=x", "/connect/x", "/nowhere")


@pytest.mark.parametrize("path", [*PAGES, *PUBLIC])
async def test_a_page_cannot_be_framed_scripted_or_cached(target: Target, path: str) -> None:
    answer = await target.alice.http.get(path)
    if answer.status_code == 404 and not answer.headers["content-type"].startswith("text/html"):
        return
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "script-src" in policy or "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in answer.headers["cache-control"]
    assert "<script" not in without_own_markup(answer.text)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_of_a_person_is_not_shown_to_a_stranger(target: Target, path: str) -> None:
    stranger = await target.browser()
    answer = await stranger.http.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")


FOREIGN = {
    "of another site": {"origin": "https://evil.example"},
    "of no origin": {"origin": "null"},
    "of another port": {"origin": "http://localhost:1"},
    "of no origin, cross-site": {"origin": "null", "sec-fetch-site": "cross-site"},
    "of no origin, same-site": {"origin": "null", "sec-fetch-site": "same-site"},
    "with a foreign referrer only": {"referer": "https://evil.example/"},
    "cross-site without origin": {"sec-fetch-site": "cross-site"},
}


async def _post(person: Person, path: str, *, form: str, headers: dict[str, str], **more: str) -> tuple[int, str]:
    page = await person.open(path)
    found = next(one for one in forms_of(page.text) if form in one.action)
    answer = await person.http.post(found.action, data=dict(found.fields) | more, headers=headers)
    return answer.status_code, answer.text


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_form_with_a_right_token_is_refused_when_it_comes(target: Target, name: str) -> None:
    person = await target.browser("mallory")
    status, _ = await _post(person, "/connections", form="/sign-out", headers=FOREIGN[name])
    if "origin" in FOREIGN[name] or "sec-fetch-site" in FOREIGN[name]:
        assert status == 403
    assert status in {303, 403}


@pytest.mark.parametrize("token", ["none", "of another session", "of another form", "cut", "twice"])
async def test_a_form_is_refused_with_a_token(target: Target, token: str) -> None:
    person = await target.browser("mallory")
    page = await person.open("/connections")
    right = dict(next(one for one in forms_of(page.text) if "/sign-out" in one.action).fields)["form_token"]
    other = await target.alice.open("/connections")
    foreign = dict(next(one for one in forms_of(other.text) if "/sign-out" in one.action).fields)["form_token"]
    account = await person.open("/account")
    of_form = dict(next(one for one in forms_of(account.text) if "/account" in one.action).fields)["form_token"]
    values = {"of another session": foreign, "of another form": of_form, "cut": right[:-1], "none": ""}
    value: object = [right, right] if token == "twice" else values[token]
    answer = await person.http.post("/sign-out", data={"form_token": value}, headers={"origin": target.url})
    assert answer.status_code in {400, 403}
    assert (await person.http.get("/connections")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/sign-out",
        "/account/delete",
        "/account/sessions",
        "/agents/x/cut-off",
        "/agents/x/access",
        "/connections/x/disconnect",
    ],
)
async def test_a_get_changes_nothing(target: Target, path: str) -> None:
    person = await target.browser("mallory")
    assert (await person.http.get(path)).status_code < 500
    assert (await person.http.get("/connections")).status_code == 200


RETURNS = (
    *(
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "/%09/evil.example",
        "\t//evil.example",
        "javascript:alert(1)",
    ),
    *(
        "/../evil.example",
        "///evil.example",
        "/connections\r\nSet-Cookie: a=b",
        "http:evil.example",
        "/static/../sign-in",
        "/mcp",
    ),
    *("/consent@evil.example", "/.evil.example", "/;@evil.example"),
)


@pytest.mark.parametrize("wanted", RETURNS)
async def test_a_sign_in_leads_to_our_own_pages_only(target: Target, wanted: str) -> None:
    person = await target.browser()
    page = await person.open("/sign-in?return_to=" + quote(wanted, safe=""))
    found = next(one for one in forms_of(page.text) if "/sign-in" in one.action)
    data = dict(found.fields) | {"name": "mallory", "password": PASSWORD}
    answer = await person.http.post(found.action, data=data, headers={"origin": target.url})
    assert answer.status_code == 303, answer.text
    location = answer.headers["location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert "evil.example" not in location.partition("?")[0]


async def test_a_session_of_before_the_sign_in_is_not_kept(target: Target) -> None:
    person = await target.browser()
    await person.open("/sign-in")
    person.http.cookies.set("token_vault_session", "chosen-by-the-attacker", domain="localhost.local")
    before = {one.value for one in person.http.cookies.jar}
    await person.sign_in("mallory", PASSWORD)
    stranger = await target.browser()
    for value in before:
        for name in {one.name for one in person.http.cookies.jar}:
            answer = await stranger.http.get("/connections", headers={"cookie": f"{name}={value}"})
            assert answer.status_code == 303


async def test_a_session_is_dead_after_sign_out(target: Target) -> None:
    person = await target.browser("mallory")
    cookies = "; ".join(f"{one.name}={one.value}" for one in person.http.cookies.jar)
    page = await person.open("/connections")
    await person.submit(page, form="/sign-out")
    stranger = await target.browser()
    assert (await stranger.http.get("/connections", headers={"cookie": cookies})).status_code == 303


async def test_a_cookie_is_kept_from_scripts_and_other_sites(target: Target) -> None:
    person = await target.browser()
    page = await person.open("/sign-in")
    data = dict(forms_of(page.text)[0].fields) | {"name": "mallory", "password": PASSWORD}
    answer = await person.http.post("/sign-in", data=data, headers={"origin": target.url})
    for one in answer.headers.get_list("set-cookie"):
        assert "httponly" in one.lower()
        assert "samesite=lax" in one.lower() or "samesite=strict" in one.lower()
        assert "domain" not in one.lower()


async def test_names_of_people_are_not_told(target: Target) -> None:
    texts: set[tuple[int, str]] = set()
    for name in ("mallory", "nobody-at-all"):
        person = await target.browser()
        page = await person.sign_in(name, "a wrong password of some length")
        texts.add(
            (
                page.status_code,
                page.text.count("not"),
            )
        )
    assert len(texts) == 1


@pytest.mark.parametrize("what", ["disconnect", "reconnect", "done"])
async def test_somebody_elses_connection_is_not_there(target: Target, what: str) -> None:
    victim = (await target.connection_ids("alice"))["slack"]
    person = await target.browser("mallory")
    path = f"/connect/done/{victim}" if what == "done" else f"/connections/{victim}/{what}"
    page = await person.http.get(path)
    assert page.status_code in {404, 405, 410}, page.text
    assert "alice" not in page.text
    token = dict(forms_of((await person.open("/connections")).text)[0].fields).get("form_token", "")
    answer = await person.http.post(path, data={"form_token": token}, headers={"origin": target.url})
    assert answer.status_code in {403, 404, 405}
    assert "slack" in await target.connection_ids("alice")


async def test_somebody_elses_agent_is_not_cut_off(target: Target) -> None:
    victim = await target.agent(target.alice)
    person = await target.browser("mallory")
    page = await person.http.get(f"/agents/{victim.client_id}/cut-off")
    for form in forms_of(page.text):
        if "cut-off" in form.action:
            await person.http.post(form.action, data=dict(form.fields), headers={"origin": target.url})
    assert (await target.mcp(victim, "tools/list")).status_code == 200


async def _link(target: Target) -> str:
    """A connect link from one of alice's agents, which may use nothing yet."""
    agent = await target.agent(target.alice)
    answer = await target.call(agent, "slack_post", {"channel": "#general", "text": "x"})
    start = answer.text.index(f"{target.url}/connect/")
    return answer.text[start:].split('"')[0].split()[0].rstrip(".,)\\")


async def test_a_forwarded_connect_link_gives_nobody_elses_account(target: Target) -> None:
    link = await _link(target)
    person = await target.browser("mallory")
    page = await person.open(link)
    assert page.status_code in {403, 404, 410}, page.text[:300]
    assert "decision" not in page.text


async def test_a_connect_link_works_once(target: Target) -> None:
    link = await _link(target)
    page = await target.alice.open(link)
    answers = await asyncio.gather(
        *(target.alice.submit(page, form="/connect/", button=("decision", "allow")) for _ in range(8))
    )
    assert sum(one.status_code < 400 for one in answers) <= 1


@pytest.mark.parametrize("state", ["", "unknown", "of another person", "of another provider", "used"])
async def test_an_answer_of_a_provider_is_refused_with_a_state(target: Target, state: str) -> None:
    person = await target.browser("mallory")
    page = await person.open("/connections/connect?provider=github")
    location = (await person.submit(page, form="/connections/connect")).headers["location"]
    mine = query_of(location)["state"]
    browser, provider, value = person, "github", state
    match state:
        case "of another person":
            browser, value = target.alice, mine
        case "of another provider":
            provider, value = "slack", mine
        case "used":
            value = mine
            target.kept["login"] = "mallory"
            await person.open(f"/connect/callback/github?code=a&state={mine}")
        case _:
            pass
    before = len(target.provider.arrivals)
    answer = await browser.http.get(f"/connect/callback/{provider}?code=stolen&state={value}")
    if state == "used" and answer.status_code in {
        200,
        303,
    }:  # the same page again: the account is connected, nothing else
        assert not [one for one in target.provider.arrivals[before:] if one.path == "/token"]
        return
    assert answer.status_code >= 400, answer.text
    assert not [one for one in target.provider.arrivals[before:] if one.path == "/token"]


async def test_the_first_admin_is_made_once(target: Target) -> None:
    person = await target.browser()
    page = await person.open("/first-run")
    assert not [one for one in forms_of(page.text) if "/first-run" in one.action]


async def test_passwords_cannot_be_guessed_in_a_row(target: Target) -> None:
    person = await target.browser()
    page = await person.open("/sign-in")
    statuses: list[int] = []
    for one in range(110):
        answer = await person.submit(page, {"name": "victim", "password": f"wrong password {one}"}, form="/sign-in")
        statuses.append(answer.status_code)
        if statuses[-1] == 429:
            break
    assert statuses[-1] == 429


async def test_a_page_shows_an_agents_name_as_text(target: Target) -> None:
    name = "<script>alert(1)</script>{{7*7}}<img src=x onerror=alert(1)>"
    client = await target.register(client_name=name)
    page = await target.alice.open(target.authorize_url(str(client["client_id"]), "A" * 43))
    assert "<script" not in without_own_markup(page.text)
    assert "<img src=x" not in page.text
    assert "49&" not in page.text
