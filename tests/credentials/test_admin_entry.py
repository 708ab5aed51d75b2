"""An admin enters a credential for another person on a page: the whole way, and each refusal with its twin."""

from __future__ import annotations

import html

import httpx2
import pytest

from server.administration import people
from server.administration.access import EnteredValues, connect_by_credential
from server.administration.actor import Actor
from server.portal import csrf
from tests.conftest import Store
from tests.leaks.injector import Injector
from tests.portal.sign_in.test_passkeys import holder
from tests.portal.sign_in.test_step_up import confirm
from tests.support.person import Person, forms_of, session_token
from tests.support.refused_pages import is_refused
from tests.support.rooms.key_room import KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of
from vault import delegations, users
from vault.records import Role, User

RECENT = 900


def path_of(user: User, provider: str = "") -> str:
    return f"/administration/people/{user.id}" + (f"/connect/{provider}" if provider else "")


async def enter(admin: Person, user: User, page: httpx2.Response | None = None, **values: str) -> httpx2.Response:
    """Send the form of the first service with these values; without `page`, a new one."""
    page = page or await admin.open(path_of(user, "mailroom"))
    sent: dict[str, str | list[str] | None] = {
        name if name in {"label", "ends"} else f"field.{name}": value for name, value in values.items()
    }
    return await admin.submit(page, sent, form="/connect/")


async def post(room: KeyRoom, person: Person, path: str, **values: str) -> httpx2.Response:
    """Post a form with a valid token, as if this browser had its page."""
    token = csrf.form_token(room.deployment.keys.subkey("csrf"), session_token(person.http), action=path)
    return await person.http.post(path, data={csrf.FIELD: token, **values}, headers={"Origin": person.origin})


def key_of(room: KeyRoom, user: User) -> str:
    return room.simulator.sandbox.keys.make(user.name)


async def test_an_admin_adds_an_account_that_the_person_then_sees(room: KeyRoom) -> None:
    user, admin = await room.user(), await room.signed_in("alice")
    page = await admin.open(path_of(user))
    assert f'href="{path_of(user)}/connect"' in page.text
    services = (await admin.open(f"{path_of(user)}/connect")).text
    assert f'href="{path_of(user, "mailroom")}"' in services
    assert "/connect/slack" not in services  # with a sign-in of its own
    assert "/connect/resend" not in services  # not set up
    key = key_of(room, user)
    form = await admin.open(path_of(user, "mailroom"))
    assert f"Add a Mailroom account for <bdi>{user.name}</bdi>" in form.text
    added = await enter(admin, user, form, key=key)
    assert added.url.path == path_of(user)
    assert f"Added {user.name}@mailroom.example at Mailroom" in added.text
    assert key not in added.text
    (account,) = await accounts_of(room, user)
    assert account.status(room.deployment.now()) == "active"
    assert await delegations.list_for_connection(room.deployment.database, user.id, connection_id=account.id) == ()
    (event,) = [one for one in await room.events(user) if one.kind == "connection.entered"]
    assert (event.details["by"], event.connection_id) == ("alice", account.id)
    label = f"<bdi>{user.name}@mailroom.example</bdi>"
    own = (await (await room.signed_in(user)).open("/activity")).text
    assert f"An admin added {label} for you" in own
    assert f"{label} was connected" in own
    assert f"You connected {label}" not in own
    told = (await admin.open(f"/administration/activity?person={user.id}")).text
    assert f"An admin added {label} for <a" in told
    assert f"{label} was connected" in told
    assert f"connected {label}" not in told


async def test_the_pages_are_in_german_too(room: KeyRoom) -> None:
    user, admin = await room.user(), await room.signed_in("alice")
    admin.http.headers["accept-language"] = "de"
    page = await admin.open(path_of(user, "mailroom-blind"))
    assert f"Konto bei Mailroom-Blind für <bdi>{user.name}</bdi> hinzufügen" in page.text
    assert f"{user.name} wird eine Woche vorher erinnert" in page.text
    assert "wurde hinzugefügt" in (await enter(admin, user, page, key=key_of(room, user), label="Post")).text
    own = await room.signed_in(user)
    own.http.headers["accept-language"] = "de"
    assert "Ein Admin hat <bdi>Post</bdi> für dich hinzugefügt" in (await own.open("/activity")).text


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "Enter: API key."),
        ("sk_live_0000000000000000", "in the format of: API key"),
        ("mr_live_" + "0" * 32, "accept this"),
    ],
)
async def test_a_wrong_value_is_named_at_its_field_and_never_repeated(room: KeyRoom, key: str, said: str) -> None:
    user, admin = await room.user(), await room.signed_in("alice")
    asked = len(room.books())
    answer = await enter(admin, user, key=key, ends="2040-05-01")
    assert (answer.status_code, said in html.unescape(answer.text)) == (400, True), answer.text
    assert not key or key not in answer.text
    assert ('aria-invalid="true"' in answer.text) is (said != "accept this")  # the service refuses the whole entry
    assert 'value="2040-05-01"' in answer.text
    assert await accounts_of(room, user) == ()
    assert len(room.books()) - asked == int(key.startswith("mr_live_"))
    good = await enter(admin, user, answer, key=key_of(room, user))  # the twin, on the same page
    assert good.url.path == path_of(user), good.text
    assert len(await accounts_of(room, user)) == 1


