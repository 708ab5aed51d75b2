"""Sign-ins that are refused late: because of what happened since they began, or for input only a changed page sends."""

from __future__ import annotations

import asyncio
import json

import pytest

from server.sign_in import passkeys as ceremonies
from server.sign_in import password
from server.sign_in.passkeys import ANSWER_LIMIT, PasskeyRefused, encode, read_answer
from tests.conftest import Store
from tests.portal.sign_in.test_passkeys import QUARTER
from tests.support.doubles.authenticator import Authenticator
from tests.support.harness import PASSWORD
from tests.support.inspection import unstorable
from tests.support.rooms.portal_room import Room, running_room
from vault import tickets, users
from vault.records import Role, TicketPurpose, User

SECRET = "s" * 43


def make_passkey(room: Room, user: User) -> ceremonies.Answer:
    """The answer of a device that creates a passkey for the person."""
    options = ceremonies.adding_options(room.deployment, user, (), secret=SECRET)
    return read_answer(Authenticator(room.url).create(options))


async def add(room: Room, user: User, answer: ceremonies.Answer) -> None:
    await ceremonies.add(room.deployment, user, answer=answer, secret=SECRET, name="Phone")


async def test_an_answer_has_a_length(room: Room) -> None:
    text = json.dumps(make_passkey(room, await room.user()).as_object())
    assert read_answer(text.ljust(ANSWER_LIMIT))
    with pytest.raises(PasskeyRefused) as refused:
        read_answer(text.ljust(ANSWER_LIMIT + 1))
    assert refused.value.detail == "long"


@pytest.mark.parametrize("client_data", [b"", b"[]", b'{"challenge": 5}'])
async def test_what_the_browser_signed_can_be_read(room: Room, client_data: bytes) -> None:
    user = await room.user()
    right = make_passkey(room, user)
    response = right.response.model_copy(update={"clientDataJSON": encode(client_data)})
    with pytest.raises(PasskeyRefused) as refused:
        await add(room, user, right.model_copy(update={"response": response}))
    assert refused.value.detail == "client data"
    await add(room, user, right)


async def test_a_person_tries_to_add_a_passkey_so_many_times(room: Room) -> None:
    user = await room.user()
    wrong = make_passkey(room, user)
    response = wrong.response.model_copy(update={"clientDataJSON": "AA"})
    wrong = wrong.model_copy(update={"response": response})
    for _ in range(30):
        with pytest.raises(PasskeyRefused):
            await add(room, user, wrong)
    right = make_passkey(room, user)
    with pytest.raises(password.SignInThrottled):
        await add(room, user, right)
    room.deployment.database.clock_offset += 2 * QUARTER  # after one, the earlier tries still count in part
    await add(room, user, make_passkey(room, user))


async def test_a_vault_that_has_an_admin_gets_no_first_one(room: Room) -> None:
    deployment = room.deployment
    alice = await room.user("alice")
    for is_admin in (True, False):
        async with deployment.transaction() as transaction:
            await users.set_role(transaction, alice.id, Role.OWNER if is_admin else Role.MEMBER)
            secret = await tickets.issue(
                transaction,
                deployment.keys,
                purpose=TicketPurpose.BOOTSTRAP,
                payload={"kind": "first_admin"},
                lifetime=60,
                now=deployment.now(),
            )
        creating = password.create_first_admin(deployment, secret=secret, name="first", password=PASSWORD)
        if is_admin:
            with pytest.raises(password.SignInRefused, match="already has an admin"):
                await creating
            continue
        assert (await creating).is_admin


async def test_of_many_who_use_an_owners_link_at_once_one_is_let_in(room: Room) -> None:
    user = await room.user()
    link = await password.owner_link(room.deployment, user.id, return_to="/agents")
    browsers = [await room.browser() for _ in range(4)]
    answers = await asyncio.gather(*(one.http.get(link) for one in browsers))
    assert [one.headers["location"] for one in answers if one.status_code == 303] == ["/agents"]
    assert (await room.kinds(user)).count("session.started") == 1


@pytest.mark.parametrize("fails", [True, False])
async def test_an_owners_link_is_used_up_only_with_a_session(store: Store, *, fails: bool) -> None:
    overrides: dict[str, object] = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as room:
        user, person = await room.user(), await room.browser()
        link = await password.owner_link(room.deployment, user.id, return_to="/agents")
        refused = user.id if fails else "unrelated"
        async with unstorable(room.deployment.database, "sessions", "user_id", refused, is_sqlite=store.is_sqlite):
            answer = await person.http.get(link)
        if fails:
            assert answer.status_code >= 500
            answer = await person.http.get(link)
        assert answer.headers["location"] == "/agents"
        assert (await (await room.browser()).http.get(link)).status_code == 403


