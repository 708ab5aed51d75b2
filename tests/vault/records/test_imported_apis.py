"""Imported APIs in the database: only what was accepted counts, in every process, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.definitions.catalog import ProviderFileRefused
from server.administration.actor import Actor, ChangeRefused
from server.app import open_deployment, open_policies
from server.provider_settings import SettingsRefused
from server.remote import imported_apis as imports
from server.settings import load_settings
from tests.conftest import Store
from vault.mcp import imported_apis
from vault.mcp.imported_apis import AcceptedApi, ImportedApi
from vault.storage.database import Database

NOW = 1_900_000_000
CONTENT = json.dumps(
    {
        "provider": {
            "name": "tickets",
            "title": "Tickets",
            "audience": "https://tickets.example",
            "apis": {"main": "https://tickets.example/v1"},
            "scopes": {"tickets:read": {"title": "See tickets"}},
            "overrides": {"parameters": []},
            "rules": [{"api": "main", "method": "GET", "path": "/tickets", "scopes": ["tickets:read"]}],
        },
        "tools": {
            "provider": "tickets",
            "tool": [
                {
                    "name": "tickets_list",
                    "title": "Tickets",
                    "description": "Lists tickets.",
                    "scopes": ["tickets:read"],
                    "effect": "read",
                    "request": {"api": "main", "method": "GET", "path": "/tickets"},
                    "arguments": {},
                    "result": {"line": "{id}", "fields": {"id": {"path": "id", "type": "integer"}}},
                }
            ],
        },
    }
)


async def _api(database: Database) -> ImportedApi:
    found = await imported_apis.get_api(database, "tickets")
    assert found is not None
    return found


async def test_it_waits_then_is_accepted_then_waits_beside_what_is_on(store: Store) -> None:
    database = await store.open()
    async with database.transaction() as transaction:
        await imported_apis.offer(transaction, "tickets", "{}", by="", now=NOW)
    assert await imported_apis.list_accepted(database) == ()
    first = await _api(database)
    async with database.transaction() as transaction:
        await imported_apis.offer(transaction, "tickets", "[]", by="", now=NOW)
    async with database.transaction() as transaction:
        assert not await imported_apis.accept(transaction, first, "{}", by="", now=NOW), "another one waits"
    second = await _api(database)
    assert second.digest != first.digest
    async with database.transaction() as transaction:
        assert await imported_apis.accept(transaction, second, "[]", by="", now=NOW)
        assert not await imported_apis.accept(transaction, second, "[]", by="", now=NOW), "only once"
        decided = ImportedApi("tickets", None, NOW, "[]", "[]")
        assert await imported_apis.accept(transaction, decided, "[]", by="", now=NOW), "decided again"
        assert not await imported_apis.discard(transaction, second), "nothing waits"
        await imported_apis.offer(transaction, "tickets", "{}", by="", now=NOW)
    assert await imported_apis.list_accepted(database) == (AcceptedApi("tickets", "[]"),)
    async with database.transaction() as transaction:
        other = ImportedApi("tickets", "[]", NOW, "[]")
        assert not await imported_apis.discard(transaction, other), "something else waits"
        assert await imported_apis.discard(transaction, first)
    assert await _api(database) == ImportedApi("tickets", None, NOW, "[]", "[]")
    async with database.transaction() as transaction:
        assert await imported_apis.remove(transaction, "tickets")
        assert not await imported_apis.remove(transaction, "tickets")
        await imported_apis.offer(transaction, "tickets", "{}", by="", now=NOW)
        assert await imported_apis.discard(transaction, first)
    assert await imported_apis.list_apis(database) == ()
    await database.close()


async def test_every_process_has_what_one_accepted(store: Store) -> None:
    def settings(**overrides: Any):
        return load_settings(overrides={"database": {"url": store.url}, **overrides})

    async with (
        open_deployment(settings(), data=store.data) as here,
        open_deployment(settings(), data=store.data) as there,
    ):
        actor = Actor(here, None, "command_line")
        await imports.offer(actor, "tickets", CONTENT)
        await there.live.refresh(there.database, there.keys)
        assert there.catalog.get("tickets") is None
        digest = (await imports.api_named(here, "tickets")).digest
        assert await imports.accept(actor, "tickets", digest, {"tickets_list": "ask"}) == 1
        await there.live.refresh(there.database, there.keys)
        (tool,) = [spec for spec in there.tools if spec.provider == "tickets"]
        assert tool.approval
        assert there.catalog.provider("tickets").audience == "https://tickets.example"
        read = await open_policies(settings(), data=store.data)
        assert "tickets" in await read(here.database)
    async with open_deployment(settings(tools={"disable": ["tickets_list"]}), data=store.data) as after:
        assert "tickets_list" not in {spec.name for spec in after.tools}
        assert after.catalog.get("tickets") is not None
    with pytest.raises(SettingsRefused, match="no tool"):
        async with open_deployment(settings(tools={"disable": ["tockets_list"]}), data=store.data):
            pass


async def test_what_settings_name_keeps_its_tool(store: Store) -> None:
    overrides = {"database": {"url": store.url}, "approvals": {"ask": ["tickets_list"]}}
    async with open_deployment(load_settings(overrides={"database": {"url": store.url}}), data=store.data) as before:
        actor = Actor(before, None, "command_line")
        await imports.offer(actor, "tickets", CONTENT)
        digest = (await imports.api_named(before, "tickets")).digest
        await imports.accept(actor, "tickets", digest, {"tickets_list": "accept"})
    async with open_deployment(load_settings(overrides=overrides), data=store.data) as named:
        with pytest.raises(ChangeRefused, match=r"approvals\.ask names tickets_list"):
            await imports.remove(Actor(named, None, "command_line"), "tickets")
    async with open_deployment(load_settings(overrides={"database": {"url": store.url}}), data=store.data) as after:
        await imports.remove(Actor(after, None, "command_line"), "tickets")  # the twin
        assert after.catalog.get("tickets") is None


async def test_settings_of_an_imported_api_move_it_and_name_no_client(store: Store) -> None:
    def settings(**about: Any):
        overrides = {"database": {"url": store.url}, **({"providers": {"tickets": about}} if about else {})}
        return load_settings(overrides=overrides)

    moved = {"apis": {"main": "https://tickets.internal.example/v1"}, "private": ["tickets.internal.example"]}
    with pytest.raises(ProviderFileRefused, match="no provider file of that name, and no imported API"):
        async with open_deployment(settings(**moved), data=store.data):
            pass
    async with open_deployment(settings(), data=store.data) as before:
        await imports.offer(Actor(before, None, "command_line"), "tickets", CONTENT)
    async with open_deployment(settings(**moved), data=store.data) as there:
        assert there.catalog.get("tickets") is None, "it waits"
        actor = Actor(there, None, "command_line")
        digest = (await imports.api_named(there, "tickets")).digest
        await imports.accept(actor, "tickets", digest, {"tickets_list": "accept"})
        found = there.catalog.provider("tickets")
        assert found.apis["main"] == "https://tickets.internal.example/v1"
        assert found.registration.reach is not None
        with pytest.raises(ChangeRefused, match=r"providers\.tickets is about this API"):
            await imports.remove(actor, "tickets")
    async with open_deployment(settings(client_id="ours"), data=store.data) as wrong:
        said = wrong.live.current.unusable["tickets"]
        assert said.startswith("providers.tickets.client_id: Tickets takes this vault's own tokens")
        assert said.endswith("Remove this setting; set its address in providers.tickets.apis")
    async with open_deployment(settings(), data=store.data) as after:
        await imports.remove(Actor(after, None, "command_line"), "tickets")  # the twin
