"""What every page and form has: headers, cookies, form tokens, origins, and no exit to a foreign address."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httpx2
import pytest

from server.sign_in import password
from server.sign_in.password import cookie_name
from tests.support.harness import PASSWORD, free_socket, running_vault
from tests.support.person import Person, forms_of, session_token, without_own_markup
from tests.support.rooms.portal_room import Room
from vault import connections
from vault.sign_in import sessions

BROWSER = "text/html,application/xhtml+xml"
PAGES = (
    "/sign-in",
    "/connections",
    "/connections/connect?provider=slack",
    "/agents",
    "/activity",
    "/account",
    "/account/password",
    "/account/delete",
    "/device",
    "/first-run",
    "/consent?request=unknown",
    "/connect/unknown",
    "/connect/callback/slack?state=unknown&code=x",
    "/connect/callback/unknown",
    "/connect/done/unknown",
    "/connections/unknown/disconnect",
    "/connections/connect?provider=unknown",
    "/agents/unknown/cut-off",
    "/sign-in/local?ticket=unknown",
    "/sign-in/openid/unknown",
    "/sign-in/openid/unknown/callback?state=x",
    "/authorize",
)


async def _pages(room: Room) -> list[httpx2.Response]:
    """Every page, signed in and signed out, including errors and redirects."""
    out: list[httpx2.Response] = []
    for person in (await room.browser(), await room.signed_in()):
        for path in PAGES:
            answer = await person.http.get(path)
            assert answer.status_code != 500, path
            out.append(answer)
    return out


@pytest.mark.requirement("S-120", "S-121")
async def test_every_answer_forbids_frames_scripts_and_foreign_form_targets(room: Room) -> None:
    for answer in await _pages(room):
        policy = answer.headers["content-security-policy"]
        directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
        assert directives["frame-ancestors"] == "'none'", answer.url
        assert directives["default-src"] == "'none'"
        assert directives["object-src"] == "'none'"
        assert directives["base-uri"] == "'none'"
        assert directives["style-src"] == "'self'"
        assert directives["script-src"] == "'self'"
        assert directives["img-src"] == "'self'"
        assert "unsafe" not in policy
        assert directives["form-action"].split()[0] == "'self'"
        assert not {"*", "http:", "data:"} & set(directives["form-action"].split())
        assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.requirement("S-122")
async def test_every_answer_is_private_to_the_browser(room: Room) -> None:
    for answer in await _pages(room):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        if answer.text:
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "server" not in answer.headers


@pytest.mark.requirement("S-124")
async def test_pages_load_nothing_from_elsewhere_and_run_scripts_of_ours_only(room: Room) -> None:
    for answer in await _pages(room):
        assert "<script" not in without_own_markup(answer.text)
        assert answer.text.count("<script") <= 2
        assert not re.search(r"<[^>]*\son[a-z]+=", answer.text)
        loaded = re.findall(
            r"<(?:script|img|use|link|iframe|source|embed|object)[^>]*(?:src|href)=\"([^\"]*)\"", answer.text
        )
        assert all(url.startswith("/static/") for url in loaded)
        assert "style=" not in answer.text


async def test_the_stylesheet_is_served_with_its_type_and_may_be_kept(room: Room) -> None:
    person = await room.browser()
    page = await person.open("/sign-in")
    url = re.search(r'rel="stylesheet" href="([^"]+)"', page.text)
    assert url is not None
    answer = await person.http.get(url[1])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "max-age" in answer.headers["cache-control"]


async def test_the_script_icons_and_logos_are_served_and_nothing_else(room: Room) -> None:
    person = await room.browser()
    for path, kind in (
        ("portal.js", "text/javascript"),
        ("icons.svg", "image/svg+xml"),
        ("logos/github.svg", "image/svg+xml"),
    ):
        answer = await person.http.get(f"/static/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("logos.json", "logos/slack.svg", "../texts.toml", "%2e%2e/texts.toml", ""):
        assert (await person.http.get(f"/static/{path}")).status_code == 404, path


@pytest.mark.requirement("S-123")
async def test_cookies_of_an_https_vault_are_host_bound_secure_and_hidden_from_scripts(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    listening = free_socket()
    port = listening.getsockname()[1]
    origin = "https://vault.example"
    async with (
        running_vault(
            tmp_path_factory.mktemp("https"), overrides={"server": {"public_url": origin}}, listening=listening
        ) as vault,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"host": "vault.example"}, timeout=30) as http,
    ):
        page = await http.get("/sign-in")
        before = page.headers.get_list("set-cookie")
        form = next(one for one in forms_of(page.text) if one.action == "/sign-in")
        answer = await http.post(
            "/sign-in",
            data=dict(form.fill_in({"name": "alice", "password": PASSWORD})),
            headers={"origin": vault.url, "cookie": before[0].partition(";")[0]},
        )
    cookies = [*before, *answer.headers.get_list("set-cookie")]
    assert answer.status_code == 303
    assert any(cookie.startswith("__Host-token_vault=") for cookie in cookies)
    for cookie in cookies:
        facts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert cookie.startswith("__Host-"), cookie
        assert {"secure", "httponly", "samesite=lax", "path=/"} <= facts, cookie
        assert not any(fact.startswith("domain") for fact in facts)


async def test_cookies_on_plain_loopback_are_hidden_and_lax_too(room: Room) -> None:
    page = await (await room.browser()).http.get("/sign-in")
    (cookie,) = page.headers.get_list("set-cookie")
    assert cookie.startswith(cookie_name(room.deployment, "browser") + "=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


MARKER = "<svg/onload=alert(1)>\"'zq9"
PARAMETERS = (
    "state",
    "code",
    "error",
    "error_description",
    "iss",
    "return_to",
    "ticket",
    "request",
    "provider",
    "agent",
    "before",
    "user_code",
)


@pytest.mark.requirement("S-125")
@pytest.mark.parametrize(
    "path",
    ["/sign-in", "/consent", "/connect/callback/slack", "/connections/connect", "/activity", "/sign-in/local"],
)
async def test_pages_reflect_no_markup(room: Room, path: str) -> None:
    for person in (await room.browser(), await room.signed_in()):
        for name in PARAMETERS:
            answer = await person.http.get(path, params={name: MARKER})
            assert answer.status_code < 500
            assert "<svg" not in without_own_markup(answer.text)
            if answer.status_code >= 400:
                assert "zq9" not in answer.text, (path, name)


@pytest.mark.requirement("S-125")
@pytest.mark.parametrize(
    "path",
    [
        "/connect/{}",
        "/connect/callback/{}",
        "/connect/done/{}",
        "/connections/{}/disconnect",
        "/agents/{}/cut-off",
        "/sign-in/openid/{}",
    ],
)
async def test_error_pages_say_nothing_of_the_path(room: Room, path: str) -> None:
    person = await room.signed_in()
    answer = await person.http.get(path.format("%3Csvg%20onload=alert(1)%3Ezq9"))
    assert 400 <= answer.status_code < 500
    assert "zq9" not in answer.text


@pytest.mark.requirement("S-125")
async def test_an_address_without_a_page_is_a_page_for_a_browser_and_words_for_a_program(room: Room) -> None:
    person = await room.browser()
    path = "/nothing/%3Csvg%20onload=alert(1)%3Ezq9"
    browser = await person.http.get(path, headers={"accept": BROWSER})
    program = await person.http.get(path, headers={"accept": "application/json"})
    assert browser.status_code == program.status_code == 404
    assert "Page not found" in browser.text
    assert 'href="/"' in browser.text
    assert program.json()["error"] == "not_found"
    assert "endpoints.md" in program.json()["error_description"]
    for answer in (browser, program):
        assert "zq9" not in answer.text
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_a_method_that_an_address_does_not_take_says_what_to_do(room: Room) -> None:
    person = await room.browser()
    browser = await person.http.get("/sign-out", headers={"accept": BROWSER})
    program = await person.http.get("/sign-out")
    assert browser.status_code == program.status_code == 405
    assert browser.headers["allow"] == program.headers["allow"] == "POST"
    assert "Go to the start page" in browser.text
    told = {"error": "method_not_allowed", "error_description": "this path accepts only POST"}
    assert program.json() == told | {"request_id": program.headers["x-request-id"]}


async def test_a_failure_of_ours_is_a_page_for_a_browser_and_json_for_a_program(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("hunter2")

    person = await room.browser()
    assert (await person.http.get("/sign-in")).status_code == 200, "the twin"
    monkeypatch.setattr(password, "has_admin", fails)
    browser = await person.http.get("/sign-in", headers={"accept": BROWSER})
    program = await person.http.get("/sign-in")
    assert browser.status_code == program.status_code == 500
    assert "its log has the cause" in browser.text
    assert program.json()["error"] == "server_error"
    for answer in (browser, program):
        assert "hunter2" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in browser.headers["content-security-policy"]


async def test_a_refusal_stands_on_a_page_as_a_sentence(room: Room) -> None:
    person = await room.signed_in(await room.user())
    page = await person.open("/account/password")
    answers = {"current": PASSWORD, "password": "short", "password_again": "short"}
    refused = await person.submit(page, answers, form="/account/password")
    assert refused.status_code == 400
    assert ">The password needs at least 15 characters; several random words work well.</p>" in refused.text


async def test_a_parameter_that_comes_twice_is_refused(room: Room) -> None:
    person = await room.browser()
    twice = await person.http.get("/sign-in?return_to=/agents&return_to=/activity")
    once = await person.http.get("/sign-in?return_to=/agents")
    assert (twice.status_code, once.status_code) == (400, 200)


EVIL = (
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "/%09/evil.example",
    "javascript:alert(1)",
    "/connect/../../\\evil.example",
    "https:evil.example",
    " //evil.example",
    "/sign-in/local?ticket=x",
    "\t//evil.example",
)


@pytest.mark.requirement("S-126")
@pytest.mark.parametrize("target", EVIL)
async def test_sign_in_never_leads_to_another_place(room: Room, target: str) -> None:
    person = await room.browser()
    for name in ("return_to", "next", "url", "redirect", "redirect_uri", "continue", "rd", "goto", "target"):
        page = await person.http.get("/sign-in", params={name: target})
        assert page.status_code == 200
        assert "evil" not in page.text
    form = next(one for one in forms_of(page.text) if one.action == "/sign-in")
    data = dict(form.fill_in({"name": "alice", "password": PASSWORD, "return_to": target}))
    answer = await person.http.post("/sign-in", data=data, headers={"origin": room.url})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


async def test_sign_in_leads_back_to_the_page_that_was_asked_for(room: Room) -> None:
    person = await room.browser()
    page = await person.open("/activity?agent=x")
    assert page.url.path == "/sign-in"
    page = await person.sign_in("alice", PASSWORD, page=page)
    assert str(page.url) == f"{room.url}/activity?agent=x"


async def _password_form(person: Person) -> dict[str, str]:
    page = await person.open("/sign-in")
    form = next(one for one in forms_of(page.text) if one.action == "/sign-in")
    return dict(form.fill_in({"name": "alice", "password": PASSWORD}))


@pytest.mark.requirement("S-127")
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_sign_in_form_from_another_site_is_refused(room: Room, headers: dict[str, str]) -> None:
    person = await room.browser()
    data = await _password_form(person)
    foreign = await person.http.post("/sign-in", data=data, headers=headers)
    assert foreign.status_code == 403
    assert cookie_name(room.deployment, "session") + "=" not in str(foreign.headers.get_list("set-cookie"))
    own = await person.http.post("/sign-in", data=data, headers={"origin": room.url})
    assert own.status_code == 303


@pytest.mark.requirement("S-127")
@pytest.mark.parametrize("change", ["without", "bent", "another browser's", "another form's"])
async def test_a_sign_in_form_without_this_browsers_token_is_refused(room: Room, change: str) -> None:
    person, other = await room.browser(), await room.browser()
    data = await _password_form(person)
    match change:
        case "without":
            wrong = {name: value for name, value in data.items() if name != "form_token"}
        case "bent":
            wrong = data | {"form_token": data["form_token"][:-1] + ("0" if data["form_token"][-1] != "0" else "1")}
        case "another browser's":
            wrong = data | {"form_token": (await _password_form(other))["form_token"]}
        case _:
            page = await person.open("/sign-in")
            local = next((one for one in forms_of(page.text) if one.action == "/sign-in/local"), None)
            wrong = data | {"form_token": dict(local.fields)["form_token"] if local else "0" * 64}
    assert (await person.http.post("/sign-in", data=wrong, headers={"origin": room.url})).status_code == 403
    assert (await person.http.post("/sign-in", data=data, headers={"origin": room.url})).status_code == 303


async def test_a_program_without_browser_headers_needs_the_token(room: Room) -> None:
    person = await room.browser()
    data = await _password_form(person)
    assert (await person.http.post("/sign-in", data=data | {"form_token": ""})).status_code == 403
    assert (await person.http.post("/sign-in", data=data)).status_code == 303


async def test_pages_answer_head_like_get(room: Room) -> None:
    answer = await (await room.browser()).http.head("/sign-in")
    assert answer.status_code == 200
    assert answer.content == b""


async def test_a_form_of_a_page_that_sends_no_referrer_counts(room: Room) -> None:
    person = await room.browser()
    data = await _password_form(person)
    headers = {"origin": "null", "sec-fetch-site": "same-origin"}
    assert (await person.http.post("/sign-in", data=data, headers=headers)).status_code == 303


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"name=a&password=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"name=%ff%fe", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=1" for _ in range(2000)), "application/x-www-form-urlencoded", 400),
        (b"\xff", "application/x-www-form-urlencoded", 400),
    ],
)
async def test_a_body_that_is_no_small_form_is_refused(room: Room, body: bytes, kind: str, status: int) -> None:
    person = await room.browser()
    await person.open("/sign-in")
    answer = await person.http.post("/sign-in", content=body, headers={"origin": room.url, "content-type": kind})
    assert answer.status_code == status
    assert "Token Vault" in answer.text


async def test_a_field_that_comes_twice_is_refused(room: Room) -> None:
    person = await room.browser()
    data = await _password_form(person)
    twice = {name: [value] for name, value in data.items()} | {"name": ["alice", "bob"]}
    assert (await person.http.post("/sign-in", data=twice, headers={"origin": room.url})).status_code == 400
    assert (await person.http.post("/sign-in", data=data, headers={"origin": room.url})).status_code == 303


POSTS = ("/connections/connect", "/connections/{id}/reconnect", "/connections/{id}/disconnect", "/sign-out")


@pytest.mark.requirement("S-146")
async def test_connecting_and_disconnecting_need_a_post_with_this_sessions_token(room: Room) -> None:
    user = await room.user()
    person, client = await room.signed_in(user), await room.agent()
    await room.connect(person, user, client)
    (connection,) = await connections.list_connections(room.deployment.database, user.id)
    stranger = await room.signed_in(await room.user())
    for path in POSTS:
        action = path.format(id=connection.id)
        for headers in ({"origin": room.url}, {"origin": "https://evil.example"}):
            answer = await person.http.post(action, data={"provider": "slack", "scope": "chat:write"}, headers=headers)
            assert answer.status_code == 403, action
        got = await person.http.get(action)
        assert got.status_code in {200, 400, 404, 405}, action
        assert "location" not in got.headers
    page = await person.open(f"/connections/{connection.id}")
    token = dict(next(one for one in forms_of(page.text) if "reconnect" in one.action).fields)["form_token"]
    assert (
        await stranger.http.post(
            f"/connections/{connection.id}/reconnect", data={"form_token": token}, headers={"origin": room.url}
        )
    ).status_code == 403
    assert (await connections.get_connection(room.deployment.database, connection.id, user_id=user.id)) == connection
    own = await person.submit(page, form="reconnect")
    assert own.status_code == 303
    assert urlsplit(own.headers["location"]).netloc == urlsplit(room.simulator.url).netloc


async def test_a_page_opened_under_another_loopback_name_goes_to_the_public_one(room: Room) -> None:
    port = urlsplit(room.url).port
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        answer = await http.get("/connections?x=a%20b")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{room.url}/connections?x=a%20b"


async def test_an_ended_session_sends_the_person_to_sign_in(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    assert (await person.http.get("/connections")).status_code == 200
    cookie = session_token(person.http)
    async with room.deployment.transaction() as transaction:
        await sessions.end_session(transaction, sessions.session_hash(cookie), now=room.deployment.now())
    assert (await person.http.get("/connections")).status_code == 303