async def test_an_account_is_added_once(room: KeyRoom) -> None:
    user, other, admin = await room.user(), await room.user(), await room.signed_in("alice")
    assert (await enter(admin, user, key=key_of(room, user))).url.path == path_of(user)
    again = await enter(admin, user, key=key_of(room, user))
    assert (again.status_code, "already connected" in again.text) == (409, True), again.text
    assert len(await accounts_of(room, user)) == 1
    assert (await enter(admin, user, again, key=key_of(room, other))).url.path == path_of(user)  # the twin
    assert len(await accounts_of(room, user)) == 2


async def test_only_admins_add_accounts(room: KeyRoom) -> None:
    user, key = await room.user(), key_of(room, await room.user())
    path, operator = path_of(user, "mailroom"), Actor(room.deployment, None, "command_line")
    for role, is_let in ((Role.MEMBER, False), (Role.AUDITOR, False), (Role.ADMINISTRATOR, True)):
        one = await room.user()
        await people.set_role(operator, one, role)
        person = await room.signed_in(one)
        shown = [(await person.open(at)).status_code for at in (f"{path_of(user)}/connect", path)]
        assert shown == ([200, 200] if is_let else [403, 403]), role
        assert (await post(room, person, path, **{"field.key": key})).status_code == (303 if is_let else 403), role
        assert len(await accounts_of(room, user)) == int(is_let), role
    auditor = await room.signed_in(await _with_role(room, Role.AUDITOR))
    assert f"{path_of(user)}/connect" not in (await auditor.open(path_of(user))).text


async def _with_role(room: KeyRoom, role: Role) -> User:
    one = await room.user()
    await people.set_role(Actor(room.deployment, None, "command_line"), one, role)
    return one


async def test_a_service_has_to_take_credentials_and_be_set_up(room: KeyRoom) -> None:
    user, admin = await room.user(), await room.signed_in("alice")
    values = {"field.key": key_of(room, user)}
    for name, status, said in (
        ("resend", 409, "turned on at this vault"),
        ("slack", 400, "now connected in another way"),
        ("nothing", 404, "Provider not found"),
    ):
        path = path_of(user, name)
        for answer in (await admin.open(path), await post(room, admin, path, **values)):
            assert (answer.status_code, said in html.unescape(answer.text)) == (status, True), answer.text
    assert await accounts_of(room, user) == ()
    assert (await post(room, admin, path_of(user, "mailroom"), **values)).status_code == 303  # the twin


async def test_a_person_who_is_gone_gets_no_account(room: KeyRoom) -> None:
    user, stays, admin = await room.user(), await room.user(), await room.signed_in("alice")
    pages = {one.id: await admin.open(path_of(one, "mailroom")) for one in (user, stays)}
    await people.delete(Actor(room.deployment, None, "command_line"), user)
    assert await users.get_user(room.deployment.database, user.id) is None
    asked = len(room.books())
    gone = await enter(admin, user, pages[user.id], key=key_of(room, user))
    assert is_refused(gone, "no_person", 404), gone.text
    assert len(room.books()) == asked  # nothing is sent to the service
    assert (await enter(admin, stays, pages[stays.id], key=key_of(room, stays))).url.path == path_of(stays)  # the twin


async def test_a_disabled_person_is_offered_and_gets_no_account(room: KeyRoom) -> None:
    user, admin, operator = await room.user(), await room.signed_in("alice"), Actor(room.deployment, None, "admin_api")
    form, path = await admin.open(path_of(user, "mailroom")), path_of(user, "mailroom")
    for is_disabled in (True, False):
        await people.set_disabled(operator, user, is_disabled=is_disabled)
        shown = await admin.open(path_of(user))
        assert (f'href="{path_of(user)}/connect"' in shown.text) is not is_disabled
        for page in (await admin.open(f"{path_of(user)}/connect"), await admin.open(path)):
            assert is_refused(page, "person_changed", 409) if is_disabled else page.status_code == 200, page.text
        answer = await enter(admin, user, form, key=key_of(room, user))
        assert is_refused(answer, "person_changed", 409) if is_disabled else answer.url.path == path_of(user)
        assert len(await accounts_of(room, user)) == int(not is_disabled)


