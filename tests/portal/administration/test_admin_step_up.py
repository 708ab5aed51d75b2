"""Administration behind a passkey: no change succeeds without it, each succeeds with it, and reading needs none."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator

import httpx2
import pytest

from server.portal import csrf
from server.portal.administration.routes import admin_routes
from tests.portal.sign_in.test_passkeys import Holder, holder, options_of
from tests.portal.sign_in.test_step_up import action_of, confirm
from tests.support.person import Person, session_token
from tests.support.rooms.portal_room import Room, running_room
from tests.support.seeded_grant import SESSION_IDLE
from vault import clients, users
from vault.records import Role, User
from vault.sign_in import sessions

RECENT = 900


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {"sign_in": {"passkey_for": ["administration"]}}
    async with running_room(tmp_path_factory.mktemp("admin-step-up"), overrides=overrides) as opened:
        yield opened


@pytest.fixture
async def room(shared_room: Room) -> AsyncGenerator[Room]:
    shared_room.deployment.database.clock_offset += 10 * RECENT
    yield shared_room


async def administrator(room: Room) -> Holder:
    one = await holder(room)
    async with room.deployment.transaction() as transaction:
        await users.set_role(transaction, one.user.id, Role.OWNER)
    return one


async def _prove(room: Room, person: Person) -> None:
    """Mark the session as a sign-in with a passkey does."""
    found = await sessions.find_session(
        room.deployment.database, session_token(person.http), now=room.deployment.now(), idle_lifetime=SESSION_IDLE
    )
    assert found is not None
    async with room.deployment.transaction() as transaction:
        await transaction.execute(
            "update sessions set proved_at = :now where token_hash = :hash",
            {"now": room.deployment.now(), "hash": found[0].token_hash},
        )


def _changing_paths(room: Room) -> Iterator[str]:
    """The path of each administration page that accepts a form, with values for its parameters."""
    for route in admin_routes(room.deployment):
        if "POST" in (route.methods or ()):
            yield re.sub(r"\{[a-z]+(:path)?\}", "nothing", route.path)


async def _post(room: Room, person: Person, path: str) -> httpx2.Response:
    """A valid form that contains only what every form has."""
    token = csrf.form_token(room.deployment.keys.subkey("csrf"), session_token(person.http), action=path)
    return await person.http.post(path, data={csrf.FIELD: token}, headers={"Origin": room.url})


async def test_no_page_changes_anything_without_the_passkey_and_each_goes_on_with_it(room: Room) -> None:
    one = await administrator(room)
    await one.add()
    room.deployment.database.clock_offset += RECENT
    paths = list(_changing_paths(room))
    assert len(paths) >= 11
    for path in paths:
        refused = await _post(room, one.person, path)
        assert refused.status_code == 403, path
        assert "needs your passkey here" in refused.text, path
    await _prove(room, one.person)
    for path in paths:
        answer = await _post(room, one.person, path)
        assert "needs your passkey" not in answer.text, path
        assert answer.status_code in {303, 400, 404, 409}, path


async def test_a_person_is_deleted_after_the_passkey_and_the_way_back_is_the_page(room: Room) -> None:
    one, other = await administrator(room), await room.user()
    await one.add()
    room.deployment.database.clock_offset += RECENT
    path = f"/administration/people/{other.id}/delete"
    page = await one.person.open(path)
    assert page.status_code == 200, "reading needs no passkey"
    assert "confirm with your passkey" in page.text
    refused = await one.person.submit(page, {"name": other.name}, form="/delete")
    assert refused.status_code == 403
    assert await users.get_user(room.deployment.database, other.id) is not None
    back = await confirm(one, refused)
    assert back.url.path == path
    assert "confirm with your passkey" not in back.text
    assert (await one.person.submit(back, {"name": other.name}, form="/delete")).status_code == 200
    assert await users.get_user(room.deployment.database, other.id) is None


async def test_an_agent_is_cut_off_after_the_passkey(room: Room) -> None:
    one, client = await administrator(room), await room.agent()
    await one.add()
    room.deployment.database.clock_offset += RECENT
    path = f"/administration/agents/{client.id}/cut-off"
    assert (await _post(room, one.person, path)).status_code == 403
    assert await clients.get_client(room.deployment.database, client.id) is not None
    await _prove(room, one.person)
    assert (await _post(room, one.person, path)).status_code == 303
    assert await clients.get_client(room.deployment.database, client.id) is None


async def test_a_proof_ends_with_its_time(room: Room) -> None:
    one = await administrator(room)
    await one.add()
    await _prove(room, one.person)
    path = f"/administration/people/{(await room.user()).id}/disable"
    room.deployment.database.clock_offset += RECENT - 1
    assert (await _post(room, one.person, path)).status_code == 303
    room.deployment.database.clock_offset += 1
    assert (await _post(room, one.person, path.replace("disable", "enable"))).status_code == 403


async def test_an_administrator_without_a_passkey_is_led_to_add_one_and_back(room: Room) -> None:
    one, other = await administrator(room), await room.user()
    path = f"/administration/people/{other.id}/disable"
    refused = await _post(room, one.person, path)
    assert "you have none. Add one" in refused.text
    page = await one.person.open(action_of(refused))
    page = await one.person.submit(page, {"answer": one.device.create(options_of(page))}, form="/passkeys/new")
    assert page.url.path == path.rpartition("/")[0]
    assert (await _post(room, one.person, path)).status_code == 303
    assert await _is_disabled(room, other)


async def test_without_the_setting_nothing_is_asked(room: Room) -> None:
    object.__setattr__(room.deployment.settings.sign_in, "passkey_for", ())
    try:
        one, other = await administrator(room), await room.user()
        assert (await _post(room, one.person, f"/administration/people/{other.id}/disable")).status_code == 303
        assert await _is_disabled(room, other)
    finally:
        object.__setattr__(room.deployment.settings.sign_in, "passkey_for", ("administration",))


async def _is_disabled(room: Room, user: User) -> bool:
    found = await users.get_user(room.deployment.database, user.id)
    return found is not None and found.disabled_at is not None
