"""Bulk revocation by the Admin API: who may end what, what is shown before, and what ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import jsonschema
import pytest

from server.administration import agents, bulk_ends, people
from server.administration.actor import Actor
from tests.support.inspection import read_events
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import clients, connections, users
from vault.records import Client, Role, User
from vault.storage.database import integer
from vault.upkeep import panics


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path / "vault") as opened:
        yield opened


async def _ok(room: AdminRoom, method: str, **given: object) -> dict[str, object]:
    """The answer, in the form that the document says."""
    answer = await room.call(method, "/panics", **given)
    assert answer.status_code == 200, answer.text
    document = (await room.http.get("/admin/v1/openapi.json")).json()
    schema = {"$ref": "#/components/schemas/PanicRecord", "components": document["components"]}
    jsonschema.validate(answer.json(), schema)
    return answer.json()


async def _person(room: AdminRoom) -> tuple[User, Client]:
    """A person with a connected account, and an agent that has a grant and may use it."""
    user, agent = await room.room.user(), await room.room.agent()
    await room.room.grant(user, agent)
    await room.room.connect(await room.room.signed_in(user), user, agent)
    return user, agent


async def _live(room: AdminRoom, user: User) -> int:
    found = await connections.list_connections(room.deployment.database, user.id)
    return len([one for one in found if one.status(room.deployment.now()) != "revoked"])


async def _until_complete(room: AdminRoom, which: dict[str, str]) -> dict[str, object]:
    """The answer of `GET /panics` once nothing is left to do."""
    stop = time.monotonic() + 60
    while not (found := await _ok(room, "GET", params=which))["complete"]:
        assert time.monotonic() < stop, found
        await asyncio.sleep(0.05)
    return found


async def _requests(room: AdminRoom) -> int:
    (row,) = await room.deployment.database.fetch("select count(*) as n from panics")
    return integer(row, "n")


async def _connect(room: AdminRoom, user: User, agent: Client) -> None:
    await room.room.connect(await room.room.signed_in(user), user, agent)


async def test_a_persons_access_is_shown_then_ended_and_another_persons_stays(room: AdminRoom) -> None:
    (person, agent), (other, _) = await _person(room), await _person(room)
    which = {"of": "person", "id": person.id}
    shown = await _ok(room, "GET", params=which)
    assert (shown["accounts"], shown["complete"]) == ({"slack": 1}, False)
    assert await _live(room, person) == 1  # looking ends nothing
    ended = await _ok(room, "POST", json=which)
    assert (ended["accounts"], sum(ended["grants"].values())) == ({}, 1)
    assert (await _live(room, person), await _live(room, other)) == (0, 1)
    assert await clients.get_client(room.deployment.database, agent.id) is not None
    assert sum((await _until_complete(room, which))["grants"].values()) == 1
    (told,) = [one for one in await room.room.events(person) if one.kind == "vault.panic"]
    assert (told.details["by"], told.details["via"]) == ("alice", "Automation")


async def test_what_nobody_has_ended_is_not_complete_even_if_nothing_is_connected(room: AdminRoom) -> None:
    which = {"of": "person", "id": (await room.room.user()).id}
    shown = await _ok(room, "GET", params=which)
    assert (shown["accounts"], shown["complete"]) == ({}, False)
    assert (await _ok(room, "POST", json=which))["complete"] is True


@pytest.mark.parametrize("connects_more", [True, False])
async def test_an_unfinished_request_is_continued_with_what_began_after_it(
    room: AdminRoom, *, connects_more: bool
) -> None:
    person, agent = await _person(room)
    which = {"of": "provider", "id": "slack"}
    age = 60 if connects_more else 0  # seconds: 60 are before the account was connected
    async with room.deployment.transaction() as transaction:
        await panics.start(transaction, "provider", "slack", by="bob", now=room.deployment.now() - age)
    await _ok(room, "POST", json=which)
    assert (await _requests(room), await _live(room, person)) == (2 if connects_more else 1, 0)
    assert await panics.list_open(room.deployment.database) == ()
    told = [one for one in await read_events(room.deployment) if one.kind == "vault.panic"]
    assert [(one.details["by"], one.details.get("via")) for one in told][1:] == (
        [("alice", "Automation")] if connects_more else []
    )
    await _until_complete(room, which)
    assert await clients.get_client(room.deployment.database, agent.id) is not None


async def test_who_does_not_wait_is_answered_and_the_work_continues(room: AdminRoom) -> None:
    person, _ = await _person(room)
    actor = Actor(room.deployment, await room.person("alice"), "admin_api")
    before = await bulk_ends.start(actor, "user", person.id, patience=0)
    assert (before.accounts, before.is_complete) == ({"slack": 1}, False)
    found = await _until_complete(room, {"of": "person", "id": person.id})
    assert (found["accounts"], await _live(room, person)) == ({}, 0)


async def test_work_that_fails_is_answered_with_the_counts_and_can_be_continued(room: AdminRoom) -> None:
    person, _ = await _person(room)
    which, database = {"of": "person", "id": person.id}, room.deployment.database
    async with database.transaction() as transaction:
        breaks = "before update of ended_at on connections begin select raise(abort, 'broken'); end"
        await transaction.execute(f"create trigger vault.broken {breaks}")
    answer = await _ok(room, "POST", json=which)
    assert (answer["accounts"], answer["complete"], await _live(room, person)) == ({"slack": 1}, False, 1)
    async with database.transaction() as transaction:
        await transaction.execute("drop trigger vault.broken")
    await _ok(room, "POST", json=which)
    assert (await _requests(room), await _live(room, person)) == (1, 0)
    await _until_complete(room, which)


@pytest.mark.parametrize(
    ("of", "scopes", "twin"),
    [
        ("person", ("admin:access", "admin:agents"), ("admin:access", "admin:people")),
        ("agent", ("admin:access", "admin:people"), ("admin:access", "admin:agents")),
        ("everyone", ("admin:access", "admin:agents"), ("admin:access", "admin:write")),
        ("provider", ("admin:people", "admin:agents", "admin:write"), ("admin:access",)),
    ],
)
async def test_ending_needs_the_scope_of_what_it_ends(
    room: AdminRoom, of: str, scopes: tuple[str, ...], twin: tuple[str, ...]
) -> None:
    person, agent = await _person(room)
    which = {"of": of, "confirm": room.deployment.vault_id}
    if of != "everyone":
        which["id"] = {"person": person.id, "agent": agent.id, "provider": "slack"}[of]
    refused = await room.call("POST", "/panics", token=await room.token_with(*scopes), json=which)
    problem(refused, 403, "insufficient_scope")
    if of != "provider":
        assert twin[1].replace("write", "people") in refused.headers["www-authenticate"]
    assert (await _live(room, person), await _requests(room)) == (1, 0)
    assert await _ok(room, "POST", token=await room.token_with(*twin), json=which)
    assert await _live(room, person) == 0


async def test_an_agents_access_is_ended_and_can_be_looked_at_afterwards(room: AdminRoom) -> None:
    person, agent = await _person(room)
    which = {"of": "agent", "id": agent.id}
    await _ok(room, "POST", json=which)
    assert await clients.get_client(room.deployment.database, agent.id) is None
    assert await _live(room, person) == 0
    (removed,) = [one for one in await read_events(room.deployment) if one.kind == "client.removed"]
    assert (removed.client_id, removed.details["by"], removed.details["grants"]) == (agent.id, "alice", 1)
    again = await _ok(room, "POST", json=which)
    assert (again["accounts"], sum(again["grants"].values())) == ({}, 1)


async def test_an_ended_agent_is_found_by_its_id_although_another_has_it_as_name(room: AdminRoom) -> None:
    _, agent = await _person(room)
    which = {"of": "agent", "id": agent.id}
    await _ok(room, "POST", json=which)
    impostor = await room.room.agent(name=agent.id)
    async with room.deployment.transaction() as transaction:
        await panics.start(transaction, "client", impostor.id, by="alice", now=room.deployment.now() + 60)
    assert sum((await _ok(room, "GET", params=which))["grants"].values()) == 1
    await agents.remove(room.operator, impostor)
    problem(await room.call("GET", "/panics", params=which | {"id": "Test agent"}), 404, "no_client")


async def test_all_accounts_at_a_provider_end_and_sign_ins_stay(room: AdminRoom) -> None:
    person, agent = await _person(room)
    await _ok(room, "POST", json={"of": "provider", "id": "google"})
    assert await _live(room, person) == 1
    await _ok(room, "POST", json={"of": "provider", "id": "slack"})
    assert await _live(room, person) == 0
    assert await clients.get_client(room.deployment.database, agent.id) is not None


async def test_everyones_access_ends_for_an_owner_with_the_callers_own(room: AdminRoom) -> None:
    person, _ = await _person(room)
    for confirm in ({}, {"confirm": ""}, {"confirm": "another vault"}):
        refused = await room.call("POST", "/panics", json={"of": "everyone", **confirm})
        assert problem(refused, 400, "invalid_request")["errors"][0]["pointer"] == "/confirm"
    assert await _live(room, person) == 1
    vault = (await room.call("GET", "/health")).json()["vault"]
    await _ok(room, "POST", json={"of": "everyone", "confirm": vault})
    assert await _live(room, person) == 0
    assert (await room.call("GET", "/me")).status_code == 401


async def test_an_administrator_ends_neither_an_owners_access_nor_everyones(room: AdminRoom) -> None:
    person, _ = await _person(room)
    helper = await room.room.user()
    await people.set_role(room.operator, helper, Role.ADMINISTRATOR)
    owner, token = await room.person("alice"), await room.token_with(name=helper.name)
    refused = await room.call("POST", "/panics", token=token, json={"of": "person", "id": owner.id})
    problem(refused, 403, "owner_only")
    everyone = {"of": "everyone", "confirm": room.deployment.vault_id}
    problem(await room.call("POST", "/panics", token=token, json=everyone), 403, "owner_only")
    assert await _live(room, person) == 1
    assert (await room.call("GET", "/me")).status_code == 200
    ended = await room.call("POST", "/panics", token=token, json={"of": "person", "id": person.id})  # the twin
    assert (ended.status_code, await _live(room, person)) == (200, 0)


async def test_an_administrator_ends_a_provider_since_they_can_disconnect_each_account(room: AdminRoom) -> None:
    owner, agent = await room.person("alice"), await room.room.agent()
    await room.room.grant(owner, agent)
    await _connect(room, owner, agent)
    helper = await room.room.user()
    await people.set_role(room.operator, helper, Role.ADMINISTRATOR)
    token = await room.token_with(name=helper.name)
    await _ok(room, "POST", token=token, json={"of": "provider", "id": "slack"})
    assert await _live(room, owner) == 0
    await _connect(room, owner, agent)
    (one,) = [
        one
        for one in await connections.list_connections(room.deployment.database, owner.id)
        if one.status(room.deployment.now()) != "revoked"
    ]
    assert (await room.call("DELETE", f"/people/{owner.id}/connections/{one.id}", token=token)).status_code == 200
    assert await _live(room, owner) == 0


@pytest.mark.parametrize(
    ("which", "status", "code"),
    [
        ({"of": "person", "id": "nobody"}, 404, "no_person"),
        ({"of": "agent", "id": "nothing"}, 404, "no_client"),
        ({"of": "provider", "id": "nowhere"}, 404, "no_provider"),
        ({"of": "everyone", "id": "x"}, 400, "invalid_request"),
        ({"of": "person"}, 400, "invalid_request"),
    ],
)
async def test_what_nobody_has_is_not_ended(room: AdminRoom, which: dict[str, str], status: int, code: str) -> None:
    problem(await room.call("POST", "/panics", json=which), status, code)
    problem(await room.call("GET", "/panics", params=which), status, code)
    assert await users.find_user(room.deployment.database, "alice") is not None
