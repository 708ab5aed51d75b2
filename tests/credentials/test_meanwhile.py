"""What ends while the vault asks a service about a credential: the account to replace, an admin's rights, a person."""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial

import pytest

from server.administration import people
from server.administration.access import EnteredValues, connect_by_credential
from server.administration.actor import Actor, ChangeRefused
from server.connecting import credentials
from server.connecting.credentials import CredentialForm, Entry, EntryFault
from server.connecting.links import ConnectRefused
from server.connecting.provider_authorization import ConsentRequest
from tests.conftest import Store
from tests.credentials.test_signed_tokens import key_file
from tests.support.inspection import lock_row, unstorable, until_waiting
from tests.support.rooms.key_room import READ, KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of
from vault import clients, connections, users
from vault.records import Connection, Role, Session, User
from vault.refusals import StorageUnavailable, TemporarilyUnavailable


async def open_form(room: KeyRoom, user: User, trip: ConsentRequest) -> tuple[CredentialForm, str, Session]:
    """A submitted form, at the moment when the service is asked."""
    now = room.deployment.now()
    session = Session(bytes(32), user.id, created_at=now, seen_at=now, expires_at=now + 3600)
    path = await credentials.start(room.deployment, trip, user=user, session=session)
    handle = path.rpartition("/")[2]
    return await credentials.open_form(room.deployment, handle, user=user, session=session), handle, session


async def end(room: KeyRoom, connection: Connection) -> None:
    async with room.deployment.transaction() as transaction:
        await connections.disconnect(transaction, room.deployment.keys, connection, now=room.deployment.now())


async def test_an_account_that_is_disconnected_meanwhile_is_not_connected_again(store: Store) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        user, keys = await room.user(), room.simulator.sandbox.keys
        connection = await room.connect_account(user, await room.signed_in(user))
        trip = ConsentRequest("mailroom", READ, replaces=connection.id)
        for is_late in (False, True):
            form, handle, session = await open_form(room, user, trip)
            entry = Entry({"key": keys.make(user.name)})
            if not is_late:
                same = await credentials.enter(room.deployment, form, entry, handle=handle, user=user, session=session)
                assert same.connection.id == connection.id
                continue
            await end(room, connection)
            with pytest.raises(ConnectRefused, match="disconnected in the meantime"):
                await credentials.enter(room.deployment, form, entry, handle=handle, user=user, session=session)
        assert await accounts_of(room, user) == ()


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.long)], indirect=True)
async def test_rights_that_end_meanwhile_count_where_only_admins_may_enter(store: Store) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        await room.vault.add_user("other", is_admin=True)  # one admin must remain
        admin = await room.vault.add_user("chief", is_admin=True)
        values = {"key_file": key_file(room, admin, may_impersonate=READ), "subject": "carol"}
        trip = ConsentRequest("mailroom-service", READ)
        form, handle, session = await open_form(room, admin, trip)
        await credentials.enter(room.deployment, form, Entry(values), handle=handle, user=admin, session=session)
        provider, actor = form.provider, Actor(room.deployment, admin, "administration")
        person = await room.user()
        entered = EnteredValues(values)
        await connect_by_credential(actor, person, provider, entered=entered)
        late, handle, session = await open_form(room, admin, trip)
        async with room.deployment.transaction() as transaction:
            await users.set_role(transaction, admin.id, Role.MEMBER)
        other = {**values, "subject": "bob"}
        with pytest.raises(EntryFault) as refused:
            await credentials.enter(room.deployment, late, Entry(other), handle=handle, user=admin, session=session)
        assert (refused.value.reason, refused.value.field) == ("admin", "subject")
        with pytest.raises(ChangeRefused, match="no longer an admin"):
            await connect_by_credential(actor, person, provider, entered=dataclasses.replace(entered, values=other))
        assert len(await accounts_of(room, admin)) == len(await accounts_of(room, person)) == 1
        own, handle, session = await open_form(room, admin, trip)  # they may still enter what everyone may
        plain = Entry({"key_file": values["key_file"]})
        await credentials.enter(room.deployment, own, plain, handle=handle, user=admin, session=session)


