"""The Admin API: others' tokens and scopes, former admins, privilege escalation, hostile bodies, races, floods."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Mapping
from urllib.parse import quote

import httpx2
import pytest

from server.api.operations import AdminOperation
from server.api.table import OPERATIONS
from tests.attacks.administration.attack_administration import form_for, id_of, someone
from tests.attacks.oauth.attack_tokens import _ath
from tests.attacks.portal.attack_people import send
from tests.attacks.target import ADMIN_CALLS, LOOPBACK, Target, new_key, proof
from tests.support.rooms.oauth_world import claims_of

ROOT = "/admin/v1"
SCOPES = ("read", "write", "access", "people", "agents", "providers", "keys")
ALL = tuple(one for _, some in OPERATIONS for one in some)
NAMES = [f"{one.method} {one.template}" for one in ALL]


async def new_account(target: Target, *scopes: str, admin: str = "alice") -> dict[str, str]:
    """The credentials of a new service account that the operator made on behalf of an admin."""
    words = [word for one in scopes for word in ("--admin-scope", f"admin:{one}")]
    made = json.loads(
        await target.command("clients", "add", "Auto", "--confidential", "--admin", admin, *words, "--json")
    )
    return {name: str(made[name]) for name in ("client_id", "client_secret")}


async def account(target: Target, *scopes: str, admin: str = "alice") -> dict[str, str]:
    """A service account that the attacks share, so no attack may end it."""
    key = f"service {admin} {sorted(scopes)}"
    found = target.kept.get(key) or await new_account(target, *scopes, admin=admin)
    target.kept[key] = found
    assert isinstance(found, dict)
    return {str(name): str(one) for name, one in found.items()}


async def ask(target: Target, credentials: Mapping[str, str], **form: str) -> httpx2.Response:
    return await target.token({"grant_type": "client_credentials", **credentials, **form})


async def admin_token(target: Target, *scopes: str, admin: str = "alice") -> str:
    """A token with these scopes; all scopes by default."""
    answer = await ask(target, await account(target, *(scopes or SCOPES), admin=admin))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def call(
    target: Target,
    method: str,
    path: str,
    token: str | None,
    *,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> httpx2.Response:
    sent = {} if token is None else {"authorization": f"Bearer {token}"}
    answer = await target.http.request(method, ROOT + path, headers=sent | dict(headers or {}), **more)
    assert answer.status_code < 500, (method, path, answer.text[:300])
    return answer


async def path_of(target: Target, one: AdminOperation) -> str:
    """The operation's path with ids of existing things."""
    if not isinstance(found := target.kept.get("api places"), dict):
        agent = await target.agent(target.mallory)
        found = {"person_id": await id_of(target.mallory), "client_id": agent.client_id}
        found["connection_id"] = (await target.connection_ids("mallory"))["slack"]
        made = await call(target, "POST", "/groups", await admin_token(target), json={"name": "Mallory's group"})
        assert made.status_code == 201, made.text
        found["group_id"] = made.json()["id"]
        target.kept["api places"] = found
    values = {**found, "provider": "linear", "resource": "https://api.example/v1"}
    return one.template.format(**{name: quote(str(values.get(name, "x")), safe="") for name in one.parameters})


# Who gets in


@pytest.mark.parametrize("one", ALL, ids=NAMES)
async def test_an_operation_is_for_tokens_of_this_api_only(target: Target, one: AdminOperation) -> None:
    path, service = await path_of(target, one), await account(target, *SCOPES)
    agent = await target.agent(target.alice)
    stolen = {"authorization": f"Basic {service['client_id']}:{service['client_secret']}"}
    right = await admin_token(target)
    tries: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        ("", agent.headers),
        ("", stolen),
        ("", {"authorization": f"bearer {right}x"}),
        ("", {"authorization": f"DPoP {right}"}),
        ("", {"x-access-token": right, "cookie": f"access_token={right}"}),
        (f"?access_token={right}", {}),
    ]
    for query, headers in tries:
        answer = await target.http.request(one.method, ROOT + path + query, headers=headers)
        assert answer.status_code == 401, (headers, answer.text[:200])
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["www-authenticate"].split()[0] in {"Bearer", "DPoP"}
        assert "mallory" not in answer.text
    # The session of an admin's browser isn't enough, either: a foreign page could use it.
    answer = await target.alice.http.request(one.method, ROOT + path)
    assert answer.status_code == 401


