"""The simulator's Slack face: OAuth refusals next to accepted requests, and the Web API's checks."""

from __future__ import annotations

import httpx2
import pytest

from providers.simulator import Simulator, consent
from providers.simulator.person import ConsentRefused
from tests.support.simulator_apps import (
    CHALLENGE,
    CLIENT,
    PUBLIC_CLIENT,
    REDIRECT,
    SECOND_CLIENT,
    VERIFIER,
    SlackApp,
    parameters,
)


@pytest.fixture
def app(simulator_client: tuple[Simulator, httpx2.AsyncClient]) -> SlackApp:
    simulator_client[0].reset()
    return SlackApp(*simulator_client)


async def test_a_code_is_redeemed_for_a_user_token_under_authed_user(app: SlackApp) -> None:
    answer = (await app.redeem(await app.code())).json()
    assert answer["ok"] is True
    assert "access_token" not in answer
    user = answer["authed_user"]
    assert user["access_token"].startswith("xoxe.xoxp-")
    assert user["refresh_token"].startswith("xoxe-")
    assert (user["scope"], user["expires_in"]) == ("channels:history,channels:read,chat:write", 43200)
    assert (user["id"], answer["team"]["name"]) == ("U0SBALICE01", "Sandbox")


async def test_scope_asks_for_a_bot_whose_tokens_are_separate_and_at_the_top_level(app: SlackApp) -> None:
    answer = (await app.redeem(await app.code(scope="chat:write"))).json()
    assert answer["token_type"] == "bot"
    assert answer["access_token"].startswith("xoxe.xoxb-")
    assert answer["refresh_token"] != answer["authed_user"]["refresh_token"]
    posted = await app.call("chat.postMessage", answer["access_token"], channel="general", text="from the bot")
    assert posted["ok"] is True
    assert app.simulator.books()["posts"][0]["user_name"] == "sandbox-bot"
    only_user = (await app.redeem(await app.code())).json()
    assert "bot_user_id" not in only_user


@pytest.mark.parametrize(
    ("client", "error"),
    [(("sandbox-client", "wrong"), "bad_client_secret"), (("stranger", "sandbox-secret"), "invalid_client_id")],
)
@pytest.mark.parametrize("post", [False, True])
async def test_a_wrong_client_is_refused_and_spends_nothing(
    app: SlackApp, client: tuple[str, str], error: str, post: bool
) -> None:
    form = {"grant_type": "authorization_code", "code": await app.code(), "redirect_uri": REDIRECT}
    assert (await app.token(client=client, post=post, **form)).json() == {"ok": False, "error": error}
    assert (await app.token(post=post, **form)).json()["ok"] is True


async def test_two_client_authentication_methods_at_once_are_refused(app: SlackApp) -> None:
    form = {"grant_type": "authorization_code", "code": await app.code(), "redirect_uri": REDIRECT}
    both = await app.token(**form, client_id=CLIENT[0], client_secret=CLIENT[1])
    assert both.json()["error"] == "invalid_arguments"
    assert (await app.token(**form, client_id=CLIENT[0])).json()["ok"] is True


async def test_no_client_authentication_is_refused(app: SlackApp) -> None:
    form = {"grant_type": "authorization_code", "code": await app.code(), "redirect_uri": REDIRECT}
    assert (await app.token(client=None, **form)).json()["error"] == "invalid_client_id"
    assert (await app.token(**form)).json()["ok"] is True


async def test_the_redirect_address_must_be_the_one_of_the_authorization_request(app: SlackApp) -> None:
    refused = await app.redeem(await app.code(), redirect_uri=f"{REDIRECT}/")
    assert refused.json()["error"] == "bad_redirect_uri"
    assert (await app.redeem(await app.code())).json()["ok"] is True


async def test_a_code_serves_once(app: SlackApp) -> None:
    code = await app.code()
    assert (await app.redeem(code)).json()["ok"] is True
    assert (await app.redeem(code)).json()["error"] == "code_already_used"


@pytest.mark.parametrize(("age", "accepted"), [(58, True), (60, False)])
async def test_a_code_lives_sixty_seconds(app: SlackApp, age: int, accepted: bool) -> None:
    code = await app.code()
    app.simulator.advance(age)
    assert (await app.redeem(code)).json()["ok"] is accepted


