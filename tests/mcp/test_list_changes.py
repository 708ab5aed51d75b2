"""Connected clients are notified that the list of tools changed: sessions of every transport, and subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client
from mcp.shared.subscriptions import ToolsListChanged
from mcp_types import ToolListChangedNotification

from server.mcp import list_changes, stream_watch
from tests.conftest import Store
from tests.support.processes import Place, free_port
from tests.support.rooms.mcp_room import Agent, Room, modern, modern_headers, room
from vault import grants, tool_choices, users
from vault.storage.database import Database
from vault.storage.database_url import open_database


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_changes, "PAUSE", 0.05)
    monkeypatch.setattr(stream_watch, "PAUSE", 0.05)


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Room]:
    async with room(store.data, database_url=store.url) as opened:
        yield opened


async def choose(database: Database, agent: Agent, tool_set: str | None) -> None:
    who = agent.principal
    async with database.transaction() as transaction:
        await tool_choices.set_tool_set(transaction, who.user_id, client_id=who.client_id, tool_set=tool_set, now=1)


class Ear:
    """What a client is told about its list."""

    def __init__(self) -> None:
        self.heard = 0
        self._new = asyncio.Event()

    async def __call__(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.heard += 1
            self._new.set()

    async def hear(self) -> None:
        async with asyncio.timeout(30):
            await self._new.wait()
        self._new.clear()


async def until_streaming(caplog: pytest.LogCaptureFixture, *, sessions: int) -> None:
    """Wait for these sessions' GET streams, which open in parallel with their first requests."""
    async with asyncio.timeout(30):
        while [one.message for one in caplog.records].count("GET SSE connection established") < sessions:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)  # the vault also reads what the session's agent has


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_an_open_session_hears_it_and_finds_the_new_list(
    place: Room, caplog: pytest.LogCaptureFixture, transport: str
) -> None:
    caplog.set_level(logging.DEBUG, "mcp.client.streamable_http")
    agent, other = await place.agent(), await place.agent("bob")
    database, ear, still = place.vault.deployment.database, Ear(), Ear()
    async with (
        place.client(agent, transport=transport, mode="legacy", message_handler=ear, cache=None) as client,
        place.client(other, transport=transport, mode="legacy", message_handler=still) as bystander,
    ):
        assert client.server_capabilities.tools.list_changed is True
        assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
        await bystander.list_tools()
        await until_streaming(caplog, sessions=2 if transport == "http" else 0)
        await choose(database, agent, "read-only")
        await ear.hear()
        assert "slack_post" not in {tool.name for tool in (await client.list_tools()).tools}
        await choose(database, agent, None)
        await ear.hear()
        assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
        await choose(database, agent, "everything")  # the same list under another name
        await asyncio.sleep(0.3)
        assert (ear.heard, still.heard) == (2, 0)


async def test_a_subscription_of_the_newest_revision_hears_it(place: Room) -> None:
    agent, database = await place.agent(), place.vault.deployment.database
    async with place.client(agent, mode="auto") as client:
        assert client.server_capabilities.tools.list_changed is True
        async with client.listen(tools_list_changed=True, prompts_list_changed=True) as subscription:
            assert subscription.honored.tools_list_changed is True
            assert not subscription.honored.prompts_list_changed
            await choose(database, agent, "read-only")
            async with asyncio.timeout(30):
                assert isinstance(await anext(aiter(subscription)), ToolsListChanged)
            assert "slack_post" not in {tool.name for tool in (await client.list_tools()).tools}