@pytest.mark.parametrize("one", ALL, ids=NAMES)
async def test_every_other_scope_together_is_not_the_one_it_takes(target: Target, one: AdminOperation) -> None:
    enough = {one.scope.removeprefix("admin:")} | (set() if one.scope in {"admin:read", "admin:access"} else {"write"})
    token = await admin_token(target, *(scope for scope in SCOPES if scope not in enough))
    answer = await call(target, one.method, await path_of(target, one), token, json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), answer.text[:200]
    assert "mallory" not in answer.text


async def test_a_token_of_this_api_opens_nothing_else(target: Target) -> None:
    token = await admin_token(target)
    headers = {"authorization": f"Bearer {token}"}
    for path in ("/administration", "/connections", "/activity", "/account/data", "/agents"):
        assert (await target.http.get(path, headers=headers)).status_code == 303, path
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    assert (await target.http.post("/mcp", json=body, headers=headers)).status_code == 401
    assert (await target.http.get("/userinfo", headers=headers)).status_code == 401
    answer = await target.exchange("backend", token, audience="slack", scope="chat:write")
    assert answer.status_code in {400, 401, 403}
    assert "access_token" not in answer.text


WIDER: tuple[dict[str, str], ...] = (
    {"scope": "admin:read admin:write"}, {"scope": "admin:access"}, {"scope": "tools exchange"}, {"resource": "/mcp"},
    {"resource": "https://api.example/v1"}, {"client_secret": "wrong"}, {"client_secret": ""},
    {"grant_type": "refresh_token", "refresh_token": "x"}, {"grant_type": "authorization_code", "code": "x"},
)  # fmt: skip


@pytest.mark.parametrize("changes", WIDER, ids=str)
async def test_a_service_account_gets_no_more_than_its_own(target: Target, changes: dict[str, str]) -> None:
    credentials = await account(target, "read")
    sent = {name: target.url + one if one.startswith("/") else one for name, one in changes.items()}
    answer = await target.token({"grant_type": "client_credentials", **credentials, **sent})
    if answer.status_code == 200:
        assert answer.json()["scope"] == "admin:read"
        assert claims_of(answer.json()["access_token"])["aud"] == f"{target.url}{ROOT}"
    else:
        assert answer.status_code in {400, 401, 403}


async def test_nobody_else_becomes_a_service_account(target: Target) -> None:
    for name in ("backend", "rival"):
        answer = await ask(target, target.clients[name])
        assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    own = await target.register(
        grant_types=["client_credentials", "authorization_code"],
        token_endpoint_auth_method="client_secret_post",
        scope="admin:read",
        resource=f"{target.url}{ROOT}",
        resources=[f"{target.url}{ROOT}"],
    )
    credentials = {"client_id": str(own["client_id"]), "client_secret": str(own["client_secret"])}
    assert (await ask(target, credentials)).status_code == 400
    for scope in ("admin:read", "admin:read openid"):
        page = await target.alice.open(
            target.authorize_url(credentials["client_id"], "A" * 43, scope=scope, resource=f"{target.url}{ROOT}")
        )
        assert "code=" not in page.headers.get("location", "")
        assert "/consent" not in page.text
    code, _, err = await target.place.run("clients", "add", "x", "--confidential", "--admin", "mallory", "--json")
    assert code != 0, err


async def console(target: Target) -> str:
    """A client that admins sign in to."""
    if "console" not in target.kept:
        words = ("--redirect-uri", LOOPBACK, "--resource", f"{target.url}{ROOT}", "--json")
        target.kept["console"] = json.loads(await target.command("clients", "add", "Console", *words))["client_id"]
    return str(target.kept["console"])


async def test_a_member_allows_nobody_to_administer(target: Target) -> None:
    client = await console(target)
    changes = {"scope": "admin:read admin:people", "resource": f"{target.url}{ROOT}", "redirect_uri": LOOPBACK}
    page = await target.mallory.open(target.authorize_url(client, "A" * 43, **changes))
    assert page.status_code == 403, page.text[:200]
    assert "/consent" not in page.text
    page = await target.alice.open(target.authorize_url(client, "A" * 43, **changes))  # the twin
    assert page.status_code == 200


