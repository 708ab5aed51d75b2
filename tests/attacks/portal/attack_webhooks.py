"""Webhooks: providers' forged, altered, or repeated; endpoints that lead inside, elsewhere, or answer too much."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from urllib.parse import urlsplit

import pytest

from tests.attacks.enterprise.company import (
    GITHUB_SECRET,
    SLACK_SECRET,
    SQUARE_SECRET,
    Company,
)
from tests.attacks.portal.attack_notices import INSIDE
from tests.attacks.target import PASSWORD, UPSTREAM
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.person import Person
from tests.support.processes import Place, free_port

# Incoming


def github(body: bytes, secret: str = GITHUB_SECRET, **changes: str) -> dict[str, str]:
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-github-event": "github_app_authorization", "x-hub-signature-256": f"sha256={mac}"} | changes


def slack(body: bytes, secret: str = SLACK_SECRET, *, at: int | None = None) -> dict[str, str]:
    sent = str(int(time.time()) if at is None else at)
    mac = hmac.new(secret.encode(), b"v0:" + sent.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {"x-slack-request-timestamp": sent, "x-slack-signature": f"v0={mac}"}


def square(body: bytes, url: str, secret: str = SQUARE_SECRET) -> dict[str, str]:
    mac = hmac.new(secret.encode(), url.encode() + body, hashlib.sha256).digest()
    return {"x-square-hmacsha256-signature": base64.b64encode(mac).decode()}


async def hook(company: Company, name: str, body: bytes, headers: Mapping[str, str]) -> int:
    sent = {"content-type": "application/json"} | dict(headers)
    answer = await company.target.http.post(f"/webhooks/{name}", content=body, headers=sent)
    assert answer.status_code < 500, answer.text
    assert UPSTREAM not in answer.text
    return answer.status_code


BODY = b'{"action":"revoked","sender":{"id":1}}'
SLACK_BODY = b'{"team_id":"T1","event_id":"E1","event":{"type":"tokens_revoked","tokens":{"oauth":["U1"]}}}'
HOOKS: dict[str, tuple[str, bytes, Callable[[], dict[str, str]]]] = {
    "github without signature": ("github", BODY, lambda: {"x-github-event": "github_app_authorization"}),
    "github with another secret": ("github", BODY, lambda: github(BODY, "x")),
    "github with an empty secret": ("github", BODY, lambda: github(BODY, "")),
    "github with slack's secret": ("github", BODY, lambda: github(BODY, SLACK_SECRET)),
    "github with another body": ("github", BODY + b" ", lambda: github(BODY)),
    "github with a short signature": ("github", BODY, lambda: {"x-hub-signature-256": "sha256="}),
    "github with SHA-1": (
        "github",
        BODY,
        lambda: {"x-hub-signature": "sha1=" + hmac.new(GITHUB_SECRET.encode(), BODY, hashlib.sha1).hexdigest()},
    ),
    "github in capitals": (
        "github",
        BODY,
        lambda: github(BODY, **{"x-hub-signature-256": github(BODY)["x-hub-signature-256"].upper()}),
    ),
    "slack without time": ("slack", SLACK_BODY, lambda: {"x-slack-signature": slack(SLACK_BODY)["x-slack-signature"]}),
    "slack of yesterday": ("slack", SLACK_BODY, lambda: slack(SLACK_BODY, at=int(time.time()) - 86_400)),
    "slack of tomorrow": ("slack", SLACK_BODY, lambda: slack(SLACK_BODY, at=int(time.time()) + 86_400)),
    "slack with another time": (
        "slack",
        SLACK_BODY,
        lambda: slack(SLACK_BODY, at=int(time.time()) - 20) | {"x-slack-request-timestamp": str(int(time.time()))},
    ),
    "slack with a signed time": ("slack", SLACK_BODY, lambda: slack(SLACK_BODY) | {"x-slack-request-timestamp": "-1"}),
    "slack with an endless time": (
        "slack",
        SLACK_BODY,
        lambda: slack(SLACK_BODY) | {"x-slack-request-timestamp": "9" * 5000},
    ),
    "slack with github's signature": ("slack", BODY, lambda: github(BODY)),
    "square at another address": ("square", BODY, lambda: square(BODY, "https://evil.example/webhooks/square")),
    "square with another secret": ("square", BODY, lambda: square(BODY, "x", "x")),
}


@pytest.mark.parametrize("name", HOOKS)
async def test_a_webhook_that_the_provider_did_not_sign_is_refused(company: Company, name: str) -> None:
    provider, body, headers = HOOKS[name]
    before = len(company.target.provider.arrivals)
    assert await hook(company, provider, body, headers()) == 401
    right = {"github": github(BODY), "slack": slack(SLACK_BODY)}
    right["square"] = square(BODY, f"{company.target.url}/webhooks/square")
    honest = SLACK_BODY if provider == "slack" else BODY
    assert await hook(company, provider, honest, right[provider]) in {204, 429}  # the twin
    assert len(company.target.provider.arrivals) == before


@pytest.mark.parametrize("name", ["strange", "google", "../github", "github%00", "GITHUB"])
async def test_a_provider_without_a_secret_hears_nothing(company: Company, name: str) -> None:
    for secret in ("", "None", GITHUB_SECRET):
        assert await hook(company, name, BODY, github(BODY, secret)) == 404


BENT = (
    b"",
    b"[]",
    b"null",
    b'{"action":"revoked","sender":1}',
    b'{"action":"revoked","sender":{"id":true}}',
    b'{"action":"revoked","sender":{"id":1e400}}',
    b'{"a":' + b"[" * 100_000,
    b"\xff\xfe",
    b'{"action":"revoked","sender":{"id":"%"}}',
    b'{"action":"revoked","sender":{"id":' + b"9" * 10_000 + b"}}",
    b'{"action":"revoked","action":"x"}',
)


@pytest.mark.parametrize("body", BENT, ids=lambda one: one[:30].decode("latin-1"))
async def test_a_signed_webhook_that_is_bent_is_refused_or_says_nothing(company: Company, body: bytes) -> None:
    assert await hook(company, "github", body, github(body)) in {204, 400}


async def test_a_webhook_over_the_limit_is_refused(company: Company) -> None:
    body = b'{"x":"' + b"x" * (257 * 1024) + b'"}'
    assert await hook(company, "github", body, github(body)) == 413


async def test_a_challenge_is_answered_to_slack_only(company: Company) -> None:
    body = b'{"type":"url_verification","challenge":"<script>alert(1)</script>"}'
    answer = await company.target.http.post("/webhooks/slack", content=body, headers=slack(body))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    answer = await company.target.http.post("/webhooks/slack", content=body, headers=slack(body, "x"))
    assert answer.status_code == 401
    assert "alert" not in answer.text


async def test_a_hint_ends_nothing_that_the_provider_still_honors(company: Company) -> None:
    """The hint is signed and about a real account: the vault asks the provider, which still accepts the token."""
    employee, target = await company.employee(), company.target
    login = f"h{secrets.token_hex(4)}"
    await target.connect(employee.browser, "github", account=login)
    body = json.dumps({"action": "revoked", "sender": {"id": int.from_bytes(login.encode()[:4])}}).encode()
    answers = await asyncio.gather(*(hook(company, "github", body, github(body)) for _ in range(30)))
    assert {204, 429} >= set(answers)
    assert (await company.facts(employee.id))["connections"] == 1
    looks = [one for one in target.provider.arrivals if one.path == "/rest/user"]
    other = json.dumps({"action": "revoked", "sender": {"id": 4_000_000_000}}).encode()
    assert await hook(company, "github", other, github(other)) == 204  # repeats of one hint don't block another
    assert len(looks) < 40


# Outgoing


@pytest.fixture(scope="module")
async def outside(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Place, Person]]:
    """A vault without a sandbox, and its admin."""
    place = Place(tmp_path_factory.mktemp("outside"), free_port())
    place.configure()
    async with place.serve(), Person(place.url) as browser:
        code, _, err = await place.run("users", "add", "boss", "--admin", "--password-stdin", feed=PASSWORD + "\n")
        assert code == 0, err
        words = [word for one in ("read", "access") for word in ("--admin-scope", f"admin:{one}")]
        code, out, err = await place.run(
            "clients", "add", "Auto", "--confidential", "--admin", "boss", *words, "--json"
        )
        assert code == 0, err
        made = json.loads(out)
        form = {name: str(made[name]) for name in ("client_id", "client_secret")}
        answer = await browser.http.post("/token", data={"grant_type": "client_credentials", **form})
        browser.http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        yield place, browser


@pytest.mark.parametrize("wanted", INSIDE)
async def test_an_endpoint_that_leads_inside_is_none(
    outside: tuple[Place, Person], inside: ScriptedServer, wanted: str
) -> None:
    _, admin = outside
    url = wanted.format(port=urlsplit(inside.url).port)
    answer = await admin.http.post("/admin/v1/webhooks", json={"url": url})
    assert answer.status_code == 400, answer.text
    assert inside.arrivals == []


async def test_a_name_that_resolves_to_the_inside_is_not_called(
    outside: tuple[Place, Person], inside: ScriptedServer
) -> None:
    """The name looks harmless; its address is checked at each call, and that address is the one called."""
    import socket

    _, admin = outside
    name = socket.gethostname()
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(name, 443)}
    except OSError:
        pytest.skip("this machine's name is not known here")
    if not all(one.startswith(("127.", "10.", "172.", "192.168.", "::1", "fe80", "fd")) for one in found):
        pytest.skip("this machine has a public address")
    url = f"https://{name}:{urlsplit(inside.url).port}/x"
    made = await admin.http.post("/admin/v1/webhooks", json={"url": url})
    assert made.status_code == 201, made.text
    answer = await admin.http.post(f"/admin/v1/webhooks/{made.json()['endpoint']['id']}/test")
    assert (answer.status_code, answer.json()["accepted"]) == (200, False), answer.text
    assert answer.json()["failure"] == "address"
    assert inside.arrivals == []


async def test_an_endpoint_that_leads_on_or_talks_is_neither_followed_nor_quoted(
    company: Company, inside: ScriptedServer
) -> None:
    def leads(_: Arrival) -> Reply:
        return Reply(307, b"canary-body", {"location": f"{inside.url}/secret", "x-secret": "canary-header"})

    async with scripted_server(leads) as receiver:
        made = await company.call_api("POST", "/webhooks", {"url": f"{receiver.url}/hook"})
        endpoint = made["endpoint"]
        assert isinstance(endpoint, dict)
        answer = await company.api("POST", f"/webhooks/{endpoint['id']}/test")
        assert answer.json()["accepted"] is False
        assert "canary" not in answer.text
        assert len(receiver.arrivals) == 1
        assert inside.arrivals == []
        receiver.answer = lambda _: json_reply({})
        answer = await company.api("POST", f"/webhooks/{endpoint['id']}/test")  # the twin
        assert answer.json()["accepted"] is True
        listed = await company.api("GET", "/webhooks")
        assert str(made["secret"]) not in listed.text
        sent = receiver.arrivals[-1]
        assert str(made["secret"]) not in receiver.log
        assert UPSTREAM not in receiver.log
        signed = f"{sent.headers['webhook-id']}.{sent.headers['webhook-timestamp']}.".encode() + sent.body
        key = base64.b64decode(str(made["secret"]).removeprefix("whsec_"))
        mac = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        assert sent.headers["webhook-signature"] == f"v1,{mac}"
        await company.call_api("DELETE", f"/webhooks/{endpoint['id']}")
