"""The servers under test: start them on the first core, read their usage, stop them. The rest runs on the last core."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.bench import where

PEERS = Path(__file__).parents[3] / ".venv/sdks/peers/bin/python"  # has what conflicts with the suite's packages
CONNECTIONS = 8
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]


def family(pid: int) -> list[int]:
    """A process and all that it started, by their ids."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]
    return [pid, *(one for child in children for one in family(child))]


def cpu_seconds(pid: int) -> float:
    """CPU time so far of all threads of a process and of those that it started (schedstat, nanoseconds)."""
    tasks = [task for one in family(pid) for task in Path(f"/proc/{one}/task").iterdir()]
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def memory_mb(pid: int, kind: str) -> float:
    """Memory in MB, with what it started: `Pss` divides shared pages among their users, `Rss` counts them whole."""
    files = [Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii") for one in family(pid)]
    lines = [line for file in files for line in file.splitlines() if line.startswith(f"{kind}:")]
    return sum(int(line.split()[1]) for line in lines) / 1024


@dataclass
class Contender:
    """One server under test."""

    name: str
    process: subprocess.Popen[str]
    port: int
    token: str | None = None
    path: str | None = None  # of a proxy; None: an MCP server

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far."""
        return cpu_seconds(self.process.pid)

    def main_thread_seconds(self) -> float:
        """CPU time of its main thread so far."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat")
        return int(path.read_text(encoding="ascii").split()[0]) / 1e9

    def memory_mb(self) -> float:
        """Proportional set size in MB."""
        return memory_mb(self.process.pid, "Pss")


def free_port() -> int:
    """A port that was just free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    module: str, *arguments: str, core: int, counts: Path | None = None, python: Path | str = sys.executable
) -> subprocess.Popen[str]:
    """Start `python -m module` on one core; with `counts`, its time is profiled."""
    return subprocess.Popen(
        ["taskset", "-c", str(core), str(python), "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | ({} if counts is None else {where.VARIABLE: str(counts)}),
    )


def first_word(process: subprocess.Popen[str]) -> str:
    """The first printed line that is one word, such as a token; notices come before it."""
    assert process.stdout is not None
    return next((word for line in process.stdout if re.fullmatch(r"[\w.~-]+", word := line.strip())), "")


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Wait up to 30 s until something listens."""
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"a contender ended with code {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("a contender did not start within 30 s")


@contextmanager
def ending() -> Generator[list[subprocess.Popen[str]]]:
    """A list of processes to stop when the block ends."""
    running: list[subprocess.Popen[str]] = []
    try:
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def add_to(running: list[subprocess.Popen[str]], contender: Contender) -> Contender:
    """Add the contender, so that it stops with the block even if the next one fails to start; return it."""
    running.append(contender.process)
    return contender


def start_upstream(running: list[subprocess.Popen[str]]) -> int:
    """Start the upstream that every contender calls; return its port."""
    port = free_port()
    running.append(start("tests.bench.servers.upstream", str(port), core=LOAD_CORE))
    wait_for(port, running[-1])
    return port


def start_fast(folder: Path, upstream: int) -> Contender:
    """Start FastMCP with a key pair made for this run."""
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
    process = start(
        "tests.bench.servers.fast", str(port), str(upstream), str(public), "bench", "bench", core=SERVER_CORE
    )
    return Contender("FastMCP + JWTVerifier", process, port, token)


def start_bare(upstream: int, transport: str = "http", *, counts: Path | None = None) -> Contender:
    """Start the SDK's server alone."""
    port = free_port()
    process = start("tests.bench.servers.bare", str(port), str(upstream), transport, core=SERVER_CORE, counts=counts)
    return Contender("bare MCP server", process, port)


def start_vault(folder: Path, upstream: int, *, counts: Path | None = None, is_proxy: bool = False) -> Contender:
    """Start the vault."""
    port = free_port()
    process = start(
        "tests.bench.servers.vault", str(port), str(upstream), str(folder / "data"), core=SERVER_CORE, counts=counts
    )
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    if not token:
        raise SystemExit(
            "the vault did not start: run python -m tests.bench.servers.vault PORT UPSTREAM DIR to see why"
        )
    path, handle = process.stdout.readline().split() if is_proxy else (None, token)
    return Contender("token vault", process, port, handle, path)


def start_passing(upstream: int, *, counts: Path | None = None) -> Contender:
    """Start the bare proxy."""
    port = free_port()
    process = start("tests.bench.servers.pass_through", str(port), str(upstream), core=SERVER_CORE, counts=counts)
    return Contender("bare pass-through proxy", process, port, "any", "/proxy/x/web")


def start_gateway(folder: Path, upstream: int) -> Contender:
    """Start ContextForge with one tool over REST."""
    port = free_port()
    process = start(
        "tests.bench.servers.gateway", str(port), str(upstream), str(folder), core=SERVER_CORE, python=PEERS
    )
    return Contender("ContextForge", process, port, first_word(process))
