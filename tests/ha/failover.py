"""Failovers of PostgreSQL under tool calls and refreshes: no token is used twice or lost, and refusals are brief."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.chaos.figures import Figure, Scale
from tests.chaos.world import Provider, strict_provider
from tests.ha.pieces import DATABASES, Cluster, cluster
from tests.ha.probes import Probe, Vault, outcomes, probe, reasons, refused_for, vault_at

LIMIT = 1500.0  # seconds for all of them
SPARE = 5.0  # seconds for which calls may be refused in addition to the failover itself
BEFORE, AFTER = 5.0, 15.0  # seconds of calls around a fault
PROVIDER = 0.3  # seconds that the provider takes for a refresh
LIFE = 5  # seconds of an access token
WAYS = {"hosts": "two hosts in the URL", "proxied": "HAProxy", "pooled": "PgBouncer, HAProxy"}

Fault = Callable[[Cluster], Awaitable[None]]


async def switch_over(cluster: Cluster) -> None:
    """The operator requests a failover."""
    await cluster.switch_over()


async def kill_primary(cluster: Cluster) -> None:
    """The server's postmaster is killed; Patroni keeps running and decides what to do."""
    (await cluster.primary()).signal_postgres(signal.SIGKILL, whole=False)
    await asyncio.sleep(5)


async def kill_machine(cluster: Cluster) -> None:
    """The primary and its Patroni are killed, as if their machine had failed; they return a minute later."""
    node = await cluster.primary()
    await node.end()
    await asyncio.sleep(45)
    await node.patroni.start()


async def partition(cluster: Cluster) -> None:
    """The primary and its Patroni are stopped for 45 s, then continue as if still the primary."""
    node = await cluster.primary()
    stopped = [process.pid for process in node.postgres()]
    os.kill(node.patroni.pid, signal.SIGSTOP)
    node.signal_postgres(signal.SIGSTOP)
    try:
        await asyncio.sleep(45)
    finally:
        for pid in (*stopped, node.patroni.pid):
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


async def freeze_server(cluster: Cluster) -> None:
    """Only the primary's own processes are stopped for 45 s; Patroni keeps running and sees no answer."""
    node = await cluster.primary()
    stopped = [process.pid for process in node.postgres()]
    node.signal_postgres(signal.SIGSTOP)
    try:
        await asyncio.sleep(45)
    finally:
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


async def lose_both(cluster: Cluster) -> None:
    """Both servers and their Patronis are killed and return after 75 s, longer than any lease."""
    for node in cluster.nodes:
        await node.end()
    await asyncio.sleep(75)
    for node in cluster.nodes:
        await node.patroni.start()


async def restart_pgbouncer(cluster: Cluster) -> None:
    """It is killed, and started a second later."""
    await cluster.pgbouncer.kill()
    await asyncio.sleep(1)
    await cluster.pgbouncer.start()


async def restart_haproxy(cluster: Cluster) -> None:
    """Killed, and started a second later."""
    await cluster.haproxy.kill()
    await asyncio.sleep(1)
    await cluster.haproxy.start()


FAULTS: dict[str, tuple[str, Fault, float]] = {  # name, fault, how long the path is down if PostgreSQL stays up
    "switch": ("planned switch-over", switch_over, 0.0),
    "kill": ("`kill -9` of the primary's postmaster", kill_primary, 0.0),
    "machine": ("`kill -9` of the primary and its Patroni", kill_machine, 0.0),
    "partition": ("primary and its Patroni stopped for 45 s", partition, 0.0),
    "freeze": ("only the primary stopped for 45 s", freeze_server, 0.0),
    "both": ("both servers gone for 75 s", lose_both, 0.0),
    "pgbouncer": ("PgBouncer killed and restarted", restart_pgbouncer, 1.0),
    "haproxy": ("HAProxy killed and restarted", restart_haproxy, 1.0),
}


async def strike(name: str, cluster: Cluster, vaults: list[Vault], provider: Provider, *, probe: Probe) -> list[Figure]:
    """Cause one fault under the load of all vaults; return what happened to each."""
    what, fault, away = FAULTS[name]
    await cluster.healthy(within=180)
    refreshes, began = len(await provider.refreshes()), time.monotonic()
    loads = [asyncio.create_task(vault.load()) for vault in vaults]
    try:
        await asyncio.sleep(BEFORE)
        await asyncio.gather(*(vault.expire() for vault in vaults))
        await asyncio.sleep(PROVIDER / 2)
        await fault(cluster)
        await cluster.healthy(within=180)
        await asyncio.sleep(AFTER)
    finally:
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
    own = max(probe.longest_gap(began), away)
    works = [await vault.works(within=30) for vault in vaults]
    books = await provider.refreshes()
    presented = [(one["family"], one["token_generation"]) for one in books if one["family"] is not None]
    twice = len(presented) - len(set(presented))
    return [
        _figure(what, vault, since=began, own=own, works=works[number], twice=twice, refreshes=len(books) - refreshes)
        for number, vault in enumerate(vaults)
    ]


def _figure(what: str, vault: Vault, *, since: float, own: float, works: bool, twice: int, refreshes: int) -> Figure:
    calls = vault.since(since)
    counted, refused = outcomes(calls), refused_for(calls)
    foreign = set(counted) - {"ok", "refused"}
    holds = refused <= own + SPARE and twice == 0 and works and counted["ok"] > 0 and not foreign
    if not holds:
        print(f"{what}, {vault.name}:\n{reasons(calls, since)}", file=sys.stderr)
    lost = "0 accounts lost" if works else "**accounts do not work**"
    other = f", {sum(counted[one] for one in foreign)} other" if foreign else ""
    return Figure(
        f"{what}: {WAYS[vault.name]}",
        f"no write for {own:.1f} s, calls refused for {refused:.1f} s ({counted['ok']} ok, {counted['refused']} refused"
        f"{other}); {twice} spent tokens presented in {refreshes} refreshes, {lost}",
        f"refused for at most {SPARE:.0f} s more; 0 spent, 0 lost",
        holds,
    )


async def figures(scale: Scale, names: list[str] | None = None) -> list[Figure]:
    """Cause all faults one after another, with a vault on each path to the database."""
    chosen = names or (list(FAULTS) if scale is Scale.FULL else ["switch", "pgbouncer"])
    found: list[Figure] = []
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(cluster())
        provider = await stack.enter_async_context(strict_provider())
        await provider.control("lifetimes", face="slack", access=LIFE)
        await provider.control("faults", endpoint="slack.token.refresh", kind="slow", seconds=PROVIDER, times=None)
        vaults = [await stack.enter_async_context(vault_at(made, name, provider)) for name in DATABASES]
        watched = await stack.enter_async_context(probe(made))
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found += await strike(name, made, vaults, provider, probe=watched)
            for figure in found[-len(vaults) :]:
                print(f"  {figure.what}: {figure.measured}", file=sys.stderr, flush=True)
    return found
