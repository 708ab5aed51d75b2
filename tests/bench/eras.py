"""Compares calls as clients of each era send them with the bare MCP server's, each in the same round.

    python -m tests.bench.eras [--postgres] [--rounds N] [--calls N]

The method is that of `python -m tests.bench`, in more and shorter rounds: other work on the machine then meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.__main__ import CONNECTIONS, CORES, Contender, free_port, start, start_bare, start_vault, wait_for
from tests.bench.load import drive
from tests.bench.million import postgres
from tests.bench.vaulted import DATABASE

HANDSHAKE = "2025-11-25"
_MODERN = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "slack_post",
}
_OTHER = {**_MODERN, "Content-Type": "application/json; charset=utf-8", "Accept": "text/event-stream,application/json"}
ENVELOPE: Mapping[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_SESSION = {**{name: _MODERN[name] for name in ("Content-Type", "Accept")}, "MCP-Protocol-Version": HANDSHAKE}
ERAS: Mapping[str, tuple[Mapping[str, str], Mapping[str, object], bool]] = {
    "2026-07-28, as in make bench": (_MODERN, ENVELOPE, False),
    "2026-07-28, with progress token": (_MODERN, ENVELOPE, True),
    "2026-07-28, other spelling": (_OTHER, ENVELOPE, True),
    "2025-11-25, session": (_SESSION, {}, True),
}


def open_session(contender: Contender) -> str:
    """The id of an initialized handshake session."""
    headers = dict(_SESSION) | ({"Authorization": f"Bearer {contender.token}"} if contender.token else {})
    connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=30)
    connection.request("POST", "/mcp", opening("first"), headers)
    answer = connection.getresponse()
    answer.read()
    session = answer.getheader("mcp-session-id")
    if session is None:
        raise SystemExit(f"no session: {answer.status}")
    ready = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
    connection.request("POST", "/mcp", ready, headers | {"mcp-session-id": session})
    connection.getresponse().read()
    connection.close()
    return session


def make_calls(contender: Contender, era: str, session: str) -> Callable[[int], bytes]:
    """Requests of the era, by number."""
    headers, envelope, has_token = ERAS[era]
    lines = [f"Host: 127.0.0.1:{contender.port}", *(f"{name}: {value}" for name, value in headers.items())]
    if headers is _SESSION:
        lines.append(f"Mcp-Session-Id: {session}")
    if contender.token:
        lines.append(f"Authorization: Bearer {contender.token}")

    def make(number: int) -> bytes:
        body = make_message(number, envelope=envelope, has_token=has_token)
        head = ["POST /mcp HTTP/1.1", *lines, f"Content-Length: {len(body)}"]
        return ("\r\n".join(head) + "\r\n\r\n").encode() + body

    return make


async def measure(contender: Contender, make: Callable[[int], bytes], calls: int) -> float:
    """CPU us per call."""
    before = contender.cpu_seconds()
    run = await drive(contender.port, connections=CONNECTIONS, calls=calls, token=None, make=make)
    return (contender.cpu_seconds() - before) / len(run.latencies) * 1e6


async def compare(bare: Contender, vault: Contender, *, rounds: int, calls: int) -> None:
    """Print a line for each era."""
    sessions = {contender.name: open_session(contender) for contender in (bare, vault)}
    found: dict[str, list[tuple[float, float]]] = {era: [] for era in ERAS}
    for number in range(-1, rounds):
        for era in ERAS:
            used: dict[str, float] = {}
            pair = (bare, vault) if number % 2 else (vault, bare)
            for contender in pair:
                make = make_calls(contender, era, sessions[contender.name])
                used[contender.name] = await measure(contender, make, 400 if number < 0 else calls)
            if number >= 0:  # the first only warms up
                found[era].append((used[bare.name], used[vault.name]))
    print(f"load {os.getloadavg()[0]:.0f}; {rounds} rounds of {calls} calls over {CONNECTIONS} connections\n")
    print_ratios(found)


def print_ratios(found: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """A line for each row: CPU us per call of (bare, vault) in each round, as medians and as the vault's ratio."""
    print(f"{'':<34}{'bare us':>9}{'vault us':>10}   vault over bare (min-max)")
    for name, each in found.items():
        ratios = [ours / theirs for theirs, ours in each]
        theirs, ours = (statistics.median(one[place] for one in each) for place in (0, 1))
        print(
            f"{name:<34}{theirs:>9.0f}{ours:>10.0f}   "
            f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        )


def make_message(number: int, *, envelope: Mapping[str, object], has_token: bool) -> bytes:
    """The JSON-RPC message of one call."""
    meta = {**envelope, **({"progressToken": number} if has_token else {})}
    params = {"name": "slack_post", "arguments": {"channel": "general", "text": "hi"}, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def opening(identity: str) -> bytes:
    """The JSON-RPC message that opens a session of the handshake era."""
    params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "method": "initialize", "params": params}).encode()


def main() -> None:
    """Start upstream and contenders, compare, end them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--postgres", action="store_true", help="the vault on PostgreSQL, whose time is not counted")
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    running: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
        if options.postgres:
            (Path(folder) / "pg").mkdir(mode=0o700)
            os.environ[DATABASE] = stack.enter_context(postgres(Path(folder) / "pg")).get_uri()
        try:
            upstream = free_port()
            running.append(start("tests.bench.upstream", str(upstream), core=CORES[-1]))
            wait_for(upstream, running[0])
            contenders = start_bare(upstream, core=CORES[0]), start_vault(Path(folder), upstream, core=CORES[0])
            for contender in contenders:
                running.append(contender.process)
                wait_for(contender.port, contender.process)
            asyncio.run(compare(*contenders, rounds=options.rounds, calls=options.calls))
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(timeout=30)


if __name__ == "__main__":
    main()
