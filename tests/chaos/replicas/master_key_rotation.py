"""The master key is rotated, and the former one is retired, while two servers serve many people under load.

On SQLite both are on one host and share the key file; on PostgreSQL each has a data directory and a key file of its
own, as on two hosts, and an operator copies the file.

A call that the vault refuses or answers wrongly is a fault regardless of the load. One that got no answer, or was told
to retry (429, 503), is a fault only if the machine had processor time left: a busy machine proves nothing, and the
figure says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.crowd import Crowd, open_crowd
from tests.chaos.figures import Figure, Scale, quantile
from tests.chaos.replicas.rolling_restart import (
    Proxy,
    Replica,
    configuration,
    mint_tokens,
    proxy_before,
    replicas_of,
    steady_calls,
)
from tests.chaos.world import ROOT, Provider, Server, environment, fresh_store, postgres_server, strict_provider
from tests.support.processes import free_port
from vault.storage.database import integer
from vault.upkeep.key_rotation import SETTLED

LIMIT = 350.0  # seconds, of both databases
PEOPLE = {Scale.FULL: 200, Scale.SMALL: 20}
ROUNDS = {Scale.FULL: 1, Scale.SMALL: 1}
RATE = {Scale.FULL: 20.0, Scale.SMALL: 5.0}
NEXT = 5.0  # seconds of load between two steps
BUSY = 1.5  # load average per core above which a slow call isn't our fault
LATE = frozenset({"TimeoutError", "ConnectionRefusedError", "ConnectionResetError", "429", "503"})


@dataclass
class Operator:
    """Run `token-vault keys` on the first host."""

    replicas: list[Replica]
    done: list[str] = field(default_factory=list[str])

    async def keys(self, *command: str) -> Any:
        first = self.replicas[0]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "token_vault", "keys", *command, "--data", str(first.data), "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
            env=environment() | first.variables,
        )  # fmt: skip
        out, error = await process.communicate()
        assert process.returncode == 0, f"keys {' '.join(command)}: {error.decode()[-300:]}"
        self.done.append(command[0])
        return json.loads(out)

    def copy_key_file(self) -> None:
        """Copy it to every other host."""
        for other in self.replicas[1:]:
            if other.data != self.replicas[0].data:
                shutil.copy2(self.replicas[0].data / "master.key", other.data / "master.key")

    async def rotate_once(self, crowd: Crowd) -> None:
        """Rotate as docs/operate/keys.md says, while all upstream tokens expire."""
        former = next(one["id"] for one in await self.keys("list") if one["state"] == "current")
        await self.keys("add")
        await asyncio.sleep(NEXT)
        self.copy_key_file()
        rotating = asyncio.create_task(self.keys("rotate", "--wait", "120"))
        await expire_all(crowd)
        await rotating
        await self.keys("rotate-signing")
        await asyncio.sleep(SETTLED + NEXT)
        await self.keys("retire", former)
        await expire_all(crowd)
        await asyncio.sleep(NEXT)


async def expire_all(crowd: Crowd) -> None:
    """Expire every upstream token now."""
    await crowd.provider.control("expire", face="slack")
    async with crowd.database.transaction() as transaction:
        await transaction.execute("update connections set access_expires_at = :now", {"now": crowd.database.now()})


@asynccontextmanager
async def on_one_host(provider: Provider, crowd: Crowd, proxy: Proxy) -> AsyncGenerator[list[Replica]]:
    """Two servers with the same data directory, each with its own settings file."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tvkeys"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        replicas: list[Replica] = []
        for port in proxy.ports:
            file = folder / f"{port}.toml"
            file.write_text(configuration(provider, crowd.store.url, proxy, port), encoding="utf-8")
            file.chmod(0o600)
            replicas.append(Replica(crowd.store.data, port, variables={"TOKEN_VAULT_CONFIG": str(file)}))
            stack.push_async_callback(replicas[-1].close)
        yield replicas


async def one_store(provider: Provider, server: Server | None, scale: Scale) -> Figure:
    """Rotate this many times under load; no call may fail, and nothing may stay encrypted with a former key."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        await crowd.add("slack", PEOPLE[scale])
        async with proxy_before([free_port(), free_port()]) as proxy:
            every, key = (
                await mint_tokens(crowd.database, store, proxy, [one.grant_id for one in crowd.members]),
                store.data / "master.key",
            )
            if server is None:
                hosts = on_one_host(provider, crowd, proxy)
            else:
                hosts = replicas_of(provider, store.url, proxy, key=key, ports=proxy.ports)
            async with hosts as replicas:
                operator = Operator(replicas)
                for replica in replicas:
                    await replica.start(proxy)
                async with steady_calls(proxy, *every, rate=RATE[scale]) as calls:
                    for _ in range(ROUNDS[scale]):
                        await operator.rotate_once(crowd)
                outcomes, load = await asyncio.gather(*calls), os.getloadavg()[0]
                masters = [one for one in await operator.keys("list") if one["kind"] == "master"]
        wrong = await _left_behind(crowd, masters)
    where = "SQLite, one host" if server is None else "PostgreSQL, two hosts"
    failures = Counter(outcome for outcome, _ in outcomes if outcome != "ok")
    slow = quantile([seconds for _, seconds in outcomes], 0.99) * 1000
    said, faults = judge(failures, load=load, cores=os.cpu_count() or 1)
    return Figure(
        f"master key rotated and the former retired {ROUNDS[scale]} times, signing key too, {PEOPLE[scale]} people at"
        f" {RATE[scale]:.0f} calls/s on 2 servers: {where}",
        "; ".join([f"{failures.total()} of {len(outcomes)} calls fail{said}, p99 {slow:.0f} ms", *wrong]),
        "0 fail, all keys under the newest",
        holds=faults == 0 and not wrong,
    )


def is_late(kind: str) -> bool:
    """Whether a failed call got no answer in time, or was told to retry; tools say it in words."""
    return kind in LATE or "Try again in" in kind


def judge(failures: Counter[str], *, load: float, cores: int) -> tuple[str, int]:
    """What to say about calls that failed, by kind, and how many of them are faults; `load` is the machine's."""
    if not failures:
        return "", 0
    kinds = ", ".join(f"{count} x {kind[:80]}" for kind, count in failures.most_common(5))
    is_busy = load > BUSY * cores
    faults = sum(count for kind, count in failures.items() if not (is_busy and is_late(kind)))
    doubt = f"; not judged at load {load:.0f} on {cores} cores" if is_busy and faults < failures.total() else ""
    return f" ({kinds}{doubt})", faults


async def _left_behind(crowd: Crowd, masters: list[dict[str, Any]]) -> list[str]:
    states = sorted(str(one["state"]) for one in masters)
    wrong = [] if states == ["current", *["retired"] * (len(states) - 1)] and len(states) > 1 else [f"keys: {states}"]
    row = await crowd.database.fetch_one(
        "select count(*) as n, count(distinct kek_id) as d from keys.user_keys where user_id in (select id from users)"
    )
    if row is None or (integer(row, "n"), integer(row, "d")) != (len(crowd.members), 1):
        wrong.append(f"people's keys: {row}")
    twice = await crowd.spent_twice()
    return wrong + ([f"{twice} spent tokens presented"] if twice else [])


async def figures(scale: Scale) -> list[Figure]:
    """Run both databases at once, each with its own provider, because most of the time is waiting."""

    async def one(server: Server | None) -> Figure:
        async with strict_provider() as provider:
            return await one_store(provider, server, scale)

    async with postgres_server() as server:
        return list(await asyncio.gather(one(None), one(server)))
