"""Everyone's agents, the vault's own pages, and the first steps, as seen by an administrator and a new person."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import httpx2
import pytest

from server.administration.effective_settings import effective_settings
from server.lifecycle.maintenance import upkeep
from server.settings import load_settings
from tests.support.rooms.portal_room import Room, running_room
from vault import clients, grants
from vault.audit import audit
from vault.records import Client, ClientKind, Event
from vault.storage.database import Database
from vault.upkeep import replicas
from vault.upkeep.replicas import Replica

AGENTS = "/administration/agents"


async def test_cutting_an_agent_off_ends_it_for_everybody_at_the_next_call(room: Room) -> None:
    admin, bob = await room.signed_in("alice"), await room.user("bob")
    browser = await room.signed_in(bob)
    tokens = await room.vault.agent(browser, name="bob")
    other = await room.vault.agent(browser, name="bob")

    async def calls(access_token: str) -> int:
        headers = {"Authorization": f"Bearer {access_token}"}
        async with httpx2.AsyncClient(timeout=30) as http:
            return (await http.post(f"{room.url}/mcp", json={}, headers=headers)).status_code

    page = await admin.open(f"{AGENTS}/{tokens.client_id}")
    assert "bob" in page.text
    assert await calls(tokens.access_token) != 401
    confirm = await admin.open(f"{AGENTS}/{tokens.client_id}/cut-off")
    done = await admin.submit(confirm, form="/cut-off")
    assert "is cut off" in done.text
    assert await calls(tokens.access_token) == 401
    assert await calls(other.access_token) != 401  # the twin: another agent stays
    assert (await admin.submit(confirm, form="/cut-off")).status_code == 404  # it was done already
    (removed,) = [one for one in await room.events() if one.kind == "client.removed"]
    assert (removed.client_id, removed.details["by"]) == (tokens.client_id, "alice")


async def test_only_an_administrator_sees_the_vault_s_pages(room: Room) -> None:
    client = await room.agent()
    paths = ("", "/agents", f"/agents/{client.id}", f"/agents/{client.id}/cut-off", "/settings", "/activity", "/people")
    person, admin = await room.signed_in(await room.user()), await room.signed_in("alice")
    for path in paths:
        assert (await person.open(f"/administration{path}")).status_code == 403, path
        assert (await admin.open(f"/administration{path}")).status_code == 200, path


async def test_agents_are_found_by_a_part_of_their_name_and_paged(database: Database) -> None:
    async with database.transaction() as transaction:
        for number in range(130):
            name = "Cursor" if number % 40 == 0 else f"agent {number}"
            facts = {"id": f"{number:03}-{secrets.token_hex(4)}", "name": name, "created_at": number // 3}
            made = Client(kind=ClientKind.DYNAMIC, auth_method="none", redirect_uris=(), **facts)  # pyright: ignore[reportArgumentType]
            await clients.save_client(transaction, made)

    async def find_all_pages(named: str) -> list[str]:
        found, before = list[str](), None
        while True:
            page, before = await clients.find_page(database, named=named, before=before, limit=50)
            found += [one.id[:3] for one in page]
            if before is None:
                return found

    assert await find_all_pages("") == [f"{number:03}" for number in reversed(range(130))]
    assert await find_all_pages("URSO") == ["120", "080", "040", "000"]
    assert await find_all_pages("nobody") == []


async def test_who_uses_an_agent(database: Database) -> None:
    from vault import users

    async with database.transaction() as transaction:
        for name in ("ann", "bob", "eve"):
            user = await users.create_user(transaction, name, now=1)
            which = {"user_id": user.id, "client_id": "cursor", "scopes": frozenset({"tools"}), "resource": "x"}
            made = await grants.create_grant(transaction, **which, redirect_uri="x", now=1)  # pyright: ignore[reportArgumentType]
            if name == "eve":
                await grants.revoke_client_grants(
                    transaction, user_id=user.id, client_id="cursor", reason="cut_off", now=2
                )
            del made
    assert [name for _, name in await grants.list_people(database, "cursor", limit=50)] == ["ann", "bob"]
    assert len(await grants.list_people(database, "cursor", limit=1)) == 1


async def test_each_process_is_listed_while_it_runs(room: Room) -> None:
    database = room.deployment.database
    async with upkeep(room.deployment, role="serve"):
        async with asyncio.timeout(30):
            while not await replicas.list_replicas(database):
                await asyncio.sleep(0.02)
        (mine,) = await replicas.list_replicas(database)
        assert (mine.id, mine.role) == (room.deployment.vault.owner, "serve")
        said = Replica("other", "elsewhere.example", "stdio", "0.1", 1, mine.seen_at, {"revocations": "timeout"}, {})
        async with database.transaction() as transaction:
            await replicas.note_replica(transaction, said)
        page = await (await room.signed_in("alice")).open("/administration")
        assert "elsewhere.example" in page.text
        assert "“revocations”: timeout" in page.text
        assert "not seen recently" not in page.text
        database.clock_offset += 300
        later = await (await room.signed_in("alice")).open("/administration")
        assert "not seen recently" in later.text
    assert [one.id for one in await replicas.list_replicas(database)] == ["other"]


async def test_settings_show_their_origin_and_no_secret(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOKEN_VAULT_TOKENS__ACCESS_LIFETIME", "1200")
    config = tmp_path / "config.toml"
    config.write_text(
        '[providers.slack]\nclient_id = "1.2"\nclient_secret = "hidden-secret"\n[database]\nurl = "sqlite:"\n'
        '[outbound]\nproxy = "http://user:hidden-password@proxy.example:8080"\n'
    )
    rows = {
        one.name: one
        for _, found in effective_settings(load_settings(config), {"TOKEN_VAULT_TOKENS__ACCESS_LIFETIME": "1200"})
        for one in found
    }
    assert (rows["tokens.access_lifetime"].value, rows["tokens.access_lifetime"].origin) == ("1200", "environment")
    assert rows["tokens.access_lifetime"].variable == "TOKEN_VAULT_TOKENS__ACCESS_LIFETIME"
    assert (rows["providers.slack.client_id"].value, rows["providers.slack.client_id"].origin) == ("1.2", "file")
    assert (rows["tokens.code_lifetime"].value, rows["tokens.code_lifetime"].origin) == ("60", "default")
    for name in ("providers.slack.client_secret", "outbound.proxy", "database.url"):
        assert rows[name].value is None, name
    assert "hidden" not in repr(rows)
    secret = room.deployment.catalog.provider("slack").registration.client_secret
    assert secret
    page = await (await room.signed_in("alice")).open("/administration/settings")
    assert secret not in page.text
    assert "providers.slack.client_id" in page.text
    assert "tokens.code_lifetime" not in page.text  # it still has its default
    everything = await (await room.signed_in("alice")).open("/administration/settings?show=all")
    assert "tokens.code_lifetime" in everything.text
    assert secret not in everything.text


async def test_the_activity_of_everybody_names_whose_it_is(room: Room) -> None:
    bob = await room.user("bob")
    async with room.deployment.transaction() as transaction:
        events = [Event("connection.renamed", user_id=bob.id, details={"name": f"n{n}"}) for n in range(60)]
        await audit.append(transaction, *events, now=room.deployment.now())
    admin = await room.signed_in("alice")
    first = await admin.open(f"/administration/activity?person={bob.id}")
    assert "Activity of bob" in first.text
    assert "n59<" in first.text
    assert "n5<" not in first.text
    older = first.text.partition('href="/administration/activity?person=')[2].partition('"')[0]
    second = await admin.open("/administration/activity?person=" + older.replace("&amp;", "&"))
    assert "n5<" in second.text
    assert "n59<" not in second.text
    assert "bob" in (await admin.open("/administration/activity")).text


async def test_the_first_steps_know_what_is_done(tmp_path: Path) -> None:
    bare = {"slack": {"client_id": None}, "google": {"client_id": None}}
    async with running_room(tmp_path / "bare", overrides={"providers": bare}) as room:
        admin, person = await room.signed_in("alice"), await room.signed_in(await room.user("bob"))
        for path in ("/connections", "/first-run"):
            assert "/administration/providers" in (await admin.open(path)).text
            assert "token-vault providers" not in (await admin.open(path)).text
            assert "Ask an admin of this vault" in (await person.open(path)).text
            assert "/administration/providers" not in (await person.open(path)).text
        assert 'href="/first-run"' in (await admin.open("/")).text
        page = await admin.open("/first-run?client=zed")
        assert "~/.config/zed/settings.json" in page.text
        assert f"{room.url}/mcp" in page.text
        assert 'data-awaits="/first-run"' in page.text
        alice = await room.user("alice")
        async with room.deployment.transaction() as transaction:
            event = Event("tool.called", user_id=alice.id, client_id="agent", details={"tool": "slack_post"})
            await audit.append(transaction, event, now=room.deployment.now())
        assert "data-awaits" not in (await admin.open("/first-run")).text
