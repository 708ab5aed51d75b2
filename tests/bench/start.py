"""Compares how long a start takes, and what a started process holds, with the bare MCP server's.

    python -m tests.bench.start [--rounds N]

Over stdio: from the start of the process to its list of tools. Over HTTP: to the first answer. Both contenders start
in turn on the first core, the vault on a data directory that is there already; a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.__main__ import CORES, free_port
from tests.bench.eras import HANDSHAKE

REST = 3.0  # seconds after which memory is read
Figures = dict[str, float]


def run(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """`python -m` these, on the first core."""
    return subprocess.Popen(
        ["taskset", "-c", str(CORES[0]), sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def resident_mb(pid: int) -> float:
    """Resident memory, shared pages included."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024


def list_over_stdio(arguments: Sequence[str]) -> Figures:
    """Seconds and CPU seconds to the list, MB some time later."""
    started = time.perf_counter()
    process = run(arguments)
    assert process.stdin is not None
    assert process.stdout is not None
    params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    messages: list[dict[str, object]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    for message in messages:
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        if message.get("id") == 1:
            process.stdout.readline()
    if b'"slack_post"' not in process.stdout.readline():
        raise SystemExit(f"no list from {arguments}")
    found = {"to the list, s": time.perf_counter() - started, "CPU to the list, s": cpu_seconds(process.pid)}
    time.sleep(REST)
    found["resident after it, MB"] = resident_mb(process.pid)
    process.stdin.close()
    process.wait(30)
    return found


def answer_over_http(arguments: Sequence[str], port: int, path: str) -> Figures:
    """Seconds and CPU seconds to the first answer."""
    started = time.perf_counter()
    process = run(arguments)
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": f"localhost:{port}"})
            connection.getresponse().read()
            break
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"{arguments} ended") from None
            time.sleep(0.01)
    found = {"serve: to an answer, s": time.perf_counter() - started, "serve: CPU, s": cpu_seconds(process.pid)}
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    return found


def compare(contenders: Sequence[Callable[[], Figures]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Each figure of both, by round; the first round only warms up."""
    found: dict[str, list[tuple[float, float]]] = {}
    for number in range(-1, rounds):
        turn = list(enumerate(contenders))[:: 1 if number % 2 else -1]
        figures = {place: contender() for place, contender in turn}
        for name in figures[0] if number >= 0 else ():
            found.setdefault(name, []).append((figures[0][name], figures[1][name]))
    return found


def main() -> None:
    """Start both again and again, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.sched_setaffinity(0, {CORES[-1]})
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        data = ["--data", str(Path(folder) / "data")]
        pipes = compare(
            [
                lambda: list_over_stdio(["tests.bench.bare", "0", "1", "stdio"]),
                lambda: list_over_stdio(["token_vault", "stdio", "--client", "bench", "--no-browser", *data]),
            ],
            rounds,
        )
        served = compare(
            [
                lambda: answer_over_http(["tests.bench.bare", str(port), "1"], port, "/mcp"),
                lambda: answer_over_http(["token_vault", "serve", "--port", str(port), *data], port, "/healthz"),
            ],
            rounds,
        )
    print(f"load {os.getloadavg()[0]:.0f}; {rounds} rounds\n")
    print(f"{'':<28}{'bare':>9}{'vault':>9}   vault over bare (min-max)")
    for name, each in {**pipes, **served}.items():
        ratios = [ours / theirs for theirs, ours in each]
        theirs, ours = (statistics.median(one[place] for one in each) for place in (0, 1))
        print(
            f"{name:<28}{theirs:>9.2f}{ours:>9.2f}   "
            f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
