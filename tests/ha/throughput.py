"""1, 2, and 4 replicas on one PostgreSQL: exchanges per second, and what each costs the vault and the database.

All share this machine's cores, so the processor time of the replicas and of PostgreSQL is measured separately, and how
many exchanges share a commit. PostgreSQL is the suite's, with `fsync`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.app import open_deployment
from server.oauth.rules import TOKEN_EXCHANGE
from server.settings import load_settings
from tests.bench.exchange import ACCESS, request_bytes
from tests.bench.load import drive
from tests.bench.servers.token_exchange import SECRET, seed
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import ROOT, Server, environment, fresh_store, postgres_server
from tests.conftest import Store
from tests.support.processes import end, free_port, until_listening
from vault.audit.audit import Activity
from vault.records import Event
from vault.storage.database import integer

LIMIT = 600.0
WARM = 300  # exchanges of each replica before it is measured
CONNECTIONS = 16  # clients at each replica
WANTED = b'"access_token":"'


@dataclass(frozen=True, slots=True)
class Place:
    """One vault, its replicas' processes and ports, and the requests to them."""

    store: Store
    server: Server
    replicas: list[tuple[int, psutil.Process]]
    form: dict[str, str]

    def vault_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for _, process in self.replicas)

    def postgres_seconds(self) -> float:
        """Of the postmaster, its children, and those that have ended."""
        postmaster = self.server.process()
        ended = postmaster.cpu_times()
        running = sum(sum(child.cpu_times()[:2]) for child in postmaster.children(recursive=True))
        return running + sum(ended[:4])


def settings_of(store: Store, port: int) -> dict[str, dict[str, object]]:
    return {
        "server": {"port": port, "public_url": "http://localhost:8765"},
        "database": {"url": store.url},
        "tokens": {"access_lifetime": 3600},
    }


async def prepare(store: Store, tokens: Path) -> str:
    """Create a client, an account, and an access token; return the client's id."""
    provider = {"providers": {"slack": {"client_id": "bench", "client_secret": "bench"}}}
    settings = load_settings(overrides=settings_of(store, 8765) | provider)
    async with open_deployment(settings, data=store.data) as deployment:
        return await seed(deployment, tokens, how_many=1)


@asynccontextmanager
async def place(server: Server, *, replicas: int) -> AsyncGenerator[Place]:
    """Start the replicas, each with its own data directory, and wait until they are ready."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(fresh_store(server))
        tokens = store.data.parent / "tokens"
        client_id = await prepare(store, tokens)
        started: list[tuple[int, psutil.Process]] = []
        for _ in range(replicas):
            port = free_port()
            data = store.data.parent / str(port)
            data.mkdir(mode=0o700)
            shutil.copy2(store.data / "master.key", data)
            sections = settings_of(store, port) | {"providers.slack": {"client_id": "bench", "client_secret": "bench"}}
            sections["server"]["allowed_hosts"] = [f"127.0.0.1:{port}"]
            lines = [
                line
                for name, section in sections.items()
                for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()))
            ]
            (data / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "token_vault", "serve", "--data", str(data),
                stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, env=environment(),
            )  # fmt: skip
            stack.push_async_callback(end, process)
            await until_listening(process, port, patience=60)
            started.append((port, psutil.Process(process.pid)))
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "client_id": client_id,
            "client_secret": SECRET,
            "subject_token_type": ACCESS,
            "subject_token": tokens.read_text(encoding="ascii").split()[0],
            "audience": "slack",
        }
        yield Place(store, server, started, form)


@dataclass(frozen=True, slots=True)
class Cost:
    """For some exchanges: processor time of the vault's and of PostgreSQL's processes, wall time, and commits."""

    exchanges: int
    vault_us: float  # each
    postgres_us: float  # each
    seconds: float
    commits: int


async def cost(where: Place, *, scope: str, calls: int) -> Cost:
    """Make this many exchanges at each replica, all at once."""

    async def at(port: int, count: int) -> float:
        request = request_bytes(port, where.form | {"scope": scope})
        run = await drive(port, connections=CONNECTIONS, calls=count, token=None, make=lambda _: request, wanted=WANTED)
        return run.seconds

    ports = [port for port, _ in where.replicas]
    await asyncio.gather(*(at(port, WARM) for port in ports))
    before, vault, postgres = await batches(where.store), where.vault_seconds(), where.postgres_seconds()
    seconds = max(await asyncio.gather(*(at(port, calls) for port in ports)))
    vault, postgres = where.vault_seconds() - vault, where.postgres_seconds() - postgres
    done = calls // CONNECTIONS * CONNECTIONS * len(ports)
    return Cost(done, vault / done * 1e6, postgres / done * 1e6, seconds, await batches(where.store) - before)


async def measure(where: Place, *, scope: str, calls: int, what: str) -> Figure:
    """The figure of this many exchanges at each replica."""
    found, replicas = await cost(where, scope=scope, calls=calls), len(where.replicas)
    return Figure(
        f"{replicas} replica{'s' if replicas > 1 else ''}, {what}",
        f"processor time for each exchange: vault {found.vault_us:.0f} us, PostgreSQL {found.postgres_us:.0f} us; "
        f"{found.exchanges / found.commits:.1f} in a commit; {found.exchanges / found.seconds:.0f}/s here, "
        f"{found.commits / found.seconds:.0f} commits/s; so {1e6 / found.vault_us:.0f}/s for each core of the vault, "
        f"{1e6 / found.postgres_us:.0f}/s for each core of PostgreSQL",
        "every exchange succeeds",
        holds=True,  # otherwise `drive` raised
    )


async def batches(store: Store) -> int:
    """How often the activity was committed."""
    database = await store.open()
    try:
        row = await database.fetch_one("select coalesce(max(height), 0) as height from event_batches")
        assert row is not None
        return integer(row, "height")
    finally:
        await database.close()


async def chain(server: Server, *, writers: int, seconds: float) -> Figure:
    """Sequential appends by this many writers: all commits of the activity queue for its head."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(fresh_store(server))
        recorders: list[Activity] = []
        for _ in range(writers):
            database = await store.open()
            stack.push_async_callback(database.close)
            await store.open_keys(database)
            recorders.append(Activity(database))
            stack.push_async_callback(recorders[-1].close)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds

        async def write(recorder: Activity) -> int:
            count = 0
            while loop.time() < until:
                await recorder.record(Event("user.created"))
                count += 1
            return count

        done = sum(await asyncio.gather(*(write(recorder) for recorder in recorders)))
    return Figure(
        f"the activity's chain alone, {writers} writer{'s' if writers > 1 else ''} of one event after the other",
        f"{done / seconds:.0f} commits/s",
        "every append succeeds",
        holds=True,  # otherwise `record` raised
    )


async def figures(scale: Scale) -> list[Figure]:
    """Add replicas one after another, with two kinds of exchange each; then measure the chain alone."""
    calls = 4000 if scale is Scale.FULL else 400
    found: list[Figure] = []
    async with postgres_server() as server:
        for replicas in (1, 2, 4):
            async with place(server, replicas=replicas) as where:
                for scope, what in (
                    ("channels:read chat:write", "a token that was released a moment ago"),
                    ("chat:write", "for a new handle"),
                ):
                    found.append(await measure(where, scope=scope, calls=calls // replicas, what=what))
                    print(f"  {found[-1].what}: {found[-1].measured}", file=sys.stderr, flush=True)
        for writers in (1, 4, 16):
            found.append(await chain(server, writers=writers, seconds=5.0 if scale is Scale.FULL else 1.0))
    return found
