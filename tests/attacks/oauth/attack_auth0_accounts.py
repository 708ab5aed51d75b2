"""Accounts over Auth0's interface: others' accounts, more than was allowed, endings, and invalid requests."""

from __future__ import annotations

import secrets
from urllib.parse import quote

import pytest

from tests.attacks.administration.attack_admin_api import account as service_account
from tests.attacks.administration.attack_admin_api import admin_token
from tests.attacks.administration.attack_administration import form_for, id_of, someone
from tests.attacks.oauth.auth0_wire import (
    ACCESS,
    ME,
    REFRESH,
    account_token,
    ask,
    connect_person,
    go,
    me,
    me_token,
    signed_in,
    start,
)
from tests.attacks.portal.attack_people import send
from tests.attacks.target import REDIRECT, Agent, Target


async def test_an_application_sees_and_ends_no_account_but_those_its_person_lets_it_use(tenant: Target) -> None:
    person, agent, token, account = await connect_person(tenant)
    other, _, theirs, foreign = await connect_person(tenant, account="bob")
    await tenant.connect(person, "google", account="alice")  # which the application may not use
    data = (await person.http.get("/account/data")).json()["accounts"]
    unseen = next(one["id"] for one in data if one["provider"] == "google")
    for wanted in (
        "",
        "?connection=google-oauth2",
        "?connection=google",
        "?take=20",
        f"?from={unseen}",
        f"?from={foreign}",
    ):
        answer = await me(tenant, "GET", "accounts" + wanted, token)
        assert answer.status_code in {200, 400}
        assert unseen not in answer.text.replace(f"from={unseen}", "")
        assert foreign.removeprefix("cac_") not in answer.text
    for one in (foreign, foreign.removeprefix("cac_"), unseen, f"cac_{unseen}", f"cac_cac_{unseen}", "%2e%2e", "x%00"):
        assert (await me(tenant, "DELETE", f"accounts/{one}", token)).status_code in {404, 400}, one
    rival = str((await me_token(tenant, await signed_in(tenant, person, "app2"), "app2")).json()["access_token"])
    assert (await me(tenant, "DELETE", f"accounts/{account}", rival)).status_code == 404
    left = {
        one["id"] for one in (await person.http.get("/account/data")).json()["accounts"] if one["status"] != "revoked"
    }
    assert {unseen, account.removeprefix("cac_")} <= left
    assert (await me(tenant, "GET", "accounts", theirs)).json()["accounts"]
    assert other is not person
    # Once the person withdraws the permission, the account is gone for the application.
    page = await person.open(f"/agents/{agent.client_id}/cut-off")
    await person.submit(page, form="cut-off")
    for method, path in (("GET", "accounts"), ("DELETE", f"accounts/{account}")):
        assert (await me(tenant, method, path, token)).status_code == 401
    assert (await account_token(tenant, agent)).status_code in {400, 401}


async def test_an_account_of_somebody_elses_is_not_reached_by_a_hint(tenant: Target) -> None:
    person, agent, _, account = await connect_person(tenant)
    _, _, _, foreign = await connect_person(tenant, account="bob")
    for hint in ("bob", foreign, foreign.removeprefix("cac_"), "%", "*", "x" * 400, "' or 1=1"):
        answer = await account_token(tenant, agent, login_hint=hint)
        assert answer.status_code in {400, 401}, (hint, answer.text)
        assert "access_token" not in answer.json()
    assert (await account_token(tenant, agent, login_hint=account.removeprefix("cac_"))).status_code == 200  # the twin
    assert person.origin == tenant.url


