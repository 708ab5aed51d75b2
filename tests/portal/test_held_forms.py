"""A form whose session ends before the form has arrived, or while it is carried out, changes nothing."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

import server
from server.administration import access_requests, groups, people
from server.administration.access_requests import AccessAnswer, AccessInput
from server.administration.actor import Actor
from server.oauth import authorize
from server.portal import csrf
from server.sign_in import password
from server.sign_in.callers import SessionCaller, SessionEnded
from server.signals import effects
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.inspection import session_of, until_waiting
from tests.support.network.held_requests import held_form
from tests.support.person import Person, forms_of
from tests.support.rooms.portal_room import Room, query_of, running_room
from vault import users
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessState
from vault.notices import channels
from vault.records import TENANT, TicketPurpose, User
from vault.sign_in import sessions

End = Callable[[Room, User, Person], Awaitable[object]]
SERVER = Path(server.__file__).parent
NEW = "another password that is long enough"
ADMINS = "select id from users where tenant = :tenant and is_admin = 1 order by id"  # as `hold_admins`
CODES = "select ticket_hash from tickets where purpose = :purpose and user_id = :user and consumed_at is null"


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    overrides: dict[str, object] = {"access_requests": {"groups": ["Sales"]}}
    overrides |= {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as opened:
        yield opened


def operator(room: Room) -> Actor:
    return Actor(room.deployment, None, "command_line")


async def change_password(room: Room, user: User, _: Person) -> None:
    await password.change_password(room.deployment, user, current=PASSWORD, new=NEW, address="127.0.0.1")


async def sign_out(_: Room, user: User, person: Person) -> None:
    copy = Person(person.origin)
    copy.http.cookies = person.http.cookies
    async with copy:
        await copy.submit(await copy.open("/account"), form="/sign-out")


async def sign_out_elsewhere(room: Room, user: User, _: Person) -> None:
    other = await room.signed_in(user)
    page = await other.open("/account")
    page = await other.submit(page, {"session": "others"}, form="/account/sessions")
    assert page.status_code == 200, page.text


async def disable(room: Room, user: User, _: Person) -> None:
    await people.set_disabled(operator(room), user, is_disabled=True)


async def delete(room: Room, user: User, _: Person) -> None:
    await people.delete(operator(room), user)


async def signal(room: Room, user: User, _: Person) -> None:
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        await effects.affect(transaction, user, "sign_out", by="https://issuer.example", at=now, now=now)


async def do_nothing(_room: Room, _user: User, _person: Person) -> None:
    pass


ENDS: tuple[End, ...] = (change_password, sign_out, sign_out_elsewhere, disable, delete, signal)


async def post(
    person: Person, page: httpx2.Response, answers: dict[str, str | list[str] | None], *, form: int | str
) -> httpx2.Response:
    """Send a form without following where it leads."""
    forms = forms_of(page.text)
    found = forms[form] if isinstance(form, int) else next(one for one in forms if form in one.action)
    data: dict[str, list[str]] = {}
    for name, value in found.fill_in(answers):
        data.setdefault(name, []).append(value)
    return await person.http.post(found.action, data=data, headers={"Origin": person.origin})


async def codes_of(room: Room, user: User) -> int:
    found = await room.deployment.database.fetch(CODES, {"purpose": TicketPurpose.CODE.value, "user": user.id})
    return len(found)


@pytest.mark.parametrize("end", [*ENDS, do_nothing], ids=lambda end: end.__name__)
async def test_a_consent_that_arrives_after_its_session_ended_gives_no_code(room: Room, end: End) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(await room.agent()))
    async with held_form(person, page, form="/consent", button=("decision", "allow")) as held:
        await end(room, user, person)
        answer = await held.finish()
    assert answer.status_code == 303, answer.text
    is_given = end is do_nothing
    assert ("code=" in answer.headers["location"]) is is_given
    assert answer.headers["location"].startswith("/sign-in") is not is_given
    assert await codes_of(room, user) == int(is_given)


@pytest.mark.parametrize("end", [change_password, do_nothing], ids=lambda end: end.__name__)
async def test_an_administrators_form_after_the_end_of_its_session_adds_no_one(room: Room, end: End) -> None:
    alice = await room.user("alice")
    person = await room.signed_in(alice)
    page = await person.open("/administration/people/new")
    answers: dict[str, str | list[str] | None] = {"name": "mallory", "admin": "yes"}
    async with held_form(person, page, answers, form="/administration/people/new") as held:
        await end(room, alice, person)
        answer = await held.finish()
    assert answer.status_code == 303, answer.text
    added = await users.find_user(room.deployment.database, "mallory")
    assert (added is not None) is (end is do_nothing)


UNREAD, UNFINISHED = "before your form arrived, so nothing was done", "and check what was done"


async def zone_of(room: Room, user: User) -> str:
    return (await channels.get_settings(room.deployment.database, user.id)).zone


async def return_to(room: Room, user: User, person: Person, answer: httpx2.Response, *, told: str) -> httpx2.Response:
    """Go where a form that came too late leads, sign in there, and return the page that follows."""
    assert answer.status_code == 303, answer.text
    page = await person.open(answer.headers["location"])
    assert page.url.path == "/sign-in"
    assert told in page.text
    return await person.sign_in(user.name, PASSWORD, page=page)


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_form_that_arrives_after_its_session_says_so_and_leads_back_to_its_page(
    room: Room, is_held: bool
) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open("/notifications?done=saved")
    answers: dict[str, str | list[str] | None] = {"zone": "Asia/Tokyo"}
    if is_held:
        async with held_form(person, page, answers, form=-1) as held:
            await sign_out(room, user, person)
            answer = await held.finish()
    else:
        await sign_out(room, user, person)
        answer = await post(person, page, answers, form=-1)
    back = await return_to(room, user, person, answer, told=UNREAD)
    assert (back.url.path, back.url.query) == ("/notifications", b"")  # not `done`, since nothing was saved
    assert await zone_of(room, user) != "Asia/Tokyo"
    await person.submit(back, answers, form=-1)  # the twin
    assert await zone_of(room, user) == "Asia/Tokyo"


async def test_a_form_whose_session_ends_while_it_is_processed_says_so(room: Room, store: Store) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open("/notifications")
    session = await session_of(room.deployment, person)
    async with room.deployment.transaction() as ending:
        await users.hold_user(ending, user.id)
        await sessions.end_session(ending, session.token_hash, now=room.deployment.now())
        posting = asyncio.ensure_future(post(person, page, {"zone": "Asia/Tokyo"}, form=-1))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=posting)
    back = await return_to(room, user, person, await posting, told=UNFINISHED)
    assert back.url.path == "/notifications"
    assert await zone_of(room, user) != "Asia/Tokyo"


async def test_a_consent_that_comes_too_late_leads_back_to_its_request(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(await room.agent()))
    async with held_form(person, page, form="/consent", button=("decision", "allow")) as held:
        await sign_out(room, user, person)
        answer = await held.finish()
    back = await return_to(room, user, person, answer, told=UNREAD)
    assert back.url == page.url
    given = await person.submit(back, form="/consent", button=("decision", "allow"))
    assert "code=" in given.headers["location"]
    assert await codes_of(room, user) == 1


async def test_a_refused_form_leads_back_to_the_page_that_had_it(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open("/account/password")
    answers: dict[str, str | list[str] | None] = {"current": PASSWORD, "password": "short", "password_again": "short"}
    refused = await person.submit(page, answers, form="/account/password")
    await sign_out(room, user, person)
    back = await return_to(
        room, user, person, await post(person, refused, answers, form="/account/password"), told=UNREAD
    )
    assert back.url.path == "/account/password"


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/sign-in/local?ticket=x", "/connect/../../x"]
)
async def test_a_form_that_comes_too_late_leads_to_no_other_place(room: Room, wanted: str) -> None:
    person = await room.browser()
    headers = {"Origin": room.url}
    answer = await person.http.post("/notifications", data={csrf.PAGE: wanted}, headers=headers)
    assert query_of(answer.headers["location"])["return_to"] == "/"
    own = await person.http.post("/notifications", data={csrf.PAGE: "/agents"}, headers=headers)
    assert query_of(own.headers["location"])["return_to"] == "/agents"
    foreign = await person.http.post(
        "/notifications", data={csrf.PAGE: "/agents"}, headers={"Origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    of_script = await person.http.post("/notifications", data={"language": "de"}, headers=headers)
    assert of_script.status_code == 403


async def test_only_a_page_for_a_signed_in_person_says_in_its_forms_where_it_is(room: Room) -> None:
    person = await room.signed_in(await room.user())
    own = await person.http.get("/connections?find=x&code=canary&state=canary&done=saved")
    assert f'name="{csrf.PAGE}" value="/connections?find=x"' in own.text
    assert "canary" not in own.text
    refused = await person.http.get("/connect/callback/slack?code=canary&state=x")
    assert "/sign-out" in refused.text
    assert csrf.PAGE not in refused.text
    assert csrf.PAGE not in (await (await room.browser()).open("/sign-in?lost=other")).text


@pytest.mark.parametrize("end", [change_password, sign_out_elsewhere, disable, delete, signal],
                         ids=lambda end: end.__name__)  # fmt: skip
async def test_what_a_request_is_making_when_its_session_ends_is_seen_by_the_end(
    room: Room, store: Store, end: End
) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    own = room.deployment.for_caller(SessionCaller(room.deployment, await session_of(room.deployment, person)))
    async with own.transaction() as transaction:
        ending = asyncio.ensure_future(end(room, user, person))
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite)
        link = await password.make_sign_in_link(own, transaction, user.id)
    await ending
    ticket = link.partition("ticket=")[2]
    if end in {change_password, disable, delete}:  # which end the links, too
        with pytest.raises(password.SignInRefused):
            await password.user_of_link(room.deployment, ticket)
    with pytest.raises(SessionEnded):
        async with own.transaction():
            pytest.fail("a transaction of an ended session")


async def test_a_request_that_waits_for_the_end_of_its_session_is_refused(room: Room, store: Store) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    own = room.deployment.for_caller(SessionCaller(room.deployment, await session_of(room.deployment, person)))

    async def change() -> bool:
        async with own.transaction():
            return True

    async with room.deployment.transaction() as ending:
        await users.set_password(ending, user.id, password_hash="x", now=room.deployment.now())
        changing = asyncio.ensure_future(change())
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=changing)
    with pytest.raises(SessionEnded):
        await changing
    other = await room.signed_in("alice")
    own = room.deployment.for_caller(SessionCaller(room.deployment, await session_of(room.deployment, other)))
    assert await change()


async def test_a_session_that_ended_a_moment_ago_answers_no_agent(room: Room) -> None:
    deployment, scopes = room.deployment, frozenset({"tools"})
    user = await room.user()
    person, other = await room.signed_in(user), await room.signed_in(user)
    page = await person.open(room.authorize_path(await room.agent()))
    handle = query_of(str(page.url))["request"]
    session, live = await session_of(room.deployment, person), await session_of(room.deployment, other)
    async with deployment.transaction() as transaction:
        await sessions.end_session(transaction, session.token_hash, now=deployment.now())
    with pytest.raises(SessionEnded):
        await authorize.approve(deployment, handle, user=user, session=session, scopes=scopes)
    with pytest.raises(SessionEnded):
        await authorize.deny(deployment, handle, session=session)
    assert "code=" in await authorize.approve(deployment, handle, user=user, session=live, scopes=scopes)


async def test_two_administrators_who_change_each_other_lock_nothing_up(room: Room) -> None:
    deployment = room.deployment
    pair = [await room.vault.add_user(name, is_admin=True) for name in ("ada", "grace")]

    async def link(one: User, other: User) -> None:
        person = await room.signed_in(one)
        own = deployment.for_caller(SessionCaller(deployment, await session_of(room.deployment, person)))
        for _ in range(10):
            await people.make_link(Actor(own, one, "administration"), other)

    async with asyncio.timeout(60):
        await asyncio.gather(link(*pair), link(*reversed(pair)))


async def delete_oneself(_: Room, person: Person, own: Actor) -> None:
    assert own.user is not None
    page = await person.open("/account/delete")
    page = await person.submit(page, {"name": own.user.name}, form="/account/delete")
    assert page.status_code == 200, page.text


async def allow(room: Room, _: Person, own: Actor) -> None:
    answered = await access_requests.allow(own, await asked_request(room), AccessAnswer(1))
    assert answered.state is AccessState.ALLOWED


async def deny(room: Room, _: Person, own: Actor) -> None:
    assert (await access_requests.deny(own, await asked_request(room))).state is AccessState.DENIED


async def asked_request(room: Room) -> str:
    found = await stored.list_pending(room.deployment.database, now=room.deployment.now())
    return found[0].id


@pytest.mark.parametrize("act", [delete_oneself, allow, deny], ids=lambda act: act.__name__)
async def test_an_admins_request_locks_the_admins_before_its_own_person(
    room: Room, store: Store, act: Callable[[Room, Person, Actor], Awaitable[None]]
) -> None:
    deployment = room.deployment
    await room.vault.add_user("ada", is_admin=True)
    browsers = {name: await room.signed_in(name) for name in ("alice", "ada")}
    await groups.create(operator(room), "Sales")
    asking = AccessInput(group="Sales", reason="the launch", days=3)
    await access_requests.ask(deployment, await room.user("bob"), asking)
    admins = {one.id: one for one in await users.list_admins(deployment.database)}
    first, last = [admins[str(row["id"])] for row in await deployment.database.fetch(ADMINS, {"tenant": TENANT})]
    person = browsers[last.name]
    own = deployment.for_caller(SessionCaller(deployment, await session_of(deployment, person)))
    async with deployment.transaction() as holding:  # what a request of the other admin locks one after the other
        await users.hold_user(holding, first.id)
        acting = asyncio.ensure_future(act(room, person, Actor(own, last, "administration")))
        await until_waiting(holding, number=1, is_sqlite=store.is_sqlite, unless=acting)
        await users.hold_user(holding, last.id)
    await acting


def unchecked_transactions(source: str) -> list[str]:
    """The calls of `transaction` on anything but a deployment, which checks the request's caller."""
    calls = [ast.unparse(one.func) for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Call)]
    opened = [one for one in calls if one.endswith(".transaction")]
    return [one for one in opened if not one.removesuffix(".transaction").endswith("deployment")]


def test_pages_and_apis_open_only_transactions_that_check_their_caller() -> None:
    files = [file for name in ("portal", "api", "scim", "auth0") for file in (SERVER / name).rglob("*.py")]
    assert len(files) > 50
    found = [(file.relative_to(SERVER), unchecked_transactions(file.read_text())) for file in files]
    assert [one for one in found if one[1]] == []
    assert unchecked_transactions("deployment.database.transaction()") == ["deployment.database.transaction"]
    assert unchecked_transactions("database.transaction()") == ["database.transaction"]
    assert unchecked_transactions("visit.deployment.transaction()") == []