async def test_a_form_is_good_for_its_person_and_service_only(room: KeyRoom) -> None:
    user, other, admin = await room.user(), await room.user(), await room.signed_in("alice")
    page = await admin.open(path_of(user, "mailroom"))
    fields = dict(next(one for one in forms_of(page.text) if "/connect/" in one.action).fill_in({}))
    fields["field.key"] = key_of(room, user)
    for path in (path_of(other, "mailroom"), path_of(user, "mailroom-user")):
        moved = await admin.http.post(path, data=fields, headers={"Origin": admin.origin})
        assert is_refused(moved, "old_page", 403), moved.text
    foreign = await admin.http.post(path_of(user, "mailroom"), data=fields, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert await accounts_of(room, user) == await accounts_of(room, other) == ()
    own = await admin.http.post(path_of(user, "mailroom"), data=fields, headers={"Origin": admin.origin})
    assert own.status_code == 303  # the twin


async def test_a_passkey_is_needed_where_people_need_it_for_their_own_accounts(store: Store) -> None:
    overrides = {"sign_in": {"passkey_for": ["connections"]}}
    async with running_key_room(store.data, database_url=store.url, overrides=overrides) as room:
        one, user = await holder(room), await room.user()
        async with room.deployment.transaction() as transaction:
            await users.set_role(transaction, one.user.id, Role.OWNER)
        await one.add()
        room.deployment.database.clock_offset += RECENT
        path = path_of(user, "mailroom")
        asked = await one.person.open(path)
        posted = await post(room, one.person, path, **{"field.key": key_of(room, user)})
        for refused in (asked, posted):
            assert (refused.status_code, "needs your passkey here" in refused.text) == (403, True), refused.text
        assert await accounts_of(room, user) == ()
        back = await confirm(one, posted)
        assert back.url.path == path
        added = await enter(one.person, user, back, key=key_of(room, user))
        assert added.url.path == path_of(user), added.text


async def test_a_replaced_credential_is_not_told_as_a_new_account(room: KeyRoom) -> None:
    user, operator = await room.user(), Actor(room.deployment, None, "command_line")
    provider = room.deployment.catalog.provider("mailroom")
    made = await connect_by_credential(operator, user, provider, entered=EnteredValues({"key": key_of(room, user)}))
    newer = EnteredValues({"key": key_of(room, user)})
    await connect_by_credential(operator, user, provider, entered=newer, replaces=made.id)
    own = (await (await room.signed_in(user)).open("/activity")).text
    assert own.count("An admin added") == own.count("An admin replaced the credential of") == 1


async def test_an_admin_who_adds_their_own_account_reads_that_they_did(room: KeyRoom) -> None:
    user, other = await _with_role(room, Role.ADMINISTRATOR), await room.user()
    admin = await room.signed_in(user)
    for person in (user, other):
        assert (await enter(admin, person, key=key_of(room, person))).url.path == path_of(person)
    label = f"<bdi>{user.name}@mailroom.example</bdi>"
    own = (await admin.open("/activity")).text
    assert f"You added {label}" in own
    assert f"{label} was connected" in own
    assert "An admin added" not in own
    told = (await (await room.signed_in("alice")).open(f"/administration/activity?person={user.id}")).text
    assert f"</a> added {label}" in told
    assert "An admin added" not in told
    theirs = (await (await room.signed_in(other)).open("/activity")).text  # the twin
    assert "An admin added" in theirs
    (account,) = await accounts_of(room, user)
    newer = EnteredValues({"key": key_of(room, user)})
    actor, provider = Actor(room.deployment, user, "admin_api"), room.deployment.catalog.provider("mailroom")
    await connect_by_credential(actor, user, provider, entered=newer, replaces=account.id)
    assert f"You replaced the credential of {label}" in (await admin.open("/activity")).text


async def test_an_account_is_never_without_the_record_of_who_added_it(store: Store) -> None:
    """An error is raised at each await of the request, so between any two transactions."""
    counts: list[int] = []
    async with running_key_room(store.data, database_url=store.url) as room:
        admin = await room.signed_in("alice")
        with Injector().install() as injector:
            for at in range(1, 150):
                user = await room.user()
                page = await admin.open(path_of(user, "mailroom"))
                plan = injector.next_request(at, lambda: RuntimeError("injected"))
                answer = await enter(admin, user, page, key=key_of(room, user))
                before = (await room.kinds(user)).count("connection.entered")
                counts.append(len(await accounts_of(room, user)))
                after = (await room.kinds(user)).count("connection.entered")  # a transaction may end in between
                assert before <= counts[-1] <= after, plan.where
                if not plan.where:
                    plan.at = 0
                    assert answer.url.path == path_of(user), answer.text
                    break
            else:
                raise AssertionError("there are more awaits than expected")
    assert set(counts) == {0, 1}
    assert counts[-1] == 1
