"""Handles bound to a key (DPoP), at the proxy: without the key, with another request's proof, used twice."""

from __future__ import annotations

import time

import httpx2
import pytest
from joserfc.jwk import ECKey

from tests.attacks.oauth.attack_tokens import _ath
from tests.attacks.target import ACCESS, EXCHANGE, Target, new_key, proof
from tests.attacks.wire.handles import Handle, bound_handle

PATH = "/conversations.list"


async def bound_slack(target: Target) -> tuple[Handle, ECKey]:
    """A handle for alice's Slack that needs the key."""
    return (await bound_handle(target, "slack", "channels:read"))[:2]


async def call(one: Handle, made: str | None, *, scheme: str = "DPoP", path: str = PATH) -> httpx2.Response:
    headers = {"authorization": f"{scheme} {one.value}"} | ({} if made is None else {"dpop": made})
    return await one.target.http.get(one.base + path, headers=headers)


WRONG: dict[str, dict[str, object]] = {
    "another method": {"htm": "POST"},
    "a method in small letters": {"htm": "get"},
    "the token endpoint": {"htu": "/token"},
    "another path": {"htu": "BASE/chat.postMessage"},
    "the path without its API": {"htu": "CONNECTION/conversations.list"},
    "a slash more": {"htu": "BASE/conversations.list/"},
    "two slashes": {"htu": "BASE//conversations.list"},
    "a dot segment": {"htu": "BASE/x/../conversations.list"},
    "an escaped letter": {"htu": "BASE/%63onversations.list"},
    "a path in capitals": {"htu": "BASE/CONVERSATIONS.LIST"},
    "another host": {"htu": "http://evil.example/conversations.list"},
    "another port": {"htu": "http://localhost:1/conversations.list"},
    "the provider's own address": {"htu": "https://slack.com/api/conversations.list"},
    "user information": {"htu": "USER"},
    "no address": {"htu": None},
    "another token": {"ath": _ath("other")},
    "no token": {"ath": None},
    "an empty token": {"ath": ""},
    "yesterday": {"iat": int(time.time()) - 86_400},
    "tomorrow": {"iat": int(time.time()) + 86_400},
    "no time": {"iat": None},
    "a time in letters": {"iat": "now"},
    "no id": {"jti": None},
    "an empty id": {"jti": ""},
    "an id of 10,000 letters": {"jti": "a" * 10_000},
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_bound_handle_is_refused_with_a_proof_for(target: Target, what: str) -> None:
    one, key = await bound_slack(target)
    claims = {"ath": _ath(one.value)} | WRONG[what]
    htu, method = claims.pop("htu", "BASE" + PATH), str(claims.pop("htm", "GET"))
    if isinstance(htu, str):
        htu = htu.replace("BASE", one.base).replace("CONNECTION", one.base.rpartition("/")[0])
        htu = target.url.replace("://", "://a@") + one.path + PATH if htu == "USER" else htu
        htu = target.url + htu if htu.startswith("/") else htu
        made = proof(key, method, htu, **claims)
    else:
        made = proof(key, method, "", htu=None, **claims)
    answer = await call(one, made)
    assert answer.status_code in {400, 401}, answer.text
    good = await call(one, proof(key, "GET", one.base + PATH, ath=_ath(one.value)))  # the twin
    assert good.status_code == 200, good.text


@pytest.mark.parametrize("scheme", ["Bearer", "token", "bearer", "DPoP"])
async def test_a_bound_handle_is_refused_without_a_proof(target: Target, scheme: str) -> None:
    one, _ = await bound_slack(target)
    assert (await call(one, None, scheme=scheme)).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "token"])
async def test_a_bound_handle_is_refused_as_a_bearer_beside_a_right_proof(target: Target, scheme: str) -> None:
    one, key = await bound_slack(target)
    made = proof(key, "GET", one.base + PATH, ath=_ath(one.value))
    assert (await call(one, made, scheme=scheme)).status_code == 401


@pytest.mark.parametrize(
    "what", ["another key", "the private key inside", "type JWT", "no signature", "a symmetric key"]
)
async def test_a_bound_handle_is_refused_with_a_proof_that_has(target: Target, what: str) -> None:
    one, key = await bound_slack(target)
    header: dict[str, object] = {}
    if what == "the private key inside":
        header["jwk"] = key.as_dict(private=True)
    elif what == "type JWT":
        header["typ"] = "JWT"
    elif what == "a symmetric key":
        header["jwk"] = {"kty": "oct", "k": "AAAA"}
    signer = new_key() if what == "another key" else key
    made = proof(signer, "GET", one.base + PATH, header=header, ath=_ath(one.value))
    if what == "no signature":
        made = made.rpartition(".")[0] + "."
    assert (await call(one, made)).status_code in {400, 401}


async def test_a_proof_counts_once_at_the_proxy_and_nowhere_else_after(target: Target) -> None:
    one, key = await bound_slack(target)
    made = proof(key, "GET", one.base + PATH, ath=_ath(one.value))
    assert (await call(one, made)).status_code == 200
    assert (await call(one, made)).status_code == 401
    assert (await call(one, made, path=PATH + "?limit=1")).status_code == 401  # htu has no query
    other, _ = await bound_slack(target)
    assert (await call(other, made)).status_code == 401


async def test_two_proofs_at_once_are_none(target: Target) -> None:
    one, key = await bound_slack(target)
    sent = [("authorization", f"DPoP {one.value}")]
    sent += [("dpop", proof(key, "GET", one.base + PATH, ath=_ath(one.value))) for _ in range(2)]
    assert (await target.http.get(one.base + PATH, headers=sent)).status_code in {400, 401}


async def test_a_proof_that_was_used_in_parallel_counts_once(target: Target) -> None:
    import asyncio

    one, key = await bound_slack(target)
    made = proof(key, "GET", one.base + PATH, ath=_ath(one.value))
    answers = await asyncio.gather(*(call(one, made) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 11


async def test_an_exchange_without_the_key_does_not_loosen_a_bound_subject(target: Target) -> None:
    """A bound token can't become a handle that anyone can use."""
    key, client = new_key(), target.clients["backend"]
    code, verifier = await target.code(client["client_id"], scope="tools exchange offline_access")
    made = proof(key, "POST", f"{target.url}/token")
    secret = client["client_secret"]
    answer = await target.redeem(client["client_id"], code, verifier, dpop=made, client_secret=secret)
    assert answer.json()["token_type"] == "DPoP", answer.text
    subject = answer.json()["access_token"]
    for dpop in (None, proof(new_key(), "POST", f"{target.url}/token")):
        form = {"grant_type": EXCHANGE, **client, "subject_token": subject, "subject_token_type": ACCESS}
        form |= {"audience": "slack", "scope": "channels:read"}
        refused = await target.token(form, **({} if dpop is None else {"dpop": dpop}))
        assert refused.status_code in {400, 401}, refused.text