async def test_a_code_serves_only_the_client_that_asked_for_it(app: SlackApp) -> None:
    code = await app.code()
    assert (await app.redeem(code, client=SECOND_CLIENT)).json()["error"] == "invalid_code"
    assert (await app.redeem(code)).json()["ok"] is True


@pytest.mark.parametrize("form", [{}, {"code_verifier": VERIFIER[::-1]}, {"code_verifier": "short"}])
async def test_a_challenge_demands_its_verifier(app: SlackApp, form: dict[str, str]) -> None:
    pkce = {"client_id": PUBLIC_CLIENT[0], "code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    refused = await app.redeem(await app.code(**pkce), client=PUBLIC_CLIENT, **form)
    assert refused.json()["error"] == "invalid_code_verifier"
    accepted = await app.redeem(await app.code(**pkce), client=PUBLIC_CLIENT, code_verifier=VERIFIER)
    assert accepted.json()["ok"] is True


async def test_only_an_app_with_pkce_turned_on_may_send_a_challenge(app: SlackApp) -> None:
    pkce = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    with pytest.raises(ConsentRefused, match="PKCE is not turned on"):
        await app.code(**pkce)
    assert await app.code(client_id=PUBLIC_CLIENT[0], **pkce)


async def test_an_app_with_pkce_gets_no_bot_on_this_machine(app: SlackApp) -> None:
    with pytest.raises(ConsentRefused, match="bot scopes"):
        await app.code(client_id=PUBLIC_CLIENT[0], scope="chat:write")
    assert await app.code(client_id=PUBLIC_CLIENT[0], scope="chat:write", redirect_uri="https://vault.example/cb")


async def test_an_app_with_pkce_needs_no_secret_but_then_the_proof(app: SlackApp) -> None:
    pkce = {"client_id": PUBLIC_CLIENT[0], "code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    form = {"grant_type": "authorization_code", "redirect_uri": REDIRECT, "client_id": PUBLIC_CLIENT[0]}
    without = await app.token(client=None, **form, code=await app.code(client_id=PUBLIC_CLIENT[0]))
    assert without.json()["error"] == "invalid_code_verifier"
    answer = await app.token(client=None, **form, code=await app.code(**pkce), code_verifier=VERIFIER)
    user = answer.json()["authed_user"]
    refresh = {"client_id": PUBLIC_CLIENT[0], "grant_type": "refresh_token", "refresh_token": user["refresh_token"]}
    assert (await app.token(client=None, **refresh)).json()["ok"] is True
    wrong = await app.token(client=None, **(refresh | {"client_id": CLIENT[0]}))
    assert wrong.json()["error"] == "bad_client_secret"


@pytest.mark.parametrize(("days", "accepted"), [(29, True), (30, False)])
async def test_a_refresh_token_of_an_app_with_pkce_ends_after_thirty_days(
    app: SlackApp, days: int, *, accepted: bool
) -> None:
    user = (await app.redeem(await app.code(client_id=PUBLIC_CLIENT[0]), client=PUBLIC_CLIENT)).json()["authed_user"]
    app.simulator.advance(days * 86400)
    answer = (await app.refresh(user["refresh_token"], client=PUBLIC_CLIENT)).json()
    assert answer["ok"] is accepted
    assert accepted or answer["error"] == "invalid_refresh_token"


async def test_a_verifier_without_a_challenge_is_refused(app: SlackApp) -> None:
    refused = await app.redeem(await app.code(), code_verifier=VERIFIER)
    assert refused.json()["error"] == "invalid_code_verifier"
    assert (await app.redeem(await app.code())).json()["ok"] is True


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "stranger"},
        {"redirect_uri": None},
        {"redirect_uri": "http://elsewhere.example/cb"},
        {"redirect_uri": f"{REDIRECT}#fragment"},
        {"redirect_uri": "javascript:alert(1)"},
        {"user_scope": "everything"},
        {"user_scope": ""},
        {"code_challenge": CHALLENGE, "code_challenge_method": "plain"},
        {"code_challenge": "short", "code_challenge_method": "S256"},
        {"code_challenge_method": "S256"},
    ],
)
async def test_a_bad_authorization_request_is_told_on_a_page_and_never_redirected(
    app: SlackApp, changes: dict[str, str | None]
) -> None:
    refused = await app.http.get(app.authorize_url(**changes))
    assert refused.status_code == 400
    assert "location" not in refused.headers
    assert "Allow" not in refused.text
    accepted = await app.http.get(app.authorize_url())
    assert accepted.status_code == 200
    assert "Allow" in accepted.text


