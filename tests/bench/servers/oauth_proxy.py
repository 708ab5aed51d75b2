"""FastMCP's OAuthProxy: it keeps the provider's token, gives its client another token, and swaps them at each call.

It signs in to itself and prints an access token. With `memory`, its store is in memory; otherwise it uses the default:
encrypted files below `FASTMCP_HOME`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

import aiohttp
import httpx2
from fastmcp import FastMCP
from fastmcp.server.auth import AccessToken, OAuthProxy, TokenVerifier
from fastmcp.server.dependencies import get_access_token
from key_value.aio.stores.memory import MemoryStore
from pydantic import BaseModel

from tests.bench.servers.upstream import serve

PORT, UPSTREAM_PORT, STORE = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
URL, UPSTREAM = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{UPSTREAM_PORT}"
CALLBACK = "http://127.0.0.1:1/callback"
sessions: list[aiohttp.ClientSession] = []


class AnyToken(TokenVerifier):
    """Accepts every token; a real verifier asks the provider, which costs more."""

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what the token allows."""
        return AccessToken(token=token, client_id="bench", scopes=[], expires_at=int(time.time()) + 3600)


server = FastMCP(
    "swap",
    auth=OAuthProxy(
        upstream_authorization_endpoint=f"{UPSTREAM}/authorize",
        upstream_token_endpoint=f"{UPSTREAM}/token",
        upstream_client_id="bench",
        upstream_client_secret=secrets.token_urlsafe(32),
        token_verifier=AnyToken(),
        base_url=URL,
        client_storage=MemoryStore() if STORE == "memory" else None,
        require_authorization_consent="external",
    ),
)


class PostedMessage(BaseModel):
    """Where the message went."""

    channel: str
    ts: str


@server.tool
async def slack_post(channel: str, text: str) -> PostedMessage:
    """Post a message with the provider's token."""
    if not sessions:
        sessions.append(aiohttp.ClientSession())
    token = get_access_token()
    assert token is not None
    async with sessions[0].post(
        f"{UPSTREAM}/api/chat.postMessage",
        json={"channel": channel, "text": text},
        headers={"Authorization": f"Bearer {token.token}"},
    ) as answer:
        found = await answer.json()
    return PostedMessage(channel=found["channel"], ts=found["ts"])


def sent_to(answer: httpx2.Response) -> dict[str, str]:
    """The parameters of the URL that a redirect leads to."""
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


async def sign_in() -> str:
    """Register, authorize with the upstream's code, and redeem it; return the client's token."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    async with httpx2.AsyncClient(base_url=URL, timeout=30) as http:
        while True:
            try:
                registered = await http.post(
                    "/register", json={"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
                )
                break
            except httpx2.ConnectError:
                await asyncio.sleep(0.05)
        client = registered.json()
        asked = {
            "response_type": "code",
            "client_id": client["client_id"],
            "redirect_uri": CALLBACK,
            "state": "bench",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        upstream = sent_to(await http.get("/authorize", params=asked))
        back = sent_to(await http.get("/auth/callback", params={"code": "bench", "state": upstream["state"]}))
        form = {
            "grant_type": "authorization_code",
            "code": back["code"],
            "redirect_uri": CALLBACK,
            "client_id": client["client_id"],
            "code_verifier": verifier,
        }
        if "client_secret" in client:
            form["client_secret"] = client["client_secret"]
        return str((await http.post("/token", data=form)).json()["access_token"])


if __name__ == "__main__":
    threading.Thread(target=lambda: print(asyncio.run(sign_in()), flush=True), daemon=True).start()
    serve(server.http_app(json_response=True), PORT)