async def test_a_refreshed_token_is_no_younger_sign_in(target: Target) -> None:
    client = await console(target)
    changes = {"scope": "admin:read offline_access", "resource": f"{target.url}{ROOT}", "redirect_uri": LOOPBACK}
    agent = await target.agent(target.alice, client=client, **changes)
    first = claims_of(agent.token)["auth_time"]  # without it, changes are refused
    await asyncio.sleep(1.1)
    form = {"grant_type": "refresh_token", "client_id": client, "refresh_token": agent.refresh or ""}
    answer = await target.token({**form, "scope": "admin:read"})
    assert answer.status_code == 200, answer.text
    assert claims_of(answer.json()["access_token"]).get("auth_time") in {None, first}
    wider = await target.token(
        {**form, "refresh_token": answer.json()["refresh_token"], "scope": "admin:read admin:people"}
    )
    assert wider.status_code == 400 or "admin:people" not in wider.json()["scope"]


@pytest.mark.parametrize("how", ["not-admin", "disable", "delete"])
async def test_a_token_is_worth_nothing_once_its_admin_is_none(target: Target, how: str) -> None:
    user_id, person = await someone(target, is_admin=True)
    name = str((await person.http.get("/account/data")).json()["user"]["name"])
    credentials = await new_account(target, *SCOPES, admin=name)
    token = str((await ask(target, credentials)).json()["access_token"])
    assert (await call(target, "GET", "/people", token)).status_code == 200
    page = await target.alice.open(f"/administration/people/{user_id}" + ("/delete" if how == "delete" else ""))
    ended = await send(target, target.alice, form_for(page, how), **({"name": name} if how == "delete" else {}))
    assert ended.status_code == 303, ended.text[:200]
    for one in ALL:
        answer = await call(target, one.method, await path_of(target, one), token, json={})
        assert answer.status_code in {401, 403}, (one.name, answer.text[:200])
    assert (await ask(target, credentials)).status_code in {400, 401}


async def test_a_removed_service_account_ends_at_once(target: Target) -> None:
    credentials = await new_account(target, "read", "people", "keys")
    token = str((await ask(target, credentials)).json()["access_token"])
    full = await admin_token(target)
    assert (await call(target, "DELETE", f"/agents/{credentials['client_id']}", full)).status_code == 204
    assert (await call(target, "GET", "/people", token)).status_code == 401
    assert (await ask(target, credentials)).status_code == 401


# More authority


async def test_a_token_makes_no_service_account_with_more_than_itself_or_for_somebody_else(target: Target) -> None:
    token = await admin_token(target, "agents", "read")
    alice, mallory = await id_of(target.alice), await id_of(target.mallory)
    other, _ = await someone(target, is_admin=True)
    bodies = [(alice, ["admin:write"]), (alice, ["admin:access"]), (alice, ["admin:agents", "admin:people"])]
    bodies += [
        (mallory, ["admin:read"]),
        (other, ["admin:read"]),
        (alice, []),
        (alice, ["tools"]),
        ("x", ["admin:read"]),
    ]
    for person_id, scopes in bodies:
        body = {"name": "More", "confidential": True, "service_account": {"person_id": person_id, "scopes": scopes}}
        answer = await call(target, "POST", "/agents", token, json=body)
        assert answer.status_code in {400, 403, 404, 409}, answer.text[:200]
        assert "client_secret" not in answer.text
    body = {"name": "Less", "confidential": True, "service_account": {"person_id": alice, "scopes": ["admin:read"]}}
    assert (await call(target, "POST", "/agents", token, json=body)).status_code == 201  # the twin


OWN = ("/mcp", "/mcp/", "/MCP", "", "/", "/admin/v1", "/admin/v1/", "/Admin/V1", "/me/", "/me", "/api/v2/", "/api/v2")


@pytest.mark.parametrize("path", OWN)
async def test_nobody_is_registered_as_an_api_of_the_vaults_own(target: Target, path: str) -> None:
    """An API may use the tokens that were issued for it."""
    token = await admin_token(target, "agents", "read", "write")
    client, url = target.clients["rival"]["client_id"], target.url + path
    answer = await call(target, "PUT", f"/apis/{quote(url, safe='')}", token, json={"clients": [client]})
    assert answer.status_code == 400, answer.text[:200]
    declared = {"apis": {url: {"scopes": ["x"], "clients": [client]}}}
    assert (await call(target, "POST", "/apply", token, json=declared)).status_code == 400
    if path not in {"/mcp", "/mcp/", "", "/", "/admin/v1", "/admin/v1/"}:  # these a client may be bound to
        body = {"name": "x", "redirect_uris": [LOOPBACK], "resources": [url]}
        assert (await call(target, "POST", "/agents", token, json=body)).status_code == 400
    listed = (await call(target, "GET", "/apis", token)).json()["items"]
    assert url not in [one["resource"] for one in listed]


