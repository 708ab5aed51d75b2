"""Token exchange and workers: other people's tokens and accounts, more than allowed, races with endings."""

from __future__ import annotations

import asyncio
import secrets
import time

import pytest

from tests.attacks.target import ACCESS, API, EXCHANGE, JWT, Target, new_key
from tests.attacks.wire.handles import handle, ready
from tests.support.rooms.oauth_world import claims_of, sign_jwt

CHAT = "chat:write"


async def subject(target: Target, client: str = "backend") -> str:
    """A fresh access token of the client for alice."""
    return (await target.agent(client=client, scope="tools exchange offline_access")).token


async def test_an_exchange_that_the_person_allowed_works(target: Target) -> None:
    """The twin of all attacks below."""
    answer = await ready(target, "slack", CHAT)
    assert answer.status_code == 200, answer.text
    assert answer.json()["access_token"].startswith("tvp_")


ASKED: dict[str, dict[str, str | None]] = {
    "a scope that was not allowed": {"scope": "channels:history"},
    "a scope nobody has": {"scope": "admin"},
    "another provider": {"audience": "github", "scope": "contents:write"},
    "the account of another person by id": {"audience": "VICTIM"},
    "the account of another person by name": {"account": "bob"},
    "an unknown audience": {"audience": "unknown"},
    "audience and resource that differ": {"resource": "https://www.googleapis.com/"},
    "nothing in particular": {"audience": None},
    "a refresh token back": {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
    "an ID token as subject": {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"},
    "the wrong type of subject": {"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
    "an actor without a type": {"actor_token": "a"},
    "a type without an actor": {"actor_token_type": ACCESS},
    "a forged actor": {"actor_token": "a.b.c", "actor_token_type": ACCESS},
    "an API that this client may not call": {"audience": API, "scope": "orders:read"},
    "more at the vault itself": {"audience": "MCP", "scope": "tools connections"},
    "a resource inside": {"audience": None, "resource": "http://169.254.169.254/"},
}


@pytest.mark.parametrize("name", ASKED)
async def test_an_exchange_is_refused_for(target: Target, name: str) -> None:
    await ready(target, "slack", CHAT)
    changes: dict[str, str | None] = {"audience": "slack", "scope": CHAT} | ASKED[name]
    if changes["audience"] == "VICTIM":
        changes["audience"] = (await target.connection_ids("mallory"))["slack"]
    if changes["audience"] == "MCP":
        changes["audience"] = f"{target.url}/mcp"
    answer = await target.exchange("backend", await subject(target), **changes)
    assert answer.status_code in {400, 401, 403}, answer.text
    assert "access_token" not in answer.json()
    assert "bob" not in answer.text


async def test_another_clients_token_is_no_subject(target: Target) -> None:
    for token in (await subject(target), (await target.agent()).token):
        answer = await target.exchange("rival", token, audience="slack", scope=CHAT)
        assert answer.status_code == 400, answer.text


async def test_a_token_without_the_scope_is_no_subject(target: Target) -> None:
    token = (await target.agent(client="backend", scope="tools")).token
    assert (await target.exchange("backend", token, audience="slack", scope=CHAT)).status_code == 400


async def test_a_subject_of_another_person_gets_that_persons_account_only(target: Target) -> None:
    await ready(target, "slack", CHAT)
    token = (await target.agent(target.mallory, client="backend", scope="tools exchange")).token
    answer = await target.exchange("backend", token, audience="slack", scope=CHAT)
    assert answer.status_code in {400, 403}, answer.text  # mallory allowed nothing; alice's permissions aren't hers
    victim = (await target.connection_ids("alice"))["slack"]
    answer = await target.exchange("backend", token, audience=victim, scope=CHAT)
    assert answer.json()["error"] == "invalid_target"


async def test_the_tokens_of_a_public_client_for_an_api_do_not_act_as_the_page(target: Target) -> None:
    answer = await target.http.post(
        "/token",
        data={
            "grant_type": EXCHANGE,
            "client_id": "x",
            "subject_token": await subject(target),
            "subject_token_type": ACCESS,
        },
    )
    assert answer.status_code in {400, 401}


async def test_a_handle_is_no_subject_and_no_bearer_token(target: Target) -> None:
    value = (await handle(target, "slack", CHAT)).value
    answer = await target.exchange("backend", value, audience="slack", scope=CHAT)
    assert answer.status_code == 400
    for path in ("/mcp", "/userinfo", "/sse"):
        assert (await target.http.get(path, headers={"authorization": f"Bearer {value}"})).status_code == 401


async def test_a_revoked_grant_ends_subjects_and_handles(target: Target) -> None:
    agent = await target.agent(client="backend", scope="tools exchange offline_access")
    answer = await target.exchange("backend", agent.token, audience="slack", scope=CHAT)
    assert answer.status_code == 200, answer.text
    await target.http.post("/revoke", data={**target.clients["backend"], "token": agent.refresh or ""})
    again = await target.exchange("backend", agent.token, audience="slack", scope=CHAT)
    assert again.status_code in {400, 401}
    url = f"{answer.json()['api_base_url']}/chat.postMessage"
    sent = {"authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await target.http.post(url, json={"channel": "C1", "text": "x"}, headers=sent)).status_code == 401


async def test_no_exchange_that_begins_after_the_revocation_succeeds(target: Target) -> None:
    await ready(target, "slack", CHAT)
    agent = await target.agent(client="backend", scope="tools exchange offline_access")
    racing = [
        asyncio.ensure_future(target.exchange("backend", agent.token, audience="slack", scope=CHAT)) for _ in range(10)
    ]
    await target.http.post("/revoke", data={**target.clients["backend"], "token": agent.refresh or ""})
    after = [await target.exchange("backend", agent.token, audience="slack", scope=CHAT) for _ in range(3)]
    handles = [one.json() for one in await asyncio.gather(*racing) if one.status_code == 200]
    assert {one.status_code for one in after} <= {400, 401}
    for one in handles:  # earlier ones are dead, too
        sent = {"authorization": f"Bearer {one['access_token']}"}
        call = await target.http.post(
            f"{one['api_base_url']}/chat.postMessage", json={"channel": "C1", "text": "x"}, headers=sent
        )
        assert call.status_code == 401


async def _assertion(target: Target, *, key: object = None, **claims: object) -> str:
    worker, now = target.clients["worker"]["client_id"], int(time.time())
    body: dict[str, object] = {
        "iss": worker,
        "sub": target.kept.get("alice id") or await _id(target),
        "aud": target.url,
        "iat": now,
        "exp": now + 50,
        "jti": secrets.token_urlsafe(9),
        "reason": "nightly",
    }
    chosen = {name: one for name, one in (body | claims).items() if one is not None}
    return sign_jwt({"alg": "ES256", "kid": "worker", "typ": "JWT"}, chosen, key or target.worker_key)


async def _id(target: Target) -> str:
    target.kept["alice id"] = found = str(claims_of((await target.agent()).token)["sub"])
    return found


async def _own(target: Target) -> dict[str, str]:
    """The worker's client authentication; its assertions are examined only after that."""
    worker, now = target.clients["worker"]["client_id"], int(time.time())
    claims = {
        "iss": worker,
        "sub": worker,
        "aud": target.url,
        "iat": now,
        "exp": now + 50,
        "jti": secrets.token_urlsafe(9),
    }
    assert target.worker_key is not None
    return {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": sign_jwt({"alg": "ES256", "kid": "worker"}, claims, target.worker_key),
    }


async def _work(target: Target, assertion: str, **more: str) -> tuple[int, str]:
    form = {
        "grant_type": EXCHANGE,
        "client_id": target.clients["worker"]["client_id"],
        "audience": "slack",
        "scope": CHAT,
    }
    headers = {"x-forwarded-for": more.pop("forwarded")} if "forwarded" in more else {}
    form |= {"subject_token": assertion, "subject_token_type": JWT, **await _own(target)} | more
    answer = await target.http.post("/token", data=form, headers=headers)
    return answer.status_code, answer.text


WORKERS: dict[str, dict[str, object]] = {
    "without a reason": {"reason": None},
    "for nobody": {"sub": "nobody"},
    "for a name": {"sub": "alice"},
    "for another audience": {"aud": "https://evil.example"},
    "of another issuer": {"iss": "backend"},
    "that is over": {"exp": 1},
    "that lasts an hour": {"exp": int(time.time()) + 3600},
    "without an id": {"jti": None},
    "signed by another key": {},
    "for a scope that is not on its list": {},
    "for a provider that is not on its list": {},
}


@pytest.mark.parametrize("name", WORKERS)
async def test_a_worker_is_refused(target: Target, name: str) -> None:
    key = new_key() if name.startswith("signed") else None
    more = {
        "for a scope that is not on its list": {"scope": "channels:read"},
        "for a provider that is not on its list": {
            "audience": "google",
            "scope": "https://www.googleapis.com/auth/drive",
        },
    }.get(name, {})
    status, text = await _work(target, await _assertion(target, key=key, **WORKERS[name]), **more)
    assert status in {400, 401, 403}, text
    assert "invalid_client" not in text
    assert "connect_uri" not in text  # a valid assertion gets this
    assert "access_token" not in text


async def test_a_worker_without_the_persons_permission_gets_a_link_at_most(target: Target) -> None:
    status, text = await _work(target, await _assertion(target))
    assert status in {400, 403}, text
    assert '"connect_uri"' in text
    assert '"access_token"' not in text


async def test_a_workers_assertion_counts_once_of_ten_at_the_same_time(target: Target) -> None:
    assertion = await _assertion(target)
    answers = await asyncio.gather(*(_work(target, assertion) for _ in range(10)))
    assert sum("connect_uri" in text for _, text in answers) == 1, answers


# Handles for other programs: the same conditions on another path

CALL = {"method": "POST", "host": "slack.com", "port": 443, "path": "/api/chat.postMessage"}


@pytest.mark.parametrize(
    ("client", "scope", "code"),
    [
        ("backend", "tools exchange", None),
        ("backend", "tools", "insufficient_scope"),
        (None, "tools exchange", "unauthorized_client"),
        (None, "tools connections offline_access", "unauthorized_client"),
    ],
)
async def test_a_program_elsewhere_gets_a_handle_only_as_by_exchange(
    target: Target, client: str | None, scope: str, code: str | None
) -> None:
    agent = await target.agent(client=client, scope=scope)
    for path in ("/programs/hosts", "/programs/calls"):
        body = CALL if path.endswith("calls") else {}
        answer = await target.http.post(path, json=body, headers=agent.headers)
        told = answer.json()
        if code is not None:
            assert (answer.status_code, told["code"]) == (403, code), answer.text
        assert answer.status_code != 500
        assert "handle" not in told or told["handle"].startswith("tvp_")
    if code is None:
        assert (await target.http.post("/programs/hosts", json={}, headers=agent.headers)).status_code == 200


@pytest.mark.parametrize(
    "change",
    [{"query": "\u20ac"}, {"accounts": ["x"] * 21}, {"accounts": ["x" * 201]}, {"host": "x" * 300}, {"scopes": [CHAT]}],
)
async def test_what_a_program_elsewhere_cannot_send_is_refused(target: Target, change: dict[str, object]) -> None:
    agent = await target.agent(client="backend", scope="tools exchange")
    answer = await target.http.post("/programs/calls", json=CALL | change, headers=agent.headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "handle" not in answer.json()
