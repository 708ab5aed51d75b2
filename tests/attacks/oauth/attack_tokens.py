"""Tokens: forged, stolen, replayed, moved elsewhere; DPoP proofs; revocation and introspection by others."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time

import pytest
from cryptography.hazmat.primitives import hashes, hmac

from tests.attacks.target import REDIRECT, REFRESH_GRACE, Agent, Target, new_key, proof, thumbprint
from tests.support.rooms.oauth_world import b64, claims_of, header_of, sign_jwt


def forge(token: str, *, header: dict[str, object] | None = None, claims: dict[str, object] | None = None) -> str:
    """The token with changed claims, under its old signature."""
    return ".".join(
        (b64(header_of(token) | (header or {})), b64(claims_of(token) | (claims or {})), token.split(".")[2])
    )


FORGERIES = {
    "no signature": lambda token: ".".join((*token.split(".")[:2], "")),
    "alg none": lambda token: f"{b64({'alg': 'none', 'typ': 'at+jwt'})}.{token.split('.')[1]}.",
    "alg None in capitals": lambda token: f"{b64({'alg': 'NONE', 'typ': 'at+jwt'})}.{token.split('.')[1]}.",
    "another subject": lambda token: forge(token, claims={"sub": "someone"}),
    "a longer life": lambda token: forge(token, claims={"exp": 9999999999}),
    "more scopes": lambda token: forge(token, claims={"scope": "tools connections exchange"}),
    "another client": lambda token: forge(token, claims={"client_id": "other"}),
    "another kid": lambda token: forge(token, header={"kid": "../../dev/null"}),
    "a key inside": lambda token: sign_jwt(
        header_of(token) | {"alg": "ES256", "jwk": (key := new_key()).as_dict(private=False)}, claims_of(token), key
    ),
    "a place for keys": lambda token: sign_jwt(
        header_of(token) | {"alg": "ES256", "jku": "https://evil.example/keys"}, claims_of(token), new_key()
    ),
    "a key of the attacker": lambda token: sign_jwt(header_of(token) | {"alg": "ES256"}, claims_of(token), new_key()),
    "an ID token's type": lambda token: forge(token, header={"typ": "JWT"}),
    "a critical extension": lambda token: forge(token, header={"crit": ["exp"]}),
    "a signature with a bit turned": lambda token: token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:],
    "padding": lambda token: token + "=",
    "a blank inside": lambda token: token.replace(".", ". ", 1),
    "the token twice": lambda token: f"{token}, {token}",
    "four parts": lambda token: token + ".a",
    "a JSON serialization": lambda token: json.dumps(
        dict(zip(("protected", "payload", "signature"), token.split("."), strict=True))
    ),
    "ten thousand dots": lambda token: "." * 10_000,
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_token_opens_nothing(target: Target, name: str) -> None:
    agent = await _agent(target)
    changed = Agent(agent.client_id, FORGERIES[name](agent.token))
    assert (await target.mcp(changed, "tools/list")).status_code == 401
    for path in ("/userinfo", "/sse"):
        assert (await target.http.get(path, headers=changed.headers)).status_code == 401
    assert (await target.mcp(agent, "tools/list")).status_code == 200


async def test_a_token_signed_with_our_public_key_as_a_secret_opens_nothing(target: Target) -> None:
    agent = await _agent(target)
    for one in (await target.http.get("/.well-known/jwks.json")).json()["keys"]:
        for secret in (json.dumps(one).encode(), str(one.get("n")).encode()):
            content = (
                f"{b64(header_of(agent.token) | {'alg': 'HS256', 'kid': one['kid']})}.{b64(claims_of(agent.token))}"
            )
            mac = hmac.HMAC(secret, hashes.SHA256())
            mac.update(content.encode())
            fake = f"{content}.{base64.urlsafe_b64encode(mac.finalize()).rstrip(b'=').decode()}"
            assert (await target.mcp(Agent("", fake), "tools/list")).status_code == 401


async def _agent(target: Target) -> Agent:
    found = target.kept.get("agent")
    if not isinstance(found, Agent):
        target.kept["agent"] = found = await target.agent(scope="tools connections openid offline_access")
    return found


@pytest.mark.parametrize("place", ["query", "form", "basic", "cookie", "scheme", "twice"])
async def test_a_token_counts_in_its_header_only(target: Target, place: str) -> None:
    token, body = (await _agent(target)).token, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = await {
        "query": lambda: target.http.post(f"/mcp?access_token={token}", json=body),
        "form": lambda: target.http.post("/mcp", data={"access_token": token}),
        "basic": lambda: target.http.post("/mcp", json=body, auth=("Bearer", token)),
        "cookie": lambda: target.http.post("/mcp", json=body, headers={"cookie": f"access_token={token}"}),
        "scheme": lambda: target.http.post("/mcp", json=body, headers={"authorization": token}),
        "twice": lambda: target.http.post(
            "/mcp", json=body, headers=[("authorization", f"Bearer {token}"), ("authorization", "Bearer a")]
        ),
    }[place]()
    assert answer.status_code in {400, 401}, answer.text


async def test_a_token_without_tools_calls_none(target: Target) -> None:
    agent = await target.agent(scope="openid")
    assert (await target.mcp(agent, "tools/list")).status_code in {401, 403}


async def test_a_token_for_an_api_is_refused_at_mcp(target: Target) -> None:
    agent = await target.agent(client="rival", resource="https://api.example/v1", scope="orders:read")
    assert (await target.mcp(agent, "tools/list")).status_code == 401


async def test_a_refresh_token_is_no_access_token_and_the_other_way_round(target: Target) -> None:
    agent = await target.agent()
    assert (await target.mcp(Agent("", agent.refresh or ""), "tools/list")).status_code == 401
    form = {"grant_type": "refresh_token", "client_id": agent.client_id, "refresh_token": agent.token}
    assert (await target.token(form)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("change", ["client", "no client", "scope", "resource"])
async def test_a_refresh_token_is_not_widened_or_moved(target: Target, change: str) -> None:
    agent = await target.agent(scope="tools offline_access")
    form = {"grant_type": "refresh_token", "client_id": agent.client_id, "refresh_token": agent.refresh or ""}
    changes = {
        "client": {"client_id": str((await target.register())["client_id"])},
        "no client": {"client_id": ""},
        "scope": {"scope": "tools connections"},
        "resource": {"resource": "https://api.example/v1"},
    }[change]
    answer = await target.token(form | changes)
    assert answer.status_code in {400, 401}, answer.text
    assert (await target.token(form)).status_code == 200


async def test_a_refresh_token_that_is_replayed_later_ends_its_family(target: Target) -> None:
    agent = await target.agent()
    form = {"grant_type": "refresh_token", "client_id": agent.client_id}
    second = (await target.token(form | {"refresh_token": agent.refresh or ""})).json()
    third = (await target.token(form | {"refresh_token": second["refresh_token"]})).json()
    soon = await target.token(form | {"refresh_token": agent.refresh or ""})
    assert soon.json()["refresh_token"] == third["refresh_token"], "what the client has, too, and shows in the activity"
    await asyncio.sleep(REFRESH_GRACE + 1)
    assert (await target.token(form | {"refresh_token": agent.refresh or ""})).status_code == 400
    assert (await target.token(form | {"refresh_token": third["refresh_token"]})).status_code == 400


async def test_of_thirty_refreshes_at_once_all_get_the_same_successor_or_none(target: Target) -> None:
    agent = await target.agent()
    form = {"grant_type": "refresh_token", "client_id": agent.client_id, "refresh_token": agent.refresh or ""}
    answers = await asyncio.gather(*(target.token(form) for _ in range(30)))
    assert len({one.json()["refresh_token"] for one in answers if one.status_code == 200}) == 1


async def test_somebody_elses_token_is_neither_revoked_nor_introspected(target: Target) -> None:
    victim = await target.agent()
    for credentials in (target.clients["backend"], {"client_id": str((await target.register())["client_id"])}):
        for token in (victim.token, victim.refresh or ""):
            await target.http.post("/revoke", data={**credentials, "token": token})
            told = await target.http.post("/introspect", data={**credentials, "token": token})
            assert told.status_code in {400, 401} or told.json() == {"active": False}, told.text
    assert (await target.mcp(victim, "tools/list")).status_code == 200
    form = {"grant_type": "refresh_token", "client_id": victim.client_id, "refresh_token": victim.refresh or ""}
    assert (await target.token(form)).status_code == 200


async def test_introspection_without_credentials_says_nothing(target: Target) -> None:
    victim = await _agent(target)
    told = await target.http.post("/introspect", data={"token": victim.token})
    assert told.status_code == 401
    told = await target.http.post("/introspect", data={"token": victim.token}, headers=victim.headers)
    assert told.status_code == 401


async def test_a_revoked_agent_stops_at_once(target: Target) -> None:
    agent = await target.agent()
    await target.http.post("/revoke", data={"client_id": agent.client_id, "token": agent.refresh or ""})
    assert (await target.mcp(agent, "tools/list")).status_code == 401
    assert (await target.call(agent, "slack_post", {"channel": "#general", "text": "x"})).status_code == 401


@pytest.mark.parametrize(
    "way", ["no secret", "wrong secret", "secret of another", "empty secret", "two ways at once", "in the query"]
)
async def test_a_confidential_client_proves_who_it_is(target: Target, way: str) -> None:
    own, other = target.clients["backend"], target.clients["rival"]
    code, verifier = await target.code(own["client_id"], scope="tools exchange")
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier, "redirect_uri": REDIRECT}
    form["client_id"] = own["client_id"]
    url, auth = "/token", None
    match way:
        case "wrong secret":
            form["client_secret"] = "wrong"
        case "secret of another":
            form["client_secret"] = other["client_secret"]
        case "empty secret":
            form["client_secret"] = ""
        case "two ways at once":
            form["client_secret"], auth = own["client_secret"], (own["client_id"], own["client_secret"])
        case "in the query":
            url = f"/token?client_secret={own['client_secret']}"
        case _:
            pass
    answer = await target.http.post(url, data=form, auth=auth)
    assert answer.status_code in {400, 401}, answer.text
    assert "access_token" not in answer.text


ASSERTIONS: dict[str, dict[str, object]] = {
    "for another audience": {"aud": "https://evil.example"},
    "with two audiences": {"aud": ["URL", "https://evil.example"]},
    "of another issuer": {"iss": "someone"},
    "with another subject": {"sub": "someone"},
    "that is over": {"exp": 1},
    "that lasts a year": {"exp": 9999999999},
    "without an end": {"exp": None},
    "without an id": {"jti": None},
    "that is not yet valid": {"nbf": 9999999999},
    "signed by another key": {},
}


@pytest.mark.parametrize("name", ASSERTIONS)
async def test_an_assertion_is_refused(target: Target, name: str) -> None:
    key, client_id, now = target.worker_key, target.clients["worker"]["client_id"], int(time.time())
    assert key is not None
    claims: dict[str, object] = {"iss": client_id, "sub": client_id, "aud": target.url, "iat": now, "exp": now + 60}
    claims |= {"jti": secrets.token_urlsafe(9)} | ASSERTIONS[name]
    if claims["aud"] == ["URL", "https://evil.example"]:
        claims["aud"] = [target.url, "https://evil.example"]
    chosen = {claim: one for claim, one in claims.items() if one is not None}
    assertion = sign_jwt({"alg": "ES256", "kid": "worker"}, chosen, new_key() if name.startswith("signed") else key)
    form = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}
    answer = await target.http.post("/introspect", data=form | {"client_assertion": assertion, "token": "x"})
    assert answer.status_code in {400, 401}, answer.text


async def test_an_assertion_counts_once(target: Target) -> None:
    key, client_id, now = target.worker_key, target.clients["worker"]["client_id"], int(time.time())
    assert key is not None
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": target.url,
        "iat": now,
        "exp": now + 50,
        "jti": "once-and-only",
    }
    assertion = sign_jwt({"alg": "ES256", "kid": "worker"}, claims, key)
    form = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "token": "x"}
    answers = [await target.http.post("/introspect", data=form | {"client_assertion": assertion}) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 401]


async def _bound_agent(target: Target) -> tuple[Agent, object]:
    key, client_id = new_key(), str((await target.register())["client_id"])
    code, verifier = await target.code(client_id, dpop_jkt=thumbprint(key))
    answer = await target.redeem(client_id, code, verifier, dpop=proof(key, "POST", f"{target.url}/token"))
    assert answer.json()["token_type"] == "DPoP", answer.text
    return Agent(client_id, answer.json()["access_token"], answer.json().get("refresh_token")), key


def _ath(token: str) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(token.encode())
    return base64.urlsafe_b64encode(digest.finalize()).rstrip(b"=").decode()


PROOFS: dict[str, dict[str, object]] = {
    "as a bearer": {},
    "without a proof": {},
    "with a proof of another key": {},
    "with a proof for another method": {"htm": "GET"},
    "with a proof for another path": {"htu": "URL/token"},
    "with a proof for another host": {"htu": "http://evil.example/mcp"},
    "with a proof for user information": {"htu": "USER"},
    "with a proof for an encoded letter": {"htu": "URL/%6dcp"},
    "with a proof for a blank": {"htu": "URL/mcp "},
    "with a proof of yesterday": {"iat": int(time.time()) - 86_400},
    "with a proof of tomorrow": {"iat": int(time.time()) + 86_400},
    "with a proof without an id": {"jti": None},
    "with a proof without the token": {"ath": None},
    "with a proof for another token": {"ath": _ath("other")},
    "with a proof with the private key": {},
    "with a proof of type JWT": {},
    "with an unsigned proof": {},
    "with two proofs": {},
}


@pytest.mark.parametrize("name", PROOFS)
async def test_a_bound_token_is_refused(target: Target, name: str) -> None:
    agent, key = await _bound_agent(target)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    claims: dict[str, object] = {"ath": _ath(agent.token)} | PROOFS[name]
    words = {"URL/token": f"{target.url}/token", "URL/%6dcp": f"{target.url}/%6dcp", "URL/mcp ": f"{target.url}/mcp "}
    words["USER"] = target.url.replace("://", "://a@") + "/mcp"
    htu = str(claims.pop("htu", f"{target.url}/mcp"))
    method = str(claims.pop("htm", "POST"))
    header: dict[str, object] = {}
    if name.endswith("private key"):
        header["jwk"] = key.as_dict(private=True)
    if name.endswith("type JWT"):
        header["typ"] = "JWT"
    signer = new_key() if name.endswith("another key") else key
    made = proof(signer, method, words.get(htu, htu), header=header, **claims)
    if name.startswith("with an unsigned"):
        made = made.rpartition(".")[0] + "."
    scheme = "Bearer" if name == "as a bearer" else "DPoP"
    sent = [("authorization", f"{scheme} {agent.token}"), ("content-type", "application/json")]
    sent += [] if name == "without a proof" else [("dpop", made)] * (2 if name == "with two proofs" else 1)
    answer = await target.http.post("/mcp", content=json.dumps(body), headers=sent)
    assert answer.status_code in {400, 401}, answer.text


async def test_a_proof_counts_once(target: Target) -> None:
    agent, key = await _bound_agent(target)
    made = proof(key, "POST", f"{target.url}/mcp", ath=_ath(agent.token))
    sent = {"authorization": f"DPoP {agent.token}", "dpop": made}
    answers = [await target.http.post("/mcp", json={}, headers=sent) for _ in range(2)]
    assert answers[0].status_code != 401
    assert answers[1].status_code == 401


async def test_a_bound_refresh_token_needs_its_key(target: Target) -> None:
    agent, key = await _bound_agent(target)
    form = {"grant_type": "refresh_token", "client_id": agent.client_id, "refresh_token": agent.refresh or ""}
    assert (await target.token(form)).status_code == 400
    assert (await target.token(form, dpop=proof(new_key(), "POST", f"{target.url}/token"))).status_code == 400
    assert (await target.token(form, dpop=proof(key, "POST", f"{target.url}/token"))).status_code == 200


async def test_a_code_bound_to_a_key_needs_it(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    code, verifier = await target.code(client_id, dpop_jkt=thumbprint(new_key()))
    made = proof(new_key(), "POST", f"{target.url}/token")
    assert (await target.redeem(client_id, code, verifier, dpop=made)).status_code == 400
    assert (await target.redeem(client_id, code, verifier)).status_code == 400
