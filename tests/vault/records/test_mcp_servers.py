"""MCP servers in the database: a tool counts only in the form that was accepted, on both databases."""

from __future__ import annotations

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import open_room
from tests.vault.storage.test_upgrades import execute
from vault.mcp import servers
from vault.mcp.servers import Acceptance, McpServer
from vault.storage.database import Database

NOW = 1_900_000_000
A, B = '{"name":"a"}', '{"name":"b"}'


async def _server(database: Database) -> McpServer:
    found = await servers.get_server(database, "notes")
    assert found is not None
    return found


async def _see(database: Database, offered: dict[str, str], *, by: str = "k1", now: int = NOW) -> servers.OfferChange:
    async with database.transaction() as transaction:
        held = await servers.hold(transaction, "notes")
        assert held is not None
        return await servers.see(transaction, held, offered, by=by, now=now)


async def _accept(database: Database, name: str, reviewed: str) -> tuple[str, ...]:
    wanted = {name: Acceptance("read", asks=False, reviewed=reviewed)}
    async with database.transaction() as transaction:
        return await servers.accept(transaction, await _server(database), wanted, by="", now=NOW)


@pytest.fixture
async def database(store: Store):
    opened = await store.open()
    async with opened.transaction() as transaction:
        facts = {"token_url": "https://notes.example/token"}
        added = {"url": "https://notes.example/mcp", "title": "Notes", "facts": facts, "by": "", "now": NOW}
        assert await servers.add_server(transaction, "notes", **added)
        assert not await servers.add_server(transaction, "notes", **added)
    yield opened
    await opened.close()


async def test_a_tool_is_new_then_accepted_then_changed_then_gone(database: Database) -> None:
    assert (await _see(database, {"a": A})).held == ("a",)
    assert [one.state for one in (await _server(database)).tools] == ["new"]
    assert await _accept(database, "a", A) == ()
    (tool,) = (await _server(database)).tools
    assert (tool.state, tool.effect, tool.asks) == ("accepted", "read", False)
    assert (await _see(database, {"a": A})).is_nothing
    assert (await _see(database, {"a": B})).held == ("a",)
    assert [one.state for one in (await _server(database)).tools] == ["changed"]
    assert (await _see(database, {"a": A})).back == ("a",)
    assert (await _see(database, {})).gone == ("a",)
    assert [one.state for one in (await _server(database)).tools] == ["absent"]


async def test_only_the_reviewed_form_can_be_accepted(database: Database) -> None:
    await _see(database, {"a": B})
    assert await _accept(database, "a", A) == ("a",)
    assert await _accept(database, "a", B) == ()


async def test_what_one_account_sees_counts_against_another_only_if_nobody_there_saw_more(store: Store) -> None:
    async with open_room(store) as room:
        database = room.database
        async with database.transaction() as transaction:
            about = {"url": "https://notes.example/mcp", "title": "Notes", "facts": {}, "by": "", "now": NOW}
            await servers.add_server(transaction, "notes", **about)
        first, second = [(await room.connect(account=name)).id for name in ("one", "two")]
        await _see(database, {"a": A, "b": B}, by=first)
        await _accept(database, "a", A)
        assert (await _see(database, {"a": A}, by=second)).is_nothing
        assert (await _see(database, {"a": B, "b": B}, by=second)).held == ("a",)
        assert (await _see(database, {"a": A, "b": B}, by=first)).is_nothing  # what the second account saw still counts
        assert (await _see(database, {"a": A, "b": B}, by=first, now=NOW + 3599)).is_nothing
        assert (await _see(database, {"a": A, "b": B}, by=first, now=NOW + 3600)).back == ("a",)
        many = {f"t{n:03}": A for n in range(498)}
        assert (await _see(database, {"a": A, **many}, by=second)).gone == ()
        many |= {"t498": A}
        assert (await _see(database, {"a": A, **many}, by=second)).gone == ("b",)  # nobody had accepted that tool
        assert "a" not in (await _see(database, {}, by=second)).gone
        await execute(store, f"update connections set ended_at = {NOW} where id = '{first}'")
        assert (await _see(database, {}, by=second)).gone == ("a",)


