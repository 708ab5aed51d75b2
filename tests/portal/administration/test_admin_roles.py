"""Roles: what an auditor can read, that it can't change anything, who can change an owner, and roles by group."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import pytest
from starlette.routing import Route

import server.api.table
from server.administration import people, provisioning
from server.administration.actor import Actor, ChangeRefused
from server.portal import csrf
from server.portal.administration.routes import admin_routes
from server.sign_in.password import SignInRefused, user_of_link
from server.signals.effects import affect
from tests.conftest import Store
from tests.support.inspection import read_events
from tests.support.person import Person, forms_of, session_token
from tests.support.refused_pages import is_refused
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import groups, users
from vault.records import Role, User

RULE = {"Security": "auditor", "Vault admins": "administrator"}


@pytest.fixture(scope="module")
async def admin_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AdminRoom]:
    overrides = {"admin": {"group_roles": RULE, "requests_per_minute": 100_000}}
    async with running_admin_room(tmp_path_factory.mktemp("roles"), **overrides) as running:
        yield running


async def someone(opened: AdminRoom, role: Role) -> User:
    made = await opened.room.user()
    await people.set_role(opened.operator, made, role)
    return await opened.person(made.name)


async def join(opened: AdminRoom, user: User, name: str, *, days: int | None = None) -> None:
    now = opened.deployment.now()
    async with opened.deployment.transaction() as transaction:
        end = None if days is None else now + days * 86400
        await groups.set_groups(transaction, user.id, [name], source="openid:company", now=now, expires_at=end)


async def last_event(opened: AdminRoom) -> int:
    return (await read_events(opened.deployment, limit=1, newest_first=True))[0].sequence


def address_of(route: Route, user: User) -> str:
    """The address of the route."""
    given = {
        "user": user.id,
        "provider": "slack",
        "client": "nobody",
        "group": "none",
        "endpoint": "none",
        "server": "none",
        "api": "none",
        "id": "none",
        "sequence": "1",
    }
    return re.sub(r"\{(\w+)(?::path)?\}", lambda found: given[found[1]], route.path)


async def test_an_auditor_reads_every_page_and_finds_no_form_that_changes_anything(admin_room: AdminRoom) -> None:
    auditor = await admin_room.room.signed_in(await someone(admin_room, Role.AUDITOR))
    admin = await admin_room.room.signed_in("alice")
    target, read = await admin_room.room.user(), 0
    for route in admin_routes(admin_room.deployment):
        if "GET" not in (route.methods or ()):
            continue
        path = address_of(route, target)
        page, known = await auditor.open(path), await admin.open(path)
        if known.status_code != 200:
            assert page.status_code in {known.status_code, 403}, path
            continue
        if page.status_code == 403:
            assert forms_of(known.text), path  # a page that only contains the form for a change
            continue
        assert page.status_code == 200, path
        read += 1
        posting = re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', page.text)
        assert not [one for one in posting if one.startswith("/administration")], path
    assert read > 12


async def test_every_changing_page_refuses_an_auditor_and_takes_an_administrator(admin_room: AdminRoom) -> None:
    auditor = await admin_room.room.signed_in(await someone(admin_room, Role.AUDITOR))
    target = await admin_room.room.user()
    routes = [one for one in admin_routes(admin_room.deployment) if "POST" in (one.methods or ())]
    assert len(routes) > 15
    before = await last_event(admin_room)
    for route in routes:
        path = address_of(route, target)
        answer = await post(admin_room, auditor, path)
        assert answer == 403, path
    assert await last_event(admin_room) == before
    admin = await admin_room.room.signed_in(await someone(admin_room, Role.ADMINISTRATOR))
    assert await post(admin_room, admin, f"/administration/people/{target.id}/disable") == 303
    changed = await users.get_user(admin_room.deployment.database, target.id)
    assert changed is not None
    assert changed.disabled_at is not None


async def post(opened: AdminRoom, person: Person, path: str) -> int:
    """Post a form with a token of this browser, as a page would."""
    token = csrf.form_token(opened.deployment.keys.subkey("csrf"), session_token(person.http), action=path)
    headers = {"Origin": person.origin}
    return (await person.http.post(path, data={csrf.FIELD: token}, headers=headers)).status_code


async def test_every_changing_operation_of_the_admin_api_refuses_an_auditor(admin_room: AdminRoom) -> None:
    user = await someone(admin_room, Role.ADMINISTRATOR)
    token = await admin_room.token_with(name=user.name)
    await people.set_role(admin_room.operator, user, Role.AUDITOR)
    assert (await admin_room.call("GET", "/people", token=token)).status_code == 200
    before, walked = await last_event(admin_room), 0
    for _, operations in server.api.table.OPERATIONS:
        for one in operations:
            if one.changes:
                path = re.sub(r"\{(\w+)(?::path)?\}", "x", one.path)
                problem(await admin_room.call(one.method, path, token=token, json={}), 403, "forbidden")
                walked += 1
    assert walked > 20
    explained = await admin_room.call("POST", "/companies/explanations", token=token, json={"assertion": "x"})
    assert (explained.status_code, explained.json()["works"]) == (200, False)  # it only reads
    assert await last_event(admin_room) == before
    await people.set_role(admin_room.operator, await admin_room.person(user.name), Role.ADMINISTRATOR)
    assert (await admin_room.call("POST", "/groups", token=token, json={"name": "Twin"})).status_code == 201


async def test_a_member_reads_nothing_of_it(admin_room: AdminRoom) -> None:
    member = await admin_room.room.signed_in(await admin_room.room.user())
    assert (await member.open("/administration/activity")).status_code == 403
    assert 'href="/administration"' not in (await member.open("/")).text


async def test_a_role_by_group_counts_while_the_person_is_in_it(admin_room: AdminRoom) -> None:
    user = await admin_room.room.user()
    browser = await admin_room.room.signed_in(user)
    path = f"/administration/people/{(await admin_room.room.user()).id}/disable"
    await join(admin_room, user, "security", days=1)
    assert (await browser.open("/administration")).status_code == 200
    assert 'href="/administration"' in (await browser.open("/")).text
    assert await post(admin_room, browser, path) == 403
    await join(admin_room, user, "VAULT ADMINS")
    assert await post(admin_room, browser, path) == 303
    actor = Actor(admin_room.deployment, user, "administration")
    await people.set_admin(actor, await admin_room.room.user(), is_admin=True)
    await join(admin_room, user, "Others")
    assert (await browser.open("/administration")).status_code == 403
    with pytest.raises(ChangeRefused) as refused:
        await people.set_admin(actor, await admin_room.room.user(), is_admin=True)
    assert refused.value.reason == "not_admin"


async def test_a_group_does_not_let_the_last_admin_go(admin_room: AdminRoom) -> None:
    for one in await users.list_admins(admin_room.deployment.database):
        if one.name != "alice":
            await people.set_role(admin_room.operator, one, Role.MEMBER)
    by_group = await admin_room.room.user()
    await join(admin_room, by_group, "Vault admins")
    alice = await admin_room.person("alice")
    with pytest.raises(ChangeRefused) as refused:
        await people.set_admin(Actor(admin_room.deployment, alice, "administration"), alice, is_admin=False)
    assert refused.value.reason == "last_admin"


async def test_only_an_owner_touches_an_owner(admin_room: AdminRoom) -> None:
    owner, admin = await someone(admin_room, Role.OWNER), await someone(admin_room, Role.ADMINISTRATOR)
    actor = Actor(admin_room.deployment, admin, "administration")
    for change in (
        people.set_role(actor, owner, Role.MEMBER),
        people.set_disabled(actor, owner, is_disabled=True),
        people.set_disabled(actor, owner, is_disabled=False),
        people.make_link(actor, owner),
        people.link_identity(actor, owner, issuer="https://login.example", subject="mine"),
        provisioning.take_over(actor, owner, external_id="mine"),
        people.delete(actor, owner),
        people.set_role(actor, admin, Role.OWNER),
    ):
        with pytest.raises(ChangeRefused) as refused:
            await change
        assert refused.value.reason == "owner_only"
    other = await someone(admin_room, Role.ADMINISTRATOR)
    assert await people.set_role(actor, other, Role.AUDITOR)
    assert (await provisioning.take_over(actor, other, external_id="mine")).external_id == "mine"
    by_owner = Actor(admin_room.deployment, owner, "administration")
    assert await people.set_role(by_owner, other, Role.OWNER)
    assert await people.set_role(by_owner, await admin_room.person(other.name), Role.MEMBER)


async def test_a_directory_touches_no_owner(admin_room: AdminRoom) -> None:
    owner, directory = (
        await someone(admin_room, Role.OWNER),
        Actor(admin_room.deployment, None, "scim", directory="okta"),
    )
    for change in (
        people.set_disabled(directory, owner, is_disabled=True),
        people.set_disabled(directory, owner, is_disabled=False),
        people.delete(directory, owner),
    ):
        with pytest.raises(ChangeRefused) as refused:
            await change
        assert refused.value.reason == "owner_only"
    await people.set_role(admin_room.operator, owner, Role.ADMINISTRATOR)
    assert await people.set_disabled(directory, owner, is_disabled=True)


async def test_who_became_an_owner_meanwhile_is_one(admin_room: AdminRoom) -> None:
    member = await admin_room.room.user()
    admin = Actor(admin_room.deployment, await someone(admin_room, Role.ADMINISTRATOR), "administration")
    link = await people.make_link(admin, member)
    secret = link.partition("ticket=")[2]
    assert (await user_of_link(admin_room.deployment, secret)).id == member.id
    await people.set_role(admin_room.operator, member, Role.OWNER)
    with pytest.raises(SignInRefused):
        await user_of_link(admin_room.deployment, secret)
    for change in (  # with the record before the change
        people.make_link(admin, member),
        people.delete(admin, member),
        provisioning.take_over(admin, member, external_id="theirs"),
    ):
        with pytest.raises(ChangeRefused) as refused:
            await change
        assert refused.value.reason == "owner_only"
    await people.set_role(admin_room.operator, member, Role.MEMBER)
    assert await people.make_link(admin, member)
    assert await provisioning.take_over(admin, member, external_id="theirs")


async def test_the_last_owner_stays_one(admin_room: AdminRoom) -> None:
    await someone(admin_room, Role.ADMINISTRATOR)
    other = await someone(admin_room, Role.OWNER)
    for one in await users.list_admins(admin_room.deployment.database):
        if one.role is Role.OWNER and one.name not in ("alice", other.name):
            await people.set_role(admin_room.operator, one, Role.MEMBER)
    alice = await admin_room.person("alice")
    actor = Actor(admin_room.deployment, alice, "administration")
    assert await people.set_role(actor, other, Role.MEMBER)
    with pytest.raises(ChangeRefused) as refused:
        await people.set_role(actor, alice, Role.ADMINISTRATOR)
    assert refused.value.reason == "last_owner"
    async with admin_room.deployment.transaction() as transaction:
        assert await affect(transaction, alice, "disable", by="x", at=0, now=0) == "stop_agents"
        await users.enable_user(transaction, alice.id, now=0)
    browser = await admin_room.room.signed_in("alice")
    page = await browser.open("/account/delete")
    kept = await browser.submit(page, {"name": "alice"}, form="/account/delete")
    assert is_refused(kept, "last_owner", 409)
    leaver = await someone(admin_room, Role.OWNER)
    page = await (going := await admin_room.room.signed_in(leaver.name)).open("/account/delete")
    assert (await going.submit(page, {"name": leaver.name}, form="/account/delete")).status_code == 200
    await people.set_role(admin_room.operator, other, Role.OWNER)
    assert await people.set_role(actor, alice, Role.ADMINISTRATOR)
    await people.set_role(admin_room.operator, alice, Role.OWNER)


async def test_an_event_that_disables_takes_turns_with_an_admin_who_changes_the_person(store: Store) -> None:
    """Admins first, then the person: in the opposite order, each would wait for the other."""
    database = await store.open()
    try:
        now = database.now()
        async with database.transaction() as transaction:
            for name in ("first", "second"):
                await users.create_user(transaction, name, password_hash=None, role=Role.OWNER, now=now)
            person = await users.create_user(transaction, "bob", password_hash=None, role=Role.MEMBER, now=now)

        async def disable() -> str:
            async with database.transaction() as transaction:
                return await affect(transaction, person, "disable", by="x", at=now, now=now)

        async with database.transaction() as transaction:
            await users.hold_admins(transaction)
            disabling = asyncio.ensure_future(disable())
            await asyncio.sleep(0.5)  # until it is waiting
            await users.hold_user(transaction, person.id)
            await users.set_role(transaction, person.id, Role.OWNER)
        assert await disabling == "disable"
    finally:
        await database.close()


async def test_who_became_the_last_owner_meanwhile_is_not_disabled(store: Store) -> None:
    database = await store.open()
    try:
        now = database.now()
        async with database.transaction() as transaction:
            admin = await users.create_user(transaction, "amy", password_hash=None, role=Role.OWNER, now=now)
            before = await users.create_user(transaction, "bob", password_hash=None, role=Role.MEMBER, now=now)
            await users.set_role(transaction, before.id, Role.OWNER)
            await users.set_role(transaction, admin.id, Role.ADMINISTRATOR)
        for last, expected in ((True, "stop_agents"), (False, "disable")):
            async with database.transaction() as transaction:
                if not last:
                    await users.set_role(transaction, admin.id, Role.OWNER)
                assert await affect(transaction, before, "disable", by="x", at=now, now=now) == expected
    finally:
        await database.close()
