"""Contender (a): a bare MCP server without authorization; its tool has a hard-coded token and calls over aiohttp."""

from __future__ import annotations

import sys

import aiohttp
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel

from tests.bench.servers.upstream import serve

UPSTREAM = f"http://127.0.0.1:{sys.argv[2]}/api/chat.postMessage"
server = MCPServer("bare")
sessions: list[aiohttp.ClientSession] = []


class PostedMessage(BaseModel):
    """Where the message went."""

    channel: str
    ts: str


@server.tool()
async def slack_post(channel: str, text: str) -> PostedMessage:
    """Post a message."""
    if not sessions:
        sessions.append(aiohttp.ClientSession())
    async with sessions[0].post(
        UPSTREAM, json={"channel": channel, "text": text}, headers={"Authorization": "Bearer hard-coded"}
    ) as answer:
        found = await answer.json()
    return PostedMessage(channel=found["channel"], ts=found["ts"])


def main(transport: str) -> None:
    """Serve over the given transport."""
    if transport == "stdio":
        server.run("stdio")
    elif transport == "sse":
        serve(server.sse_app(host="127.0.0.1"), int(sys.argv[1]))
    else:
        serve(server.streamable_http_app(json_response=True, host="127.0.0.1"), int(sys.argv[1]))


if __name__ == "__main__":
    main(sys.argv[3] if len(sys.argv) > 3 else "http")
