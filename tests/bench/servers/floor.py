"""The floor: an ASGI application that does for each call what a vault can't leave out, and nothing else.

    python -m tests.bench.servers.floor PORT UPSTREAM_PORT FOLDER

It prints a token. Each call verifies it (ES256, kept once verified), reads grant, client, and sealed credential with
one join in SQLite, opens the credential (AES-256-GCM), calls the same upstream over aiohttp, and leaves an event, which
a thread writes every 20 ms. It has no MCP SDK, no permissions, no chained events, and no answer waits for its event.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.types import Receive, Scope, Send

from tests.bench.servers.upstream import serve

SCHEMA = """
pragma journal_mode = wal;
create table clients (id text primary key, disabled integer not null);
create table grants (id text primary key, client_id text not null, connection_id text not null, ended_at integer);
create table connections (id text primary key, nonce blob not null, sealed blob not null);
create table events (sequence integer primary key, at real not null, grant_id text not null, tool text not null);
insert into clients values ('client', 0);
insert into grants values ('grant', 'client', 'connection', null);
"""
LOOKUP = (
    "select connections.nonce, connections.sealed, clients.disabled, grants.ended_at from grants"
    " join clients on clients.id = grants.client_id join connections on connections.id = grants.connection_id"
    " where grants.id = ?"
)
RESOURCE = "http://127.0.0.1/mcp"


class Chain:
    """The steps before the upstream call and after it."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file)
        self._database.executescript(SCHEMA)
        self._cipher = AESGCM(os.urandom(32))
        nonce = os.urandom(12)
        sealed = self._cipher.encrypt(nonce, b"hard-coded", b"connection")
        self._database.execute("insert into connections values ('connection', ?, ?)", (nonce, sealed))
        self._database.commit()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._verified: dict[bytes, tuple[str, float]] = {}
        self._events: list[tuple[float, str, str]] = []
        threading.Thread(target=self._write, args=[file], daemon=True).start()

    def token(self) -> str:
        """An access token that is valid for an hour."""
        claims = {"sub": "alice", "aud": RESOURCE, "grant": "grant", "exp": int(time.time()) + 3600}
        return jwt.encode(claims, self._key, "ES256")

    def credential(self, headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
        """The grant that the bearer token names, and the opened credential of its connection."""
        token = next(value for name, value in headers if name == b"authorization")[7:]
        digest = hashlib.sha256(token).digest()
        grant, until = self._verified.get(digest, ("", 0.0))
        if until < time.time():
            claims = jwt.decode(token, self._key.public_key(), ["ES256"], audience=RESOURCE)
            grant, until = claims["grant"], min(claims["exp"], time.time() + 60)
            self._verified[digest] = (grant, until)
        nonce, sealed, disabled, ended_at = self._database.execute(LOOKUP, (grant,)).fetchone()
        if disabled or ended_at is not None:
            raise PermissionError(grant)
        return grant, self._cipher.decrypt(nonce, sealed, b"connection").decode()

    def note(self, grant: str, tool: str) -> None:
        """Leave an event to be written."""
        self._events.append((time.time(), grant, tool))

    def _write(self, file: Path) -> None:
        database = sqlite3.connect(file)
        database.execute("pragma synchronous = normal")
        while True:
            time.sleep(0.02)
            taken, self._events = self._events, []
            if taken:
                database.executemany("insert into events (at, grant_id, tool) values (?, ?, ?)", taken)
                database.commit()


def app_of(chain: Chain, upstream: str) -> object:
    """The application."""
    sessions: list[aiohttp.ClientSession] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        parts: list[bytes] = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        call = json.loads(b"".join(parts))
        grant, credential = chain.credential(scope["headers"])
        if not sessions:
            sessions.append(aiohttp.ClientSession())
        arguments = call["params"]["arguments"]
        headers = {"Authorization": f"Bearer {credential}"}
        async with sessions[0].post(upstream, json=arguments, headers=headers) as answer:
            found = await answer.json()
        chain.note(grant, call["params"]["name"])
        posted = {"channel": found["channel"], "ts": found["ts"]}
        result = {"content": [{"type": "text", "text": json.dumps(posted)}], "structuredContent": posted}
        body = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode()
        written = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": written})
        await send({"type": "http.response.body", "body": body})

    return app


if __name__ == "__main__":
    steps = Chain(Path(sys.argv[3]) / "floor.db")
    print(steps.token(), flush=True)
    serve(app_of(steps, f"http://127.0.0.1:{sys.argv[2]}/api/chat.postMessage"), int(sys.argv[1]))
