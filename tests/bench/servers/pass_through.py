"""Contender (c): a pass-through proxy on the same HTTP stack, with a fixed token. It streams and checks nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.bench.servers.upstream import serve

UPSTREAM = f"http://127.0.0.1:{sys.argv[2]}/api/"
HOP = frozenset({"host", "connection", "keep-alive", "transfer-encoding", "authorization", "accept-encoding"})
sessions: list[aiohttp.ClientSession] = []


async def forward(request: Request) -> Response:
    """Send the request on, and the answer back."""
    if not sessions:
        sessions.append(aiohttp.ClientSession(auto_decompress=False))
    headers = {name: value for name, value in request.headers.items() if name not in HOP}
    headers["authorization"] = "Bearer hard-coded"
    answer = await sessions[0].request(
        request.method,
        UPSTREAM + request.path_params["path"],
        headers=headers,
        data=request.stream(),
        allow_redirects=False,
    )

    async def body() -> AsyncGenerator[bytes]:
        try:
            async for chunk in answer.content.iter_any():
                yield chunk
        finally:
            answer.release()

    back = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
    return StreamingResponse(body(), answer.status, back)


if __name__ == "__main__":
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    serve(Starlette(routes=[Route("/proxy/x/web/{path:path}", forward, methods=methods)]), int(sys.argv[1]))
