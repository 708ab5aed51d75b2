"""A remote vault that answers as no vault would: the bridge reads no more than it needs, and follows no redirect."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.bridge.access import Access
from server.bridge.address import RemoteVault, remote_vault
from server.bridge.authority import AuthorizationServer, plain_client
from server.bridge.credentials import Credentials, FileStore
from server.bridge.refusals import RemoteUnreachable
from server.bridge.remote import RemoteClient
from server.bridge.sign_in import SignInFlow, Way
from tests.support.bridge_processes import Machine
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply, scripted_server

OK = json_reply({"jsonrpc": "2.0", "id": 1, "result": {}})


@asynccontextmanager
async def open_client(url: str, folder: Path) -> AsyncGenerator[tuple[RemoteClient, RemoteVault]]:
    """The client of a signed-in bridge."""
    vault = remote_vault(url, agent="Reader")
    store = FileStore(folder / "credentials", why="")
    store.save(Credentials("client", access_token="canary", expires_at=int(time.time()) + 3600))
    async with plain_client(vault) as plain:
        authority = AuthorizationServer(plain, vault)
        access = Access(authority, store, vault=vault, data=folder, say=lambda _: None)
        asking = SignInFlow(authority, vault, Way(None, lambda _: None), tell=lambda _: None)
        async with access.open(asking), RemoteClient(vault, access) as remote:
            yield remote, vault


def chunks(times: int, kind: str = "application/json") -> Reply:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return Reply(raw=head + (b"10000\r\n" + b" " * 65536 + b"\r\n") * times + b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("reply", "status", "told"),
    [
        (OK, 200, '"result"'),
        (chunks(63), 200, ""),
        (chunks(65), 502, "too large"),
        (chunks(65, "text/html"), 502, "too large"),
        (Reply(200, b"no", {"Content-Type": "application/json", "Content-Encoding": "gzip"}), 503, "broke"),
        (Reply(307, b"", {"Location": "/other"}), 502, "elsewhere"),
        (Reply(200, b"{}", {"Content-Type": "text/\x9b", "Mcp-Session-Id": "\x9b"}), 200, "{}"),
    ],
    ids=["a good one", "a large one", "too large", "a page too large", "broken gzip", "a redirect", "odd headers"],
)
async def test_an_answer_that_no_vault_gives_is_an_error_in_words(
    reply: Reply, status: int, told: str, tmp_path: Path
) -> None:
    async with scripted_server(lambda _: reply) as server, open_client(server.url, tmp_path) as (remote, vault):
        answer = await remote.send(remote.build_request("POST", vault.resource, json={"id": 1}))
        assert (answer.status_code, told in answer.text) == (status, True), answer.text[:500]
        assert answer.next_request is None
        assert "mcp-session-id" not in answer.headers
        assert len(server.arrivals) == 1


async def test_streams_that_end_at_once_are_opened_one_a_second(tmp_path: Path) -> None:
    ended = Reply(200, b"retry: 0\n\n", {"Content-Type": "text/event-stream"})
    async with scripted_server(lambda _: ended) as server, open_client(server.url, tmp_path) as (remote, vault):
        await remote.send(remote.build_request("POST", vault.resource, json={"id": 1}))
        started = asyncio.get_running_loop().time()
        for _ in range(3):
            answer = await remote.send(remote.build_request("GET", vault.resource))
            await answer.aread()
        assert asyncio.get_running_loop().time() - started > 1.9


async def test_metadata_that_comes_in_drops_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.bridge.authority._PATIENCE", 0.3)

    def answer(arrival: Arrival) -> Reply:
        return Reply(200, b"{", claimed_length=9, stall=True)

    async with scripted_server(answer) as server:
        vault = remote_vault(server.url, agent="Reader")
        async with plain_client(vault) as plain:
            with pytest.raises(RemoteUnreachable):
                await AuthorizationServer(plain, vault).endpoints()


async def test_what_a_client_writes_wrongly_ends_nothing(tmp_path: Path) -> None:
    def answer(arrival: Arrival) -> Reply:
        if arrival.method != "POST":
            return Reply(405)
        return json_reply({"jsonrpc": "2.0", "id": json.loads(arrival.body).get("id"), "result": {}})

    async with scripted_server(answer) as server:
        machine = Machine(server.url, tmp_path / "data", agent="Reader")
        vault = remote_vault(server.url, agent="Reader")
        held = Credentials("client", access_token="canary", expires_at=int(time.time()) + 3600)
        FileStore(machine.data / "remote" / f"{vault.name}.json", why="").save(held)
        process = await machine.start()
        odd = {"_meta": {"io.modelcontextprotocol/protocolVersion": "\u00e9"}}
        lines = (
            b"\xff\xfe{",
            json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": []}}).encode(),
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/\u00e9", "params": odd}).encode(),
            json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(30):
            process.stdin.write(b"\n".join(lines) + b"\n")
            await process.stdin.drain()
            said = [json.loads(await process.stdout.readline()) for _ in range(2)]
            assert {one["id"] for one in said} == {1, 2}
            process.stdin.close()  # the bridge ends by itself
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in errors
