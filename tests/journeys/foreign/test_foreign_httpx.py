"""A client made of plain `httpx` and the RFCs, from the MCP endpoint's 401 to a revoked token."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import pytest_asyncio

from tests.support.foreign.foreign import newcomer
from tests.support.harness import RunningVault, running_vault

REDIRECT = "http://127.0.0.1:33418/callback"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "httpx", "version": httpx.__version__},
    },
}


@pytest_asyncio.fixture(scope="module")
async def vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RunningVault]:
    async with running_vault(tmp_path_factory.mktemp("httpx") / "data") as running:
        yield running


async def discover(http: httpx.AsyncClient, endpoint: str) -> tuple[dict[str, str], dict[str, str]]:
    """Go from the challenge (RFC 6750 §3) to the resource (RFC 9728) to the authorization server (RFC 8414)."""
    challenge = (await http.post(endpoint, json=INITIALIZE)).headers["www-authenticate"]
    found = re.search(r'resource_metadata="([^"]+)"', challenge)
    assert found is not None
    resource = (await http.get(found[1])).raise_for_status().json()
    issuer = resource["authorization_servers"][0]
    server = (await http.get(f"{issuer}/.well-known/oauth-authorization-server")).raise_for_status().json()
    assert server["issuer"] == issuer
    assert "S256" in server["code_challenge_methods_supported"]
    return resource, server


async def call(http: httpx.AsyncClient, endpoint: str, token: str) -> int:
    """Send an MCP request with the token; return the status."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    async with http.stream("POST", endpoint, json=INITIALIZE, headers=headers) as answer:
        return answer.status_code


@pytest.mark.client("httpx", "/token", "401 to a revoked token")
@pytest.mark.parametrize("method", ["none", "client_secret_basic", "client_secret_post"])
async def test_plain_httpx_registers_redeems_refreshes_introspects_and_revokes(
    vault: RunningVault, method: str
) -> None:
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http, newcomer(vault) as somebody:
        resource, server = await discover(http, f"{vault.url}/mcp")
        metadata = {"client_name": "Plain", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": method}
        client = (await http.post(server["registration_endpoint"], json=metadata)).raise_for_status().json()
        proof = {} if method == "client_secret_basic" else {"client_id": client["client_id"]}
        if method == "client_secret_post":
            proof["client_secret"] = client["client_secret"]
        auth = (
            httpx.BasicAuth(client["client_id"], client["client_secret"]) if method == "client_secret_basic" else None
        )

        async def post(url: str, **body: str) -> httpx.Response:
            return await http.post(url, data={**proof, **body}, auth=auth or httpx.USE_CLIENT_DEFAULT)

        state, verifier = secrets.token_urlsafe(16), secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        question = {
            "response_type": "code",
            "client_id": client["client_id"],
            "redirect_uri": REDIRECT,
            "scope": "tools connections offline_access",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": resource["resource"],
        }
        redirect = await somebody.authorize(f"{server['authorization_endpoint']}?{urlencode(question)}")
        assert redirect.startswith(f"{REDIRECT}?")
        back = {name: values[0] for name, values in parse_qs(urlsplit(redirect).query).items()}
        assert (back["state"], back["iss"]) == (state, server["issuer"])

        answer = await post(
            server["token_endpoint"],
            grant_type="authorization_code",
            code=back["code"],
            code_verifier=verifier,
            redirect_uri=REDIRECT,
            resource=resource["resource"],
        )
        first = answer.raise_for_status().json()
        assert first["token_type"].lower() == "bearer"
        assert answer.headers["cache-control"] == "no-store"
        assert await call(http, resource["resource"], first["access_token"]) == 200

        answer = await post(
            server["token_endpoint"], grant_type="refresh_token", refresh_token=first["refresh_token"], scope="tools"
        )
        second = answer.raise_for_status().json()
        assert second["refresh_token"] != first["refresh_token"]
        assert second["scope"] == "tools"
        assert await call(http, resource["resource"], second["access_token"]) == 200

        introspected = await post(server["introspection_endpoint"], token=second["access_token"])
        if method == "none":
            assert introspected.status_code == 401  # only for clients that can authenticate
        else:
            assert introspected.json()["active"] is True
            assert introspected.json()["aud"] == resource["resource"]

        assert (await post(server["revocation_endpoint"], token=second["refresh_token"])).status_code == 200
        assert await call(http, resource["resource"], second["access_token"]) == 401
        again = await post(server["token_endpoint"], grant_type="refresh_token", refresh_token=second["refresh_token"])
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
        if method != "none":
            dead = await post(server["introspection_endpoint"], token=second["access_token"])
            assert dead.json() == {"active": False}