async def test_what_nobody_accepted_is_forgotten_when_it_is_gone(database: Database) -> None:
    await _see(database, {"a": A, "b": B})
    await _accept(database, "a", A)
    assert (await _see(database, {"c": A, "d": A})).gone == ("a", "b")
    assert [(one.name, one.state) for one in (await _server(database)).tools] == [
        *(("a", "absent"), ("c", "new"), ("d", "new"))
    ]


async def test_the_digest_names_exactly_what_was_seen(database: Database) -> None:
    await _see(database, {"a": A})
    first = (await _server(database)).digest
    await _see(database, {"a": A})
    assert (await _server(database)).digest == first
    await _see(database, {"a": B})
    assert (await _server(database)).digest != first


async def test_a_removed_server_leaves_nothing(database: Database) -> None:
    await _see(database, {"a": A})
    async with database.transaction() as transaction:
        assert await servers.remove_server(transaction, "notes")
        assert not await servers.remove_server(transaction, "notes")
        assert not await servers.set_disabled(transaction, "notes", is_disabled=True)
    assert await servers.list_servers(database) == ()
    assert await database.fetch("select name from mcp_tools") == []


async def test_a_name_is_given_once_and_stays_taken_when_its_tool_is_gone(database: Database) -> None:
    await _see(database, {"a": A, "b": B})
    await _accept(database, "a", A)
    async with database.transaction() as transaction:
        held = await servers.hold(transaction, "notes")
        assert held is not None
        await servers.give_names(transaction, held, {"a": "a"})
        await servers.give_names(transaction, held, {"a": "other"})
    await _see(database, {})
    async with database.transaction() as transaction:
        await servers.forget(transaction, await _server(database), ["a", "b"])
    (tool,) = (await _server(database)).tools
    assert (tool.name, tool.shown, tool.state, tool.accepted) == ("a", "a", "retired", A)
    assert (await _see(database, {"a": A})).held == ("a",)
    assert [one.state for one in (await _server(database)).tools] == ["returned"]
    assert await _accept(database, "a", A) == ()
    assert [one.state for one in (await _server(database)).tools] == ["accepted"]


async def test_what_nobody_accepted_is_not_read_with_the_accepted_tools(database: Database) -> None:
    await _see(database, {"a": A, "b": B})
    (server,) = await servers.list_accepted(database)
    assert server.tools == ()
    await _accept(database, "a", A)
    before = await servers.list_accepted(database)
    assert [(one.name, one.state) for one in before[0].tools] == [("a", "accepted")]
    await _see(database, {"a": A, "b": A, "c": B})
    assert await servers.list_accepted(database) == before
    await _see(database, {})
    assert [one.state for one in (await servers.list_accepted(database))[0].tools] == ["absent"]


async def test_a_left_tool_stays_left_until_it_is_another_one(database: Database) -> None:
    async def tool_states() -> dict[str, tuple[bool, str]]:
        return {one.name: (one.is_left, one.state) for one in (await _server(database)).tools}

    await _see(database, {"a": A, "b": A})
    await _accept(database, "b", A)
    await _see(database, {"a": A, "b": B})
    async with database.transaction() as transaction:
        await servers.leave(transaction, await _server(database), ["a", "b"])
    assert set((await _see(database, {})).gone) == {"a", "b"}
    assert await tool_states() == {"a": (True, "absent"), "b": (True, "absent")}
    assert await _see(database, {"a": A, "b": B}, by="k2", now=NOW + 7200) == servers.OfferChange(left=("a", "b"))
    assert await tool_states() == {"a": (True, "new"), "b": (True, "changed")}
    await _see(database, {}, by="k2")
    assert (await _see(database, {"a": B, "b": A}, by="k2")) == servers.OfferChange(held=("a",), back=("b",))
    assert await tool_states() == {"a": (False, "new"), "b": (False, "accepted")}
