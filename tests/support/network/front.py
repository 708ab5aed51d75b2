"""Clients of a vault that reach it only through a TLS proxy: a browser, an agent's whole sign-in, a tool call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.harness import RunningVault
from tests.support.network.tls import Authority, Through
from tests.support.person import Person

REDIRECT = "http://127.0.0.1:33418/callback"


@dataclass
class Front:
    """A vault behind the proxy, and clients that reach it only through the proxy."""

    vault: RunningVault
    authority: Authority

    @property
    def url(self) -> str:
        return self.vault.url

    def way(self, headers: Mapping[str, str] | None = None, *, address: str | None = None) -> Through:
        return Through(urlsplit(self.url).hostname or "", self.authority, headers=headers, address=address)

    def http(self, headers: Mapping[str, str] | None = None, **more: str) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, transport=self.way(headers), timeout=30, headers=more)

    def person(self, headers: Mapping[str, str] | None = None) -> Person:
        return Person(self.url, transport=self.way(headers))


async def sign_in_agent(front: Front, person: Person) -> dict[str, str]:
    """Discover, register, authorize, and redeem like an MCP client; return the token answer and the client ID."""
    async with front.http() as http:
        asked = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert asked.status_code == 401
        found = re.search(r'resource_metadata="([^"]+)"', asked.headers["www-authenticate"])
        assert found is not None
        resource = (await http.get(found[1])).json()
        assert resource["resource"] == f"{front.url}/mcp"
        issuer = resource["authorization_servers"][0]
        assert issuer == front.url
        metadata = (await http.get(f"{issuer}/.well-known/oauth-authorization-server")).json()
        assert metadata["issuer"] == issuer
        body = {"client_name": "Agent", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}
        client_id = str((await http.post(metadata["registration_endpoint"], json=body)).json()["client_id"])
        answer, verifier = await front.vault.authorize(person, client_id)
        assert answer["iss"] == issuer
        form = {"grant_type": "authorization_code", "client_id": client_id, "code": answer["code"]}
        form |= {"code_verifier": verifier, "redirect_uri": REDIRECT}
        redeemed = await http.post(metadata["token_endpoint"], data=form)
        assert redeemed.status_code == 200, redeemed.text
        return {**redeemed.json(), "client_id": client_id}


async def post(front: Front, token: str, text: str) -> tuple[bool, str]:
    """Call slack_post; return whether it worked, and the text."""
    async with (
        front.http(authorization=f"Bearer {token}") as http,
        Client(streamable_http_client(f"{front.url}/mcp", http_client=http)) as client,
    ):
        result = await client.call_tool("slack_post", {"channel": "#general", "text": text})
        return not result.is_error, " ".join(getattr(part, "text", "") for part in result.content)