async def link_after(room: Room, kind: str, ended: str) -> tuple[str, User]:
    """The secret of a link for a person whom another admin has just disabled or deleted."""
    user, now = await room.user(), room.deployment.now()
    async with room.deployment.transaction() as transaction:
        if ended == "disabled":
            await users.disable_user(transaction, user.id, now=now)
        elif ended == "deleted":
            await users.delete_user(transaction, user.id, now=now)
    if kind == "owner":
        link = await password.owner_link(room.deployment, user.id)
    else:
        async with room.deployment.transaction() as transaction:
            link = await password.make_sign_in_link(room.deployment, transaction, user.id)
    return link.partition("ticket=")[2].partition("&")[0], user


@pytest.mark.parametrize("ended", ["", "disabled", "deleted"])
@pytest.mark.parametrize("kind", ["owner", "sign_in"])
async def test_a_link_of_somebody_who_is_gone_lets_nobody_in(room: Room, kind: str, ended: str) -> None:
    use = password.owner_of_link if kind == "owner" else password.user_of_link
    secret, user = await link_after(room, kind, ended)
    if not ended:
        assert await use(room.deployment, secret) == user
        return
    with pytest.raises(password.SignInRefused):
        await use(room.deployment, secret)


async def test_each_one_time_secret_is_for_one_thing(room: Room) -> None:
    deployment = room.deployment
    owner, _ = await link_after(room, "owner", "")
    sign_in, _ = await link_after(room, "sign_in", "")
    with pytest.raises(password.SignInRefused):
        await password.owner_of_link(deployment, sign_in)
    with pytest.raises(password.SignInRefused):
        await password.user_of_link(deployment, owner)
    with pytest.raises(password.SignInRefused, match="isn't the secret"):
        await password.create_first_admin(deployment, secret=owner, name="first", password=PASSWORD)
    assert await password.owner_of_link(deployment, owner)
    assert await password.user_of_link(deployment, sign_in)


async def test_of_two_who_use_a_sign_in_link_at_once_one_chooses_the_password(room: Room) -> None:
    user = await room.user()
    async with room.deployment.transaction() as transaction:
        link = await password.make_sign_in_link(room.deployment, transaction, user.id)
    pages = [(person, await person.open(link)) for person in (await room.browser(), await room.browser())]
    chosen: dict[str, str | list[str] | None] = {"password": PASSWORD, "password_again": PASSWORD}
    answers = await asyncio.gather(*(person.submit(page, chosen, form="/sign-in/link") for person, page in pages))
    (late,) = [one for one in answers if one.status_code == 403]
    assert "This link was already used" in late.text
    assert [one.url.path for one in answers if one.status_code == 200] == ["/first-run"]


@pytest.mark.parametrize("fails", [True, False])
async def test_a_link_without_a_password_is_used_up_only_with_a_session(store: Store, *, fails: bool) -> None:
    overrides: dict[str, object] = {"sign_in": {"local": False}}
    if not store.is_sqlite:
        overrides["database"] = {"url": store.url}
    async with running_room(store.data, overrides=overrides) as room:
        user, person = await room.user(), await room.browser()
        async with room.deployment.transaction() as transaction:
            link = await password.make_sign_in_link(room.deployment, transaction, user.id)
        page, refused = await person.open(link), user.id if fails else "unrelated"
        async with unstorable(room.deployment.database, "sessions", "user_id", refused, is_sqlite=store.is_sqlite):
            answer = await person.submit(page, form="/sign-in/link")
        if fails:
            assert answer.status_code >= 500
            answer = await person.submit(page, form="/sign-in/link")
        assert (answer.status_code, answer.url.path) == (200, "/first-run")
        late = await (await room.browser()).open(link)
        assert (late.status_code, "This link was already used" in late.text) == (403, True)
        assert sorted(await room.kinds(user)) == ["session.started", "user.link_used"]


async def test_of_two_who_use_a_link_without_a_password_at_once_one_gets_in(store: Store) -> None:
    overrides: dict[str, object] = {"sign_in": {"local": False}}
    if not store.is_sqlite:
        overrides["database"] = {"url": store.url}
    async with running_room(store.data, overrides=overrides) as room:
        user = await room.user()
        async with room.deployment.transaction() as transaction:
            link = await password.make_sign_in_link(room.deployment, transaction, user.id)
        pages = [(person, await person.open(link)) for person in (await room.browser(), await room.browser())]
        answers = await asyncio.gather(*(person.submit(page, form="/sign-in/link") for person, page in pages))
        assert sorted(one.status_code for one in answers)[:1] == [200]
        assert (await room.kinds(user)).count("session.started") == 1
