"""Changes that admins make at the same moment: each one decides by what is stored when it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from server.administration import access_requests, agents, people
from server.administration import groups as own_groups
from server.administration.account_imports.accounts import ImportedAccount
from server.administration.account_imports.transfers import KNOWN, NEW, ImportRules, judge, take_over
from server.administration.actor import Actor, ChangeRefused
from server.administration.agents import NewAgent
from server.oauth import tokens
from server.sign_in.callers import AgentCaller, SessionCaller, SessionEnded
from tests.conftest import Store
from tests.support.inspection import session_of, until_waiting
from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from vault import connections, grants, groups, users
from vault.records import Client, Role, User
from vault.upstream import TokenAnswer


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[AdminRoom]:
    overrides: dict[str, object] = {} if store.is_sqlite else {"database": {"url": store.url}}
    overrides["admin"] = {"group_roles": {"Vault admins": "administrator"}}
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


async def group_admins(room: AdminRoom) -> tuple[User, User]:
    """Two admins through a group."""
    made = (await room.room.vault.add_user("grace"), await room.room.vault.add_user("heidi"))
    async with room.deployment.transaction() as transaction:
        for one in made:
            await groups.set_groups(
                transaction, one.id, ["Vault admins"], source="openid:x", now=room.deployment.now(), expires_at=None
            )
    return made


async def end_own_roles(room: AdminRoom) -> None:
    """After this, nobody is an admin except through a group."""
    for one in await users.list_admins(room.deployment.database):
        await people.set_role(room.operator, one, Role.MEMBER)


async def service_account(room: AdminRoom, person: User) -> tuple[Client, Actor]:
    """A service account in the name of the person, and the actor of a call that it makes."""
    account = await room.service_account(name=person.name)
    token = (await room.request_token(account)).json()["access_token"]
    principal = await tokens.verify(room.deployment, token, audiences=frozenset({room.resource}))
    own = room.deployment.for_caller(AgentCaller(principal, lambda: tokens.TokenRefused("ended")))
    return account.client, Actor(own, person, "admin_api", agent=account.client)


async def test_whoever_was_disabled_meanwhile_gets_no_service_account(room: AdminRoom) -> None:
    """Disabling ended all grants of the person; a later one would work again as soon as they are enabled."""
    person = await room.room.vault.add_user("grace", is_admin=True)
    wanted = NewAgent(
        "Automation", has_secret=True, service=agents.ServiceAccountSpec(person, frozenset({"admin:read"}))
    )
    assert (await agents.register(room.operator, wanted)).secret
    for is_over in (True, False):
        await people.set_disabled(room.operator, person, is_disabled=is_over)
        registered = agents.register(room.operator, wanted)
        if is_over:
            with pytest.raises(ChangeRefused, match="isn't an admin"):
                await registered
        else:
            assert (await registered).secret
    await people.set_admin(room.operator, person, is_admin=False)
    with pytest.raises(ChangeRefused, match="isn't an admin"):
        await agents.register(room.operator, wanted)


@pytest.mark.parametrize("is_connected", [True, False])
async def test_an_account_that_is_connected_while_it_is_imported_keeps_its_tokens(
    room: AdminRoom, store: Store, *, is_connected: bool
) -> None:
    person, scopes = await room.room.user(), frozenset({"channels:read"})
    row = ImportedAccount(1, (person.name,), "slack", account="U1", refresh_token="old", account_is_ours=True)
    (judged,) = await judge(room.operator, [row], ImportRules(scopes={"slack": scopes}))
    assert judged.planned is not None
    async with room.deployment.transaction() as connecting:
        await users.hold_user(connecting, person.id)
        importing = asyncio.ensure_future(take_over(room.operator, row, judged.planned))
        await until_waiting(connecting, number=1, is_sqlite=store.is_sqlite)
        if is_connected:
            answer = TokenAnswer("new", "new", scopes=scopes, expires_in=3600, account=judged.planned.account)
            which = {"user_id": person.id, "provider": "slack", "answer": answer, "asked": scopes}
            policy, now = room.deployment.catalog.provider("slack").policy(), room.deployment.now()
            await connections.open_connection(connecting, room.deployment.keys, **which, policy=policy, now=now)
    assert await importing == (KNOWN if is_connected else NEW)
    (account,) = await connections.find(room.deployment.database, person.id, provider="slack")
    assert account.generation == 1, "nothing replaced its tokens"
    assert await take_over(room.operator, row, judged.planned) == KNOWN


@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("by", ["group", "declaration", "manager"])
async def test_nothing_of_a_person_who_is_deleted_meanwhile_is_left_in_a_group(
    room: AdminRoom, store: Store, by: str, *, is_deleted: bool
) -> None:
    person, group = await room.room.user(), await own_groups.create(room.operator, "Sales")
    add = {
        "group": lambda: own_groups.add_member(room.operator, group, person),
        "declaration": lambda: own_groups.save(room.operator, "Sales", [person.name]),
        "manager": lambda: access_requests.set_manager(room.operator, group, person, is_manager=True),
    }[by]
    async with room.deployment.transaction() as deleting:
        await users.hold_admins(deleting)
        await users.hold_user(deleting, person.id)
        if is_deleted:
            await users.delete_user(deleting, person.id, now=room.deployment.now())
        adding = asyncio.ensure_future(add())
        await until_waiting(deleting, number=1, is_sqlite=store.is_sqlite, unless=adding)
    if is_deleted:
        with pytest.raises(ChangeRefused) as refused:
            await adding
        assert refused.value.reason in ("no_person", "group_refused")
    else:
        await adding
    table = "group_managers" if by == "manager" else "memberships"
    assert len(await room.deployment.database.fetch(f"select user_id from {table}")) == int(not is_deleted)


async def test_service_accounts_of_group_admins_change_each_other_at_once_without_a_deadlock(
    room: AdminRoom, store: Store
) -> None:
    first, second = await group_admins(room)
    await end_own_roles(room)
    (one, by_one), (other, by_other) = await service_account(room, first), await service_account(room, second)
    async with room.deployment.transaction() as holding:  # both stop where they would lock the other one
        changing = [
            asyncio.ensure_future(agents.set_release(by_one, other, target="slack", policy="proxy")),
            asyncio.ensure_future(agents.set_release(by_other, one, target="slack", policy="proxy")),
        ]
        await grants.hold_client(holding, one.id)
        await until_waiting(holding, number=2, is_sqlite=store.is_sqlite)
    await asyncio.gather(*changing)
    ended = await asyncio.gather(agents.remove(by_one, other), agents.remove(by_other, one), return_exceptions=True)
    (refused,) = [one for one in ended if isinstance(one, BaseException)]
    assert isinstance(refused, tokens.TokenRefused), "the first one ended the second one's token"


async def test_group_admins_change_each_other_at_once_without_a_deadlock(room: AdminRoom) -> None:
    made = await group_admins(room)
    actors = list[Actor]()
    for one in made:
        session = await session_of(room.deployment, await room.room.signed_in(one.name))
        own = room.deployment.for_caller(SessionCaller(room.deployment, session))
        actors.append(Actor(own, one, "administration"))
    await end_own_roles(room)
    for _ in range(20):
        enabled = await asyncio.gather(
            people.set_disabled(actors[0], made[1], is_disabled=False),
            people.set_disabled(actors[1], made[0], is_disabled=False),
        )
        assert enabled == [False, False]
    ended = await asyncio.gather(
        people.set_disabled(actors[0], made[1], is_disabled=True),
        people.set_disabled(actors[1], made[0], is_disabled=True),
        return_exceptions=True,
    )
    (refused,) = [one for one in ended if one is not True]
    assert isinstance(refused, SessionEnded)
    now_are = [await users.get_user(room.deployment.database, one.id) for one in made]
    assert [one is not None and one.disabled_at is not None for one in now_are].count(True) == 1
