"""A vault for one measurement: a temporary data folder, and on request a throw-away database on a PostgreSQL server.

It has one person with one Slack account, an agent that may post, and an app that may exchange. Its provider is
`server.sizing.load`; nothing leaves this machine except requests to PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from server.deployment import Deployment
from server.oauth import tokens
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import EXCHANGE_SCOPE, TOKEN_EXCHANGE
from server.provider_settings import SettingsRefused
from server.settings import PREFIX, Settings, load_settings
from vault import clients, connections, delegations, grants, users
from vault.records import Client, ClientKind
from vault.storage.database import sqlite_path
from vault.upstream import Account, TokenAnswer

SCOPES: Final = frozenset({"chat:write", "channels:read"})
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
_START: Final = 60.0  # seconds for the process to listen
_END: Final = 15.0
_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class BenchPlace:
    """Where the vault of one measurement is."""

    data: Path
    settings: Settings
    port: int
    database: str = field(repr=False)


@asynccontextmanager
async def bench_place(provider: int, *, server_url: str | None) -> AsyncGenerator[BenchPlace]:
    """A place whose provider listens on that port. `server_url`: a PostgreSQL server on which it creates a database."""
    with tempfile.TemporaryDirectory(prefix="token-vault-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        port = _free_port()
        sections = _sections(port, provider)
        (data / "config.toml").write_text(_as_toml(sections), encoding="utf-8")
        async with _database(server_url) as url:
            overrides: dict[str, object] = {**sections, "database": {"url": url, "url_file": None}}
            yield BenchPlace(data, load_settings(data / "config.toml", overrides=overrides), port, url)


@asynccontextmanager
async def serve_place(place: BenchPlace, program: Sequence[str]) -> AsyncGenerator[int]:
    """Run the vault as a separate process, as `serve` does; returns its process ID. Raises SettingsRefused if it
    ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment["TOKEN_VAULT_DATABASE__URL"] = place.database
    environment["TOKEN_VAULT_SERVER__CORE_DUMPS"] = "true"  # otherwise only root can read how much memory it uses
    arguments = ("serve", "--data", str(place.data), "--config", str(place.data / "config.toml"))
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *program, *arguments, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=log
        )
        try:
            await _wait_until_ready(place.port, process)
            yield process.pid
        except _EarlyExit as ended:
            log.seek(0)
            said = log.read().decode(errors="replace")[-500:]
            raise SettingsRefused(f"the measured vault ended: {said}") from ended
        finally:
            await _end(process)


class _EarlyExit(Exception):
    """The process ended before it listened."""


async def _wait_until_ready(port: int, process: asyncio.subprocess.Process) -> None:
    asked = b"GET /readyz HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n" % port
    async with asyncio.timeout(_START):
        while True:
            if process.returncode is not None:
                raise _EarlyExit
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(asked)
                answer = await reader.read()
                writer.close()
            except OSError:
                answer = b""
            if answer.startswith(b"HTTP/1.1 200"):
                return
            await asyncio.sleep(0.05)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_END):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class BenchRequests:
    """Whole HTTP requests: a tool call, an exchange that is repeated, and one that issues a handle each time."""

    call: bytes = field(repr=False)
    exchange: bytes = field(repr=False)
    handle: bytes = field(repr=False)


async def seed(deployment: Deployment, port: int) -> BenchRequests:
    """Everything that the requests need, in an empty vault."""
    now, secret = deployment.now(), secrets.token_urlsafe(32)
    async with deployment.transaction() as transaction:
        user = await users.create_user(transaction, "bench", now=now)
        client = Client(
            "bench-app",
            ClientKind.MANUAL,
            "Bench",
            "client_secret_post",
            ("https://app.example/callback",),
            now,
            grant_types=frozenset({"authorization_code", TOKEN_EXCHANGE}),
            secret_hash=secret_hash(secret),
        )
        await clients.save_client(transaction, client)
        grant = await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=client.id,
            scopes=frozenset({"tools", EXCHANGE_SCOPE}),
            resource=deployment.url("/mcp"),
            redirect_uri=client.redirect_uris[0],
            now=now,
        )
        connection = await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=user.id,
            provider="slack",
            answer=TokenAnswer("xoxp-bench", "xoxe-bench", SCOPES, 12 * _HOUR, Account("T1:U1", "bench")),
            asked=SCOPES,
            policy=deployment.vault.policies["slack"],
            now=now,
        )
        await delegations.allow(
            transaction, user_id=user.id, client_id=client.id, connection_id=connection.id, scopes=SCOPES, now=now
        )
    token, _ = tokens.mint(deployment, grant, scopes=grant.scopes, audience=grant.resource, now=now)
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": client.id,
        "client_secret": secret,
        "subject_token_type": _ACCESS_TOKEN,
        "subject_token": token,
        "audience": "slack",
    }
    whole = _exchange(port, form | {"scope": " ".join(sorted(SCOPES))})
    return BenchRequests(_call(port, token), whole, _exchange(port, form | {"scope": "chat:write"}))


def _call(port: int, token: str) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "slack_post", "arguments": {"channel": "general", "text": "hi"}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = (
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: slack_post\r\n"
        f"Authorization: Bearer {token}"
    )
    return _request(port, "/mcp", headers, body)


def _exchange(port: int, form: dict[str, str]) -> bytes:
    return _request(port, "/token", "Content-Type: application/x-www-form-urlencoded", urlencode(form).encode())


def _request(port: int, path: str, headers: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _sections(port: int, provider: int) -> dict[str, object]:
    """The defaults, but with bounds that one agent, who calls for all, doesn't reach."""
    own = f"http://127.0.0.1:{provider}"
    return {
        "server": {"port": port},
        "tokens": {"access_lifetime": _HOUR, "per_agent_hourly": 100_000_000},
        "tools": {"calls_per_minute": 1_000_000},
        "sandbox": {"loopback_upstreams": True},
        "providers": {
            "slack": {
                "client_id": "bench",
                "client_secret": "bench",
                "authorize_url": f"{own}/authorize",
                "token_url": f"{own}/token",
                "revoke_url": f"{own}/revoke",
                "apis": {"web": f"{own}/api"},
            }
        },
    }


def _as_toml(sections: dict[str, object]) -> str:
    import tomlkit

    return tomlkit.dumps(sections)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _database(server_url: str | None) -> AsyncGenerator[str]:
    """The URL of an empty database that is gone at the end. Raises SettingsRefused, StorageUnavailable."""
    if server_url is None:
        yield "sqlite:"
        return
    if sqlite_path(server_url, data=Path()) is not None:
        raise SettingsRefused("--database takes the address of a PostgreSQL server; without it SQLite is measured")
    try:
        from vault.storage.postgres_scratch import scratch_database
    except ModuleNotFoundError as error:
        raise SettingsRefused(
            "PostgreSQL needs the package asyncpg: pip install 'mcp-token-vault[postgres]'"
        ) from error
    async with scratch_database(server_url) as url:
        yield url
