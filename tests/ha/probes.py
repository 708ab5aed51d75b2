"""Whether PostgreSQL accepts writes, seen from PostgreSQL itself, and what vault replicas answer meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from tests.chaos.replicas.rolling_restart import Proxy, Replica, agent_token, configuration, one, proxy_before
from tests.chaos.world import Provider, World, open_world
from tests.conftest import Store
from tests.ha.pieces import Cluster, Node
from tests.support.processes import free_port
from vault.refusals import VaultError
from vault.storage.postgres_hosts import ERRORS

PEOPLE = ("ann", "ben")  # at every vault, with one account each
RATE = 10.0  # tool calls per second at every vault
EVERY = 0.1  # seconds between two writes of the probe
REFUSED = (
    "503",
    "Try again in",
    "temporarily",
    "storage",
    "Nothing is lost",
    "The account stays connected",
    "can't be asked for a new token right now",
    "retries automatically",
    "is rate limiting",
    "are being refreshed",
    "tokens are changing",
    "didn't finish in time. Nothing was changed",
)


@dataclass
class Probe:
    """Writes directly to each server, to measure the failover itself, without a vault."""

    cluster: Cluster
    written_at: list[float] = field(default_factory=list[float])

    async def watch(self, node: Node) -> None:
        connection: asyncpg.Connection | None = None
        while True:
            try:
                async with asyncio.timeout(2):
                    if connection is None or connection.is_closed():
                        connection = await asyncpg.connect(self.cluster.owner_url(node))
                    await connection.execute("update probe set number = number + 1")
                self.written_at.append(time.monotonic())
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError):
                if connection is not None:
                    connection.terminate()
                connection = None
            await asyncio.sleep(EVERY)

    def longest_gap(self, since: float) -> float:
        """The longest time in seconds without an accepted write."""
        times = [*sorted(at for at in self.written_at if at >= since - 1), time.monotonic()]
        return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)


@asynccontextmanager
async def probe(cluster: Cluster) -> AsyncGenerator[Probe]:
    """Run the probe during the block."""
    connection = await asyncpg.connect(cluster.owner_url(await cluster.primary()))
    await connection.execute("create table probe (number bigint)")
    await connection.execute("insert into probe values (0)")
    await connection.close()
    made = Probe(cluster)
    tasks = [asyncio.create_task(made.watch(node)) for node in cluster.nodes]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call: when it began (monotonic), how long it took, and its outcome."""

    began: float
    seconds: float
    outcome: str


@dataclass
class Vault:
    """One vault with two replicas, using one path to the database."""

    name: str
    worlds: list[World]
    proxy: Proxy
    tokens: list[str]
    calls: list[Call] = field(default_factory=list[Call])
    _running: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def call(self, number: int) -> Call:
        began = time.monotonic()
        outcome, seconds = await one(self.proxy, self.tokens[number % len(self.tokens)], number + 1)
        return Call(began, seconds, outcome)

    async def load(self) -> None:
        """Calls at a steady rate, whether or not the earlier ones have come back."""
        loop = asyncio.get_running_loop()
        first = loop.time()

        async def keep(number: int) -> None:
            self.calls.append(await self.call(number))

        for number in itertools.count():
            task = asyncio.create_task(keep(number))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            await asyncio.sleep(max(0.0, first + number / RATE - loop.time()))

    async def expire(self) -> None:
        """Expire all access tokens now, so that refreshes are in progress when the fault begins."""
        with suppress(VaultError, *ERRORS):
            await self.worlds[0].expire()

    def since(self, moment: float) -> list[Call]:
        return [call for call in self.calls if call.began >= moment]

    async def works(self, *, within: float) -> bool:
        """Whether every account can serve a call again soon."""
        for number in range(len(self.tokens)):
            try:
                async with asyncio.timeout(within):
                    while (await self.call(number)).outcome != "ok":
                        await asyncio.sleep(0.2)
            except TimeoutError:
                return False
        return True


def refused_for(calls: list[Call]) -> float:
    """Seconds from the start of the first refused call to the end of the last one."""
    bad = [call for call in calls if call.outcome != "ok"]
    return max(call.began + call.seconds for call in bad) - min(call.began for call in bad) if bad else 0.0


def outcomes(calls: list[Call]) -> Counter[str]:
    """How often each outcome occurred: ok, refused, or another text."""
    return Counter(
        call.outcome
        if call.outcome == "ok"
        else "refused"
        if any(word in call.outcome for word in REFUSED)
        else call.outcome
        for call in calls
    )


@asynccontextmanager
async def vault_at(cluster: Cluster, database: str, provider: Provider) -> AsyncGenerator[Vault]:
    """Two replicas, each with its own data directory as on two machines, and their accounts."""
    async with AsyncExitStack() as stack:
        folder = Path(cluster.folder / f"vault-{database}")
        folder.mkdir(mode=0o700)
        data = folder / "driver"
        data.mkdir(mode=0o700)
        store = Store(cluster.url(database), data)
        worlds = [await stack.enter_async_context(open_world(store, provider, person=name)) for name in PEOPLE]
        ports = [free_port(), free_port()]
        proxy = await stack.enter_async_context(proxy_before(ports))
        tokens = [await agent_token(world, proxy) for world in worlds]
        replicas = [Replica(folder / str(port), port) for port in ports]
        for replica in replicas:
            replica.data.mkdir(mode=0o700)
            shutil.copy2(data / "master.key", replica.data)
            (replica.data / "config.toml").write_text(configuration(provider, store.url, proxy, replica.port))
            stack.push_async_callback(replica.close)
        await asyncio.gather(*(replica.start(proxy) for replica in replicas))
        yield Vault(database, worlds, proxy, tokens)


def reasons(calls: list[Call], began: float) -> str:
    """For the log: each refusal's text, how often it was given, and when first and last."""
    found: dict[str, list[float]] = {}
    for call in calls:
        if call.outcome != "ok":
            found.setdefault(call.outcome, []).append(call.began + call.seconds - began)
    return "\n".join(
        f"    {len(times)} x {words}: after {min(times):.1f} to {max(times):.1f} s" for words, times in found.items()
    )
