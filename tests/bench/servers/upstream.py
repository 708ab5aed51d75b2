"""The upstream that every contender calls: answers `chat.postMessage` for any bearer token, in its own process."""

from __future__ import annotations

import socket
import sys

import uvicorn
from starlette.types import Receive, Scope, Send

from tests.bench import where

ANSWER = (
    b'{"ok":true,"channel":"C0000000001","ts":"1764000000.000100",'
    b'"message":{"type":"message","user":"U0000000001","text":"hi","ts":"1764000000.000100"}}'
)
TOKEN = b'{"access_token":"bench","token_type":"Bearer","expires_in":3600,"refresh_token":"bench"}'


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """One answer for every authorized POST."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    authorized = any(name == b"authorization" and value.startswith(b"Bearer ") for name, value in scope["headers"])
    body = TOKEN if scope["path"] == "/token" else ANSWER if authorized else b'{"ok":false,"error":"not_authed"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(application: object, port: int) -> None:
    """Serve like every contender: httptools, uvloop, no access log."""
    where.listen()
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        application,  # pyright: ignore[reportArgumentType]
        http="httptools",
        loop="uvloop",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=600,  # keep the connections of contenders that wait for their turn
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
