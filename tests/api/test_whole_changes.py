"""A change of the Admin API is made as a whole, with its events, or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from server.administration import agents, people
from server.administration.agents import NewAgent
from tests.conftest import Store
from tests.support.inspection import read_events, unstorable
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import users
from vault.records import Client, Role

API = "https%3A%2F%2Forders.example"


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[AdminRoom]:
    overrides: dict[str, object] = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_admin_room(store.data, **overrides) as opened:
        yield opened


async def kinds(room: AdminRoom, *prefixes: str) -> list[str]:
    """The kinds of the recorded events that begin with one of these, oldest first."""
    return [one.kind for one in await read_events(room.deployment) if one.kind.startswith(prefixes)]


async def register(room: AdminRoom, name: str = "Orders") -> Client:
    return (await agents.register(room.operator, NewAgent(name, has_secret=True, exchanges=True))).client


@pytest.mark.parametrize("by", ["administrator", "owner"])
async def test_a_person_whose_role_may_not_change_is_not_disabled_either(room: AdminRoom, by: str) -> None:
    await room.room.vault.add_user("grace", is_admin=True)  # an owner remains
    person, admin = await room.room.user(), await room.person("alice")
    await people.set_role(room.operator, admin, Role(by))
    before = await kinds(room, "user.")
    answer = await room.call("PATCH", f"/people/{person.id}", json={"disabled": True, "role": "owner"})
    now_is = (await room.call("GET", f"/people/{person.id}")).json()
    if by == "administrator":
        problem(answer, 403, "owner_only")
        assert (now_is["disabled"], now_is["role"]) == (False, "member")
        assert await kinds(room, "user.") == before
    else:
        assert answer.status_code == 200, answer.text
        assert (now_is["disabled"], now_is["role"]) == (True, "owner")
        assert await kinds(room, "user.") == [*before, "user.disabled", "user.admin_added"]


@pytest.mark.parametrize("kind", ["user.role_changed", "unrelated"])
async def test_a_person_changes_only_with_every_event(room: AdminRoom, store: Store, kind: str) -> None:
    person, change = await room.room.user(), {"disabled": True, "role": "auditor"}
    before = await kinds(room, "user.")
    async with unstorable(room.deployment.database, "events", "kind", kind, is_sqlite=store.is_sqlite):
        answer = await room.call("PATCH", f"/people/{person.id}", json=change)
    now_is = (await room.call("GET", f"/people/{person.id}")).json()
    if kind == "unrelated":
        assert answer.status_code == 200, answer.text
        assert (now_is["disabled"], now_is["role"]) == (True, "auditor")
        return
    assert answer.status_code >= 500
    assert (now_is["disabled"], now_is["role"]) == (False, "member")
    assert await kinds(room, "user.") == before
    assert (await room.call("PATCH", f"/people/{person.id}", json=change)).status_code == 200
    assert await kinds(room, "user.") == [*before, "user.disabled", "user.role_changed"]


@pytest.mark.parametrize("kind", ["api.removed", "unrelated"])
async def test_the_clients_of_an_api_are_replaced_at_once(room: AdminRoom, store: Store, kind: str) -> None:
    first, second, third = [await register(room) for _ in range(3)]
    path, before = f"/apis/{API}", {"name": "Orders", "scopes": ["read"], "clients": sorted([first.id, second.id])}
    after = {"name": "New orders", "scopes": ["write"], "clients": [third.id]}
    assert (await room.call("PUT", path, json=before)).status_code == 200
    async with unstorable(room.deployment.database, "events", "kind", kind, is_sqlite=store.is_sqlite):
        answer = await room.call("PUT", path, json=after)
    found = (await room.call("GET", path)).json()
    if kind == "api.removed":
        assert answer.status_code >= 500
        assert {name: found[name] for name in before} == before
        assert await kinds(room, "api.") == ["api.added"]
        assert (await room.call("PUT", path, json=after)).status_code == 200
        found = (await room.call("GET", path)).json()
    assert {name: found[name] for name in after} == after
    assert await kinds(room, "api.") == ["api.added", "api.added", "api.removed", "api.removed"]


@pytest.mark.parametrize("policy", ["full", "proxy"])
async def test_an_agent_gets_every_policy_or_none(room: AdminRoom, policy: str) -> None:
    made = await register(room, "Worker")
    target = "nowhere" if policy == "full" else "github"
    answer = await room.call("PATCH", f"/agents/{made.id}", json={"release": {"slack": "full", target: policy}})
    found = (await room.call("GET", f"/agents/{made.id}")).json()["release"]
    if target == "nowhere":
        problem(answer, 400, "agent_refused")
        assert "slack" not in found
        assert await kinds(room, "release.") == []
    else:
        assert answer.status_code == 200, answer.text
        assert answer.json()["release"] == found
        assert (found["slack"], found["github"]) == ("full", "proxy")
        assert len(await kinds(room, "release.")) == 2


@pytest.mark.parametrize("issuer", ["https://id.example", "unrelated"])
async def test_a_declared_person_is_made_with_their_identity(room: AdminRoom, store: Store, issuer: str) -> None:
    """Otherwise nobody would get the link of whoever is there already when the declaration is applied again."""
    identity = {"issuer": "https://id.example", "subject": "41"}
    declared = {"people": {"carol": {"role": "member", "identities": [identity]}}}
    async with unstorable(room.deployment.database, "identities", "issuer", issuer, is_sqlite=store.is_sqlite):
        answer = await room.call("POST", "/apply", json=declared)
    if issuer == identity["issuer"]:
        assert answer.status_code >= 500
        assert await users.find_user(room.deployment.database, "carol") is None
        answer = await room.call("POST", "/apply", json=declared)
    (change,) = answer.json()["changes"]
    assert (change["change"], "/sign-in/link?" in change["secret"]) == ("create", True)
    (linked,) = await users.list_identities(room.deployment.database, (await room.person("carol")).id)
    assert linked.subject == "41"
