"""Refusals while connecting an account, each with the same steps that succeed without that reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.administration.access import EnteredValues, connect_by_credential
from server.administration.actor import Actor, ChangeRefused
from server.connecting import credentials, provider_authorization
from server.connecting.credentials import Entry, EntryFault
from server.connecting.links import ConnectRefused
from server.connecting.provider_authorization import ConsentRequest
from tests.credentials.test_meanwhile import open_form
from tests.credentials.test_signed_tokens import key_file
from tests.support.rooms.key_room import READ, KeyRoom
from vault.records import Session, User


def session_of(room: KeyRoom, user: User) -> Session:
    now = room.deployment.now()
    return Session(bytes(32), user.id, created_at=now, seen_at=now, expires_at=now + 3600)


def enter_key(room: KeyRoom, user: User) -> EnteredValues:
    return EnteredValues({"key": room.simulator.sandbox.keys.make(user.name)})


async def test_an_account_is_connected_where_the_service_is_set_up(room: KeyRoom) -> None:
    user = await room.user()
    session = session_of(room, user)
    for provider, is_there in (("github", False), ("slack", True)):
        trip = ConsentRequest(provider, room.deployment.catalog.provider(provider).all_scopes)
        starting = provider_authorization.start(room.deployment, trip, user=user, session=session)
        if is_there:
            assert (await starting).startswith(room.simulator.url)
            continue
        with pytest.raises(ConnectRefused, match="isn't set up on this vault"):
            await starting


async def test_a_credential_is_entered_where_the_service_is_turned_on(room: KeyRoom) -> None:
    user = await room.user()
    session = session_of(room, user)
    with pytest.raises(ConnectRefused, match="isn't turned on at this vault"):
        await credentials.start(room.deployment, ConsentRequest("github", READ), user=user, session=session)
    trip = ConsentRequest("mailroom", READ)
    assert await credentials.start(room.deployment, trip, user=user, session=session)


async def test_a_form_is_about_an_account_and_a_service_that_take_a_credential(room: KeyRoom) -> None:
    user = await room.user()
    actor, mailroom = Actor(room.deployment, None, "command_line"), room.deployment.catalog.provider("mailroom")
    connection = await connect_by_credential(actor, user, mailroom, entered=enter_key(room, user))
    for provider, replaces in (("mailroom-user", connection.id), ("mailroom", "nothing")):
        with pytest.raises(ConnectRefused, match="disconnected in the meantime"):
            await open_form(room, user, ConsentRequest(provider, READ, replaces=replaces))
    with pytest.raises(ConnectRefused, match="now connected in another way"):
        await open_form(room, user, ConsentRequest("slack", READ))
    form, _, _ = await open_form(room, user, ConsentRequest("mailroom", READ, replaces=connection.id))
    assert form.replaces == connection


async def test_a_form_is_for_the_person_who_opened_it(room: KeyRoom) -> None:
    user, other = await room.user(), await room.user()
    form, handle, session = await open_form(room, user, ConsentRequest("mailroom", READ))
    with pytest.raises(ConnectRefused, match="no longer valid"):
        await credentials.open_form(room.deployment, handle, user=other, session=session)
    assert await credentials.open_form(room.deployment, handle, user=user, session=session) == form


async def test_a_form_counts_once(room: KeyRoom) -> None:
    user, keys = await room.user(), room.simulator.sandbox.keys
    form, handle, session = await open_form(room, user, ConsentRequest("mailroom", READ))
    values = {"key": keys.make(user.name)}
    await credentials.enter(room.deployment, form, Entry(values), handle=handle, user=user, session=session)
    with pytest.raises(ConnectRefused, match="already used"):
        await credentials.enter(room.deployment, form, Entry(values), handle=handle, user=user, session=session)


async def test_only_a_service_that_takes_credentials_is_asked_about_one(room: KeyRoom) -> None:
    user, catalog = await room.user(), room.deployment.catalog
    entry = Entry({"key": room.simulator.sandbox.keys.make(user.name)})
    with pytest.raises(EntryFault, match="unknown"):
        await credentials.examine(room.deployment, catalog.provider("slack"), entry, user=user)
    answer = await credentials.examine(room.deployment, catalog.provider("mailroom"), entry, user=user)
    assert answer.account is not None
    assert answer.account.label.startswith(user.name)


@pytest.mark.parametrize(("status", "reason"), [(401, "refused"), (500, "unchecked"), (None, "")])
async def test_what_a_service_answers_about_a_credential_is_told(
    room: KeyRoom, status: int | None, reason: str
) -> None:
    user, mailroom = await room.user(), room.deployment.catalog.provider("mailroom")
    entry = Entry({"key": room.simulator.sandbox.keys.make(user.name)})
    if status is None:
        assert (await credentials.examine(room.deployment, mailroom, entry, user=user)).account is not None
        return
    room.simulator.fault("mailroom.api.me", "status", status=status)
    with pytest.raises(EntryFault) as refused:
        await credentials.examine(room.deployment, mailroom, entry, user=user)
    assert (refused.value.reason, refused.value.status) == (reason, status)


async def test_an_account_that_acts_for_a_person_is_replaced_by_one_that_names_them(room: KeyRoom) -> None:
    admin = await room.vault.add_user("acting", is_admin=True)
    provider = room.deployment.catalog.provider("mailroom-service")
    actor = Actor(room.deployment, admin, "administration")
    file = key_file(room, admin, may_impersonate=READ)
    both = EnteredValues({"key_file": file, "subject": "carol"})
    person = await room.user()
    acting = f"{admin.name}@mailroom.example carol"
    connection = await room.account(person, provider.name, label=acting, scopes=READ)
    with pytest.raises(ChangeRefused) as refused:
        alone = replace(both, values={"key_file": file})
        await connect_by_credential(actor, person, provider, entered=alone, replaces=connection.id)
    assert refused.value.field == "credential.subject"
    again = await connect_by_credential(actor, person, provider, entered=both, replaces=connection.id)
    assert again.id == connection.id


async def test_a_credential_replaces_one_of_its_own_service(room: KeyRoom) -> None:
    person, catalog = await room.user(), room.deployment.catalog
    actor = Actor(room.deployment, None, "command_line")
    mailroom = catalog.provider("mailroom")
    connection = await connect_by_credential(actor, person, mailroom, entered=enter_key(room, person))
    with pytest.raises(ChangeRefused, match="another service"):
        await connect_by_credential(
            actor,
            person,
            catalog.provider("mailroom-user"),
            entered=enter_key(room, person),
            replaces=connection.id,
        )
    values = enter_key(room, person)
    again = await connect_by_credential(actor, person, mailroom, entered=values, replaces=connection.id)
    assert again.id == connection.id