async def test_registered_redirect_addresses_are_compared_exactly(app: SlackApp) -> None:
    app.simulator.control("client", redirect_uris=[f"{REDIRECT}/other"])
    assert (await app.http.get(app.authorize_url())).status_code == 400
    app.simulator.control("client", redirect_uris=[REDIRECT])
    assert (await app.http.get(app.authorize_url())).status_code == 200


async def test_an_app_asks_for_its_own_user_scopes_only(app: SlackApp) -> None:
    one = {"client_id": CLIENT[0], "client_secret": CLIENT[1]}
    app.simulator.control("app", **one, user_scopes=["channels:read"])
    refused = await app.http.get(app.authorize_url())
    assert refused.status_code == 400
    assert "invalid_scope_requested" in refused.text
    app.simulator.control("app", **one, user_scopes=["channels:read", "chat:write"])
    assert (await app.http.get(app.authorize_url(user_scope="chat:write,channels:read"))).status_code == 200


@pytest.mark.parametrize("rotates", [True, False])
async def test_an_app_without_rotation_gets_one_token_that_does_not_end(app: SlackApp, *, rotates: bool) -> None:
    app.simulator.control("app", client_id=CLIENT[0], client_secret=CLIENT[1], rotates=rotates)
    user = await app.connect()
    assert ("refresh_token" in user, "expires_in" in user) == (rotates, rotates)
    app.simulator.advance(10 * 365 * 86400)
    assert (await app.call("auth.test", user["access_token"]))["ok"] is not rotates


async def test_state_comes_back_and_unknown_parameters_are_ignored(app: SlackApp) -> None:
    location = await consent(app.authorize_url(state="a b&c", sim_auto="1", colour="blue"))
    assert parameters(location)["state"] == "a b&c"
    assert set(parameters(location)) == {"code", "state"}
    assert set(parameters(await consent(app.authorize_url(state=None)))) == {"code"}


async def test_cancel_sends_the_browser_back_without_a_code(app: SlackApp) -> None:
    location = await consent(app.authorize_url(), allow=False)
    assert parameters(location) == {"error": "access_denied", "state": "st-1"}
    assert location.startswith(REDIRECT)


async def test_the_client_cannot_ask_for_consent_without_a_person(app: SlackApp) -> None:
    assert (await app.http.get(app.authorize_url(sim_auto="1"))).status_code == 200
    app.simulator.control("consent", face="slack", account="bob")
    answered = await app.http.get(app.authorize_url())
    assert answered.status_code == 302
    assert "code" in parameters(answered.headers["location"])
    app.simulator.control("consent", face="slack", account=None)
    assert (await app.http.get(app.authorize_url())).status_code == 200


async def test_a_consent_page_is_answered_once(app: SlackApp) -> None:
    page = (await app.http.get(app.authorize_url())).text
    handle = page.split('name="request" value="')[1].split('"')[0]
    form = {"request": handle, "account": "alice", "decision": "allow"}
    url = f"{app.base}{app.authorize_path}"
    assert (await app.http.post(url, data=form)).status_code == 302
    assert (await app.http.post(url, data=form)).status_code == 400


async def test_the_consent_page_is_marked_as_a_sandbox_and_escapes_what_it_is_given(app: SlackApp) -> None:
    page = await app.http.get(app.authorize_url(redirect_uri="https://a.example/<script>"))
    assert "Sandbox Slack" in page.text
    assert "nothing here is real" in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_the_person_helper_says_why_it_cannot_consent(app: SlackApp) -> None:
    with pytest.raises(ConsentRefused, match="400"):
        await consent(app.authorize_url(client_id="stranger"))
    with pytest.raises(ConsentRefused, match="mallory"):
        await consent(app.authorize_url(), account="mallory")


async def test_a_user_only_authorization_uses_scope_and_its_own_token_method(app: SlackApp) -> None:
    url = app.authorize_url(user_scope=None, scope="chat:write channels:read").replace("/oauth/v2/", "/oauth/v2_user/")
    form = {"code": parameters(await consent(url))["code"], "redirect_uri": REDIRECT}
    answer = (await app.http.post(f"{app.base}/api/oauth.v2.user.access", data=form, auth=CLIENT)).json()
    assert (answer["ok"], answer["token_type"], answer["scope"]) == (True, "user", "channels:read,chat:write")


