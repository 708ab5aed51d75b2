"""A request leaves nothing behind that only Python's cycle collector can free.

Such objects stay in memory until the next collection, so each request uses memory that isn't in a CPU cache.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import httpx2
import pytest

from tests.support.rooms.exchange_room import ExchangeRoom
from tests.support.rooms.mcp_room import legacy_headers, legacy_session, modern, modern_headers, room

OURS = ("server.", "providers.", "vault.", "uvicorn.")
SIMULATOR = "providers.simulator."
REQUESTS = 50  # the loop's cancelled timers keep about 15 of them for a while
OTHER = frozenset({"channels:read"})
Request = Callable[[], Awaitable[httpx2.Response]]


@contextmanager
def kept_garbage() -> Generator[Counter[str]]:
    """After the block, the types of the objects that only the cycle collector could free."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        names = [f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage]
        found.update(name for name in names if name.startswith(OURS) and not name.startswith(SIMULATOR))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[ExchangeRoom]:
    async with (
        room(tmp_path / "data") as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=30, trust_env=False) as http,
    ):
        yield ExchangeRoom(opened, http)


async def tool_call(place: ExchangeRoom, *, channel: str = "#general", is_connected: bool = True) -> Request:
    agent = await place.agent(await place.caller())
    if is_connected:
        await place.slack(agent)
    message = modern("tools/call", {"name": "slack_post", "arguments": {"channel": channel, "text": "hello"}})
    headers = modern_headers("tools/call", "slack_post", authorization=f"Bearer {agent.token}")
    return lambda: place.http.post("/mcp", json=message, headers=headers)


async def refused_tool_call(place: ExchangeRoom) -> Request:
    return await tool_call(place, is_connected=False)


async def tool_call_refused_by_the_provider(place: ExchangeRoom) -> Request:
    return await tool_call(place, channel="#unknown")


async def session_call(place: ExchangeRoom) -> Request:
    agent = await place.agent(await place.caller())
    await place.slack(agent)
    place.http.headers["authorization"] = f"Bearer {agent.token}"
    session = await legacy_session(place.http)
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}},
    }
    return lambda: place.http.post("/mcp", json=message, headers=legacy_headers(session))


async def list_of_tools(place: ExchangeRoom) -> Request:
    agent = await place.agent(await place.caller())
    headers = modern_headers("tools/list", authorization=f"Bearer {agent.token}")
    return lambda: place.http.post("/mcp", json=modern("tools/list", {}), headers=headers)


async def proxied_call(place: ExchangeRoom, method: str = "chat.postMessage", *, is_withdrawn: bool = False) -> Request:
    caller = await place.caller()
    agent = await place.agent(caller)
    connection = await place.slack(agent)
    handle = (await place.exchange(caller, agent.token, scope="chat:write")).json()
    if is_withdrawn:
        await place.room.allow(agent, connection, OTHER)
    headers = {"authorization": f"Bearer {handle['access_token']}"}
    form = {"channel": "#general", "text": "hello"}
    return lambda: place.http.post(f"{handle['api_base_url']}/{method}", data=form, headers=headers)


async def refused_proxied_call(place: ExchangeRoom) -> Request:
    return await proxied_call(place, "conversations.list")


async def withdrawn_proxied_call(place: ExchangeRoom) -> Request:
    return await proxied_call(place, is_withdrawn=True)


async def exchanged_token(
    place: ExchangeRoom, *, is_connected: bool = True, delegated: frozenset[str] | None = None
) -> Request:
    caller = await place.caller()
    agent = await place.agent(caller)
    if is_connected:
        await place.slack(agent, delegated=delegated)
    return lambda: place.exchange(caller, agent.token, scope="chat:write")


async def refused_exchange(place: ExchangeRoom) -> Request:
    return await exchanged_token(place, is_connected=False)


async def exchange_without_permission(place: ExchangeRoom) -> Request:
    return await exchanged_token(place, delegated=OTHER)


async def page(place: ExchangeRoom) -> Request:
    return lambda: place.http.get("/sign-in")


async def refused_page(place: ExchangeRoom) -> Request:
    return lambda: place.http.get("/sign-in?return_to=a&return_to=b")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (tool_call, '"isError":false'),
        (refused_tool_call, "/connect"),
        (tool_call_refused_by_the_provider, '"isError":true'),
        (session_call, '"isError":false'),
        (list_of_tools, '"slack_post"'),
        (proxied_call, '"ok":true'),
        (refused_proxied_call, "scope_missing"),
        (withdrawn_proxied_call, "delegation_required"),
        (exchanged_token, '"access_token"'),
        (refused_exchange, '"invalid_target"'),
        (exchange_without_permission, '"invalid_scope"'),
        (page, "Sign in"),
        (refused_page, "address"),
    ],
)
async def test_a_request_is_freed_without_a_search_for_cycles(
    place: ExchangeRoom, make: Callable[[ExchangeRoom], Awaitable[Request]], says: str
) -> None:
    send = await make(place)

    async def count_garbage(number: int) -> Counter[str]:
        with kept_garbage() as found:
            for _ in range(number):
                assert says in (await send()).text
        return found

    await count_garbage(3)  # what the first requests load stays in memory
    found = await count_garbage(REQUESTS) & await count_garbage(
        REQUESTS
    )  # one of them may include an earlier test's server
    assert not {name: number for name, number in found.items() if number > REQUESTS / 2}


def test_no_page_defines_a_macro() -> None:
    """Such a macro and its page's values reference each other. Files that pages import have no such values."""
    templates = Path(str(resources.files("server.portal").joinpath("templates")))
    sources = {str(one.relative_to(templates)): one.read_text() for one in templates.rglob("*.html")}
    assert any("{% macro " in source for source in sources.values())
    assert not [name for name, source in sources.items() if "{% extends " in source and "{% macro " in source]
