"""Bodies that must be read before a call is judged: how large, how many at a time, and at what cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from providers.definitions.catalog import load_catalog
from server.proxy.large_bodies import LargeBodies
from server.proxy.wire import ProxyRefused, read_body
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.harness import free_socket, serve_app
from tests.support.rooms.proxy_room import ProxyHandle, ProxyRoom, proxy_room

MIB = 1024 * 1024
LARGE, MOST, MOST_EACH = MIB, 8, 2
FILE = "/repos/o/r/contents/notes.txt"
JSON = {"content-type": "application/json"}
GITHUB = load_catalog().provider("github")


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    app, listening = Upstream(), free_socket()
    async with serve_app(app, listening):
        app.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app.answer = reply_in_pieces(b"{}")
        yield app


@pytest.fixture
async def room(upstream: Upstream, tmp_path: Path) -> AsyncGenerator[ProxyRoom]:
    async with proxy_room(tmp_path, apis_at=upstream.url, proxy={"read_limit": 4 * MIB}) as opened:
        yield opened


async def writer(room: ProxyRoom) -> ProxyHandle:
    """An agent that may write files; the app's token can do everything, so each body must be read."""
    agent = await room.agent()
    connection = await room.account(agent, provider="github", scopes=frozenset({"contents:write", "issues:write"}))
    return await room.handle(agent, connection, scopes=frozenset({"contents:write"}))


def file_of(size: int) -> bytes:
    return json.dumps({"message": "m", "content": "A" * size}).encode()


async def put(handle: ProxyHandle, body: object, headers: dict[str, str] = JSON) -> httpx2.Response:
    return await handle.call("PUT", FILE, api="rest", content=body, headers=headers)


async def test_a_file_is_judged_up_to_the_limit_and_a_refusal_names_the_setting(room: ProxyRoom) -> None:
    handle, around = await writer(room), len(file_of(0))
    for size, refusal in ((4 * MIB, None), (4 * MIB + 1, "unknown_parameter")):
        answer = await put(handle, file_of(size - around))
        assert answer.headers.get("token-vault-refusal") == refusal, answer.text
    assert "covers the content of this call's body" in answer.text
    assert "`proxy.read_limit`" in answer.text
    wider = json.loads(file_of(2 * MIB)) | {"unknown": 1}
    refused = await put(handle, json.dumps(wider).encode())
    assert refused.headers["token-vault-refusal"] == "unknown_parameter"
    assert "account can do more than the handle" in refused.text
    assert "covers unknown in the query or body of this call" in refused.text
    assert "Omit it" in refused.text
    assert "proxy.read_limit" not in refused.text

    async def pieces(count: int) -> AsyncGenerator[bytes]:
        yield b'{"message":"m","content":"'
        for _ in range(count):
            yield b"A" * MIB
        yield b'"}'

    for count, status in ((2, 200), (5, 413)):
        answer = await put(handle, pieces(count))
        assert answer.status_code == status, answer.text
    assert "The vault reads this body" in answer.text
    assert "proxy.read_limit" in answer.text


async def test_one_agent_holds_few_large_bodies_at_a_time_and_no_others_back(
    room: ProxyRoom, upstream: Upstream
) -> None:
    arrived, released = asyncio.Semaphore(0), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.release()
        await released.wait()
        await reply_in_pieces(b"{}")(scope, receive, send)

    handle, other = await writer(room), await writer(room)
    upstream.answer = slow
    around = len(file_of(0))
    large = file_of(LARGE + 1 - around)
    held = [asyncio.create_task(put(handle, large)) for _ in range(MOST_EACH)]
    async with asyncio.timeout(30):
        for _ in range(MOST_EACH):
            await arrived.acquire()
    answer = await put(handle, large)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (503, "too_many_calls"), answer.text
    assert answer.headers["retry-after"]
    allowed = [asyncio.create_task(put(handle, file_of(LARGE - around))), asyncio.create_task(put(other, large))]
    async with asyncio.timeout(30):
        await arrived.acquire()
        await arrived.acquire()
    released.set()
    assert [one.status_code for one in await asyncio.gather(*held, *allowed)] == [200] * (MOST_EACH + 2)
    assert (await put(handle, large)).status_code == 200


async def test_a_body_that_streams_takes_no_slot(room: ProxyRoom, upstream: Upstream) -> None:
    arrived, released = asyncio.Semaphore(0), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        arrived.release()
        await released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    upstream.answer, handle = slow, await room.ready()
    headers, body = {"content-type": "application/octet-stream"}, b"x" * (LARGE + 1)
    calls = [asyncio.create_task(handle.call(content=body, headers=headers)) for _ in range(MOST_EACH + 1)]
    async with asyncio.timeout(30):
        for _ in calls:
            await arrived.acquire()
    released.set()
    assert [one.status_code for one in await asyncio.gather(*calls)] == [200] * len(calls)


def test_places_are_few_for_each_and_for_all() -> None:
    bodies = LargeBodies()
    agents = [(f"u{number}", "c") for number in range(MOST)]
    assert [bodies.take(agents[0]) for _ in range(MOST_EACH + 1)] == [True] * MOST_EACH + [False]
    assert [bodies.take(one) for one in agents[1:]] == [True] * (MOST - MOST_EACH) + [False]
    bodies.give_back(agents[0])
    assert bodies.take(agents[-1])
    assert not bodies.take(agents[0])
    for one in (agents[0], *agents[1 : MOST - MOST_EACH + 1], agents[-1]):
        bodies.give_back(one)
    assert [bodies.take(agents[0]) for _ in range(MOST_EACH + 1)] == [True] * MOST_EACH + [False]


COSTLY = {
    "objects": b'{"a":[' + b"{}," * 60_000 + b"0]}",
    "arrays": b'{"a":[' + b"[]," * 60_000 + b"0]}",
    "values": b'{"a":[' + b"0," * 250_000 + b"0]}",
    "members": b"{" + b",".join(b'"%x":0' % number for number in range(1001)) + b"}",
}


@pytest.mark.requirement("S-174")
@pytest.mark.parametrize("of", COSTLY)
def test_json_that_costs_more_than_its_bytes_is_refused_where_it_must_be_judged(of: str) -> None:
    with pytest.raises(ProxyRefused) as refusal:
        read_body("application/json", COSTLY[of], GITHUB, is_judged=True)
    assert refusal.value.code == "body_too_large"
    assert read_body("application/json", COSTLY[of], GITHUB, is_judged=False) is None
    fitting = b'{"a":[' + b"{}," * 40_000 + b"0]}"
    read = read_body("application/json", fitting, GITHUB, is_judged=True)
    assert read is not None
    assert set(read.values) == {"a"}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_is_read_to_a_depth_of_which_every_check_reaches_the_end(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    for depth, is_read in ((98, True), (101, False), (900, False), (45_000, False)):
        body = b'{"a":' + opening * depth + b"0" + closing * depth + b"}"
        if is_read:
            assert read_body("application/json", body, GITHUB, is_judged=True) is not None
            continue
        with pytest.raises(ProxyRefused) as refusal:
            read_body("application/json", body, GITHUB, is_judged=True)
        assert refusal.value.code == "invalid_body", depth
