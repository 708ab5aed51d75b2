"""Processes of the program under test: `stdio` driven by the official client, `serve`, and one-shot commands."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import secrets
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2
from mcp import Client
from mcp.client import session
from mcp.client.stdio import StdioServerParameters

PROGRAM = [sys.executable, "-m", "token_vault"]
ROOT = Path(__file__).parent.parent.parent
WORKERS = 8  # each has its own ports
_GIVEN: deque[int] = deque(maxlen=300)
session.DISCOVER_TIMEOUT_SECONDS = 60.0  # a client takes a slowly starting program for one with an older revision


def opened_url(address: str) -> str:
    """The URL to which a browser is sent that was told to open `address`, a file that only its owner can read."""
    file = Path(unquote(urlsplit(address).path))
    assert urlsplit(address).scheme == "file"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    (found,) = re.findall(r'http-equiv=refresh content="0; url=([^"]+)"', file.read_text(encoding="utf-8"))
    return html.unescape(found)


def free_port() -> int:
    """A free loopback port whose next port, for a sandbox, is also free.

    It is below the range that the kernel uses for outgoing connections, so that none gets it meanwhile. No port is
    returned again soon, nor to two workers of the suite, because the caller may take a while to listen there.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _attempt in range(1000):
        port = 20_000 + 2 * (secrets.randbelow(750) * WORKERS + worker % WORKERS)
        if port in _GIVEN:
            continue
        with socket.socket() as one, socket.socket() as next_one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            next_one.bind(("127.0.0.1", port + 1))
            _GIVEN.append(port)
            return port
    raise AssertionError("no free port")


@dataclass
class Place:
    """A data directory with its settings file, and the port of its pages."""

    data: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VAULT_")}
        return kept | {"PYTHONPATH": str(ROOT), "BROWSER": ""}

    def arguments(self, *command: str) -> list[str]:
        return [*PROGRAM, *command, "--data", str(self.data)]

    def configure(self, sections: Mapping[str, object] | None = None) -> None:
        """Write config.toml: the port, and sections such as the simulator's providers."""
        lines = ["[server]", f"port = {self.port}"]
        for name, section in (sections or {}).items():
            for part, values in section.items():
                lines.append(f"[{name}.{part}]")
                lines += [
                    f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)
                ]
                for key, value in values.items():
                    if isinstance(value, dict):
                        lines.append(f"[{name}.{part}.{key}]")
                        lines += [f"{inner} = {json.dumps(one)}" for inner, one in value.items()]
        if sections:
            lines += ["[sandbox]", "loopback_upstreams = true"]
        (self.data / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    async def run(self, *command: str, feed: str = "") -> tuple[int, str, str]:
        """Run a command to completion; return exit code, standard output, and standard error."""
        process = await asyncio.create_subprocess_exec(
            *self.arguments(*command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(feed.encode())
        return process.returncode or 0, out.decode(), err.decode()

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[asyncio.subprocess.Process]:
        """A `serve` process; the block starts when it prints its URL, or that it waits."""
        process = await asyncio.create_subprocess_exec(
            *self.arguments("serve"), stderr=asyncio.subprocess.PIPE, env=self.environment()
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(90):
                while b"portal" not in (line := await process.stderr.readline()) and b"takes over" not in line:
                    assert line, "serve ended"
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(30):
                await process.wait()

    def stdio(self, client: str, **options: object) -> Client:
        """The official client with its own `stdio` process."""
        parameters = StdioServerParameters(
            command=sys.executable,
            args=self.arguments("stdio", "--client", client, "--no-browser")[1:],
            env=self.environment(),
        )
        return Client(parameters, **options)

    async def healthy(self) -> dict[str, str]:
        """The answer of /healthz, as soon as there is one."""
        async with asyncio.timeout(90), httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            while True:
                try:
                    return (await http.get(f"{self.url}/healthz")).json()
                except httpx2.HTTPError:
                    await asyncio.sleep(0.05)


async def end(process: asyncio.subprocess.Process, *, patience: float = 20) -> None:
    """End a process that we started, whatever its state."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def until_listening(process: asyncio.subprocess.Process, port: int, *, patience: float) -> None:
    """Wait until the process accepts connections on a port of this machine."""
    async with asyncio.timeout(patience):
        while True:
            assert process.returncode is None, "it ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
