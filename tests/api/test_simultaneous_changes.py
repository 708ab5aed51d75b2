"""Changes that admins make at the same moment: each one decides by what is stored when it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from server.administration import people
from server.administration.actor import Actor, ChangeRefused
from tests.conftest import Store
from tests.support.inspection import until_waiting
from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from vault import users
from vault.records import Role, User


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[AdminRoom]:
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_admin_room(store.data, **overrides) as opened:
        yield opened


async def change_meanwhile(room: AdminRoom, store: Store, person: User, now_is: Role, *, is_admin: bool) -> bool:
    """Make the person an admin, or no longer, while another change of their role is made; whether it changed it."""
    async with room.deployment.transaction() as holding:
        await users.hold_admins(holding)
        await users.hold_user(holding, person.id)
        changing = asyncio.ensure_future(people.set_admin(room.operator, person, is_admin=is_admin))
        await until_waiting(holding, number=1, is_sqlite=store.is_sqlite, unless=changing)
        await users.set_role(holding, person.id, now_is)
    return await changing


async def role_of(room: AdminRoom, person: User) -> Role:
    found = await users.get_user(room.deployment.database, person.id)
    assert found is not None
    return found.role


async def test_whoever_became_an_owner_meanwhile_stays_one(room: AdminRoom, store: Store) -> None:
    person = await room.room.user()
    assert not await change_meanwhile(room, store, person, Role.OWNER, is_admin=True)
    assert await role_of(room, person) is Role.OWNER
    assert await change_meanwhile(room, store, person, Role.MEMBER, is_admin=True), "the other change ended the role"
    assert await role_of(room, person) is Role.ADMINISTRATOR


async def test_whoever_became_an_auditor_meanwhile_stays_one(room: AdminRoom, store: Store) -> None:
    person = await room.room.vault.add_user("grace", is_admin=True)
    assert not await change_meanwhile(room, store, person, Role.AUDITOR, is_admin=False)
    assert await role_of(room, person) is Role.AUDITOR
    assert await change_meanwhile(room, store, person, Role.ADMINISTRATOR, is_admin=False)
    assert await role_of(room, person) is Role.MEMBER


async def test_of_two_admins_who_end_each_others_role_one_remains(room: AdminRoom) -> None:
    first, second = await room.person("alice"), await room.room.vault.add_user("grace", is_admin=True)
    for one in await users.list_admins(room.deployment.database):
        if one.id not in (first.id, second.id):
            await people.set_role(room.operator, one, Role.MEMBER)
    ended = await asyncio.gather(
        people.set_admin(Actor(room.deployment, first, "administration"), second, is_admin=False),
        people.set_admin(Actor(room.deployment, second, "administration"), first, is_admin=False),
        return_exceptions=True,
    )
    (refused,) = [one for one in ended if one is not True]
    assert isinstance(refused, ChangeRefused)
    assert refused.reason == "not_admin"
    (left,) = await users.list_admins(room.deployment.database)
    with pytest.raises(ChangeRefused) as last:
        await people.set_admin(Actor(room.deployment, left, "administration"), left, is_admin=False)
    assert last.value.reason == "last_admin"


async def test_no_link_is_made_for_whoever_was_disabled_meanwhile(room: AdminRoom) -> None:
    person = await room.room.user()
    assert await people.set_disabled(room.operator, person, is_disabled=True)
    with pytest.raises(ChangeRefused) as refused:
        await people.make_link(room.operator, person)
    assert refused.value.reason == "person_changed"
    await people.set_disabled(room.operator, person, is_disabled=False)
    assert await people.make_link(room.operator, person)
