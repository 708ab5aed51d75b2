"""Readiness and draining: what `/readyz` answers when something is broken, and how a busy process shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.http.draining import Drain
from server.http.edge import Edge
from server.http.guards import GuardRules
from tests.conftest import Store
from tests.support.harness import RunningVault, free_socket, running_vault, serve_app


@pytest.fixture
async def opened_vault(store: Store) -> AsyncGenerator[RunningVault]:
    async with running_vault(store.data, database_url=store.url) as vault:
        yield vault


async def get(vault: RunningVault, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        return await http.get(path)


async def test_a_vault_that_can_work_is_ready(opened_vault: RunningVault) -> None:
    answer = await get(opened_vault, "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert answer.headers["cache-control"] == "no-store"


async def test_a_vault_without_its_key_store_is_alive_but_not_ready(opened_vault: RunningVault) -> None:
    async with opened_vault.deployment.transaction() as transaction:
        await transaction.execute("delete from keys.ring")
    answer = await get(opened_vault, "/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "failing": "keys", "reason": "key_unavailable"}
    assert answer.headers["retry-after"] == "1"
    assert (await get(opened_vault, "/healthz")).status_code == 200


async def test_a_database_of_another_schema_is_not_ready(opened_vault: RunningVault) -> None:
    async with opened_vault.deployment.transaction() as transaction:
        await transaction.execute("insert into schema_versions (number, applied_at) values (99, 0)")
    said = (await get(opened_vault, "/readyz")).json()
    assert (said["failing"], said["reason"]) == ("schema", "storage_unavailable")


async def test_a_storage_that_takes_no_write_is_not_ready_and_calls_say_when_to_try_again(tmp_path: Path) -> None:
    async with running_vault(tmp_path / "data") as vault:
        database = vault.deployment.database
        await database._writing.execute("pragma query_only = on")
        assert (await get(vault, "/readyz")).json()["failing"] == "storage"
        body = {"client_name": "x", "redirect_uris": ["http://127.0.0.1/"], "token_endpoint_auth_method": "none"}
        async with httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
            refused = await http.post("/register", json=body)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            assert refused.json()["error"] == "temporarily_unavailable"
            await database._writing.execute("pragma query_only = off")
            assert (await http.post("/register", json=body)).status_code == 201


async def test_a_draining_process_is_not_ready_but_still_answers(opened_vault: RunningVault) -> None:
    opened_vault.deployment.drain.begin()
    assert (await get(opened_vault, "/readyz")).json()["failing"] == "draining"
    assert (await get(opened_vault, "/.well-known/jwks.json")).status_code == 200


class Work:
    """An application with a slow call and a stream that never ends."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.finish = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/stream":
            await StreamingResponse(self._ticks(), media_type="text/event-stream")(scope, receive, send)
            return
        self.arrived.set()
        await self.finish.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async def _ticks(self) -> AsyncGenerator[bytes]:
        yield b"data: first\n\n"
        await asyncio.Event().wait()


async def test_draining_waits_for_the_call_in_flight_and_then_ends_the_streams() -> None:
    work, drain, listening = Work(), Drain(), free_socket()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with (
        asyncio.timeout(30),
        serve_app(
            Edge(work, GuardRules(frozenset(), frozenset(), any_loopback_port=True), drain, proxy=work), listening
        ),
        httpx2.AsyncClient(base_url=url, timeout=30) as http,
        http.stream("GET", "/stream") as stream,
    ):
        parts = stream.aiter_raw()
        assert await anext(parts) == b"data: first\n\n"
        call = asyncio.create_task(http.post("/call"))
        await work.arrived.wait()
        draining = asyncio.create_task(drain.finish())
        await asyncio.sleep(0)
        assert drain.is_draining
        assert not drain.over.is_set()
        work.finish.set()
        assert (await call).text == "done"
        await draining
        assert [part async for part in parts] == []


async def test_draining_gives_up_on_a_call_that_never_ends() -> None:
    drain = Drain()
    with drain.call():
        await drain.finish(patience=0.01)
    assert drain.over.is_set()
