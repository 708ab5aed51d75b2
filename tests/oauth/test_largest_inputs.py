"""The largest inputs that every endpoint accepts, and larger ones: a clear answer each time, never a 500."""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx2
import pytest

from server.oauth.clients.rules import DEVICE_GRANT
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.rooms.oauth_world import WEB, World, error_of, pkce

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

TEXT = "a" * 2048
LINK = "https://client.example/" + "a" * (2048 - len("https://client.example/"))
BASE: dict[str, object] = {"redirect_uris": [WEB], "token_endpoint_auth_method": "none"}
LARGE: dict[str, object] = {
    **dict.fromkeys(("client_name", "scope", "software_id", "software_version", "application_type"), TEXT),
    **dict.fromkeys(("client_uri", "logo_uri", "tos_uri", "policy_uri"), LINK),
    "contacts": [TEXT] * 10,
}


def uris(count: int, length: int) -> list[str]:
    """Different redirect URIs of a given length."""
    bare = "https://client.example/00"
    return [f"https://client.example/{number:02d}" + "a" * (length - len(bare)) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "length", "status"),
    [(30, 2048, 400), (30, 300, 400), (30, 273, 201), (4, 2048, 201), (5, 2048, 400), (31, 50, 400), (1, 2049, 400)],
)
async def test_long_redirect_lists_are_taken_up_to_a_limit_and_then_refused_clearly(
    world: World, count: int, length: int, status: int
) -> None:
    answer = await world.http.post("/register", json=BASE | {"redirect_uris": uris(count, length)})
    assert answer.status_code == status, answer.text
    if status == 400:
        assert error_of(answer) == "invalid_redirect_uri"
        if count <= 30 and length <= 2048:
            assert "8192" in answer.json()["error_description"]
        return
    found = answer.json()
    managed = {"Authorization": f"Bearer {found['registration_access_token']}"}
    again = {"redirect_uris": uris(count, length)} | {"token_endpoint_auth_method": "none"}
    changed = await world.http.put(
        f"/register/{found['client_id']}", headers=managed, json=again | {"client_name": "b"}
    )
    assert changed.status_code == 200, changed.text


@pytest.mark.parametrize("member", [*LARGE, "all"])
async def test_the_longest_metadata_registers(world: World, member: str) -> None:
    body = BASE | (LARGE if member == "all" else {member: LARGE[member]})
    answer = await world.http.post("/register", json=body)
    assert answer.status_code == 201, answer.text
    longer = {name: value + "a" for name, value in body.items() if name in LARGE and isinstance(value, str)}
    if longer:
        refused = await world.http.post("/register", json=body | longer)
        assert error_of(refused) == "invalid_client_metadata"


async def test_of_a_client_32_kib_of_metadata_are_kept(world: World) -> None:
    large: dict[str, object] = BASE | {"redirect_uris": uris(30, 273), "software_id": "é" * 2048}
    kept = {"software_id": "é" * 2048, "software_version": ""}
    escaped, single = divmod(32_768 - 30 * 273 - len(json.dumps(kept)), len(json.dumps("é")) - 2)
    longest = "é" * escaped + "a" * single
    assert (await world.http.post("/register", json=large | {"software_version": longest})).status_code == 201
    refused = await world.http.post("/register", json=large | {"software_version": longest + "a"})
    assert error_of(refused) == "invalid_client_metadata"
    assert "longer than 32768 characters" in refused.json()["error_description"]


async def test_the_longest_authorization_request_leads_to_a_code(world: World) -> None:
    host = "https://" + "a" * 2000 + ".example/"
    client_id, (_, challenge) = await world.public_client(redirect_uris=[host], client_name=TEXT), pkce()
    long = {"redirect_uri": host, "state": "s" * 4096, "nonce": "n" * 512}
    assert (await world.allow_request(client_id, challenge, **long))["state"] == "s" * 4096


@pytest.mark.parametrize("path", ["/authorize", "/par", "/token", "/revoke", "/introspect", "/device_authorization"])
@pytest.mark.parametrize("length", [4096, 30_000])
async def test_a_long_parameter_is_refused_and_breaks_nothing(world: World, path: str, length: int) -> None:
    client_id = await world.public_client(grant_types=["authorization_code", "refresh_token", DEVICE_GRANT])
    good = {
        "grant_type": "authorization_code",
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": "http://127.0.0.1:33418/callback",
        "code_challenge": "A" * 43,
        "code_challenge_method": "S256",
        "token": "t",
        "code": "c",
        "code_verifier": "v" * 43,
        "device_code": "d",
        "refresh_token": "r",
        "subject_token": "a.b.c",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    names = [*good, "scope", "state", "nonce", "resource", "prompt", "max_age", "dpop_jkt", "request_uri", "audience"]
    for name in [*names, "client_secret", "client_assertion", "actor_token", "account", "login_hint", "anything"]:
        answer = await world.alice.http.post(path, data=good | {name: "a" * length})
        assert answer.status_code < 500, (name, answer.text)
    for grant_type in ("refresh_token", DEVICE_GRANT, TOKEN_EXCHANGE):
        for name in ("refresh_token", "device_code", "subject_token", "scope", "resource"):
            answer = await world.http.post(path, data=good | {"grant_type": grant_type, name: "a" * length})
            assert answer.status_code < 500, (grant_type, name, answer.text)


_PATHS = [
    *(
        "/sign-in",
        "/consent",
        "/device",
        "/activity",
        "/account",
        "/first-run",
        "/sign-in/local",
        "/connections/connect",
    ),
    *("/connect/{}", "/approvals/{}", "/connections/{}", "/agents/{}", "/agents/{}/cut-off", "/connect/callback/{}"),
    *("/connect/done/{}", "/sign-in/openid/{}", "/sign-in/openid/{}/callback", "/register/{}", "/proxy/{}/a/b"),
]


@pytest.mark.parametrize("path", _PATHS)
async def test_long_and_odd_addresses_get_a_page_or_a_refusal(world: World, path: str) -> None:
    for text in ("a", "\u00e9", "\U0001f600", "\u202e", "\x00", "\x85"):
        long = quote(text * 1500)[:6000].rsplit("%", 1)[0] or text
        address = path.format(long[:3000].rsplit("%", 1)[0] if "%" in long else long[:3000])
        for query in (
            "",
            f"return_to={long}",
            f"request={long}",
            f"state={long[:2000]}&code={long[:2000]}",
            f"agent={long}",
        ):
            answer = await world.alice.http.get(address + (f"?{query}" if query else ""))
            assert answer.status_code < 500, (text, query[:20], answer.text[:200])


@pytest.mark.parametrize("name", ["authorization", "dpop", "origin", "accept", "cookie", "user-agent", "content-type"])
async def test_long_headers_get_a_refusal(world: World, name: str) -> None:
    for value in ("Bearer " + "a" * 12_000, "DPoP " + "a.b." * 3000, "Basic " + "YTph" * 3000, "a" * 12_000):
        for method, path in (("POST", "/token"), ("GET", "/userinfo"), ("POST", "/mcp"), ("GET", "/register/x")):
            async with httpx2.AsyncClient(base_url=world.url, timeout=30) as http:
                answer = await http.request(method, path, headers={name: value})
            assert answer.status_code < 500, (method, path, answer.text[:200])
