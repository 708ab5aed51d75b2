"""One vault per file, with the Admin API and token exchange, and the TypeScript client, compiled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.support.foreign.foreign import MODULES, environment, node
from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path_factory.mktemp("admin") / "vault") as opened:
        yield opened


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(tmp_path_factory.mktemp("clients") / "data") as opened:
        yield opened


async def run_node(folder: Path, *arguments: str, **more: str) -> str:
    """Run a program with Node in this folder; returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        node(), *arguments, env=environment(folder, **more),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.fixture(scope="module")
async def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, compiled in strict mode without errors."""
    node()
    if not (MODULES / "typescript").exists():
        unavailable("foreign clients need: make node")
    folder = tmp_path_factory.mktemp("dist")
    (folder / "package.json").write_text('{"type": "module"}')
    compiler = str(MODULES / "typescript/bin/tsc")
    roots = str(MODULES / "@types")
    await run_node(
        folder, compiler, "-p", str(ROOT / "clients/typescript"), "--outDir", str(folder), "--typeRoots", roots
    )
    return folder


@asynccontextmanager
async def answer_alike(head: str) -> AsyncGenerator[str]:
    """The address of what stands in front of a vault, and answers every exchange alike."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


STATUSES = {  # of an endpoint that needs its caller's upstream token, in every framework: status, Retry-After
    "fine": [200, None],
    "lower case": [200, None],
    "none": [401, None],
    "another scheme": [401, None],
    "no token": [401, None],
    "a token of nobody": [401, None],
    "a scope that is not allowed": [403, None],
    "later": [503, "7"],
    "broken": [503, None],
}
