"""Drives the contenders in turn, and prints CPU per call, ratios, and where our time goes.

    python -m tests.bench [proxy] [--rounds N] [--calls N] [--json]

With `proxy` the calls go through the vault's proxy, beside a bare pass-through proxy. The load and the upstream run on
the last core, the server under test on the first. A ratio is taken within its round; the median is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.bench import where
from tests.bench.load import Run, drive, proxied_bytes

CONNECTIONS = 8
CORES = sorted(os.sched_getaffinity(0))


@dataclass
class Contender:
    """One server under test."""

    name: str
    process: subprocess.Popen[str]
    port: int
    token: str | None = None
    path: str | None = None  # of a proxy; None: an MCP server

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far (schedstat, nanoseconds)."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return total / 1e9

    def main_thread_seconds(self) -> float:
        """CPU time of its main thread so far."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat")
        return int(path.read_text(encoding="ascii").split()[0]) / 1e9

    def memory_mb(self) -> float:
        """Proportional set size in MB."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(module: str, *arguments: str, core: int, counts: Path | None = None) -> subprocess.Popen[str]:
    """Start `python -m module` on one core; with `counts` it is one whose time is taken apart."""
    return subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | ({} if counts is None else {where.VARIABLE: str(counts)}),
    )


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until something listens, at most 30 s."""
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"a contender ended with code {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("a contender did not start within 30 s")


def start_fast(folder: Path, upstream: int, *, core: int) -> Contender:
    """FastMCP with a key pair made for this run."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = folder / "public.pem"
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    now = int(time.time())
    claims = {"iss": "bench", "aud": "bench", "sub": "person", "client_id": "agent", "iat": now, "exp": now + 3600}
    token = jwt.encode({"alg": "RS256"}, claims, RSAKey.import_key(private))
    port = free_port()
    process = start("tests.bench.fast", str(port), str(upstream), str(public), "bench", "bench", core=core)
    return Contender("FastMCP + JWTVerifier", process, port, token)


def start_bare(upstream: int, *, core: int, counts: Path | None = None) -> Contender:
    """The SDK's server alone."""
    port = free_port()
    return Contender(
        "bare MCP server", start("tests.bench.bare", str(port), str(upstream), core=core, counts=counts), port
    )


def start_vault(
    folder: Path, upstream: int, *, core: int, counts: Path | None = None, is_proxy: bool = False
) -> Contender:
    """This server."""
    port = free_port()
    process = start("tests.bench.vaulted", str(port), str(upstream), str(folder / "data"), core=core, counts=counts)
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    if not token:
        raise SystemExit("the vault did not start: run python -m tests.bench.vaulted PORT UPSTREAM DIR to see why")
    path, handle = process.stdout.readline().split() if is_proxy else (None, token)
    return Contender("token vault", process, port, handle, path)


def start_passing(upstream: int, *, core: int, counts: Path | None = None) -> Contender:
    """The bare proxy."""
    port = free_port()
    process = start("tests.bench.passing", str(port), str(upstream), core=core, counts=counts)
    return Contender("bare pass-through proxy", process, port, "any", "/proxy/x/web")


async def load(contender: Contender, calls: int) -> Run:
    """Drive it with the calls that it is for."""
    path = contender.path
    if path is None:
        return await drive(contender.port, connections=CONNECTIONS, calls=calls, token=contender.token)
    request = proxied_bytes(contender.port, path, token=contender.token or "")
    return await drive(contender.port, connections=CONNECTIONS, calls=calls, token=None, make=lambda _: request)


async def measure(contender: Contender, calls: int) -> tuple[float, float, float]:
    """(CPU us per call, calls per second, p99 ms) of one round."""
    before = contender.cpu_seconds()
    run = await load(contender, calls)
    used = contender.cpu_seconds() - before
    done = len(run.latencies)
    return used / done * 1e6, done / run.seconds, sorted(run.latencies)[int(done * 0.99)] * 1e3


async def take_apart(contender: Contender, counts: Path, calls: int) -> dict[str, float]:
    """CPU us per call by package, and of all threads but the main one together."""
    wait_for(contender.port, contender.process)
    await measure(contender, 400)
    contender.process.send_signal(signal.SIGUSR1)
    before, before_main = contender.cpu_seconds(), contender.main_thread_seconds()
    run = await load(contender, calls)
    used, used_main = contender.cpu_seconds() - before, contender.main_thread_seconds() - before_main
    contender.process.send_signal(signal.SIGUSR1)
    for _ in range(100):
        if counts.exists() and counts.stat().st_size:
            break
        await asyncio.sleep(0.05)
    found: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    done, samples = len(run.latencies), sum(found.values())
    parts = {name: used_main / done * 1e6 * count / samples for name, count in found.items()}
    return parts | {"database thread": (used - used_main) / done * 1e6}


