"""Requests that could cost the vault far more than their sender: everyone else is still served."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import httpx2
import pytest

from tests.attacks.target import EXCHANGE, JWT, MODERN, Target
from tests.attacks.wire.handles import handle

STALL = 3.0  # seconds that one health check may take on a busy machine; a quadratic reader took 15
KIB = 1024
# 31 brackets trigger the depth check; the rest is one unterminated string, or thousands of complete ones.
QUOTES = {
    "quotes and backslashes": b'"\\',
    "quotes": b'"',
    "short strings": b'"",',
    "escaped quotes": b'\\"',
    "brackets in strings": b'"[',
    "names": b'{"":',
}


def hostile(unit: bytes, size: int) -> bytes:
    return b"{" * 31 + unit * ((size - 31) // len(unit))


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def served_while(target: Target, *, seconds: float = 0.0) -> float:
    """The longest health check while the attack ran; at least one started after the attack did."""
    worst, until = 0.0, time.monotonic() + seconds
    async with httpx2.AsyncClient(base_url=target.url, timeout=30, trust_env=False) as http:
        while True:
            started = time.monotonic()
            assert (await http.get("/healthz")).status_code == 200
            worst = max(worst, time.monotonic() - started)
            if started >= until:
                return worst
            await asyncio.sleep(0.02)


async def cost(target: Target, *sending: object) -> tuple[float, list[httpx2.Response]]:
    """Send all at once; return the longest health check meanwhile, and the answers."""
    running = [asyncio.ensure_future(one) for one in sending]
    await asyncio.sleep(0.05)
    worst = await served_while(target, seconds=1.0)
    answers = await asyncio.gather(*running)
    return max(worst, await served_while(target)), answers


@pytest.mark.parametrize("what", QUOTES)
async def test_a_registration_is_read_in_no_time_with(target: Target, what: str) -> None:
    body = hostile(QUOTES[what], 60 * KIB)
    headers = {"content-type": "application/json"}
    worst, answers = await cost(
        target, *(target.http.post("/register", content=body, headers=headers) for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {400}
    assert worst < STALL


@pytest.mark.parametrize("place", ["a bearer token", "a proof", "an assertion", "a foreign token", "a token to revoke"])
@pytest.mark.parametrize("what", ["quotes and backslashes", "names"])
async def test_a_token_is_read_in_no_time_with(target: Target, what: str, place: str) -> None:
    header = segment(hostile(QUOTES[what], 3000))
    payload = segment(hostile(QUOTES[what], 11 * KIB))
    token = f"{header}.{payload}.{'A' * 86}"
    whole = f"{segment(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{payload}.{'A' * 86}"
    backend = target.clients["backend"]
    match place:
        case "a bearer token":
            sending = [target.http.get("/mcp", headers={"authorization": f"Bearer {header}.a.a"}) for _ in range(20)]
        case "a proof":
            form = {"grant_type": "refresh_token", "client_id": "x", "refresh_token": "x"}
            sending = [target.token(form, dpop=f"{header}.e30.a") for _ in range(20)]
        case "an assertion":
            form = {"grant_type": "client_credentials", "client_assertion": token}
            form |= {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}
            sending = [target.token(form) for _ in range(20)]
        case "a foreign token":
            form = {"grant_type": EXCHANGE, **backend, "subject_token": whole, "subject_token_type": JWT}
            sending = [target.token(form) for _ in range(20)]
        case _:
            sending = [target.http.post("/revoke", data={**backend, "token": whole}) for _ in range(20)]
    worst, answers = await cost(target, *sending)
    assert max(answer.status_code for answer in answers) < 500
    assert worst < STALL


BODIES = {
    "numbers": b'{"a":[' + b"0," * 1_000_000 + b"0]}",
    "objects": b'{"a":[' + b"{}," * 600_000 + b"0]}",
    "arrays": b'{"a":[' + b"[]," * 600_000 + b"0]}",
    "names": b"{" + b",".join(b'"%x":0' % number for number in range(150_000)) + b"}",
    "depth": b'{"a":' * 200_000,
    "quotes": hostile(b'"\\', 2_000_000),
    "a long number": b'{"a":' + b"9" * 2_000_000 + b"}",
    "one long text": b'{"a":"' + b"A" * 2_000_000 + b'"}',
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_proxied_body_is_judged_in_no_time_with(target: Target, what: str) -> None:
    one = await handle(target, "github", "contents:read issues:write")
    headers = {"content-type": "application/json"}
    worst, answers = await cost(
        target,
        *(one.call("POST", "/repos/alice/notes/issues", content=BODIES[what], headers=headers) for _ in range(2)),
    )
    assert max(answer.status_code for answer in answers) in {400, 403, 413, 503}
    assert worst < STALL


@pytest.mark.parametrize("what", BODIES)
async def test_a_message_is_read_in_no_time_with(target: Target, what: str) -> None:
    agent = await target.agent()
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "slack_post",
        **agent.headers,
    }
    worst, answers = await cost(
        target, *(target.http.post("/mcp", content=BODIES[what], headers=headers) for _ in range(2))
    )
    assert max(answer.status_code for answer in answers) < 500
    assert worst < STALL


FORMS = {
    "many fields": "&".join(f"a{number}=" for number in range(5000)),
    "one field often": "a=&" * 10_000,
    "many escapes": "a=" + "%41" * 10_000,
    "bad escapes": "a=" + "%" * 30_000,
    "plus signs": "a=" + "+" * 30_000,
    "many scopes": "scope=" + "+".join(f"s{number}" for number in range(5000)),
}


@pytest.mark.parametrize("path", ["/token", "/par", "/revoke", "/introspect", "/device_authorization", "/sign-in"])
@pytest.mark.parametrize("what", FORMS)
async def test_a_form_is_read_in_no_time_with(target: Target, what: str, path: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded", "origin": target.url}
    worst, answers = await cost(
        target, *(target.http.post(path, content=FORMS[what], headers=headers) for _ in range(4))
    )
    assert min(answer.status_code for answer in answers) >= 400
    assert max(answer.status_code for answer in answers) < 500
    assert worst < STALL