async def test_scopes_add_up_over_installations(app: SlackApp) -> None:
    await app.connect(user_scope="chat:write")
    second = await app.connect(user_scope="channels:read")
    assert second["scope"] == "channels:read,chat:write"
    other_person = await app.connect(account="bob", user_scope="channels:read")
    assert other_person["scope"] == "channels:read"


async def test_a_refresh_token_rotates_and_its_re_use_is_refused_without_further_harm(app: SlackApp) -> None:
    first = await app.connect()
    second = (await app.refresh(first["refresh_token"])).json()
    assert second["ok"] is True
    assert second["token_type"] == "user"
    assert second["refresh_token"] != first["refresh_token"]
    assert (await app.refresh(first["refresh_token"])).json() == {"ok": False, "error": "invalid_refresh_token"}
    assert (await app.refresh(second["refresh_token"])).json()["ok"] is True
    outcomes = [(entry["token"], entry["outcome"]) for entry in app.simulator.books()["refreshes"]]
    assert outcomes == [("slack-1:r0", "rotated"), ("slack-1:r0", "refused:reused"), ("slack-1:r1", "rotated")]


async def test_a_refresh_token_serves_only_its_client(app: SlackApp) -> None:
    token = (await app.connect())["refresh_token"]
    assert (await app.refresh(token, client=SECOND_CLIENT)).json()["error"] == "invalid_refresh_token"
    assert (await app.refresh(token)).json()["ok"] is True


async def test_slack_ignores_scope_on_refresh(app: SlackApp) -> None:
    answer = (await app.refresh((await app.connect())["refresh_token"], scope="chat:write")).json()
    assert answer["scope"] == "channels:history,channels:read,chat:write"


