"""How a remote vault is told about hosts that a program was refused: one at a time, and no longer than the run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.bridge.access import Access
from server.bridge.address import remote_vault
from server.bridge.authority import AuthorizationServer, plain_client
from server.bridge.credentials import Credentials, FileStore
from server.bridge.sign_in import SignInFlow, Way
from server.programs import remote_calls
from server.programs.remote_calls import RemoteCalls

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class SlowVault:
    """A remote vault that answers only when the test allows it."""

    asked: list[str] = field(default_factory=list[str])
    under_way: int = 0
    most: int = 0
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                self.asked.append(json.loads(await reader.readexactly(length))["host"])
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await self.answers.wait()
                self.under_way -= 1
                writer.write(REFUSAL)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def until(self, number: int) -> None:
        async with asyncio.timeout(30):
            while len(self.asked) < number:
                await asyncio.sleep(0.01)


@pytest.fixture
def slow() -> SlowVault:
    return SlowVault()


@asynccontextmanager
async def calls_at(slow: SlowVault, folder: Path) -> AsyncGenerator[RemoteCalls]:
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    async with server:
        vault = remote_vault(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", agent="a", is_for_programs=True)
        store = FileStore(folder / "remote" / f"{vault.name}.json", why="a test")
        store.save(Credentials("c", access_token="t", expires_at=int(time.time()) + 3600))
        async with plain_client(vault) as http:
            authority = AuthorizationServer(http, vault)
            access = Access(authority, store, vault=vault, data=folder, say=lambda _: None)
            async with access.open(SignInFlow(authority, vault, Way(None, lambda _: None, may_open=False), tell=print)):
                yield RemoteCalls(vault, access, accounts=(), say=lambda text, link: None, wait=0)


async def test_the_vault_is_told_of_one_host_at_a_time(slow: SlowVault, tmp_path: Path) -> None:
    hosts = [f"{number}.example" for number in range(20)]
    async with calls_at(slow, tmp_path) as calls:
        for host in hosts:
            calls.tell_refused(host, 443)
        await slow.until(1)
        await asyncio.sleep(0.1)
        assert slow.asked == hosts[:1]
        slow.answers.set()
        await slow.until(20)
        calls.tell_refused("later.example", 443)
        await calls.close()
    assert slow.asked == [*hosts, "later.example"], "all of them, the last at the end"
    assert slow.most == 1


async def test_what_the_vault_does_not_answer_ends_with_the_run(
    slow: SlowVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_calls, "_LAST_WORDS", 0.2)
    before = asyncio.all_tasks()
    async with calls_at(slow, tmp_path) as calls:
        for host in ("a.example", "b.example"):
            calls.tell_refused(host, 443)
        await slow.until(1)
        await calls.close()
        left = [one for one in asyncio.all_tasks() - before if "_tell_refused" in repr(one.get_coro())]
        assert left == []
        slow.answers.set()
        await asyncio.sleep(0.1)
    assert slow.asked == ["a.example"]
