"""Auth0's interface: turned off; others' tokens, tickets, and codes; connecting for someone else."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest

from tests.attacks.administration.attack_admin_api import admin_token
from tests.attacks.administration.attack_administration import id_of, someone
from tests.attacks.oauth.attack_tokens import _ath
from tests.attacks.oauth.auth0_wire import (
    CREATE,
    DELETE,
    FEDERATED,
    ME,
    READ,
    account_token,
    connect_person,
    go,
    me,
    me_token,
    signed_in,
    start,
)
from tests.attacks.target import REDIRECT, Agent, Target, new_key, pkce, proof, query_of
from tests.support.rooms.oauth_world import claims_of

PATHS = (
    ("POST", "/oauth/token"), ("POST", "/oauth/revoke"), ("POST", "/oidc/register"), ("GET", "/oauth/userinfo"),
    ("GET", f"{ME}/accounts"), ("GET", f"{ME}/connections"), ("POST", f"{ME}/connect"), ("POST", f"{ME}/complete"),
    ("DELETE", f"{ME}/accounts/cac_x"), ("GET", "/connected-accounts/connect?ticket=x"),
    ("GET", "/api/v2/users/x/connected-accounts"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_where_it_is_off_nothing_is_there(target: Target, method: str, path: str) -> None:
    answer = await target.http.request(method, path, json={"grant_type": FEDERATED} if method == "POST" else None)
    assert answer.status_code == 404


async def test_an_honest_application_gets_a_token_of_the_account(tenant: Target) -> None:
    """The twin of the attacks below."""
    _, agent, token, account = await connect_person(tenant)
    answer = await account_token(tenant, agent)
    assert answer.status_code == 200, answer.text
    assert [one["id"] for one in (await me(tenant, "GET", "accounts", token)).json()["accounts"]] == [account]


# Tokens


CALLS = (
    ("GET", "accounts"), ("GET", "connections"), ("POST", "connect"), ("POST", "complete"),
    ("DELETE", "accounts/cac_x"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_the_accounts_are_for_tokens_of_that_api(tenant: Target, method: str, path: str) -> None:
    agent = await signed_in(tenant, tenant.alice)
    tokens = [None, agent.token, agent.refresh, str(agent.more.get("id_token")), "x", await admin_token(tenant)]
    for token in tokens:
        answer = await me(tenant, method, path, token, json={} if method == "POST" else None)
        assert answer.status_code == 401, (token, answer.text[:200])
        assert "no-store" in answer.headers["cache-control"]
    session = await tenant.alice.http.request(method, f"{ME}/{path}", json={} if method == "POST" else None)
    assert session.status_code in {401, 403}


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_a_token_without_the_calls_scope_does_not_do_it(tenant: Target, method: str, path: str) -> None:
    agent = await signed_in(tenant, tenant.alice)
    needed = {"GET": READ, "POST": CREATE, "DELETE": DELETE}[method]
    rest = " ".join({READ, CREATE, DELETE} - {needed})
    token = str((await me_token(tenant, agent, scope=rest)).json()["access_token"])
    answer = await me(tenant, method, path, token, json={} if method == "POST" else None)
    assert answer.status_code == 403, answer.text[:200]


async def test_a_token_for_the_accounts_opens_nothing_else(tenant: Target) -> None:
    agent = await signed_in(tenant, tenant.alice)
    token = str((await me_token(tenant, agent)).json()["access_token"])
    headers = {"authorization": f"Bearer {token}"}
    stolen = Agent(agent.client_id, token)
    assert (await tenant.mcp(stolen, "tools/list")).status_code == 401
    alice = await id_of(tenant.alice)
    for path in ("/userinfo", "/oauth/userinfo", "/admin/v1/me", f"/api/v2/users/{alice}/connected-accounts"):
        assert (await tenant.http.get(path, headers=headers)).status_code == 401, path
    answer = await tenant.exchange("app", token, audience="slack", scope="chat:write")
    assert "access_token" not in answer.text


WIDER: tuple[dict[str, object], ...] = (
    {"scope": "admin:read"}, {"scope": f"{READ} admin:write tools exchange"}, {"audience": "ADMIN"},
    {"audience": "V2"}, {"audience": "https://api.example/v1"}, {"audience": "https://evil.example/"},
    {"audience": "EVIL"}, {"audience": ["x"]}, {"audience": {"x": 1}}, {"refresh_token": "x"},
    {"refresh_token": ["x"]}, {"refresh_token": None}, {"client_secret": "wrong"}, {"client_secret": None},
    {"client_id": "x"}, {"grant_type": "client_credentials"},
    {"grant_type": "password", "username": "alice", "password": "x"},
    {"grant_type": "http://auth0.com/oauth/grant-type/password-realm"}, {"grant_type": ["refresh_token"]},
)  # fmt: skip


@pytest.mark.parametrize("changes", WIDER, ids=str)
async def test_a_refresh_gives_nothing_but_what_the_application_may_have(
    tenant: Target, changes: dict[str, object]
) -> None:
    agent = await signed_in(tenant, tenant.alice)
    named = {"ADMIN": f"{tenant.url}/admin/v1", "V2": f"{tenant.url}/api/v2/", "EVIL": f"{tenant.url}/me/../mcp"}
    asked = {name: named.get(str(one), one) for name, one in changes.items()}
    answer = await me_token(tenant, agent, **asked)
    if answer.status_code != 200:
        assert answer.status_code in {400, 401, 403}
        return
    content = answer.json()
    assert claims_of(content["access_token"])["aud"] in {f"{tenant.url}/me/", f"{tenant.url}/mcp"}
    assert set(content["scope"].split()) <= {READ, CREATE, DELETE, "openid", "offline_access"}


@pytest.mark.parametrize("client", ["backend", "registered", "oidc"])
async def test_who_was_not_registered_for_it_never_gets_at_the_accounts(tenant: Target, client: str) -> None:
    if client != "backend":
        path = "/register" if client == "registered" else "/oidc/register"
        facts = {"client_name": "x", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post"}
        wanted = facts | {"auth0": True, "metadata": {"auth0": True}, "kind": "manual"}
        made = (await tenant.http.post(path, json=wanted)).json()
        tenant.clients[client] = {key: str(made[key]) for key in ("client_id", "client_secret")}
    agent = await tenant.agent(tenant.alice, client=client, scope="tools offline_access")
    answer = await me_token(tenant, agent, client)
    if answer.status_code == 200:
        content = answer.json()
        assert claims_of(content["access_token"])["aud"] != f"{tenant.url}/me/"
        assert (await me(tenant, "GET", "accounts", str(content["access_token"]))).status_code == 401
    refused = await account_token(tenant, agent, client)
    assert "access_token" not in refused.json()
    page = await tenant.alice.open(
        tenant.authorize_url(tenant.clients[client]["client_id"], "A" * 43, resource=f"{tenant.url}/me/", scope=READ)
    )
    assert "/consent" not in page.text


async def test_another_applications_refresh_token_gets_nothing_and_stays(tenant: Target) -> None:
    _, agent, _, _ = await connect_person(tenant)
    for client in ("app2", "spa"):
        for answer in (await me_token(tenant, agent, client), await account_token(tenant, agent, client)):
            assert answer.status_code in {400, 401, 403}, answer.text
            assert "access_token" not in answer.json()
        asked = {**tenant.clients[client], "token": agent.refresh}
        await tenant.http.post("/oauth/revoke", json=asked)
    stranger = await tenant.http.post("/oauth/revoke", json={"token": agent.refresh})
    assert stranger.status_code in {400, 401}
    await tenant.http.post("/oauth/revoke", json={"token": agent.refresh, "client_id": agent.client_id})
    assert (await account_token(tenant, agent)).status_code == 200  # the twin


async def test_a_refresh_token_that_was_used_up_or_revoked_gets_nothing(tenant: Target) -> None:
    _, person = await someone(tenant)
    agent = await signed_in(tenant, person, "spa")
    fresh = await me_token(tenant, agent, "spa")
    assert fresh.status_code == 200
    successor = Agent(agent.client_id, "", fresh.json()["refresh_token"])
    assert (await me_token(tenant, successor, "spa")).status_code == 200
    await asyncio.sleep(2.5)  # the grace is over
    for answer in (await me_token(tenant, agent, "spa"), await account_token(tenant, agent, "spa")):
        assert answer.status_code in {400, 401, 403}
        assert "access_token" not in answer.json()
    own = await signed_in(tenant, person)
    token = str((await me_token(tenant, own)).json()["access_token"])
    ended = await tenant.http.post("/oauth/revoke", json={**tenant.clients["app"], "token": own.refresh})
    assert ended.status_code == 200
    assert (await me_token(tenant, own)).status_code in {400, 401}
    assert (await me(tenant, "GET", "accounts", token)).status_code == 401


async def test_a_bound_refresh_token_needs_its_key_for_every_api(tenant: Target) -> None:
    _, person = await someone(tenant)
    key, client = new_key(), tenant.clients["app"]
    verifier, challenge = pkce()
    page = await person.open(tenant.authorize_url(client["client_id"], challenge, scope="openid offline_access"))
    page = await person.submit(page, form="/consent", button=("decision", "allow"))
    form = {"grant_type": "authorization_code", "code": query_of(page.headers["location"])["code"]}
    form |= {**client, "code_verifier": verifier, "redirect_uri": REDIRECT}
    url = f"{tenant.url}/oauth/token"
    redeemed = await tenant.http.post("/oauth/token", json=form, headers={"dpop": proof(key, "POST", url)})
    assert redeemed.json()["token_type"] == "DPoP", redeemed.text
    agent = Agent(client["client_id"], redeemed.json()["access_token"], redeemed.json()["refresh_token"])
    asked = {"grant_type": "refresh_token", **client, "refresh_token": agent.refresh, "audience": f"{tenant.url}/me/"}
    is_bound = "cnf" in claims_of(agent.token)
    assert is_bound
    for made in (None, proof(new_key(), "POST", url), proof(key, "POST", f"{tenant.url}/token")):
        answer = await tenant.http.post("/oauth/token", json=asked, headers={} if made is None else {"dpop": made})
        if answer.status_code == 200:  # a confidential client's refresh token is bound to the client (RFC 9449 §5)
            assert answer.json()["token_type"] == ("Bearer" if made is None else "DPoP")
    bound = await tenant.http.post("/oauth/token", json=asked, headers={"dpop": proof(key, "POST", url)})
    token = str(bound.json()["access_token"])
    assert (await me(tenant, "GET", "accounts", token)).status_code == 401
    there, ath = f"{tenant.url}{ME}/accounts", _ath(token)
    for made in (
        proof(new_key(), "GET", there, ath=ath),
        proof(key, "DELETE", there, ath=ath),
        proof(key, "GET", f"{there}/x", ath=ath),
        proof(key, "GET", there),
    ):
        headers = {"authorization": f"DPoP {token}", "dpop": made}
        assert (await tenant.http.get(f"{ME}/accounts", headers=headers)).status_code == 401
    headers = {"authorization": f"DPoP {token}", "dpop": proof(key, "GET", there, ath=ath)}
    assert (await tenant.http.get(f"{ME}/accounts", headers=headers)).status_code == 200  # the twin
    assert (await tenant.http.get(f"{ME}/accounts", headers=headers)).status_code == 401


# Connecting


REDIRECTS = (
    "https://evil.example/callback", REDIRECT + "/x", REDIRECT + "?x=1", REDIRECT + "#x", "javascript:alert(1)", "",
    "//agent.example/callback", "https://agent.example:443/callback", "https://agent.example@evil.example/callback",
    "https://agent.example/callback/../x", "HTTPS://agent.example/callback", "https://agent.example/%63allback",
    "https://agent.example/callback\n",
)  # fmt: skip


@pytest.mark.parametrize("uri", REDIRECTS)
async def test_a_browser_is_sent_back_to_the_applications_own_address_only(tenant: Target, uri: str) -> None:
    agent = await signed_in(tenant, tenant.mallory)
    token = str((await me_token(tenant, agent)).json()["access_token"])
    answer = await start(tenant, token, redirect_uri=uri)
    assert answer.status_code == 400, answer.text[:200]
    assert "ticket" not in answer.text


STARTS: tuple[dict[str, object], ...] = (
    {"connection": "../slack"}, {"connection": "SLACK"}, {"connection": "slack\x00"}, {"connection": ["slack"]},
    {"connection": "unknown"}, {"connection": "linear"}, {"scopes": ["admin"]}, {"scopes": ["chat:write chat:write"]},
    {"scopes": ["x"] * 200}, {"scopes": {"a": 1}}, {"scopes": [1]}, {"scopes": ["\u202e"]}, {"state": "x" * 5000},
    {"state": 1}, {"state": "\x00"}, {"code_challenge": "x"},
    {"code_challenge": "A" * 43, "code_challenge_method": "plain"}, {"client_id": "x"}, {"user_id": "x"},
    {"redirect_uri": None}, {"connection": None},
)  # fmt: skip


@pytest.mark.parametrize("changes", STARTS, ids=lambda one: str(one)[:60])
async def test_a_start_that_is_odd_is_refused(tenant: Target, changes: dict[str, object]) -> None:
    agent = await signed_in(tenant, tenant.mallory)
    token = str((await me_token(tenant, agent)).json()["access_token"])
    answer = await start(tenant, token, **changes)
    assert answer.status_code in {400, 404}, answer.text[:200]
    assert "ticket" not in answer.text


async def test_what_an_application_sends_along_comes_back_as_it_was_and_is_no_markup(tenant: Target) -> None:
    _, person = await someone(tenant)
    agent = await signed_in(tenant, person)
    token = str((await me_token(tenant, agent)).json()["access_token"])
    state = '"><script>alert(1)</script>&code=x\r\nset-cookie: a=b'
    hint = '<img src=x onerror=alert(1)>"'
    started = await start(
        tenant, token, state=state, authorization_params={"login_hint": hint, "redirect_uri": "https://evil.example"}
    )
    content = started.json()
    page = await person.open(content["connect_uri"] + "?" + urlencode(content["connect_params"]))
    assert "<img src=x" not in page.text
    assert "<script>alert" not in page.text
    refused = await person.submit(page, form="/connect/", button=("decision", "deny"))
    there = refused.headers["location"]
    assert there.startswith(REDIRECT + "?")
    assert query_of(there)["state"] == state
    assert "connect_code" not in there
    assert "set-cookie: a" not in str(refused.headers)


async def test_a_ticket_in_anothers_browser_connects_nothing(tenant: Target) -> None:
    """An attacker who sends a ticket to a victim wants the victim's account in the attacker's application."""
    agent = await signed_in(tenant, tenant.mallory)
    token = str((await me_token(tenant, agent)).json()["access_token"])
    content = (await start(tenant, token)).json()
    there = content["connect_uri"] + "?" + urlencode(content["connect_params"])
    _, victim = await someone(tenant)
    page = await victim.open(there)
    assert page.status_code == 403
    assert "/connect/" not in [one for one in page.text.split('"') if one.startswith("/connect/")]
    stranger = await tenant.browser()
    assert "decision" not in (await stranger.open(there)).text
    for odd in ("", "x", "../account", "%2e%2e%2faccount", "x" * 3000, "//evil.example", "\r\nset-cookie: a=b", "\x00"):
        answer = await victim.http.get("/connected-accounts/connect", params={"ticket": odd})
        assert answer.status_code in {303, 400}
        assert answer.headers.get("location", "/connect/").startswith("/connect/")
        assert "set-cookie" not in answer.headers


async def test_a_code_is_worth_something_once_and_to_its_session_only(tenant: Target) -> None:
    _, person = await someone(tenant)
    agent, rival = await signed_in(tenant, person), await signed_in(tenant, person, "app2")
    token = str((await me_token(tenant, agent)).json()["access_token"])
    other = str((await me_token(tenant, rival, "app2")).json()["access_token"])
    mallorys = str((await me_token(tenant, await signed_in(tenant, tenant.mallory))).json()["access_token"])
    verifier, challenge = pkce()
    started = await start(tenant, token, code_challenge=challenge, code_challenge_method="S256")
    second = await start(tenant, token)
    code = await go(tenant, person, started)
    honest: dict[str, object] = {"auth_session": started.json()["auth_session"], "connect_code": code}
    honest |= {"redirect_uri": REDIRECT, "code_verifier": verifier}
    wrong: list[tuple[str, dict[str, object]]] = [
        (other, {}),
        (mallorys, {}),
        (token, {"auth_session": second.json()["auth_session"]}),
        (token, {"auth_session": "x"}),
        (token, {"code_verifier": "x" * 43}),
        (token, {"code_verifier": ""}),
        (token, {"redirect_uri": REDIRECT + "/"}),
        (token, {"connect_code": code[:-1]}),
        (token, {"connect_code": second.json()["connect_params"]["ticket"][:46]}),
        (token, {"connect_code": [code]}),
    ]
    for whose, changes in wrong:
        answer = await me(tenant, "POST", "complete", whose, json=honest | changes)
        assert answer.status_code in {400, 404}, (changes, answer.text)
    tries = await asyncio.gather(*(me(tenant, "POST", "complete", token, json=honest) for _ in range(8)))
    assert sorted(one.status_code for one in tries) == [201] + [404] * 7
    # The code doesn't work at the other endpoints, either.
    redeemed = await tenant.redeem(
        agent.client_id, code, verifier, client_secret=tenant.clients["app"]["client_secret"]
    )
    assert redeemed.status_code == 400


async def test_links_are_made_so_many_times(tenant: Target) -> None:
    _, person = await someone(tenant)
    token = str((await me_token(tenant, await signed_in(tenant, person))).json()["access_token"])
    said = [(await start(tenant, token)).status_code for _ in range(34)]
    assert said.count(201) == 30
    assert set(said) == {201, 429}
