"""Contender (b): FastMCP with its JWT verifier, and the same tool."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import JWTVerifier
from pydantic import BaseModel

from tests.bench.servers.upstream import serve

PORT, UPSTREAM_PORT, KEY, ISSUER, AUDIENCE = sys.argv[1:6]
server = FastMCP(
    "fast", auth=JWTVerifier(public_key=Path(KEY).read_text(encoding="utf-8"), issuer=ISSUER, audience=AUDIENCE)
)
sessions: list[aiohttp.ClientSession] = []


class PostedMessage(BaseModel):
    """Where the message went."""

    channel: str
    ts: str


@server.tool
async def slack_post(channel: str, text: str) -> PostedMessage:
    """Post a message."""
    if not sessions:
        sessions.append(aiohttp.ClientSession())
    async with sessions[0].post(
        f"http://127.0.0.1:{UPSTREAM_PORT}/api/chat.postMessage",
        json={"channel": channel, "text": text},
        headers={"Authorization": "Bearer hard-coded"},
    ) as answer:
        found = await answer.json()
    return PostedMessage(channel=found["channel"], ts=found["ts"])


if __name__ == "__main__":
    serve(server.http_app(json_response=True), int(PORT))