async def test_an_access_token_expires_after_twelve_hours(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    app.simulator.advance(43190)
    assert (await app.call("auth.test", token))["ok"] is True
    app.simulator.advance(10)
    assert (await app.call("auth.test", token))["error"] == "token_expired"


async def test_auth_revoke_ends_the_token_it_is_called_with_and_no_other(app: SlackApp) -> None:
    tokens = await app.connect()
    assert await app.call("auth.revoke", tokens["access_token"], test="1") == {"ok": True, "revoked": False}
    assert (await app.call("auth.test", tokens["access_token"]))["ok"] is True
    assert await app.call("auth.revoke", tokens["access_token"]) == {"ok": True, "revoked": True}
    assert (await app.call("auth.test", tokens["access_token"]))["error"] == "token_revoked"
    assert app.simulator.books()["families"][0]["ended"] is None
    assert await app.call("auth.revoke", tokens["refresh_token"]) == {"ok": True, "revoked": True}
    assert (await app.refresh(tokens["refresh_token"])).json()["error"] == "invalid_refresh_token"
    assert app.simulator.books()["families"][0]["ended"] == "revoked"
    assert (await app.call("auth.revoke", tokens["access_token"]))["error"] == "token_revoked"
    assert (await app.call("auth.revoke", "xoxe.xoxp-1-stranger"))["error"] == "invalid_auth"
    assert (await app.call("auth.revoke", None))["error"] == "not_authed"


async def test_a_grant_revoked_by_the_person_ends_tokens_refresh_tokens_and_open_codes(app: SlackApp) -> None:
    tokens, bob = await app.connect(), await app.connect(account="bob")
    code = await app.code()
    assert app.simulator.control("revoke_grant", face="slack", account="alice") == {"ended": ["slack-1"]}
    assert (await app.call("auth.test", tokens["access_token"]))["error"] == "token_revoked"
    assert (await app.refresh(tokens["refresh_token"])).json()["error"] == "invalid_refresh_token"
    assert (await app.redeem(code)).json()["ok"] is False
    assert (await app.call("auth.test", bob["access_token"]))["ok"] is True


async def test_a_call_without_a_good_token_is_refused(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    assert (await app.call("auth.test", None))["error"] == "not_authed"
    assert (await app.call("auth.test", "xoxp-garbage"))["error"] == "invalid_auth"
    in_query = await app.http.get(f"{app.base}/api/auth.test", params={"token": token})
    assert in_query.json()["error"] == "not_authed"
    assert (await app.call("auth.test", None, token=token))["ok"] is True
    assert (await app.call("auth.test", token))["user"] == "alice"


async def test_a_deactivated_account_is_refused_until_it_is_active_again(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    app.simulator.control("accounts", account="alice", active=False)
    assert (await app.call("auth.test", token))["error"] == "account_inactive"
    assert parameters(await consent(app.authorize_url()))["error"] == "access_denied"
    app.simulator.control("accounts", account="alice", active=True)
    assert (await app.call("auth.test", token))["ok"] is True


@pytest.mark.parametrize(
    ("method", "arguments", "scope"),
    [
        ("chat.postMessage", {"channel": "general", "text": "hello"}, "chat:write"),
        ("conversations.list", {}, "channels:read"),
        ("conversations.list", {"types": "private_channel"}, "groups:read"),
        ("conversations.info", {"channel": "C0SBGENERAL"}, "channels:read"),
        ("conversations.members", {"channel": "C0SBGENERAL"}, "channels:read"),
        ("conversations.history", {"channel": "C0SBGENERAL"}, "channels:history"),
        ("conversations.history", {"channel": "C0SBINCIDEN"}, "groups:history"),
        ("conversations.history", {"channel": "D0SBALICEBO"}, "im:history"),
        ("conversations.open", {"users": "U0SBBOB0001"}, "im:write"),
        ("users.info", {"user": "U0SBBOB0001"}, "users:read"),
        ("users.list", {}, "users:read"),
        ("users.lookupByEmail", {"email": "bob@example.com"}, "users:read.email"),
        ("team.info", {}, "team:read"),
    ],
)
async def test_each_method_demands_its_scope(app: SlackApp, method: str, arguments: dict[str, str], scope: str) -> None:
    without = (await app.connect(account="alice", user_scope="search:read"))["access_token"]
    refused = await app.call(method, without, **arguments)
    assert refused == {"ok": False, "error": "missing_scope", "needed": scope, "provided": "search:read"}
    with_scope = (await app.connect(account="alice", user_scope=scope))["access_token"]
    assert (await app.call(method, with_scope, **arguments))["ok"] is True


async def test_a_post_is_kept_and_shows_in_history_and_books_once(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    posted = await app.call("chat.postMessage", token, channel="#deploys", text="Deploying *4.18*")
    assert posted["channel"] == "C0SBDEPLOYS"
    history = await app.call("conversations.history", token, channel="C0SBDEPLOYS", limit="1")
    newest = history["messages"][0]
    assert (newest["text"], newest["user"], newest["ts"]) == ("Deploying *4.18*", "U0SBALICE01", posted["ts"])
    reply = await app.call("chat.postMessage", token, channel="deploys", text="done", thread_ts=str(posted["ts"]))
    thread = await app.call("conversations.replies", token, channel="C0SBDEPLOYS", ts=str(posted["ts"]))
    assert [message["ts"] for message in thread["messages"]] == [posted["ts"], reply["ts"]]
    assert [post["text"] for post in app.simulator.books()["posts"]] == ["Deploying *4.18*", "done"]
    home = await app.http.get(app.simulator.url)
    assert "Deploying *4.18*" in home.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channel": "C0NOWHERE01", "text": "hello"}, "channel_not_found"),
        ({"channel": "G0SBFOUNDER", "text": "hello"}, "channel_not_found"),
        ({"channel": "design", "text": "hello"}, "not_in_channel"),
        ({"channel": "old-project", "text": "hello"}, "is_archived"),
        ({"channel": "general"}, "no_text"),
        ({"channel": "general", "text": "x" * 40_001}, "msg_too_long"),
        ({"channel": "general", "text": "hello", "thread_ts": "1.000000"}, "thread_not_found"),
        ({"text": "hello"}, "invalid_arguments"),
    ],
)
async def test_a_post_that_slack_would_not_take_is_refused(
    app: SlackApp, arguments: dict[str, str], error: str
) -> None:
    token = (await app.connect())["access_token"]
    assert await app.call("chat.postMessage", token, **arguments) == {"ok": False, "error": error}
    assert app.simulator.books()["posts"] == []
    assert (await app.call("chat.postMessage", token, channel="general", text="hello"))["ok"] is True


async def test_json_bodies_are_read_and_a_missing_charset_is_remarked(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    body = {"channel": "general", "text": "hello"}
    url = f"{app.base}/api/chat.postMessage"
    bare = (await app.http.post(url, json=body, headers=headers)).json()
    assert (bare["ok"], bare["warning"]) == (True, "missing_charset")
    named = {**headers, "content-type": "application/json; charset=utf-8"}
    assert "warning" not in (await app.http.post(url, json=body, headers=named)).json()


async def test_a_list_is_paged_by_cursor_in_pages_smaller_than_asked_for(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    names: list[str] = []
    cursor, pages = "", 0
    while pages == 0 or cursor:
        answer = await app.call("conversations.list", token, limit="200", **({"cursor": cursor} if cursor else {}))
        names += [channel["name"] for channel in answer["channels"]]
        cursor, pages = answer["response_metadata"]["next_cursor"], pages + 1
    assert pages == 2
    assert names == ["general", "random", "deploys", "design", "support", "old-project"]
    assert (await app.call("conversations.list", token, cursor="bogus"))["error"] == "invalid_cursor"
    assert (await app.call("conversations.list", token, limit="5000"))["error"] == "invalid_limit"
    fewer = await app.call("conversations.list", token, limit="2", exclude_archived="true")
    assert len(fewer["channels"]) == 2


async def test_only_the_author_changes_or_deletes_a_message(app: SlackApp) -> None:
    alice, bob = (await app.connect())["access_token"], (await app.connect(account="bob"))["access_token"]
    posted = await app.call("chat.postMessage", alice, channel="general", text="first")
    where = {"channel": "general", "ts": str(posted["ts"])}
    assert (await app.call("chat.update", bob, **where, text="mine"))["error"] == "cant_update_message"
    assert (await app.call("chat.update", alice, **where, text="second"))["text"] == "second"
    assert (await app.call("chat.delete", bob, **where))["error"] == "cant_delete_message"
    assert (await app.call("chat.delete", alice, **where))["ok"] is True
    assert (await app.call("chat.delete", alice, **where))["error"] == "message_not_found"


async def test_an_address_needs_its_own_scope(app: SlackApp) -> None:
    plain = (await app.connect(account="bob", user_scope="users:read"))["access_token"]
    shown = await app.call("users.info", plain, user="U0SBALICE01")
    assert "email" not in shown["user"]["profile"]
    wider = (await app.connect(account="bob", user_scope="users:read.email"))["access_token"]
    shown = await app.call("users.info", wider, user="U0SBALICE01")
    assert shown["user"]["profile"]["email"] == "alice@example.com"


async def test_an_unknown_method_and_a_repeated_parameter_are_refused(app: SlackApp) -> None:
    tokens = await app.connect()
    assert (await app.call("chat.shout", tokens["access_token"]))["error"] == "unknown_method"
    body = f"grant_type=refresh_token&refresh_token={tokens['refresh_token']}&refresh_token=x"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    url = f"{app.base}/api/oauth.v2.access"
    assert (await app.http.post(url, content=body, headers=headers, auth=CLIENT)).status_code == 400
    assert (await app.refresh(tokens["refresh_token"])).json()["ok"] is True


async def test_credentials_in_a_query_are_not_read(app: SlackApp) -> None:
    form = {"code": await app.code(), "redirect_uri": REDIRECT, "client_id": CLIENT[0], "client_secret": CLIENT[1]}
    in_query = await app.http.get(f"{app.base}/api/oauth.v2.access", params=form)
    assert in_query.json()["error"] == "invalid_client_id"
    assert (await app.http.post(f"{app.base}/api/oauth.v2.access", data=form)).json()["ok"] is True


async def test_an_unknown_grant_type_is_refused(app: SlackApp) -> None:
    assert (await app.token(grant_type="password")).json()["error"] == "invalid_grant_type"
    assert (await app.redeem(await app.code())).json()["ok"] is True


async def test_a_bots_refresh_gives_a_bots_tokens(app: SlackApp) -> None:
    answer = (await app.redeem(await app.code(scope="chat:write"))).json()
    refreshed = (await app.refresh(answer["refresh_token"])).json()
    assert (refreshed["token_type"], refreshed["bot_user_id"]) == ("bot", "U0SBBOT0001")
    assert (await app.call("auth.test", refreshed["access_token"]))["user"] == "sandbox-bot"


async def test_history_is_bounded_by_time_and_private_channels_stay_private(app: SlackApp) -> None:
    scopes = "channels:history,groups:history,im:history,im:write,chat:write"
    token = (await app.connect(user_scope=scopes))["access_token"]
    everything = (await app.call("conversations.history", token, channel="C0SBGENERAL"))["messages"]
    assert [message["user"] for message in everything] == ["U0SBBOB0001", "U0SBALICE01", "U0SBCAROL01"]
    middle = everything[1]["ts"]
    newer = await app.call("conversations.history", token, channel="C0SBGENERAL", oldest=middle)
    older = await app.call("conversations.history", token, channel="C0SBGENERAL", latest=middle)
    assert ([m["ts"] for m in newer["messages"]], [m["ts"] for m in older["messages"]]) == (
        [everything[0]["ts"]],
        [everything[2]["ts"]],
    )
    bad = await app.call("conversations.history", token, channel="C0SBGENERAL", oldest="yesterday")
    assert bad["error"] == "invalid_ts_latest"
    first = await app.call("conversations.history", token, channel="C0SBGENERAL", limit="2")
    assert (len(first["messages"]), first["has_more"]) == (2, True)
    assert (await app.call("conversations.history", token, channel="C0SBINCIDEN"))["ok"] is True
    carol = (await app.connect(account="carol", user_scope=scopes))["access_token"]
    assert (await app.call("conversations.history", carol, channel="C0SBINCIDEN"))["error"] == "channel_not_found"


async def test_a_users_id_addresses_the_direct_messages(app: SlackApp) -> None:
    token = (await app.connect(user_scope="chat:write,im:write,im:read,im:history"))["access_token"]
    posted = await app.call("chat.postMessage", token, channel="U0SBCAROL01", text="hello Carol")
    opened = await app.call("conversations.open", token, users="U0SBCAROL01")
    assert opened["channel"]["id"] == posted["channel"]
    assert (await app.call("conversations.open", token, users="U0NOBODY001"))["error"] == "user_not_found"
    shown = await app.call("conversations.info", token, channel=str(posted["channel"]))
    assert (shown["channel"]["is_im"], shown["channel"]["user"]) == (True, "U0SBCAROL01")


async def test_people_are_found_by_id_and_address_or_not_at_all(app: SlackApp) -> None:
    token = (await app.connect(user_scope="users:read,users:read.email"))["access_token"]
    assert (await app.call("users.lookupByEmail", token, email="bob@example.com"))["user"]["name"] == "bob"
    assert (await app.call("users.lookupByEmail", token, email="x@example.com"))["error"] == "users_not_found"
    assert (await app.call("users.info", token, user="U0NOBODY001"))["error"] == "user_not_found"
    assert [user["name"] for user in (await app.call("users.list", token))["members"]] == ["alice", "bob", "carol"]


async def test_a_reaction_counts_once_per_person(app: SlackApp) -> None:
    scopes = "chat:write,reactions:write,channels:history"
    token = (await app.connect(user_scope=scopes))["access_token"]
    posted = await app.call("chat.postMessage", token, channel="general", text="hello")
    where = {"channel": "general", "timestamp": str(posted["ts"])}
    assert (await app.call("reactions.add", token, **where, name="tada"))["ok"] is True
    assert (await app.call("reactions.add", token, **where, name="tada"))["error"] == "already_reacted"
    assert (await app.call("reactions.add", token, **where))["error"] == "invalid_name"
    lost = await app.call("reactions.add", token, channel="general", timestamp="1.000000", name="tada")
    assert lost["error"] == "message_not_found"
    newest = (await app.call("conversations.history", token, channel="C0SBGENERAL"))["messages"][0]
    assert newest["reactions"] == [{"name": "tada", "users": ["U0SBALICE01"], "count": 1}]
    no_scope = (await app.connect(account="bob"))["access_token"]
    assert (await app.call("reactions.add", no_scope, **where, name="tada"))["error"] == "missing_scope"


async def test_unknown_conversation_types_are_refused(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    assert (await app.call("conversations.list", token, types="cellar"))["error"] == "invalid_types"
    assert (await app.call("conversations.list", token, types="public_channel"))["ok"] is True


async def test_json_arguments_may_be_numbers_and_booleans(app: SlackApp) -> None:
    token = (await app.connect())["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    url = f"{app.base}/api/conversations.list"
    answer = (await app.http.post(url, json={"limit": 3, "exclude_archived": True}, headers=headers)).json()
    assert len(answer["channels"]) == 3
    broken = await app.http.post(url, content="[1]", headers={**headers, "content-type": "application/json"})
    assert broken.status_code == 400
