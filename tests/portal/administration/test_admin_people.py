"""People as an administrator manages them: links, disabling, administrators, deletion, and each refusal."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.harness import PASSWORD
from tests.support.person import Person, forms_of
from tests.support.rooms.portal_room import Room
from vault import connections, users
from vault.records import Role, User
from vault.storage.database import Database

PEOPLE = "/administration/people"


async def _press(admin: Person, person: User, action: str) -> httpx2.Response:
    page = await admin.open(f"{PEOPLE}/{person.id}")
    assert page.status_code == 200, page.text
    return await admin.submit(page, form=f"{person.id}/{action}")


async def _current(room: Room, person: User) -> User:
    found = await users.get_user(room.deployment.database, person.id)
    assert found is not None
    return found


def _link_in(page: httpx2.Response) -> str:
    link = page.text.partition('data-copy="')[2].partition('"')[0].replace("&amp;", "&")
    assert "/sign-in/link?ticket=" in link, page.text
    return link


async def _use(browser: Person, link: str, password: str) -> httpx2.Response:
    parts = urlsplit(link)
    page = await browser.open(f"{parts.path}?{parts.query}")
    if page.status_code != 200:
        return page
    return await browser.submit(page, {"password": password, "password_again": password}, form="/sign-in/link")


async def test_a_new_person_comes_in_with_a_link_that_works_once(room: Room) -> None:
    admin = await room.signed_in("alice")
    form = await admin.open(f"{PEOPLE}/new")
    taken = await admin.submit(form, {"name": "ALICE"}, form="/new")
    assert taken.status_code == 400
    assert "already exists" in taken.text
    made = await admin.submit(form, {"name": "grace"}, form="/new")
    link = _link_in(made)
    assert link not in (await admin.open(str(made.url))).text  # shown only once
    grace = await users.find_user(room.deployment.database, "grace")
    assert grace is not None
    assert not grace.is_admin
    browser = await room.browser()
    short = await _use(browser, link, "short")
    assert short.status_code == 400  # and the link still works
    assert (await _use(browser, link, "a password that is long enough")).status_code == 200
    assert "grace" in (await browser.open("/")).text
    again = await _use(await room.browser(), link, "a password of somebody else")
    assert again.status_code == 403
    created, _made = [one for one in await room.events(grace) if one.kind in {"user.created", "user.link_used"}]
    assert created.details["by"] == "alice"


async def test_a_recovery_link_ends_what_the_old_password_opened_and_the_link_before(room: Room) -> None:
    admin, bob = await room.signed_in("alice"), await room.user("bob")
    old = await room.signed_in(bob)
    first = _link_in(await _press(admin, bob, "link"))
    second = _link_in(await _press(admin, bob, "link"))
    assert (await _use(await room.browser(), first, "a password that is long enough")).status_code == 403
    assert (await _use(await room.browser(), second, "a password that is long enough")).status_code == 200
    assert "/sign-in" in str((await old.open("/")).url)
    assert [one.details["by"] for one in await room.events(bob) if one.kind == "user.link_made"] == ["alice"] * 2


async def test_a_link_ends_with_its_day_and_with_the_person(room: Room) -> None:
    admin, bob = await room.signed_in("alice"), await room.user("bob")
    link = _link_in(await _press(admin, bob, "link"))
    late = await room.browser()
    room.deployment.database.clock_offset += 86401
    assert (await _use(late, link, "a password that is long enough")).status_code == 403
    room.deployment.database.clock_offset -= 86401
    assert "is disabled" in (await _press(admin, bob, "disable")).text
    assert (await _use(late, link, "a password that is long enough")).status_code == 403


async def test_disabling_ends_everything_and_enabling_lets_in_again(room: Room) -> None:
    admin, bob = await room.signed_in("alice"), await room.user("bob")
    browser = await room.signed_in(bob)
    page = await admin.open(f"{PEOPLE}/{bob.id}")
    assert "is disabled" in (await admin.submit(page, form=f"{bob.id}/disable")).text
    assert "/sign-in" in str((await browser.open("/")).url)
    stale = await admin.submit(page, form=f"{bob.id}/disable")  # somebody did it already
    assert stale.status_code == 409
    assert "can sign in again" in (await _press(admin, bob, "enable")).text
    assert (await browser.sign_in("bob", PASSWORD)).status_code == 200
    kinds = [(one.kind, one.details["by"]) for one in await room.events(bob) if one.kind.startswith("user.")]
    assert kinds == [("user.disabled", "alice"), ("user.enabled", "alice")]


async def _make_owner(room: Room, person: User) -> None:
    async with room.deployment.transaction() as transaction:
        await users.set_role(transaction, person.id, Role.OWNER)


async def test_the_last_administrator_stays(room: Room) -> None:
    admin, alice, bob = await room.signed_in("alice"), await room.user("alice"), await room.user("bob")
    refused = await _press(admin, alice, "not-admin")
    assert refused.status_code == 409
    assert "this vault has no other administrator" in refused.text
    made = await _press(admin, bob, "admin")
    assert "is an administrator now" in made.text
    undone = await admin.submit(made, form="/not-admin")
    assert "no longer an administrator" in undone.text
    await _make_owner(room, bob)
    assert (await _press(admin, alice, "not-admin")).status_code == 200
    assert not (await _current(room, alice)).is_admin
    assert (await admin.open(PEOPLE)).status_code == 403  # takes effect at once, even in the session that did it


async def test_a_disabled_administrator_does_not_count_as_left(room: Room) -> None:
    admin, alice, bob = await room.signed_in("alice"), await room.user("alice"), await room.user("bob")
    await _make_owner(room, bob)
    await _press(admin, bob, "disable")
    assert (await _press(admin, alice, "not-admin")).status_code == 409
    await _press(admin, bob, "enable")
    assert (await _press(admin, alice, "not-admin")).status_code == 200


async def test_two_administrators_cannot_remove_each_other_at_once(database: Database) -> None:
    async with database.transaction() as transaction:
        first = await users.create_user(transaction, "first", is_admin=True, now=1)
        second = await users.create_user(transaction, "second", is_admin=True, now=1)

    checked = asyncio.Event()

    async def remove(user: User, *, meanwhile: asyncio.Task[bool] | None = None) -> bool:
        async with database.transaction() as transaction:
            if await users.is_last_admin(transaction, user.id):
                return False
            checked.set()
            if meanwhile is not None:  # the other must wait for this one; if it doesn't, it finishes now
                await asyncio.wait({meanwhile}, timeout=0.3)
            return await users.set_role(transaction, user.id, Role.MEMBER)

    async def remove_later() -> bool:
        await checked.wait()
        return await remove(second)

    later = asyncio.create_task(remove_later())
    assert await remove(first, meanwhile=later)
    assert not await later
    assert len(await users.list_admins(database)) == 1


async def test_deleting_takes_the_typed_name_and_ends_the_accounts(room: Room) -> None:
    admin, bob = await room.signed_in("alice"), await room.user("bob")
    await room.connect(await room.signed_in(bob), bob, await room.agent())
    confirm = await admin.open(f"{PEOPLE}/{bob.id}/delete")
    wrong = await admin.submit(confirm, {"name": "alice"}, form="/delete")
    assert wrong.status_code == 400
    assert await users.get_user(room.deployment.database, bob.id) is not None
    ended_before = len(room.simulator.books()["revocations"])
    gone = await admin.submit(confirm, {"name": "bob"}, form="/delete")
    assert "was deleted" in gone.text
    assert await users.get_user(room.deployment.database, bob.id) is None
    assert await connections.list_connections(room.deployment.database, bob.id) == ()
    assert len(room.simulator.books()["revocations"]) > ended_before
    assert (await admin.submit(confirm, {"name": "bob"}, form="/delete")).status_code == 404


async def test_nobody_disables_or_deletes_themselves_here(room: Room) -> None:
    admin, alice = await room.signed_in("alice"), await room.user("alice")
    await room.vault.add_user("bob", is_admin=True)
    assert (await admin.open(f"{PEOPLE}/{alice.id}/delete")).status_code == 409
    actions = [one.action for one in forms_of((await admin.open(f"{PEOPLE}/{alice.id}")).text)]
    assert f"{PEOPLE}/{alice.id}/disable" not in actions


@pytest.mark.parametrize("examined", [3, 500])
async def test_people_are_found_by_the_beginning_of_their_name(
    database: Database, monkeypatch: pytest.MonkeyPatch, examined: int
) -> None:
    """On both databases, whatever the order of names: nobody is left out, nobody is shown twice."""
    monkeypatch.setattr(users, "PAGE", examined)
    names = [f"person {number:04}" for number in range(120)] + ["Ann", "anna", "an-na", "Ángel", "o-brien", "Obama"]
    async with database.transaction() as transaction:
        for name in names:
            await users.create_user(transaction, name, now=1)

    async def everybody(beginning: str) -> list[str]:
        found, after = list[str](), ""
        while True:
            page, after = await users.find_page(database, beginning=beginning, after=after, limit=50)
            found += [one.name for one in page]
            if not after:
                return found

    assert sorted(await everybody("")) == sorted(names)
    assert sorted(await everybody("PERSON 00")) == [f"person {number:04}" for number in range(100)]
    assert sorted(await everybody("an")) == ["Ann", "an-na", "anna"]
    assert await everybody("o-") == ["o-brien"]
    assert await everybody("nobody") == []


async def test_a_session_of_the_person_is_not_made_by_making_a_link(room: Room) -> None:
    admin, bob = await room.signed_in("alice"), await room.user("bob")
    browser = await room.signed_in(bob)
    await _press(admin, bob, "link")
    assert "/sign-in" not in str((await browser.open("/")).url)  # the link was made but not used, so nothing ends
    rows = await room.deployment.database.fetch("select 1 as one from sessions where user_id = :id", {"id": bob.id})
    assert len(rows) == 1
