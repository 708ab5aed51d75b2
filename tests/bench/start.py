"""Compare how long a start takes, and how much memory a started process uses, with the bare MCP server.

    python -m tests.bench.start [--rounds N]

Over stdio: from the start of the process to its list of tools. Over HTTP: to the first answers. Both contenders start
in turn on the first core, the vault on an existing data directory; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from server.app import open_deployment
from server.settings import load_settings
from tests.bench.messages import INITIALIZE, READY, request
from tests.bench.servers.contenders import LOAD_CORE, SERVER_CORE, cpu_seconds, free_port, memory_mb
from tests.bench.servers.vault import seed
from tests.bench.tables import Row, print_ratios

WANTED, WANTED_MEMORY = 1.3, 1.25
ACCEPTED = "application/json, text/event-stream"
REST = 3.0  # seconds before memory is read
Figures = dict[str, float]


def run(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Run `python -m` on the first core; the first start caches compiled modules, which an installed package has."""
    return subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )


def list_over_stdio(arguments: Sequence[str]) -> Figures:
    """Measure seconds and CPU seconds to the list, and MB some time later."""
    started = time.perf_counter()
    process = run(arguments)
    assert process.stdin is not None
    assert process.stdout is not None
    for message in (request(1, "initialize", INITIALIZE), READY, request(2, "tools/list", {})):
        process.stdin.write(message + b"\n")
        process.stdin.flush()
        if b'"initialize"' in message:
            process.stdout.readline()
    if b'"slack_post"' not in process.stdout.readline():
        raise SystemExit(f"no list from {arguments}")
    found = {"stdio: lists, s": time.perf_counter() - started, "stdio: lists, CPU s": cpu_seconds(process.pid)}
    time.sleep(REST)
    found["stdio: before a call, MB"] = memory_mb(process.pid, "Rss")
    process.stdin.close()
    process.wait(30)
    return found


def answer_over_http(arguments: Sequence[str], port: int, token: str | None = None) -> Figures:
    """Measure seconds and CPU seconds to the first answer of any kind, and CPU seconds to the first to an MCP client.

    The bare server accepts that client. The vault asks it to sign in, and accepts a client with a `token`, which makes
    it load everything.
    """
    started = time.perf_counter()
    process = run(arguments)
    while not ask(port, "GET", "/healthz", b""):
        if process.poll() is not None:
            raise SystemExit(f"{arguments} ended")
        time.sleep(0.01)
    found = {"serve: listens, s": time.perf_counter() - started, "serve: listens, CPU s": cpu_seconds(process.pid)}
    begin = request(1, "initialize", INITIALIZE)
    ask(port, "POST", "/mcp", begin)
    found["serve: answers a client, CPU s"] = cpu_seconds(process.pid)
    if b'"serverInfo"' not in ask(port, "POST", "/mcp", begin, token):
        raise SystemExit(f"{arguments} opened no session")
    found["serve: opens a session, CPU s"] = cpu_seconds(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    return found


def ask(port: int, method: str, path: str, body: bytes, token: str | None = None) -> bytes:
    """The answer; empty if there is none."""
    headers = {"Host": f"localhost:{port}", "Content-Type": "application/json", "Accept": ACCEPTED}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().read() or b"-"
    except OSError:
        return b""
    finally:
        connection.close()


async def agent_token(port: int, data: Path) -> str:
    """A token for an agent in that vault."""
    async with open_deployment(load_settings(overrides={"server": {"port": port}}), data=data) as deployment:
        token, _ = await seed(deployment)
        return token


def compare(contenders: Sequence[Callable[[], Figures]], rounds: int) -> dict[str, Row]:
    """Each figure of both servers, by round; the first round only warms up."""
    found: dict[str, Row] = {}
    for number in range(-1, rounds):
        turn = list(enumerate(contenders))[:: 1 if number % 2 else -1]
        figures = {place: contender() for place, contender in turn}
        for name in figures[0] if number >= 0 else ():
            row = found.setdefault(name, Row(WANTED_MEMORY if name.endswith("MB") else WANTED))
            row.rounds.append((figures[0][name], figures[1][name]))
    return found


def main() -> None:
    """Start both repeatedly, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        place = Path(folder) / "data"
        token, data = asyncio.run(agent_token(port, place)), ["--data", str(place)]
        pipes = compare(
            [
                lambda: list_over_stdio(["tests.bench.servers.bare", "0", "1", "stdio"]),
                lambda: list_over_stdio(["token_vault", "stdio", "--client", "bench", "--no-browser", *data]),
            ],
            rounds,
        )
        served = compare(
            [
                lambda: answer_over_http(["tests.bench.servers.bare", str(port), "1"], port),
                lambda: answer_over_http(["token_vault", "serve", "--port", str(port), *data], port, token),
            ],
            rounds,
        )
    print_ratios(f"Start, {rounds} rounds", pipes | served, digits=2)


if __name__ == "__main__":
    main()