ASKED: tuple[dict[str, object], ...] = (
    {"scope": "admin"}, {"scope": "channels:history"}, {"scope": ["chat:write"]}, {"connection": "google-oauth2"},
    {"connection": "github"}, {"connection": "unknown"}, {"connection": ["sign-in-with-slack"]},
    {"connection": {"name": "slack"}}, {"connection": ""}, {"subject_token_type": ACCESS},
    {"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}, {"subject_token_type": None},
    {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, {"subject_token": "x"},
    {"subject_token": None}, {"subject_token": 1}, {"requested_token_type": REFRESH}, {"client_secret": "wrong"},
    {"client_secret": None}, {"client_id": None}, {"audience": "google"}, {"resource": "https://www.googleapis.com/"},
    {"actor_token": "x", "actor_token_type": ACCESS},
)  # fmt: skip


@pytest.mark.parametrize("changes", ASKED, ids=lambda one: str(one)[:60])
async def test_an_accounts_token_is_not_given_for(tenant: Target, changes: dict[str, object]) -> None:
    kept = tenant.kept.get("asking")
    agent = kept if isinstance(kept, Agent) else (await connect_person(tenant))[1]
    tenant.kept["asking"] = agent
    answer = await account_token(tenant, agent, **changes)
    if answer.status_code == 200:  # unknown parameters are ignored, so the result is the same as without them
        assert set(changes) <= {"audience", "resource", "actor_token", "actor_token_type"}
        honest = await account_token(tenant, agent)
        assert answer.json()["access_token"] == honest.json()["access_token"]
    else:
        assert answer.status_code in {400, 401, 403}, answer.text
        assert "access_token" not in answer.json()
    assert (await account_token(tenant, agent)).status_code == 200  # the twin


async def test_an_operators_release_and_a_persons_ending_hold_here(tenant: Target) -> None:
    person, agent, token, account = await connect_person(tenant)
    await tenant.command("clients", "release", agent.client_id, "slack", "proxy")
    refused = await account_token(tenant, agent)
    await tenant.command("clients", "release", agent.client_id, "slack", "full")
    assert (refused.status_code, "access_token" in refused.json()) == (403, False), refused.text
    assert (await account_token(tenant, agent)).status_code == 200  # the twin
    page = await person.open(f"/connections/{account.removeprefix('cac_')}/disconnect")
    await person.submit(page, form="/disconnect")
    assert (await account_token(tenant, agent)).status_code == 401
    assert (await me(tenant, "GET", "accounts", token)).json() == {"accounts": []}


@pytest.mark.parametrize("how", ["disable", "delete"])
async def test_everything_ends_with_its_person(tenant: Target, how: str) -> None:
    person, agent, token, _ = await connect_person(tenant)
    user_id = await id_of(person)
    name = str((await person.http.get("/account/data")).json()["user"]["name"])
    page = await tenant.alice.open(f"/administration/people/{user_id}" + ("/delete" if how == "delete" else ""))
    await send(tenant, tenant.alice, form_for(page, how), **({"name": name} if how == "delete" else {}))
    assert (await me(tenant, "GET", "accounts", token)).status_code == 401
    for answer in (await account_token(tenant, agent), await me_token(tenant, agent)):
        assert answer.status_code in {400, 401}
        assert "access_token" not in answer.json()


# Administration


async def test_the_list_of_a_persons_accounts_is_for_admins_and_tells_no_token(tenant: Target) -> None:
    person, agent, token, _ = await connect_person(tenant)
    path = f"/api/v2/users/{await id_of(person)}/connected-accounts"
    for value in (token, agent.token, agent.refresh, "x"):
        assert (await tenant.http.get(path, headers={"authorization": f"Bearer {value}"})).status_code == 401
    assert (await tenant.http.get(path)).status_code == 401
    narrow = await admin_token(tenant, "read", "write", "people", "agents", "providers", "keys")
    assert (await tenant.http.get(path, headers={"authorization": f"Bearer {narrow}"})).status_code == 403
    right = {"authorization": f"Bearer {await admin_token(tenant, 'access')}"}
    answer = await tenant.http.get(path, headers=right)
    assert answer.status_code == 200
    assert "token" not in answer.text
    for odd in ("x", "%00", "..%2f..", "auth0%7Cx", "x" * 3000):
        assert (await tenant.http.get(f"/api/v2/users/{odd}/connected-accounts", headers=right)).status_code in {
            404,
            414,
        }
    credentials = await service_account(tenant, "read")
    for changes in (
        {"scope": "read:users admin:write"},
        {"audience": "https://evil.example/"},
        {"audience": f"{tenant.url}/me/"},
    ):
        got = await ask(tenant, {"grant_type": "client_credentials", **credentials, **changes})
        assert got.status_code == 400 or got.json()["scope"] == "admin:read"
    got = await ask(
        tenant, {"grant_type": "client_credentials", **tenant.clients["app"], "audience": f"{tenant.url}/api/v2/"}
    )
    assert (got.status_code, got.json()["error"]) == (400, "unauthorized_client")


# Requests


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "application/json"),
    "a list": (b"[]", "application/json"),
    "a text": (b'"x"', "application/json"),
    "a name twice": (b'{"grant_type": "x", "grant_type": "refresh_token"}', "application/json"),
    "NaN": (b'{"grant_type": NaN}', "application/json"),
    "NUL": (b'{"grant_type": "a\\u0000"}', "application/json"),
    "half a pair": (b'{"grant_type": "\\ud800"}', "application/json"),
    "broken UTF-8": (b'{"grant_type": "\xff"}', "application/json"),
    "100,000 lists": (b'{"grant_type": ' + b"[" * 100_000, "application/json"),
    "a megabyte": (b'{"grant_type": "' + b"x" * 2**20 + b'"}', "application/json"),
    "an endless number": (b'{"grant_type": ' + b"9" * 50_000 + b"}", "application/json"),
    "JSON that says it is a form": (b'{"grant_type": "refresh_token"}', "application/x-www-form-urlencoded"),
    "a form that says it is JSON": (b"grant_type=refresh_token", "application/json"),
    "parts": (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    "XML": (b"<a/>", "text/xml"),
    "no type": (b'{"grant_type": "refresh_token"}', ""),
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/revoke", f"{ME}/connect", f"{ME}/complete"])
async def test_a_body_that_is_none_is_refused(tenant: Target, path: str, what: str) -> None:
    kept = tenant.kept.get("me token")
    token = kept or (await me_token(tenant, await signed_in(tenant, tenant.mallory))).json()["access_token"]
    tenant.kept["me token"] = token
    body, kind = BODIES[what]
    headers = {"content-type": kind} if kind else {}
    if path.startswith(ME):
        headers["authorization"] = f"Bearer {token}"
    answer = await tenant.http.post(path, content=body, headers=headers)
    assert answer.status_code in {400, 401, 413, 415}, answer.text[:200]
    assert "traceback" not in answer.text.lower()


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_foreign_page_reads_no_token(tenant: Target, origin: str) -> None:
    agent = await signed_in(tenant, tenant.alice)
    content = {"grant_type": "refresh_token", **tenant.clients["app"], "refresh_token": agent.refresh}
    answer = await tenant.http.post("/oauth/token", json=content, headers={"origin": origin})
    assert answer.headers.get("access-control-allow-origin") not in {origin, "*"}
    # Whoever has the token may read the accounts; a browser's own cookies never suffice.
    listed = await tenant.alice.http.get(f"{ME}/accounts", headers={"origin": origin})
    assert listed.status_code in {401, 403}
    assert "access-control-allow-credentials" not in listed.headers


@pytest.mark.parametrize(
    "wanted", ["?take=0", "?take=-1", "?take=٣", "?take=1e1", "?from=x", "?from=%00", "?" + "connection=x&" * 30]
)
async def test_a_list_is_asked_for_in_right_words(tenant: Target, wanted: str) -> None:
    kept = tenant.kept.get("me token")
    token = str(kept or (await me_token(tenant, await signed_in(tenant, tenant.mallory))).json()["access_token"])
    answer = await me(tenant, "GET", "accounts" + quote(wanted, safe="?=&%"), token)
    assert answer.status_code == 400, answer.text[:200]


async def test_a_state_of_its_own_is_kept_for_each_of_two_starts_at_once(tenant: Target) -> None:
    _, person = await someone(tenant)
    agent = await signed_in(tenant, person)
    token = str((await me_token(tenant, agent)).json()["access_token"])
    states = [secrets.token_hex(4) for _ in range(2)]
    started = [await start(tenant, token, state=one) for one in states]
    codes = [await go(tenant, person, one, account=who) for one, who in zip(started, ("alice", "bob"), strict=True)]
    crossed = {"auth_session": started[0].json()["auth_session"], "connect_code": codes[1], "redirect_uri": REDIRECT}
    assert (await me(tenant, "POST", "complete", token, json=crossed)).status_code == 404
    for one, code in zip(started, codes, strict=True):
        body = {"auth_session": one.json()["auth_session"], "connect_code": code, "redirect_uri": REDIRECT}
        assert (await me(tenant, "POST", "complete", token, json=body)).status_code == 201
