"""Two servers on one database are upgraded to the next release under load: no call fails.

The earlier release is its wheel in `tests/data/releases`, unpacked. The rows were written by the code under test and
are copied table by table, as far as the earlier schema has the columns.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

from tests.chaos.figures import Figure
from tests.chaos.replicas.rolling_restart import (
    Proxy,
    Replica,
    agent_token,
    proxy_before,
    replicas_of,
    steady_calls,
    tally,
)
from tests.chaos.world import ROOT, Provider, environment, fresh_store, open_world
from tests.conftest import Store
from tests.support.processes import free_port
from vault.storage.snapshots import snapshot, tables

RELEASES = Path(__file__).parents[2] / "data" / "releases"
SETTLED = 1.0  # seconds of load between two restarts

FIRST_START = """
import asyncio, sys
from pathlib import Path
from vault.database import open_database  # where 0.1.0 had it
async def main():
    database = await open_database(sys.argv[1], data=Path(sys.argv[2]))
    await database.close()
asyncio.run(main())
"""


@asynccontextmanager
async def release(version: str) -> AsyncGenerator[Path]:
    """The folder with the code of an earlier release."""
    with tempfile.TemporaryDirectory(prefix="tvrelease") as folder:
        with zipfile.ZipFile(RELEASES / f"mcp_token_vault-{version}-py3-none-any.whl") as wheel:
            wheel.extractall(folder)
        yield Path(folder)


async def open_with(code: Path, store: Store) -> int:
    """Run a program with this code against the database; return its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FIRST_START, store.url, str(store.data),
        cwd=code, env=environment(), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(60):
        return await process.wait()


async def copy_rows(source: Store, target: Store) -> None:
    """Copy every row, without the columns that the target doesn't have."""
    async with snapshot(source.url, data=source.data) as seen:
        for table in tables():
            async for page in seen.rows(table):
                rows = [dict(row) for row in page]
                if target.is_sqlite:
                    _into_sqlite(target, table, rows)
                else:
                    await _into_postgres(target, table, rows)


def _into_sqlite(target: Store, table: str, rows: Sequence[dict[str, object]]) -> None:
    store, _, name = table.rpartition(".")
    with closing(sqlite3.connect(target.data / ("keys.sqlite" if store else "vault.sqlite"))) as connection, connection:
        known = [column[1] for column in connection.execute(f"pragma table_info({name})")]
        if known:
            marks = ", ".join("?" for _ in known)
            values = [[row[column] for column in known] for row in rows]
            connection.executemany(f"insert into {name} ({', '.join(known)}) values ({marks})", values)


async def _into_postgres(target: Store, table: str, rows: Sequence[dict[str, object]]) -> None:
    import asyncpg

    schema, _, name = table.rpartition(".")
    connection = await asyncpg.connect(target.url)
    try:
        found = await connection.fetch(
            "select column_name from information_schema.columns where table_name = $1 and table_schema = $2",
            name,
            schema or "public",
        )
        known = [row["column_name"] for row in found]
        if known:
            marks = ", ".join(f"${number + 1}" for number in range(len(known)))
            values = [[row[column] for column in known] for row in rows]
            await connection.executemany(f"insert into {table} ({', '.join(known)}) values ({marks})", values)
    finally:
        await connection.close()


async def _start(replica: Replica, code: Path, proxy: Proxy, *, settings: str) -> None:
    """Start the server with the code of a release, without the addresses of Google APIs that it doesn't know."""
    section = "[providers.google.apis]\n"
    before, _, rest = settings.partition(section)
    addresses, *others = rest.split("\n[")
    (facts,) = (code / "providers").glob("[fs]*es/google.toml")  # 0.1.0 had the services in `files`
    known = tomllib.loads(facts.read_text("utf-8"))["apis"]
    kept = "\n".join(one for one in addresses.splitlines() if one.partition(" = ")[0] in known)
    (replica.data / "config.toml").write_text(before + section + "\n[".join([kept, *others]))
    replica.code = code
    await replica.start(proxy)


async def upgrade_in_turn(store: Store, provider: Provider, *, version: str, rate: float) -> Figure:
    """A server with the new code starts next to one with the old code, which restarts and is then upgraded too.

    The token expires at each step.
    """
    ports = [free_port(), free_port()]
    async with (
        release(version) as old,
        proxy_before(ports) as proxy,
        fresh_store(None) as seeded,
        open_world(seeded, provider) as made,
    ):
        token, key = await agent_token(made, proxy), seeded.data / "master.key"
        assert await open_with(old, store) == 0
        await copy_rows(seeded, store)
        async with replicas_of(provider, store.url, proxy, key=key, ports=ports) as replicas:
            settings = (replicas[0].data / "config.toml").read_text()
            await _start(replicas[0], old, proxy, settings=settings)
            async with steady_calls(proxy, token, rate=rate) as calls:
                await asyncio.sleep(SETTLED)
                await replicas[1].start(proxy)  # upgrades the schema while the old one runs
                database = await store.open()
                try:
                    world = replace(made, store=store, database=database)
                    for code in (old, ROOT):  # the old one also starts on the newer schema
                        await world.expire()
                        await replicas[0].stop()
                        await _start(replicas[0], code, proxy, settings=settings)
                    await world.expire()
                    await asyncio.sleep(SETTLED)
                finally:
                    await database.close()
            count, failed, slow = await tally(calls)
        twice, refreshes = await made.spent_twice(), len(await provider.refreshes())
    where = "SQLite" if store.is_sqlite else "PostgreSQL"
    return Figure(
        f"from {version} to this release under {rate:.0f} calls/s, {where}",
        f"{failed} of {count} calls fail, p99 {slow:.0f} ms; {refreshes} refreshes, {twice} spent tokens presented",
        "0 fail, 0 spent",
        failed == 0 and twice == 0 and refreshes >= 3,
    )