@pytest.mark.parametrize("provider", ["mailroom", "unrelated"])
async def test_a_form_whose_account_could_not_be_stored_can_be_sent_again(store: Store, provider: str) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        user, database = await room.user(), room.deployment.database
        form, handle, session = await open_form(room, user, ConsentRequest("mailroom", READ))
        entry = Entry({"key": room.simulator.sandbox.keys.make(user.name)})
        enter = partial(credentials.enter, room.deployment, form, entry, handle=handle, user=user, session=session)
        async with unstorable(database, "connections", "provider", provider, is_sqlite=store.is_sqlite):
            if provider == "mailroom":
                with pytest.raises((StorageUnavailable, TemporarilyUnavailable)):
                    await enter()
            else:
                await enter()
        if provider == "mailroom":
            await enter()
        with pytest.raises(ConnectRefused, match="already used"):
            await enter()
        assert len(await accounts_of(room, user)) == 1


@pytest.mark.parametrize("is_by_admin", [True, False])
async def test_a_person_who_is_disabled_meanwhile_gets_no_account(store: Store, *, is_by_admin: bool) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        user, keys = await room.user(), room.simulator.sandbox.keys
        operator, asked = Actor(room.deployment, None, "command_line"), len(room.books())
        form, _, _ = await open_form(room, user, ConsentRequest("mailroom", READ))
        values = {"key": keys.make(user.name)}

        async def disable() -> None:
            assert await people.set_disabled(operator, user, is_disabled=True)

        for is_late in (True, False):
            if is_late and is_by_admin:  # `user` is the record of before
                await disable()
                with pytest.raises(ChangeRefused) as refused:
                    await connect_by_credential(operator, user, form.provider, entered=EnteredValues(values))
                assert (refused.value.reason, refused.value.kind) == ("person_changed", "conflict")
            elif is_late:
                answer = await credentials.examine(room.deployment, form.provider, Entry(values), user=user)
                await disable()
                with pytest.raises(ConnectRefused, match="This user is disabled, so nothing was connected"):
                    await credentials.store(room.deployment, form.trip, answer, user=user)
            elif is_by_admin:
                await connect_by_credential(operator, user, form.provider, entered=EnteredValues(values))
            else:
                form, handle, session = await open_form(room, user, ConsentRequest("mailroom", READ))
                entry = Entry(values)
                await credentials.enter(room.deployment, form, entry, handle=handle, user=user, session=session)
            assert len(room.books()) > asked  # the service was asked
            assert len(await accounts_of(room, user)) == int(not is_late)
            assert len([one for one in await room.kinds(user) if one == "connection.opened"]) == int(not is_late)
            await people.set_disabled(operator, user, is_disabled=False)


@pytest.mark.parametrize("is_removed", [True, False])
async def test_an_agent_that_is_removed_while_its_person_enters_a_credential_gets_nothing(
    store: Store, *, is_removed: bool
) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        user, keys, client = await room.user(), room.simulator.sandbox.keys, await room.agent()
        trip = ConsentRequest("mailroom", READ, client_id=client.id, delegated=READ)
        form, handle, session = await open_form(room, user, trip)
        entry = Entry({"key": keys.make(user.name)})
        enter = partial(credentials.enter, room.deployment, form, entry, handle=handle, user=user, session=session)

        async def remove() -> None:
            async with room.deployment.transaction() as transaction:
                await clients.remove_client(transaction, client.id, now=room.deployment.now())

        async with room.deployment.transaction() as holding:
            await lock_row(holding, "clients", client.id, is_sqlite=store.is_sqlite)
            removing = asyncio.ensure_future(remove()) if is_removed else None
            await until_waiting(holding, number=int(is_removed), is_sqlite=store.is_sqlite)
            entering = asyncio.ensure_future(enter())
            await until_waiting(holding, number=1 + is_removed, is_sqlite=store.is_sqlite)
        if removing is not None:
            await removing
            with pytest.raises(ConnectRefused, match="already used"):
                await entering
        else:
            await entering
        accounts = await accounts_of(room, user)
        assert len(accounts) == (0 if is_removed else 1)
