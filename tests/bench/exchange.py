"""Token exchange and refreshes, compared with token endpoints of oidc-provider, Authlib, and django-oauth-toolkit.

    python -m tests.bench.exchange [--rounds N] [--calls N] [--json]

They run one after another in each round. The vault exchanges the same subject token each time, a different one each
time, and one for a proxy handle; and it rotates a different refresh token each time, stored durably with its event, and
signs a JWT with RS256. oidc-provider keeps everything in memory and refreshes to JWTs signed with ES256. Authlib on
Flask and gunicorn also keeps everything in memory and issues such JWTs for client credentials. django-oauth-toolkit
uses SQLite without syncing commits and refreshes to opaque tokens. No refresh token rotates at these.

Two more rows rotate a different refresh token each time, as ours does: oidc-provider in memory, with RS256, and
django-oauth-toolkit with durable commits, still to opaque tokens. Files are in memory (`tests.support.memory`) unless
TMPDIR names a disk, so syncing costs nobody anything; with TMPDIR, it does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from server.oauth.rules import TOKEN_EXCHANGE
from tests.bench.load import drive
from tests.bench.servers.contenders import (
    CONNECTIONS,
    CORES,
    LOAD_CORE,
    PEERS,
    SERVER_CORE,
    Contender,
    first_word,
    free_port,
    start,
    wait_for,
)
from tests.bench.tables import keep
from tests.support.foreign.foreign import FOLDER, node

ACCESS = "urn:ietf:params:oauth:token-type:access_token"
SECRET = "s" * 43
CREDENTIALS = {"client_id": "bench", "client_secret": SECRET}
_REFRESH = {**CREDENTIALS, "grant_type": "refresh_token"}
PEER = "oidc-provider, refresh_token"
ROTATING = "oidc-provider, rotated, RS256"
ROTATING_TOOLKIT = "django-oauth-toolkit, rotated"
AUTHLIB = "Authlib on Flask, client_credentials"
TOOLKIT = "django-oauth-toolkit, refresh_token"
EXCHANGE = "exchange, same subject token"
REFRESH = "refresh_token, another one each time"
WANTED = {  # our CPU time over the peer's
    EXCHANGE: {PEER: 0.55, AUTHLIB: 0.30, TOOLKIT: 0.12},
    "exchange, another subject token each time": {PEER: 1.15},
    REFRESH: {ROTATING: 1.40, ROTATING_TOOLKIT: 0.20},  # which rotate, too
}


@dataclass
class Kind:
    """One kind of request to one of the servers."""

    name: str
    server: Contender
    make: Callable[[int], bytes]


def request_bytes(port: int, form: dict[str, str], *, path: str = "/token") -> bytes:
    body = urlencode(form).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _start_oidc(port: int, *more: str, core: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["taskset", "-c", str(core), node(), "refresh_bench.mjs", str(port), SECRET, *more],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"NODE_ENV": "production"},
    )


def start_peer(*, core: int) -> Kind:
    """Start oidc-provider with one refresh token."""
    port = free_port()
    process = _start_oidc(port, core=core)
    request = request_bytes(port, {**_REFRESH, "refresh_token": first_word(process)})
    return Kind(PEER, Contender("oidc-provider", process, port), lambda _: request)


def start_rotating_peer(folder: Path, *, core: int, tokens: int) -> Kind:
    """Start oidc-provider with a refresh token for each request, which it rotates."""
    port, file = free_port(), folder / "peers.txt"
    process = _start_oidc(port, str(file), str(tokens), core=core)
    assert first_word(process) == "ready"
    return _rotating_kind(
        ROTATING, Contender("oidc-provider, rotating", process, port), file.read_text(encoding="ascii").split()
    )


def _rotating_kind(name: str, server: Contender, tokens: Sequence[str], *, path: str = "/token") -> Kind:
    turns = iter(tokens)
    return Kind(
        name, server, lambda _: request_bytes(server.port, {**_REFRESH, "refresh_token": next(turns)}, path=path)
    )


def start_authlib(*, core: int) -> Kind:
    """Start Authlib on Flask with one client."""
    port = free_port()
    process = start("tests.bench.servers.authlib_flask", str(port), SECRET, core=core, python=PEERS)
    request = request_bytes(port, {**CREDENTIALS, "grant_type": "client_credentials", "scope": "read"})
    return Kind(AUTHLIB, Contender("Authlib on Flask", process, port), lambda _: request)


def start_toolkit(folder: Path, *, core: int) -> Kind:
    """Start django-oauth-toolkit with several refresh tokens to use in turn."""
    port = free_port()
    process = start("tests.bench.servers.toolkit", str(port), str(folder), SECRET, core=core)
    assert process.stdout is not None
    tokens = process.stdout.readline().split()
    turns = itertools.cycle([request_bytes(port, {**_REFRESH, "refresh_token": one}, path="/token/") for one in tokens])
    return Kind(TOOLKIT, Contender("django-oauth-toolkit", process, port), lambda _: next(turns))


def start_rotating_toolkit(folder: Path, *, core: int, tokens: int) -> Kind:
    """Start django-oauth-toolkit with a refresh token for each request, which it rotates durably."""
    port = free_port()
    folder.mkdir()
    process = start("tests.bench.servers.toolkit", str(port), str(folder), SECRET, str(tokens), core=core)
    assert process.stdout is not None
    server = Contender("django-oauth-toolkit, rotating", process, port)
    return _rotating_kind(ROTATING_TOOLKIT, server, process.stdout.readline().split(), path="/token/")


def start_vault(folder: Path, *, core: int, tokens: int) -> list[Kind]:
    """Start the vault; return it and the four kinds of request to it."""
    port = free_port()
    process = start("tests.bench.servers.token_exchange", str(port), str(folder / "data"), str(tokens), core=core)
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    issued = Path(facts["tokens"]).read_text(encoding="ascii").split()
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": facts["client_id"],
        "client_secret": facts["client_secret"],
        "subject_token_type": ACCESS,
        "audience": "slack",
    }
    ours = Contender("token vault", process, port)
    whole = form | {"scope": "channels:read chat:write", "subject_token": issued[0]}
    same, handle = request_bytes(port, whole), request_bytes(port, whole | {"scope": "chat:write"})
    others: Iterator[str] = iter(issued[1:])
    renewing = iter(Path(facts["tokens"]).with_suffix(".refresh").read_text(encoding="ascii").split())
    refresh = {key: form[key] for key in ("client_id", "client_secret")} | {"grant_type": "refresh_token"}
    return [
        Kind(EXCHANGE, ours, lambda _: same),
        Kind(
            "exchange, another subject token each time",
            ours,
            lambda _: request_bytes(port, whole | {"subject_token": next(others)}),
        ),
        Kind("exchange for a handle", ours, lambda _: handle),
        Kind(
            REFRESH,
            ours,
            lambda _: request_bytes(port, refresh | {"refresh_token": next(renewing)}),
        ),
    ]


async def measure(kind: Kind, calls: int) -> tuple[float, float]:
    """Return (CPU us per request, requests per second) of one round."""
    before = kind.server.cpu_seconds()
    run = await drive(
        kind.server.port, connections=CONNECTIONS, calls=calls, token=None, make=kind.make, wanted=b'"access_token":'
    )
    used, done = kind.server.cpu_seconds() - before, len(run.latencies)
    return used / done * 1e6, done / run.seconds


async def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.exchange", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="requests per kind and round")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    os.sched_setaffinity(0, {LOAD_CORE})
    processes: list[subprocess.Popen[str]] = []
    try:
        with tempfile.TemporaryDirectory() as name:
            folder, warm, core = Path(name), 2000, SERVER_CORE  # oidc-provider needs a while to warm up
            tokens = 1 + warm + chosen.rounds * chosen.calls
            starts: list[Callable[[], list[Kind]]] = [
                lambda: [start_peer(core=core)],
                lambda: [start_rotating_peer(folder, core=core, tokens=tokens)],
                lambda: [start_toolkit(folder, core=core)],
                lambda: [start_rotating_toolkit(folder / "rotating", core=core, tokens=tokens // 5)],
                lambda: [start_authlib(core=core)],
                lambda: start_vault(folder, core=core, tokens=tokens),
            ]
            kinds: list[Kind] = []
            for one in starts:
                kinds += one()
                processes.append(kinds[-1].server.process)
            slow = {TOOLKIT, ROTATING_TOOLKIT}
            for kind in kinds:
                wait_for(kind.server.port, kind.server.process)
                await measure(kind, 400 if kind.name in slow else warm)
            rows: dict[str, list[tuple[float, float]]] = {kind.name: [] for kind in kinds}
            for number in range(chosen.rounds):
                turn = number % len(kinds)
                for kind in kinds[turn:] + kinds[:turn]:
                    calls = chosen.calls // 10 if kind.name in slow else chosen.calls
                    rows[kind.name].append(await measure(kind, calls))
            memory = {kind.name: round(kind.server.memory_mb()) for kind in kinds}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    show(rows, memory, rounds=chosen.rounds, calls=chosen.calls, as_json=chosen.json)


def show(
    rows: dict[str, list[tuple[float, float]]], memory: dict[str, int], *, rounds: int, calls: int, as_json: bool
) -> None:
    """Print medians, and our requests per CPU second for each one of the peer's, taken within each round."""
    found: dict[str, dict[str, object]] = {}
    for name, peers in WANTED.items():
        for peer, wanted in peers.items():
            ratios = [mine[0] / theirs[0] for theirs, mine in zip(rows[peer], rows[name], strict=True)]
            keep(f"{name}: over {peer}", statistics.median(ratios), wanted)
    for name, measured in rows.items():
        ratios = [peer[0] / mine[0] for peer, mine in zip(rows[PEER], measured, strict=True)]
        found[name] = {
            "cpu_us": round(statistics.median(one[0] for one in measured)),
            "per_second": round(statistics.median(one[1] for one in measured)),
            "memory_mb": memory[name],
            "per_cpu_second_over_peer": round(statistics.median(ratios), 2),
            "min_max": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    like_ours = {
        peer: [round(mine[0] / theirs[0], 2) for theirs, mine in zip(rows[peer], rows[REFRESH], strict=True)]
        for peer in (ROTATING, ROTATING_TOOLKIT)
    }
    found[REFRESH]["time_over"] = {peer: statistics.median(ratios) for peer, ratios in like_ours.items()}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {len(CORES)} cores, SQLite,")
    print(f"{rounds} rounds of {calls} requests over {CONNECTIONS} connections, client_secret_post\n")
    print(f"{'POST /token':<44}{'CPU us':>8}{'per s':>8}{'MB':>6}   requests per CPU second over the peer's")
    for name, facts in found.items():
        spread = facts["min_max"]
        assert isinstance(spread, list)
        print(
            f"{name:<44}{facts['cpu_us']:>8}{facts['per_second']:>8}{facts['memory_mb']:>6}"
            f"   {facts['per_cpu_second_over_peer']}x ({spread[0]}-{spread[1]})"
        )
    for peer, ratios in like_ours.items():
        print(f"{REFRESH}: {statistics.median(ratios)} ({min(ratios)}-{max(ratios)}) of the time of {peer}")


if __name__ == "__main__":
    asyncio.run(main())
