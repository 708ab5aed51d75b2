"""Ends of access in bulk by the Admin API: who may end what, what is shown before, and what ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import jsonschema
import pytest

from server.administration import people
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import clients, connections, users
from vault.records import Client, Role, User


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


async def test_a_persons_access_is_shown_then_ended_and_another_persons_stays(room: AdminRoom) -> None:
    (person, agent), (other, _) = await _person(room), await _person(room)
    which = {"of": "person", "id": person.id}
    assert (await _ok(room, "GET", params=which))["accounts"] == {"slack": 1}
    assert await _live(room, person) == 1  # looking ends nothing
    ended = await _ok(room, "POST", json=which)
    assert (ended["accounts"], sum(ended["grants"].values())) == ({}, 1)
    assert (await _live(room, person), await _live(room, other)) == (0, 1)
    assert await clients.get_client(room.deployment.database, agent.id) is not None
    (told,) = [one for one in await room.room.events(person) if one.kind == "vault.panic"]
    assert (told.details["by"], told.details["via"]) == ("alice", "Automation")


async def test_an_agents_access_is_ended_and_can_be_looked_at_afterwards(room: AdminRoom) -> None:
    person, agent = await _person(room)
    which = {"of": "agent", "id": agent.id}
    await _ok(room, "POST", json=which)
    assert await clients.get_client(room.deployment.database, agent.id) is None
    assert await _live(room, person) == 0
    again = await _ok(room, "POST", json=which)
    assert (again["accounts"], sum(again["grants"].values())) == ({}, 1)


async def test_all_accounts_at_a_provider_end_and_sign_ins_stay(room: AdminRoom) -> None:
    person, agent = await _person(room)
    await _ok(room, "POST", json={"of": "provider", "id": "google"})
    assert await _live(room, person) == 1
    await _ok(room, "POST", json={"of": "provider", "id": "slack"})
    assert await _live(room, person) == 0
    assert await clients.get_client(room.deployment.database, agent.id) is not None


async def test_everyones_access_ends_for_an_owner_with_the_callers_own(room: AdminRoom) -> None:
    person, _ = await _person(room)
    await _ok(room, "POST", json={"of": "everyone"})
    assert await _live(room, person) == 0
    assert (await room.call("GET", "/me")).status_code == 401


async def test_an_administrator_ends_neither_an_owners_access_nor_everyones(room: AdminRoom) -> None:
    person, _ = await _person(room)
    helper = await room.room.user()
    await people.set_role(room.operator, helper, Role.ADMINISTRATOR)
    owner, token = await room.person("alice"), await room.token_with(name=helper.name)
    refused = await room.call("POST", "/panics", token=token, json={"of": "person", "id": owner.id})
    problem(refused, 403, "owner_only")
    problem(await room.call("POST", "/panics", token=token, json={"of": "everyone"}), 403, "owner_only")
    assert await _live(room, person) == 1
    assert (await room.call("GET", "/me")).status_code == 200
    ended = await room.call("POST", "/panics", token=token, json={"of": "person", "id": person.id})  # the twin
    assert (ended.status_code, await _live(room, person)) == (200, 0)


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
