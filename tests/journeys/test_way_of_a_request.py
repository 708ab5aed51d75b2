"""How deep a request goes through our own code on its way to a provider: each layer must decide or translate.

The stacks are taken when the HTTP library gets the request to the provider. A refresh belongs to no caller and runs as
its own task, so it has its own stack in addition to the stack of the caller who waits for it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from types import FrameType

import aiohttp
import pytest

from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room
from tests.support.rooms.mcp_room import SLACK, modern, modern_headers

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / package}/" for package in ("server", "providers", "vault"))
SIMULATOR = f"{ROOT / 'providers' / 'simulator'}/"
Stack = list[str]


def own(frame: FrameType) -> str | None:
    """`room/module.function` of one of our frames, except the simulator's."""
    path = frame.f_code.co_filename
    if not path.startswith(OURS) or path.startswith(SIMULATOR):
        return None
    return f"{Path(path).relative_to(ROOT).with_suffix('')}.{frame.f_code.co_qualname}"


def running_stack() -> Stack:
    """Our currently running frames, outermost first; a running coroutine comes after those that await it."""
    found: Stack = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if (name := own(frame)) is not None:
            found.append(name)
        frame = frame.f_back
    return found[::-1]


def stack_of_task(task: asyncio.Task[object]) -> Stack:
    """Our frames of a waiting task, outermost first."""
    found: Stack = []
    awaited: object = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and (name := own(frame)) is not None:
            found.append(name)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found


class Watch:
    """Keeps the stacks of each send: first of the sending task, then of the tasks that wait meanwhile."""

    def __init__(self) -> None:
        self.sends: list[list[Stack]] = []

    def look(self) -> None:
        others = [stack_of_task(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        self.sends.append([running_stack(), *(stack for stack in others if stack)])


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Record the stacks whenever the HTTP library is asked for a connection to a provider."""
    watch, connect = Watch(), aiohttp.TCPConnector.connect

    async def look_and_connect(self: aiohttp.TCPConnector, *arguments: object, **options: object) -> object:
        watch.look()
        return await connect(self, *arguments, **options)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", look_and_connect)
    return watch


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(tmp_path / "data") as opened:
        for late in ("/token", "/proxy/"):  # a process's first request to these also waits for a module to load
            await opened.http.get(late)
        yield opened


def rooms(stack: Stack) -> list[str]:
    """The folders that a stack passes through, in order."""
    return [name for name, _ in itertools.groupby(function.rpartition("/")[0] for function in stack)]


def check(stack: Stack, most: int) -> None:
    listed = "\n".join(stack)
    assert len(stack) <= most, listed
    assert len(set(rooms(stack))) == len(rooms(stack)), f"a room is entered twice:\n{listed}"


async def test_a_plain_tool_call_reaches_the_provider_within_twelve_frames(place: ExchangeRoom, watch: Watch) -> None:
    caller = await place.caller()
    agent = await place.agent(caller)
    await place.slack(agent)
    watch.sends.clear()
    message = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}})
    headers = modern_headers("tools/call", "slack_post", authorization=f"Bearer {agent.token}")
    answer = await place.http.post("/mcp", json=message, headers=headers)
    assert '"isError":true' not in answer.text, answer.text
    (send,) = watch.sends
    check(send[0], 12)


async def test_a_proxied_call_reaches_the_provider_within_seven_frames(place: ExchangeRoom, watch: Watch) -> None:
    caller = await place.caller()
    agent = await place.agent(caller)
    await place.slack(agent)
    handle = (await place.exchange(caller, agent.token, scope="chat:write")).json()
    watch.sends.clear()
    form = {"channel": "#general", "text": "hello"}
    headers = {"authorization": f"Bearer {handle['access_token']}"}
    answer = await place.http.post(f"{handle['api_base_url']}/chat.postMessage", data=form, headers=headers)
    assert answer.json()["ok"], answer.text
    (send,) = watch.sends
    check(send[0], 7)


async def test_an_exchange_waits_within_nine_frames_for_a_refresh_of_ten(place: ExchangeRoom, watch: Watch) -> None:
    caller = await place.caller()
    agent = await place.agent(caller)
    connection = await place.slack(agent)
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update connections set access_expires_at = 1 where id = :id", {"id": connection.id})
    watch.sends.clear()
    answer = await place.exchange(caller, agent.token, scope=" ".join(sorted(SLACK)))
    assert answer.status_code == 200, answer.text
    (send,) = watch.sends
    request = max((stack for stack in send if stack[0].startswith("server/http/edge.")), key=len)  # not the lifespan
    (refresh,) = [stack for stack in send if stack[0].startswith("vault/refresh/")]
    check(request, 9)
    check(refresh, 10)
    check(send[0], 2)