REDIRECTS = (
    "javascript:alert(1)", "data:text/html,x", "http://evil.example/cb", "https://evil.example/cb#x",
    "file:///etc/passwd", "https://user:pw@evil.example/cb", "https://evil.example/cb\nx", "//evil.example", "",
    "https://", "http://localhost.evil.example/",
)  # fmt: skip


@pytest.mark.parametrize("uri", REDIRECTS)
async def test_an_agents_redirect_leads_nowhere_odd(target: Target, uri: str) -> None:
    token = await admin_token(target, "agents")
    answer = await call(target, "POST", "/agents", token, json={"name": "x", "redirect_uris": [uri]})
    assert answer.status_code == 400, answer.text[:200]


WORKERS: tuple[dict[str, object], ...] = (
    {"addresses": [], "connections": ["slack"], "scopes": ["chat:write"]},
    {"addresses": ["0.0.0.0/0x"], "connections": ["slack"], "scopes": ["chat:write"]},
    {"addresses": ["127.0.0.1"], "connections": ["*"], "scopes": ["chat:write"]},
    {"addresses": ["127.0.0.1"], "connections": ["slack"], "scopes": ["*"]},
    {"addresses": ["127.0.0.1"], "connections": ["slack"], "scopes": []},
)  # fmt: skip


@pytest.mark.parametrize("worker", WORKERS, ids=str)
async def test_a_worker_without_bounds_is_not_made(target: Target, worker: dict[str, object]) -> None:
    token, key = await admin_token(target, "agents"), new_key()
    body = {"name": "w", "exchange": True, "worker": worker, "jwks": {"keys": [key.as_dict(private=False)]}}
    assert (await call(target, "POST", "/agents", token, json=body)).status_code == 400
    private = body | {
        "worker": WORKERS[0] | {"addresses": ["127.0.0.1"]},
        "jwks": {"keys": [key.as_dict(private=True)]},
    }
    assert (await call(target, "POST", "/agents", token, json=private)).status_code == 400


async def test_nobody_is_given_access_or_answered_for(target: Target) -> None:
    """The operations can only read, ask more often, or end something."""
    token = await admin_token(target)
    mallory, connection = await id_of(target.mallory), (await target.connection_ids("mallory"))["slack"]
    client = (await target.agent(target.mallory)).client_id
    base = f"/people/{mallory}/connections/{connection}/permissions/{client}"
    tries = [("PUT", base), ("POST", base), ("PATCH", base), ("POST", f"/people/{mallory}/permissions")]
    tries += [("POST", f"/people/{mallory}/approvals"), ("PATCH", f"/people/{mallory}/approvals/x")]
    tries += [("POST", f"/people/{mallory}/standing-approvals")]
    for method, path in tries:
        answer = await call(target, method, path, token, json={"scopes": ["chat:write"], "decision": "allow"})
        assert answer.status_code in {404, 405}, (method, path, answer.text[:200])
    entered = {"provider": "slack", "credential": {"access_token": "xoxp-stolen"}}  # Slack has OAuth
    answer = await call(target, "POST", f"/people/{mallory}/connections", token, json=entered)
    assert (answer.status_code, "xoxp-stolen" in answer.text) == (400, False)
    # The person in the path must own the connection.
    alice = await id_of(target.alice)
    assert (await call(target, "DELETE", f"/people/{alice}/connections/{connection}", token)).status_code == 404


# Races and repeats


async def test_two_admins_that_end_each_other_at_once_leave_one(target: Target) -> None:
    """alice stays an admin throughout."""
    ids: list[str] = []
    tokens: list[str] = []
    for _ in range(2):
        user_id, person = await someone(target, is_admin=True)
        name = str((await person.http.get("/account/data")).json()["user"]["name"])
        ids.append(user_id)
        tokens.append(await admin_token(target, "people", admin=name))
    ended = await asyncio.gather(
        *(
            call(target, "PATCH", f"/people/{other}", token, json={"admin": False})
            for other, token in zip(reversed(ids), tokens, strict=True)
        )
    )
    full = await admin_token(target)
    left = [(await call(target, "GET", f"/people/{one}", full)).json()["admin"] for one in ids]
    assert left.count(True) == 1, [(one.status_code, one.text[:200]) for one in ended]


