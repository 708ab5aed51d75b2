"""RFC 9449 at the MCP endpoints: a bound token works with a proof for each request, and never as a bearer token."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager

import httpx2
import pytest
from joserfc.jwk import ECKey
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from server.oauth.dpop import token_hash
from tests.support.harness import PASSWORD
from tests.support.rooms.mcp_room import Room, modern, modern_headers
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from vault import grants

KEY = ECKey.generate_key("P-256")
OTHER = ECKey.generate_key("P-256")


def proof(
    place: Room,
    method: str,
    path: str,
    *,
    key: ECKey = KEY,
    token: str | None = None,
    claims: Mapping[str, object] | None = None,
) -> str:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
    body: dict[str, object] = {
        "jti": secrets.token_urlsafe(12),
        "htm": method,
        "htu": place.url + path,
        "iat": place.vault.deployment.now(),
    }
    return sign_jwt(header, body | ({} if token is None else {"ath": token_hash(token)}) | dict(claims or {}), key)


class ProofAuth(httpx2.Auth):
    """Sends the token with a new proof of KEY for each request."""

    def __init__(self, place: Room, token: str) -> None:
        self._place, self._token = place, token
        self.proved: list[str] = []

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        sent = proof(self._place, request.method, request.url.path, token=self._token)
        request.headers["authorization"] = f"DPoP {self._token}"
        request.headers["dpop"] = sent
        self.proved.append(f"{request.method} {request.url.path}")
        yield request


async def bound_token(place: Room, endpoint: str = "/mcp") -> str:
    """The token that alice's agent gets when it proves KEY at the token endpoint."""
    client_id = str((await place.vault.register())["client_id"])
    async with place.vault.person() as alice, place.http() as http:
        await alice.sign_in("alice", PASSWORD)
        answer, verifier = await place.vault.authorize(alice, client_id, resource=f"{place.url}{endpoint}")
        form = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": answer["code"],
            "code_verifier": verifier,
            "redirect_uri": "http://127.0.0.1:33418/callback",
        }
        issued = await http.post("/token", data=form, headers={"DPoP": proof(place, "POST", "/token")})
    assert issued.json()["token_type"] == "DPoP", issued.text
    return issued.json()["access_token"]


@asynccontextmanager
async def open_client(place: Room, auth: ProofAuth, transport: str) -> AsyncGenerator[Client]:
    if transport == "sse":
        async with Client(sse_client(f"{place.url}/sse", auth=auth)) as client:
            yield client
    else:
        mode = "auto" if transport == "modern" else "legacy"
        async with (
            httpx2.AsyncClient(auth=auth, timeout=30, trust_env=False) as http,
            Client(streamable_http_client(f"{place.url}/mcp", http_client=http), mode=mode) as client,
        ):
            yield client


@pytest.mark.requirement("S-100")
@pytest.mark.parametrize("transport", ["modern", "legacy", "sse"])
async def test_the_official_client_with_a_proof_for_each_request_is_let_in(place: Room, transport: str) -> None:
    auth = ProofAuth(place, await bound_token(place, "/sse" if transport == "sse" else "/mcp"))
    async with open_client(place, auth, transport) as client:
        assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
        assert not (await client.call_tool("connections", {})).is_error
    assert set(auth.proved) >= ({"GET /sse", "POST /messages/"} if transport == "sse" else {"POST /mcp"})


async def ask(place: Room, endpoint: str, headers: dict[str, str]) -> httpx2.Response:
    """Send one request; of a stream, return only the head."""
    async with place.http() as http:
        if endpoint == "/sse":
            async with http.stream("GET", "/sse", headers=headers) as answer:
                return answer
        return await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list") | headers)


def assert_challenged(answer: httpx2.Response, scheme: str, error: str) -> None:
    assert answer.status_code == 401
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith(f"{scheme} ")
    assert f'error="{error}"' in challenge
    assert ('algs="ES256' in challenge) == (scheme == "DPoP")


@pytest.mark.requirement("S-100")
@pytest.mark.parametrize("endpoint", ["/mcp", "/sse"])
async def test_a_bound_token_without_its_proof_is_worth_nothing_at_the_mcp_endpoints(
    place: Room, endpoint: str
) -> None:
    method = "GET" if endpoint == "/sse" else "POST"
    token = await bound_token(place, endpoint)
    as_bearer = {"authorization": f"Bearer {token}"}
    assert_challenged(await ask(place, endpoint, as_bearer), "Bearer", "invalid_token")
    right = proof(place, method, endpoint, token=token)
    assert_challenged(await ask(place, endpoint, as_bearer | {"dpop": right}), "Bearer", "invalid_token")
    held = {"authorization": f"DPoP {token}"}
    assert_challenged(await ask(place, endpoint, held), "DPoP", "invalid_dpop_proof")
    other_key = proof(place, method, endpoint, token=token, key=OTHER)
    assert_challenged(await ask(place, endpoint, held | {"dpop": other_key}), "DPoP", "invalid_token")
    for changes in (
        {"htm": "PUT"},
        {"htu": f"{place.url}/userinfo"},
        {"ath": token_hash("another token")},
        {"iat": place.vault.deployment.now() - 1000},
    ):
        wrong = proof(place, method, endpoint, token=token, claims=changes)
        assert_challenged(await ask(place, endpoint, held | {"dpop": wrong}), "DPoP", "invalid_dpop_proof")
    assert (await ask(place, endpoint, held | {"dpop": right})).status_code == 200
    assert_challenged(await ask(place, endpoint, held | {"dpop": right}), "DPoP", "invalid_dpop_proof")


@pytest.mark.requirement("S-100")
async def test_a_plain_token_does_not_become_a_bound_one_by_a_proof(place: Room) -> None:
    agent = await place.agent()
    sent = {"authorization": f"DPoP {agent.token}", "dpop": proof(place, "POST", "/mcp", token=agent.token)}
    assert_challenged(await ask(place, "/mcp", sent), "DPoP", "invalid_token")
    assert (await ask(place, "/mcp", agent.headers)).status_code == 200


async def test_a_proof_does_not_keep_an_ended_grant_alive(place: Room) -> None:
    token = await bound_token(place)
    held = {"authorization": f"DPoP {token}"}
    assert (await ask(place, "/mcp", held | {"dpop": proof(place, "POST", "/mcp", token=token)})).status_code == 200
    deployment = place.vault.deployment
    async with deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, str(claims_of(token)["gid"]), reason="test", now=deployment.now())
    late = await ask(place, "/mcp", held | {"dpop": proof(place, "POST", "/mcp", token=token)})
    assert_challenged(late, "DPoP", "invalid_token")
