"""What `make bench` measures besides calls, people, telemetry, rules, and starts; then one table of every gate.

    python -m tests.bench.goals [--rounds N] [--calls N]
    python -m tests.bench.goals --table FILE

Calls compared with other servers, at a steady pace, with one tool, and with a token on its first use; events that
callers wait for; replicas on one PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from server.app import open_deployment
from tests.bench.calls import raw
from tests.bench.load import request_bytes, send_at
from tests.bench.rounds import Pair, Way, compare
from tests.bench.servers.contenders import (
    LOAD_CORE,
    SERVER_CORE,
    Contender,
    add_to,
    ending,
    free_port,
    start,
    start_bare,
    start_gateway,
    start_upstream,
    start_vault,
    wait_for,
)
from tests.bench.servers.vault import TOKENS, TOOLS, settings_of
from tests.bench.tables import Row, gate, keep, p99_ms, print_ratios, table_heading
from tests.ha import throughput
from vault.audit import audit
from vault.records import Event

WAITING = 50  # callers who wait for their event at the same time
PACE = 100  # calls a second
ONE_TOOL = "the same vault with one tool"


@contextmanager
def set_variable(name: str, value: str) -> Generator[None]:
    """Set an environment variable for the contenders that start in the block."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def way(contender: Contender, tokens: Sequence[str | None]) -> Way:
    """Calls with these tokens in turn."""
    turns = itertools.cycle(tokens)
    return raw(contender, lambda number: request_bytes(contender.port, number, token=next(turns)))


def over_rest(gateway: Contender) -> Callable[[int], bytes]:
    """Calls to the gateway's tool, by number: MCP 2025-11-25 without a session."""
    lines = (
        "POST /mcp HTTP/1.1",
        f"Host: 127.0.0.1:{gateway.port}",
        f"Authorization: Bearer {gateway.token}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "MCP-Protocol-Version: 2025-11-25",
    )

    def make(number: int) -> bytes:
        parameters = {"name": "slack-post", "arguments": {"channel": "general", "text": "hi"}}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": parameters}
        body = json.dumps(message).encode()
        return ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode() + body

    return make


def start_tokens(contender: Contender) -> list[str]:
    """Read the tokens that a vault printed."""
    return (contender.token or "").split()


async def neighbors(folder: Path, *, rounds: int, calls: int) -> tuple[Mapping[str, Row], dict[str, list[float]]]:
    """Measure the same call at other servers and other vaults; return how long paced calls took, bare and ours."""
    with ending() as running:
        upstream = start_upstream(running)

        def other(module: str, *arguments: str, has_token: bool = False) -> Contender:
            port = free_port()
            process = start(module, str(port), str(upstream), *arguments, core=SERVER_CORE)
            running.append(process)
            assert process.stdout is not None
            token = process.stdout.readline().strip() if has_token else None
            return Contender(module, process, port, token)

        bare, vault = add_to(running, start_bare(upstream)), add_to(running, start_vault(folder, upstream))
        with set_variable(TOOLS, "slack_post"):
            (folder / "one").mkdir()
            one = add_to(running, start_vault(folder / "one", upstream))
        with set_variable(TOKENS, str((rounds + 1) * max(calls, 400) + 8)):
            (folder / "many").mkdir()
            many = add_to(running, start_vault(folder / "many", upstream))
        floor = other("tests.bench.servers.floor", str(folder), has_token=True)
        with set_variable("FASTMCP_HOME", str(folder / "fastmcp")):
            memory, shipped = (
                other("tests.bench.servers.oauth_proxy", store, has_token=True) for store in ("memory", "files")
            )
        gateway = add_to(running, start_gateway(folder / "gateway", upstream))
        for contender in (bare, vault, one, many, floor, memory, shipped, gateway):
            wait_for(contender.port, contender.process)
        plain, ours = way(bare, [None]), way(vault, [vault.token])
        pairs = {
            "bare MCP server, new token each call": Pair(plain, way(many, start_tokens(many)), 1.75),
            "ASGI application, same chain": Pair(way(floor, [floor.token]), ours, 3.0),
            "FastMCP OAuthProxy, in memory": Pair(way(memory, [memory.token]), ours, 0.55),
            "FastMCP OAuthProxy, as shipped": Pair(way(shipped, [shipped.token]), ours, 0.20),
            "ContextForge, tool over REST": Pair(raw(gateway, over_rest(gateway)), ours, 0.06),
            ONE_TOOL: Pair(way(one, [one.token]), ours, 1.25),
        }
        found = await compare(pairs, rounds=rounds, calls=calls)
        paced: dict[str, list[float]] = {"bare": [], "vault": []}
        for number in range(2 * rounds):
            name, contender = (("bare", bare), ("vault", vault))[number % 2]
            paced[name] += await send_at(contender.port, pace=PACE, calls=2 * PACE, token=contender.token)
        return found, paced