async def test_the_same_registration_at_once_makes_one_agent(target: Target) -> None:
    token, other = await admin_token(target, "agents"), await admin_token(target, "agents", "read")
    key = {"idempotency-key": secrets.token_hex(16)}
    body = {"name": "Once", "confidential": True, "redirect_uris": [LOOPBACK]}
    answers = await asyncio.gather(*(call(target, "POST", "/agents", token, json=body, headers=key) for _ in range(8)))
    made = {(one.json()["agent"]["id"], one.json()["client_secret"]) for one in answers if one.status_code == 201}
    assert len(made) == 1, [one.text[:200] for one in answers]
    assert {one.status_code for one in answers} <= {201, 409}
    ((client, secret),) = made
    changed = await call(
        target, "POST", "/agents", token, json=body | {"redirect_uris": ["https://evil.example/"]}, headers=key
    )
    assert changed.status_code == 409
    theirs = await call(target, "POST", "/agents", other, json=body, headers=key)
    assert theirs.json()["agent"]["id"] != client
    assert theirs.json()["client_secret"] != secret
    assert (await call(target, "DELETE", f"/agents/{client}", token)).status_code == 204
    assert (await call(target, "POST", "/agents", token, json=body, headers=key)).status_code == 409
    form = {"grant_type": "authorization_code", "client_id": client, "client_secret": secret, "code": "x"}
    assert (await target.token(form)).status_code == 401


@pytest.mark.parametrize("key", ["", "short", "x" * 256, "a b" * 8, "é" * 20])
async def test_a_key_for_repeats_that_is_none_is_refused(target: Target, key: str) -> None:
    token = await admin_token(target, "agents")
    headers = [("authorization", f"Bearer {token}"), ("idempotency-key", key.encode())]
    body = {"name": "Odd", "redirect_uris": [LOOPBACK]}
    answer = await target.http.post(f"{ROOT}/agents", json=body, headers=headers)
    assert answer.status_code == (201 if key == "a b" * 8 else 400), answer.text[:200]


async def test_a_registration_at_a_provider_is_changed_by_one_of_two_and_shown_to_none(target: Target) -> None:
    token, secret = await admin_token(target, "providers", "read"), "lin_canary_" + "y" * 30
    read = await call(target, "GET", "/providers/linear", token)
    tag = {"if-match": read.headers["etag"]}
    bodies = [{"client_id": one * 32, "client_secret": secret} for one in "ab"]
    path = "/providers/linear/registration"
    both = await asyncio.gather(*(call(target, "PUT", path, token, json=one, headers=tag) for one in bodies))
    assert sorted(one.status_code for one in both) == [200, 412], [one.text[:200] for one in both]
    assert (await call(target, "PUT", path, token, json=bodies[0], headers=tag)).status_code == 412
    for odd in ("*, *", "x", 'W/"x"', '""', ""):
        answer = await call(target, "PUT", path, token, json=bodies[0], headers={"if-match": odd})
        assert answer.status_code in {400, 412}, odd
    # Changing the client id doesn't keep the stored secret.
    assert (await call(target, "PUT", path, token, json={"client_id": "c" * 32})).status_code == 400
    for shown in (both[0], both[1], await call(target, "GET", "/providers/linear", token)):
        assert secret not in shown.text
    assert (await call(target, "DELETE", path, token)).status_code == 204
    github = await call(target, "PUT", "/providers/github/registration", token, json=bodies[0])
    assert github.status_code == 409
    for host in ("evil.example", "evil.example#", "a@evil.example", "127.0.0.1", "x/../y"):
        inputs = {"client_id": "ours", "client_secret": "a-secret-of-length-24-xx", "inputs": {"subdomain": host}}
        answer = await call(target, "PUT", "/providers/zendesk/registration", token, json=inputs)
        assert answer.status_code == 400, answer.text[:200]


