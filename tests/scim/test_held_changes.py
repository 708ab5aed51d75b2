"""A change by a directory whose token ends before its body has arrived, or while it is carried out, isn't made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import pytest

from server.administration import people, provisioning
from server.administration.actor import Actor, ChangeRefused
from server.scim.wire import DirectoryCaller, ScimRefused
from tests.conftest import Store
from tests.support.inspection import until_waiting
from tests.support.network.held_requests import held_json
from tests.support.rooms.scim_room import USER, ScimRoom, refusal, running_scim_room
from vault import directory as stored_people
from vault import users
from vault.records import Role, User

End = Callable[[ScimRoom], Awaitable[object]]
GHOST = {"schemas": [USER], "userName": "ghost", "active": True}
SEARCH = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"]}


@pytest.fixture
async def scim(store: Store) -> AsyncGenerator[ScimRoom]:
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_scim_room(store.data, **overrides) as opened:
        yield opened


async def end(scim: ScimRoom) -> None:
    await provisioning.end_token(scim.operator, "company")


async def replace_now(scim: ScimRoom) -> None:
    await provisioning.make_token(scim.operator, "company", days=None, grace=0)


async def replace_later(scim: ScimRoom) -> None:
    await provisioning.make_token(scim.operator, "company", days=None, grace=600)


async def do_nothing(_: ScimRoom) -> None:
    pass


@pytest.mark.parametrize(
    ("ends", "is_over"), [(end, True), (replace_now, True), (replace_later, False), (do_nothing, False)]
)
async def test_a_body_that_arrives_after_its_token_ended_makes_no_one(scim: ScimRoom, ends: End, is_over: bool) -> None:
    async with held_json(scim.room.url, "/scim/v2/Users", GHOST, token=scim.token) as held:
        await ends(scim)
        answer = await held.finish()
    assert (await users.find_user(scim.deployment.database, "ghost") is None) is is_over
    if is_over:
        refusal(answer, 401)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    else:
        assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("ends", [end, do_nothing])
async def test_a_search_that_arrives_after_its_token_ended_finds_no_one(scim: ScimRoom, ends: End) -> None:
    await scim.add_user("ada")
    async with held_json(scim.room.url, "/scim/v2/Users/.search", SEARCH, token=scim.token) as held:
        await ends(scim)
        answer = await held.finish()
    assert ("ada" in answer.text) is (ends is do_nothing)


def directory(scim: ScimRoom) -> Actor:
    own = scim.deployment.for_caller(DirectoryCaller(scim.deployment, scim.token))
    return Actor(own, None, "scim", directory="company")


async def test_a_change_that_waits_for_the_end_of_its_token_is_refused(scim: ScimRoom, store: Store) -> None:
    async with scim.deployment.transaction() as ending:
        await ending.execute("delete from directory_tokens where name = :name", {"name": "company"})
        spec = provisioning.PersonSpec("ghost")
        changing = asyncio.ensure_future(provisioning.add_person(directory(scim), spec))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=changing)
    with pytest.raises(ScimRefused):
        await changing
    assert await users.find_user(scim.deployment.database, "ghost") is None


async def test_a_change_of_an_admin_while_the_token_is_ended_locks_nothing_up(scim: ScimRoom, store: Store) -> None:
    made = await scim.add_user("ada")
    ada = await users.get_user(scim.deployment.database, str(made["id"]))
    assert ada is not None
    await people.set_role(scim.operator, ada, Role.ADMINISTRATOR)
    alice = await users.find_user(scim.deployment.database, "alice")
    async with directory(scim).change() as transaction:
        ending = asyncio.ensure_future(
            provisioning.end_token(Actor(scim.deployment, alice, "administration"), "company")
        )
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite)
        assert (await people.hold_person(transaction, ada.id)).is_admin
        assert not ending.done()
    await ending
    with pytest.raises(ScimRefused):
        async with directory(scim).change():
            pytest.fail("a change by an ended token")


@pytest.mark.parametrize("is_changed", [True, False])
async def test_a_person_that_changes_while_a_version_is_deleted_stays(
    scim: ScimRoom, store: Store, *, is_changed: bool
) -> None:
    made = await scim.call("POST", "/Users", {"schemas": [USER], "userName": "ada"})
    user_id, version = str(made.json()["id"]), {"If-Match": made.headers["etag"]}
    async with scim.deployment.transaction() as changing:
        await users.hold_user(changing, user_id)
        deleting = asyncio.ensure_future(scim.call("DELETE", f"/Users/{user_id}", headers=version))
        await until_waiting(changing, number=1, is_sqlite=store.is_sqlite, unless=deleting)
        if is_changed:
            current = await stored_people.get_person(changing, user_id)
            assert current is not None
            await stored_people.store_person(changing, replace(current, external_id="e1"))
    answer = await deleting
    if is_changed:
        refusal(answer, 412)
    else:
        assert answer.status_code == 204, answer.text
    assert (await users.get_user(scim.deployment.database, user_id) is not None) is is_changed


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_nothing_of_a_person_who_is_deleted_meanwhile_is_left_in_a_directorys_group(
    scim: ScimRoom, store: Store, *, is_deleted: bool
) -> None:
    ada = await add(scim, "ada")
    group = await provisioning.add_group(directory(scim), "Sales", external_id=None, members=())
    spec = provisioning.GroupSpec("Sales", None, frozenset({ada.id}))

    async def decide(*_: object) -> provisioning.GroupSpec:
        return spec

    async with scim.deployment.transaction() as deleting:
        if is_deleted:
            await users.delete_user(deleting, ada.id, now=scim.deployment.now())
        adding = asyncio.ensure_future(provisioning.change_group(directory(scim), group.id, decide))
        await until_waiting(deleting, number=1, is_sqlite=store.is_sqlite, unless=adding)
    if is_deleted:
        with pytest.raises(ChangeRefused, match="no person with the ID"):
            await adding
    else:
        await adding
    assert len(await scim.deployment.database.fetch("select user_id from memberships")) == int(not is_deleted)


@pytest.mark.parametrize("is_promoted", [True, False])
async def test_a_person_who_becomes_an_admin_while_a_directory_disables_them_locks_nothing_up(
    scim: ScimRoom, store: Store, *, is_promoted: bool
) -> None:
    """Another admin's action waits for all admins meanwhile."""
    ada, bob = [await add(scim, name) for name in ("ada", "bob")]
    alice = await users.find_user(scim.deployment.database, "alice")
    admin = Actor(scim.deployment, alice, "administration")
    async with scim.deployment.transaction() as promoting:
        await users.hold_admins(promoting)
        await users.hold_user(promoting, ada.id)
        changing = [asyncio.ensure_future(people.set_disabled(directory(scim), ada, is_disabled=True))]
        await until_waiting(promoting, number=1, is_sqlite=store.is_sqlite, unless=changing[0])
        changing.append(asyncio.ensure_future(people.set_disabled(admin, bob, is_disabled=True)))
        await until_waiting(promoting, number=2, is_sqlite=store.is_sqlite, unless=changing[1])
        if is_promoted:
            await users.set_role(promoting, ada.id, Role.ADMINISTRATOR)
    assert await asyncio.gather(*changing) == [True, True]


async def add(scim: ScimRoom, name: str) -> User:
    made = await scim.add_user(name)
    found = await users.get_user(scim.deployment.database, str(made["id"]))
    assert found is not None
    return found
