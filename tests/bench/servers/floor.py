"""The floor: an ASGI application that reads the same call, calls the same upstream over aiohttp, and answers alike."""

from __future__ import annotations

import json
import sys

import aiohttp
from starlette.types import Receive, Scope, Send

from tests.bench.servers.upstream import serve

UPSTREAM = f"http://127.0.0.1:{sys.argv[2]}/api/chat.postMessage"
sessions: list[aiohttp.ClientSession] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """One answer for each `tools/call`."""
    assert scope["type"] == "http"
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    call = json.loads(b"".join(parts))
    if not sessions:
        sessions.append(aiohttp.ClientSession())
    arguments = call["params"]["arguments"]
    async with sessions[0].post(UPSTREAM, json=arguments, headers={"Authorization": "Bearer hard-coded"}) as answer:
        found = await answer.json()
    posted = {"channel": found["channel"], "ts": found["ts"]}
    result = {"content": [{"type": "text", "text": json.dumps(posted)}], "structuredContent": posted}
    body = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