async def test_a_declaration_needs_its_scope_reads_no_file_and_keeps_its_admin(target: Target) -> None:
    token = await admin_token(target, "write", "read")
    narrow = await admin_token(target, "people", "agents", "providers", "keys", "access", "read")
    body: dict[str, object] = {"people": {"declared": {"admin": True}}}
    assert (await call(target, "POST", "/apply", narrow, json=body)).status_code == 403
    for file in ("/etc/passwd", "~/x", "dropbox.secret", "file:///etc/passwd"):
        asked = {"providers": {"dropbox": {"client_id": "x", "client_secret_file": file}}}
        answer = await call(target, "POST", "/apply", token, json=asked)
        assert answer.status_code == 400
        assert "root:" not in answer.text
    # The plan would remove everyone but the caller; as a plan, it removes nobody.
    planned = (await call(target, "POST", "/apply?plan=true&prune=true", token, json={"people": {}})).json()
    removed = {one["name"] for one in planned["changes"]}
    assert "mallory" in removed
    assert "alice" not in removed
    assert not planned["applied"]
    for section in ("service_accounts", "settings", "people.x", "sessions"):
        assert (await call(target, "POST", "/apply", token, json={section: {}})).status_code == 400


# DPoP


async def test_a_bound_token_needs_its_key(target: Target) -> None:
    credentials, key = await account(target, "read"), new_key()
    form = {"grant_type": "client_credentials", **credentials}
    answer = await target.token(form, dpop=proof(key, "POST", f"{target.url}/token"))
    token = str(answer.json()["access_token"])
    assert answer.json()["token_type"] == "DPoP"
    url, ath = f"{target.url}{ROOT}/people", _ath(token)
    used = proof(key, "GET", url, ath=ath)

    async def get(made: str | None, scheme: str = "DPoP") -> int:
        headers = {"authorization": f"{scheme} {token}"} | ({} if made is None else {"dpop": made})
        return (await target.http.get(f"{ROOT}/people", headers=headers)).status_code

    assert await get(None, "Bearer") == 401
    assert await get(None) == 401
    assert await get(used, "Bearer") == 401
    assert await get(proof(new_key(), "GET", url, ath=ath)) == 401
    assert await get(proof(key, "POST", url, ath=ath)) == 401
    assert await get(proof(key, "GET", f"{url}/x", ath=ath)) == 401
    assert await get(proof(key, "GET", url)) == 401
    assert await get(used) == 200  # the twin
    assert await get(used) == 401


# Cost


async def test_a_client_is_slowed_down_and_no_other(target: Target) -> None:
    flooding, other = await admin_token(target, "read", "keys", "people"), await admin_token(target, "read")
    for _ in range(ADMIN_CALLS // 50 + 20):
        some = await asyncio.gather(*(call(target, "GET", "/me", flooding) for _ in range(50)))
        if slowed := [one for one in some if one.status_code == 429]:
            break
    assert slowed
    assert 0 < int(slowed[0].headers["retry-after"]) <= 60
    assert (await call(target, "GET", "/me", other)).status_code == 200


async def test_exports_that_nobody_reads_hold_nobody_up(target: Target) -> None:
    token = await admin_token(target, "read")
    head = f"GET {ROOT}/activity/export?format=csv HTTP/1.1\r\nhost: {target.host}\r\n"
    head += f"authorization: Bearer {token}\r\n\r\n"
    loop = asyncio.get_running_loop()
    held: list[socket.socket] = []
    try:
        for _ in range(20):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.setblocking(False)
            await loop.sock_connect(one, ("127.0.0.1", target.place.port))
            await loop.sock_sendall(one, head.encode())
            held.append(one)
        started = time.monotonic()
        for _ in range(5):
            assert (await call(target, "GET", "/people?limit=1", token)).status_code == 200
            assert (await target.http.get("/sign-in")).status_code in {200, 303}
        assert time.monotonic() - started < 10
    finally:
        for one in held:
            one.close()


async def test_keys_rotated_in_a_loop_leave_tokens_and_key_sets_usable(target: Target) -> None:
    token = await admin_token(target, "keys", "read")
    agent = await target.agent(target.alice)
    for _ in range(12):
        assert (await call(target, "POST", "/keys/signing", token)).status_code in {201, 409, 429}
    assert (await target.mcp(agent, "tools/list")).status_code == 200
    assert len((await target.http.get("/.well-known/jwks.json")).content) < 16 * 1024
