"""Requests in which secrets are made, sent, and stored. Each can be prepared any number of times."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import httpx2

from providers.simulator.person import consent
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.exchange_room import Caller, ExchangeRoom, exchange_room
from tests.support.rooms.key_room import running_key_room
from tests.support.rooms.mcp_room import SLACK, Agent, modern, modern_headers
from tests.support.rooms.mcp_room import room as mcp_room
from tests.support.rooms.portal_room import running_room, someone
from vault import delegations

HALF_A_DAY = 43_200

Act = Callable[[], Awaitable[httpx2.Response]]
Prepare = Callable[[], Awaitable[Act]]


def open_exchange_room(store: Store, **overrides: object) -> AbstractAsyncContextManager[ExchangeRoom]:
    return exchange_room(store.data, database_url=None if store.is_sqlite else store.url, **overrides)


async def agent_of(room: ExchangeRoom, *, is_old: bool) -> tuple[Caller, Agent]:
    """A client that may get tokens, and an agent; with `is_old`, the upstream token must be refreshed first."""
    caller = await room.caller(release={"default": "full"})
    first = await room.agent(caller)
    await room.slack(first)
    if is_old:
        room.deployment.database.clock_offset += HALF_A_DAY
        room.room.simulator.advance(HALF_A_DAY)
    return caller, await room.agent(caller)


@asynccontextmanager
async def exchange(store: Store, *, is_old: bool = False) -> AsyncGenerator[Prepare]:
    async with open_exchange_room(store) as room:

        async def prepare() -> Act:
            caller, agent = await agent_of(room, is_old=is_old)
            return lambda: room.exchange(caller, agent.token)

        yield prepare


@asynccontextmanager
async def rotation(store: Store) -> AsyncGenerator[Prepare]:
    """A client gets new tokens with its refresh token."""
    async with open_exchange_room(store) as room:

        async def prepare() -> Act:
            caller = await room.caller()
            token = await room.refresh_token(await room.agent(caller))
            form = {"grant_type": "refresh_token", "refresh_token": token, **caller.credentials}
            return lambda: room.http.post("/token", data=form)

        yield prepare


@asynccontextmanager
async def tool_call(store: Store) -> AsyncGenerator[Prepare]:
    async with open_exchange_room(store) as room:
        body = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}})

        async def prepare() -> Act:
            _, agent = await agent_of(room, is_old=False)
            headers = agent.headers | modern_headers("tools/call", "slack_post")
            return lambda: room.http.post("/mcp", json=body, headers=headers)

        yield prepare


@asynccontextmanager
async def connection(store: Store) -> AsyncGenerator[Prepare]:
    database = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=database) as room:

        async def prepare() -> Act:
            user, person, client = await someone(room)
            callback = await consent(await room.to_provider(person, await room.link(user, client)))
            return lambda: person.http.get(callback)

        yield prepare


@asynccontextmanager
async def key_entry(store: Store) -> AsyncGenerator[Prepare]:
    """A person enters a key, which is tested at the service, sealed, and stored."""
    async with running_key_room(store.data, database_url=None if store.is_sqlite else store.url) as room:

        async def prepare() -> Act:
            user = await room.user()
            person, key = await room.signed_in(user), room.simulator.sandbox.keys.make(user.name)
            page = await room.form(person)
            return lambda: room.enter(person, page, key=key)

        yield prepare


@asynccontextmanager
async def approval(store: Store) -> AsyncGenerator[Prepare]:
    """A person approves a call that waits for approval."""
    async with (
        mcp_room(store.data, database_url=None if store.is_sqlite else store.url) as place,
        Person(place.url) as person,
    ):
        await person.sign_in("alice", PASSWORD)

        async def prepare() -> Act:
            agent = await place.agent()
            connection = await place.connect(agent, "slack", scopes=SLACK)
            async with place.vault.deployment.transaction() as transaction:
                which = {"user_id": agent.principal.user_id, "client_id": agent.principal.client_id}
                now, ask = place.vault.deployment.now(), frozenset({"tool:slack_post"})
                await delegations.set_ask(transaction, **which, connection_id=connection.id, ask=ask, now=now)
            async with place.client(agent) as client:
                asked = await client.call_tool("slack_post", {"channel": "#general", "text": "hello"})
            assert asked.meta is not None
            page = await person.open(str(asked.meta["io.github.mcp-token-vault/connect"]["url"]))
            return lambda: person.submit(page, form="/approvals/", button=("decision", "allow"))

        yield prepare


@asynccontextmanager
async def registration(store: Store) -> AsyncGenerator[Prepare]:
    """An agent registers itself and gets a secret."""
    limits = {"per_address_hourly": 10_000, "total_hourly": 10_000}
    async with open_exchange_room(store, registration=limits) as room:
        content = {"redirect_uris": ["https://agent.example/callback"], "client_name": "Agent"}

        async def prepare() -> Act:
            return lambda: room.http.post("/register", json=content)

        yield prepare


FLOWS: dict[str, Callable[[Store], AbstractAsyncContextManager[Prepare]]] = {
    "exchange": exchange,
    "refresh": partial(exchange, is_old=True),
    "rotation": rotation,
    "tool call": tool_call,
    "connection": connection,
    "key entry": key_entry,
    "approval": approval,
    "registration": registration,
}