def print_where(parts: dict[str, dict[str, float]]) -> None:
    """One row per package, one column per server."""
    print(
        "\nWhere the time goes, CPU us per call (samples of other runs; the standard library counts for its caller)\n"
    )
    print(f"{'':<18}" + "".join(f"{server:>18}" for server in parts))
    names = {name for found in parts.values() for name in found}
    for name in sorted(names, key=lambda name: -max(found.get(name, 0) for found in parts.values())):
        print(f"{name:<18}" + "".join(f"{found.get(name, 0):>18.0f}" for found in parts.values()))


def report(rows: dict[str, list[tuple[float, float, float]]], ours: str) -> dict[str, object]:
    """Medians and ratios."""
    out: dict[str, object] = {}
    for name, rounds in rows.items():
        ratios = [mine[0] / other[0] for mine, other in zip(rows[ours], rounds, strict=True)]
        out[name] = {
            "cpu_us": round(statistics.median(one[0] for one in rounds)),
            "calls_per_second": round(statistics.median(one[1] for one in rounds)),
            "p99_ms": round(statistics.median(one[2] for one in rounds), 1),
            "ours_over_this": round(statistics.median(ratios), 2),
            "ours_over_this_min_max": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return out


async def compare(
    folder: Path, upstream: int, processes: list[subprocess.Popen[str]], *, core: int, calls: int, is_proxy: bool
) -> dict[str, dict[str, float]]:
    """Take the bare server and ours apart, in processes of their own: counting costs time."""
    parts: dict[str, dict[str, float]] = {}
    bare_counts, our_counts, own = folder / "bare.json", folder / "ours.json", folder / "apart"
    own.mkdir()
    bare = (start_passing if is_proxy else start_bare)(upstream, core=core, counts=bare_counts)
    processes.append(bare.process)
    ours = start_vault(own, upstream, core=core, counts=our_counts, is_proxy=is_proxy)
    processes.append(ours.process)
    for contender, counts in ((bare, bare_counts), (ours, our_counts)):
        parts[contender.name] = await take_apart(contender, counts, calls)
    return parts


async def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["tools", "proxy"], default="tools")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="calls per contender and round")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    is_proxy = chosen.what == "proxy"
    load_core, server_core = CORES[-1], CORES[0]
    os.sched_setaffinity(0, {load_core})
    upstream = free_port()
    processes = [start("tests.bench.upstream", str(upstream), core=load_core)]
    try:
        with tempfile.TemporaryDirectory() as name:
            wait_for(upstream, processes[0])
            contenders = [(start_passing if is_proxy else start_bare)(upstream, core=server_core)]
            if not is_proxy:
                contenders.append(start_fast(Path(name), upstream, core=server_core))
            ours = start_vault(Path(name), upstream, core=server_core, is_proxy=is_proxy)
            contenders.append(ours)
            processes += [contender.process for contender in contenders]
            for contender in contenders:
                wait_for(contender.port, contender.process)
                await measure(contender, 400)
            rows: dict[str, list[tuple[float, float, float]]] = {contender.name: [] for contender in contenders}
            for number in range(chosen.rounds):
                turn = number % len(contenders)
                for contender in contenders[turn:] + contenders[:turn]:
                    rows[contender.name].append(await measure(contender, chosen.calls))
            memory = {contender.name: round(contender.memory_mb()) for contender in contenders}
            where_it_goes = await compare(
                Path(name), upstream, processes, core=server_core, calls=2 * chosen.calls, is_proxy=is_proxy
            )
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    result = report(rows, ours.name)
    if chosen.json:
        print(json.dumps({"contenders": result, "memory_mb": memory, "where": where_it_goes}, indent=2))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {len(CORES)} cores, SQLite,")
    kind = "through the proxy" if is_proxy else "MCP 2026-07-28, JSON answers"
    print(f"{chosen.rounds} rounds of {chosen.calls} calls over {CONNECTIONS} connections, {kind}\n")
    print(f"{'server':<24}{'CPU us/call':>12}{'calls/s':>9}{'p99 ms':>8}{'MB':>6}   ours over this (min-max)")
    for name, facts in result.items():
        assert isinstance(facts, dict)
        low, high = facts["ours_over_this_min_max"]
        print(
            f"{name:<24}{facts['cpu_us']:>12}{facts['calls_per_second']:>9}{facts['p99_ms']:>8}{memory[name]:>6}"
            f"   {facts['ours_over_this']}x ({low}-{high})"
        )
    print_where(where_it_goes)


if __name__ == "__main__":
    asyncio.run(main())