async def durable_events(folder: Path, *, calls: int) -> float:
    """Measure events per second that many callers wait for, compared with one commit for each."""
    async with open_deployment(settings_of(free_port(), free_port()), data=folder) as deployment:
        activity, database = deployment.activity, deployment.database
        event = Event("tool.called", outcome="ok")

        async def record(count: int) -> None:
            for _ in range(count):
                await activity.record(event)

        async def commit(count: int) -> None:
            for _ in range(count):
                async with database.transaction() as transaction:
                    await audit.append(transaction, event, now=deployment.now())

        await asyncio.gather(*(record(10) for _ in range(WAITING)))
        began = time.perf_counter()
        await asyncio.gather(*(record(calls // WAITING) for _ in range(WAITING)))
        together, began = time.perf_counter() - began, time.perf_counter()
        await commit(calls // 10)
        return (time.perf_counter() - began) * 10 / together


async def replicas(*, calls: int) -> Row:
    """Measure the vault's CPU us per exchange with one replica and with two, on one PostgreSQL."""
    costs: list[float] = []
    async with throughput.postgres_server() as server:
        for count in (1, 2):
            async with throughput.place(server, replicas=count) as place:
                found = await throughput.cost(place, scope="channels:read chat:write", calls=calls // count)
                costs.append(found.vault_us)
    return Row(1.15, [(costs[0], costs[1])])


def print_goals(file: Path) -> None:
    """Print every figure that has a gate, from all parts of `make bench`."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    print(table_heading("Every gate"))
    for row in rows:
        figure = f"{row['figure']:.2f} {row['unit']}"
        print(f"{row['name']:<70}{figure:>12}   {gate(row['figure'], row['wanted'])}")
    held = sum(row["figure"] <= row["wanted"] for row in rows)
    print(f"\n{held} of {len(rows)} held")


async def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, or print the stored figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.goals", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400, help="calls per server, row, and round")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print what the parts of make bench kept")
    options = parser.parse_args(arguments)
    if options.table is not None:
        print_goals(options.table)
        return
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        found, paced = await neighbors(Path(name), rounds=options.rounds, calls=options.calls)
        rate = await durable_events(Path(name) / "events", calls=5000)
    print_ratios(f"A call: CPU us, SQLite; {options.rounds} rounds of {options.calls}, 8 in flight", found)
    slowest = {one: (statistics.median(took) * 1e3, p99_ms(took)) for one, took in paced.items()}
    eight = found[ONE_TOOL].seconds[1]
    goals = {
        f"{PACE} calls a second: median over the bare server's": (slowest["vault"][0] - slowest["bare"][0], 0.8, "ms"),
        f"{PACE} calls a second: p99 over the bare server's": (slowest["vault"][1] - slowest["bare"][1], 3.0, "ms"),
        "8 calls in flight: p99 over the median": (p99_ms(eight) / statistics.median(eight) / 1e3, 4.0, "x"),
        f"{WAITING} callers who wait for their event: time over a commit for each": (1 / rate, 1 / 8, "x"),
    }
    print(table_heading("Latency and durable events"))
    for what, (figure, wanted, unit) in goals.items():
        print(f"{what:<70}{figure:>8.2f} {unit}   {gate(figure, wanted)}")
        keep(what, figure, wanted, unit)
    both = {"an exchange on PostgreSQL": await replicas(calls=8 * options.calls)}
    print_ratios("Replicas: vault's CPU us per exchange", both, columns=("1", "2"))


if __name__ == "__main__":
    asyncio.run(main())