async def test_a_choice_in_another_process_is_heard(
    store: Store, place: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mcp.client.streamable_http")
    agent, ear = await place.agent(), Ear()
    elsewhere = await store.open()  # a replica, which serves the page
    try:
        async with place.client(agent, mode="legacy", message_handler=ear) as client:
            await client.list_tools()
            await until_streaming(caplog, sessions=1)
            await choose(elsewhere, agent, "read-only")
            await ear.hear()
    finally:
        await elsewhere.close()


@pytest.mark.parametrize("how", ["grant", "person"])
async def test_a_subscription_ends_with_its_grant_and_no_other_does(place: Room, how: str) -> None:
    agent, other, deployment = await place.agent(), await place.agent("bob"), place.vault.deployment
    body = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    headers = modern_headers("subscriptions/listen")
    async with asyncio.timeout(30), place.http(agent) as http, place.client(other) as client:
        async with client.listen(tools_list_changed=True) as bystander:
            async with http.stream("POST", "/mcp", json=body, headers=headers) as stream:
                assert stream.status_code == 200
                assert stream.headers["content-type"].startswith("text/event-stream")
                lines = stream.aiter_lines()
                while "acknowledged" not in await anext(lines):
                    pass
                async with deployment.transaction() as transaction:
                    if how == "grant":
                        grant = agent.principal.grant_id
                        await grants.revoke_grant(transaction, grant, reason="x", now=deployment.now())
                    else:
                        await users.disable_user(transaction, agent.principal.user_id, now=deployment.now())
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        await anext(lines)
            await choose(deployment.database, other, "read-only")
            assert isinstance(await anext(aiter(bystander)), ToolsListChanged)
        assert (await http.post("/mcp", json=body, headers=headers)).status_code == 401


async def test_a_subscription_keeps_no_process_from_its_end(tmp_path: Path) -> None:
    async with room(tmp_path) as ending:
        agent, body = (
            await ending.agent(),
            modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}}),
        )
        async with asyncio.timeout(25), ending.http(agent) as http:
            headers = modern_headers("subscriptions/listen")
            async with http.stream("POST", "/mcp", json=body, headers=headers) as stream:
                lines = stream.aiter_lines()
                while "acknowledged" not in await anext(lines):
                    pass
                await ending.vault.deployment.drain.finish()  # as at shutdown: calls in flight get 30 s
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        await anext(lines)


async def test_an_agent_has_so_many_subscriptions_and_another_one_still_has_its_own(
    place: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_changes, "MOST", 2)
    agent, other = await place.agent(), await place.agent("bob")
    async with place.client(agent) as client, place.client(other) as bystander:
        async with client.listen(tools_list_changed=True), client.listen(tools_list_changed=True):
            with pytest.raises(Exception, match="too many subscriptions"):
                async with client.listen(tools_list_changed=True):
                    pass
            async with bystander.listen(tools_list_changed=True):
                pass
        async with client.listen(tools_list_changed=True):
            pass


async def choose_over(program: Place, tool_set: str | None) -> None:
    """The owner's choice for the only agent there."""
    database = await open_database("sqlite:", data=program.data)
    try:
        (row,) = await database.fetch("select user_id, client_id from grants")
        async with database.transaction() as transaction:
            await tool_choices.set_tool_set(
                transaction, str(row["user_id"]), client_id=str(row["client_id"]), tool_set=tool_set, now=1
            )
    finally:
        await database.close()


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.long
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_over_stdio_hears_it_while_it_runs_and_at_its_next_start(tmp_path: Path, mode: str) -> None:
    program, ear = Place(tmp_path, free_port()), Ear()
    program.configure()
    for run in ("while it runs", "at the next start"):
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(program.stdio("Listener", mode=mode, message_handler=ear))
            assert client.server_capabilities.tools.list_changed is True
            listed = await names(client)  # in the second run, possibly before the vault is open
            subscription = None
            if mode == "auto":
                subscription = await stack.enter_async_context(client.listen(tools_list_changed=True))
            if run == "while it runs":
                assert "slack_post" in listed
                assert not (await client.call_tool("connections", {})).is_error  # after this, the vault is open
                await choose_over(program, "read-only")
            if subscription is None:
                await ear.hear()
            else:
                async with asyncio.timeout(30):
                    assert isinstance(await anext(aiter(subscription)), ToolsListChanged)
            assert "slack_post" not in await names(client)


@pytest.mark.parametrize("turns", [0, 3])
async def test_a_listener_that_begins_as_the_last_one_ends_hears_changes(place: Room, turns: int) -> None:
    agent, deployment, heard = await place.agent(), place.vault.deployment, asyncio.Event()
    changes = list_changes.ListChanges(deployment, whose=lambda: agent.principal)
    first, second = await changes._watch(lambda: None), await changes._watch(heard.set)
    assert first is not None
    assert second is not None
    with first:
        await asyncio.sleep(0.1)
    for _ in range(turns):
        await asyncio.sleep(0)
    with second:
        await choose(deployment.database, agent, "read-only")
        async with asyncio.timeout(30):
            await heard.wait()
