"""Signing in with a password, the first admin, the owner's one-time link, and signing out."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from server.app import build_app, open_deployment
from server.sign_in import password as signin
from server.sign_in import proofs
from tests.conftest import Store
from tests.support.harness import PASSWORD, free_socket, serve_app
from tests.support.person import Person, forms_of, session_cookie
from tests.support.refused_pages import is_refused
from tests.support.rooms.portal_room import Room, running_room
from vault import grants, users

QUARTER = 900


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_room(tmp_path_factory.mktemp("signin")) as opened:
        yield opened


@pytest.fixture
async def room(shared_room: Room) -> AsyncGenerator[Room]:
    """Each test has its own rate windows, because time only moves forward."""
    shared_room.deployment.database.clock_offset += 10 * QUARTER
    yield shared_room


async def _try(person: Person, name: str, password: str) -> int:
    page = await person.open("/sign-in")
    form = next(one for one in forms_of(page.text) if one.action == "/sign-in")
    data = dict(form.fill_in({"name": name, "password": password}))
    answer = await person.http.post("/sign-in", data=data, headers={"origin": person.origin})
    return answer.status_code


@pytest.mark.requirement("S-055")
async def test_signing_in_never_takes_over_a_session_id_that_the_browser_brings(room: Room) -> None:
    planted = "p" * 43
    victim = await room.browser()
    name = signin.cookie_name(room.deployment, "session")
    victim.http.cookies.set(name, planted, domain="localhost.local", path="/")
    assert (await victim.sign_in("alice", PASSWORD)).url.path == "/"
    fresh = victim.http.cookies[name]
    assert fresh != planted
    assert len(fresh) >= 43
    mallory = await room.browser()
    assert (await mallory.http.get("/connections", headers={"cookie": f"{name}={planted}"})).status_code == 303
    assert (await mallory.http.get("/connections", headers={"cookie": f"{name}={fresh}"})).status_code == 200
    again = await room.signed_in()
    assert again.http.cookies[name] != fresh


async def test_signing_in_over_a_live_session_ends_it(room: Room) -> None:
    user = await room.user()
    person = await room.browser()
    page = await person.open("/sign-in")
    await person.sign_in(user.name, PASSWORD, page=page)
    first = session_cookie(person.http)
    link = await signin.owner_link(room.deployment, user.id)
    await person.open(link)
    assert session_cookie(person.http) != first
    other = await room.browser()
    assert (await other.http.get("/connections", headers={"cookie": first})).status_code == 303


@pytest.mark.requirement("S-133")
async def test_signing_out_ends_the_session_on_the_server(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    old = session_cookie(person.http)
    page = await person.open("/connections")
    assert page.status_code == 200
    page = await person.submit(page, form="/sign-out")
    assert page.url.path == "/sign-in"
    replayed = await (await room.browser()).http.get("/connections", headers={"cookie": old})
    assert replayed.status_code == 303
    assert await room.kinds(user) == ["session.started", "session.ended"]


@pytest.mark.requirement("S-130")
async def test_a_wrong_password_and_an_unknown_name_look_the_same(room: Room) -> None:
    user = await room.user()
    answers: list[tuple[int, str]] = []
    for name in (user.name, "nobody-of-this-name"):
        person = await room.browser()
        page = await person.open("/sign-in")
        answer = await person.submit(page, {"name": name, "password": "wrong"}, form="/sign-in")
        hidden = dict(forms_of(page.text)[0].fields)["form_token"]
        shown = re.sub(r'data-options="[^"]*"|name="form_token" value="[^"]*"', "", answer.text)  # differs in each page
        answers.append((answer.status_code, shown.replace(name, "NAME").replace(hidden, "TOKEN")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 401
    assert await _try(await room.browser(), user.name, PASSWORD) == 303


async def test_a_disabled_account_looks_like_a_wrong_password(room: Room) -> None:
    user = await room.user()
    person = await room.browser()
    async with room.deployment.transaction() as transaction:
        await users.disable_user(transaction, user.id, now=room.deployment.now())
    assert await _try(person, user.name, PASSWORD) == 401
    async with room.deployment.transaction() as transaction:
        await users.enable_user(transaction, user.id, now=room.deployment.now())
    assert await _try(person, user.name, PASSWORD) == 303


@pytest.mark.requirement("S-129")
async def test_guessing_an_account_is_throttled_without_locking_its_owner_out(room: Room) -> None:
    user = await room.user()
    owner = await room.signed_in(user)
    await owner.submit(await owner.open("/connections"), form="/sign-out")
    mallory = await room.browser()
    limit = room.vault.settings.sign_in.failures_per_account
    assert limit <= 100
    statuses = [await _try(mallory, user.name, f"guess {n}") for n in range(limit + 1)]
    assert statuses == [401] * limit + [429]
    assert await _try(mallory, user.name, PASSWORD) == 429
    elsewhere = await room.user()
    assert await _try(await room.browser(), elsewhere.name, PASSWORD) == 303
    assert await _try(owner, user.name, PASSWORD) == 303, "the owner's own browser is counted apart"
    room.deployment.database.clock_offset += 2 * QUARTER
    assert await _try(mallory, user.name, PASSWORD) == 303, "nobody is locked out for good"


async def test_signing_in_again_and_again_ends_at_a_generous_number(room: Room) -> None:
    user, other = await room.user(), await room.user()
    owner = await room.signed_in(user)
    request = Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1)})
    for _ in range(98):
        await signin.begin_session(
            room.deployment, request, Response(), user=user, method="openid", proof=proofs.password_of(user)
        )
    assert [await _try(await room.browser(), user.name, PASSWORD) for _ in range(3)] == [303, 429, 429]
    new = "quite another password"
    changed = {"current": PASSWORD, "password": new, "password_again": new}
    page = await owner.open("/account/password")
    assert (await owner.submit(page, changed, form="/account/password")).status_code == 429
    assert (await owner.open(await signin.owner_link(room.deployment, user.id))).status_code == 429
    assert (await room.kinds(user)).count("session.started") == 100
    assert (await owner.open("/connections")).status_code == 200, "whoever is signed in goes on"
    assert await _try(await room.browser(), other.name, PASSWORD) == 303, "each person counts apart"
    room.deployment.database.clock_offset += 2 * QUARTER
    assert await _try(await room.browser(), user.name, PASSWORD) == 303


@pytest.mark.requirement("S-129")
async def test_a_known_browser_is_throttled_as_well(room: Room) -> None:
    user = await room.user()
    owner = await room.signed_in(user)
    await owner.submit(await owner.open("/connections"), form="/sign-out")
    statuses = [await _try(owner, user.name, "wrong") for _ in range(11)]
    assert statuses == [401] * 10 + [429]


@pytest.mark.requirement("S-129")
async def test_one_address_is_throttled_over_all_accounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    overrides = {"sign_in": {"failures_per_address": 5}}
    async with running_room(tmp_path_factory.mktemp("address"), overrides=overrides) as room:
        person = await room.browser()
        statuses = [await _try(person, f"name {n}", "wrong") for n in range(6)]
        assert statuses == [401] * 5 + [429]
        assert await _try(person, "alice", PASSWORD) == 429
        room.deployment.database.clock_offset += 2 * QUARTER
        assert await _try(person, "alice", PASSWORD) == 303


async def test_right_passwords_are_not_counted(room: Room) -> None:
    user = await room.user()
    for _ in range(room.vault.settings.sign_in.failures_per_account + 2):
        attempt = signin.Attempt(name=user.name, address="192.0.2.1", password=PASSWORD)
        assert (await signin.check_sign_in(room.deployment, attempt)).id == user.id


async def test_parallel_guesses_do_not_slip_past_the_limit(room: Room) -> None:
    user = await room.user()
    limit = room.vault.settings.sign_in.failures_per_account

    async def guess(number: int) -> type[Exception] | None:
        attempt = signin.Attempt(name=user.name, address="192.0.2.2", password=f"guess {number}")
        try:
            await signin.check_sign_in(room.deployment, attempt)
        except (signin.SignInRefused, signin.SignInThrottled) as refusal:
            return type(refusal)
        return None

    outcomes = await asyncio.gather(*(guess(n) for n in range(limit + 15)))
    assert outcomes.count(signin.SignInRefused) == limit
    assert outcomes.count(signin.SignInThrottled) == 15


@pytest.mark.requirement("S-131")
async def test_passwords_are_judged_by_length_and_compared_whole(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    long = "ein sehr langes Kennwort " * 4
    long = long[:80]
    for wrong in ("short one", "passwordpassword", "a" * 1025):
        page = await person.open("/account/password")
        answers = {"current": PASSWORD, "password": wrong, "password_again": wrong}
        assert (await person.submit(page, answers, form="/account/password")).status_code == 400
    page = await person.open("/account/password")
    page = await person.submit(
        page, {"current": PASSWORD, "password": long, "password_again": long}, form="/account/password"
    )
    assert page.status_code == 200
    assert await _try(await room.browser(), user.name, long[:72]) == 401
    assert await _try(await room.browser(), user.name, long) == 303
    assert "user.password_changed" in await room.kinds(user)


@pytest.mark.requirement("S-131")
async def test_password_fields_may_be_pasted_into_and_filled_by_a_manager(room: Room) -> None:
    page = await (await room.browser()).open("/sign-in")
    assert 'autocomplete="current-password"' in page.text
    assert "onpaste" not in page.text


@pytest.mark.requirement("S-086")
async def test_a_new_password_ends_other_sessions_and_agents(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    here, elsewhere = await room.signed_in(user), await room.signed_in(user)
    await room.grant(user, client)
    assert (await elsewhere.http.get("/connections")).status_code == 200
    new = "another good long password"
    for current, status, live in (("wrong", 400, 1), (PASSWORD, 200, 0)):
        page = await here.open("/account/password")
        answers = {"current": current, "password": new, "password_again": new}
        assert (await here.submit(page, answers, form="/account/password")).status_code == status
        assert len(await grants.list_grants(room.deployment.database, user.id)) == live
    assert (await elsewhere.http.get("/connections")).status_code == 303
    assert (await here.http.get("/connections")).status_code == 200


@pytest.mark.requirement("S-132")
async def test_a_huge_password_is_refused_before_hashing(room: Room) -> None:
    person = await room.browser()
    page = await person.open("/sign-in")
    started = time.perf_counter()
    answer = await person.submit(page, {"name": "alice", "password": "x" * 1_000_000}, form="/sign-in")
    assert answer.status_code == 413
    assert time.perf_counter() - started < 10
    assert await _try(person, "alice", PASSWORD) == 303


@pytest.mark.requirement("S-132")
async def test_fifty_sign_ins_at_once_leave_other_requests_alone(room: Room) -> None:
    people = [await room.browser() for _ in range(50)]
    forms = [forms_of((await person.open("/sign-in")).text)[0] for person in people]
    other = await room.signed_in(await room.user())

    async def sign_in(person: Person, number: int) -> int:
        data = dict(forms[number].fill_in({"name": "alice", "password": PASSWORD}))
        return (await person.http.post("/sign-in", data=data, headers={"origin": room.url})).status_code

    running = [asyncio.create_task(sign_in(person, number)) for number, person in enumerate(people)]
    served = 0
    while not all(task.done() for task in running):
        assert (await other.http.get("/activity")).status_code == 200
        served += 1
    outcomes = [task.result() for task in running]
    assert set(outcomes) <= {303, 429}
    assert 303 in outcomes
    assert served > 5, "hashing runs beside the event loop"


@pytest.mark.requirement("S-135")
async def test_there_is_no_account_to_guess(room: Room) -> None:
    for name, password in (("admin", "admin"), ("root", "root"), ("admin", ""), ("token-vault", "token-vault")):
        assert await _try(await room.browser(), name, password) == 401


async def _forget_everybody(room: Room) -> None:
    async with room.deployment.transaction() as transaction:
        for user in await users.list_users(transaction):
            await users.delete_user(transaction, user.id, now=room.deployment.now())


@pytest.mark.requirement("S-135")
async def test_the_first_admin_needs_the_one_time_secret(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_room(tmp_path_factory.mktemp("first")) as room:
        assert await signin.first_admin_secret(room.deployment) is None
        await _forget_everybody(room)
        secret = await signin.first_admin_secret(room.deployment)
        assert secret is not None
        person = await room.browser()
        page = await person.open("/connections")
        page = await person.open("/sign-in")
        assert page.url.path == "/first-run"
        fields = {"name": "Ada", "password": PASSWORD, "password_again": PASSWORD}
        refused = [
            fields | {"secret": ""},
            fields | {"secret": "admin"},
            fields | {"secret": secret[:-1]},
            fields | {"secret": secret, "password": "short", "password_again": "short"},
            fields | {"secret": secret, "password_again": "not the same password"},
            fields | {"secret": secret, "name": " "},
        ]
        for answers in refused:
            assert (await person.submit(page, dict(answers), form="/first-run")).status_code == 400
            assert await users.count_users(room.deployment.database) == 0
        done = await person.submit(page, fields | {"secret": secret}, form="/first-run")
        assert done.url.path == "/first-run"
        (ada,) = await users.list_users(room.deployment.database)
        assert ada.is_admin
        assert await room.kinds(ada) == ["user.created", "session.started"]
        late = await room.browser()
        assert (await late.open("/first-run")).url.path == "/sign-in"
        assert await signin.first_admin_secret(room.deployment) is None


async def test_the_one_time_secret_works_once_and_for_a_day(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_room(tmp_path_factory.mktemp("once")) as room:
        await _forget_everybody(room)
        secret = await signin.first_admin_secret(room.deployment)
        assert secret is not None
        room.deployment.database.clock_offset += signin.FIRST_ADMIN_LIFETIME + 1
        with pytest.raises(signin.SignInRefused):
            await signin.create_first_admin(room.deployment, secret=secret, name="Ada", password=PASSWORD)
        secret = await signin.first_admin_secret(room.deployment)
        assert secret is not None
        outcomes = await asyncio.gather(
            *(
                signin.create_first_admin(room.deployment, secret=secret, name=f"Ada {n}", password=PASSWORD)
                for n in range(4)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, BaseException) for outcome in outcomes) == 3
        assert await users.count_users(room.deployment.database) == 1


async def test_of_several_secrets_that_are_used_at_once_one_makes_the_first_admin(store: Store) -> None:
    """Each process that starts without an admin prints one."""
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as room:
        await _forget_everybody(room)
        secrets = [await signin.first_admin_secret(room.deployment) or "" for _ in range(4)]
        outcomes = await asyncio.gather(
            *(
                signin.create_first_admin(room.deployment, secret=one, name=f"Ada {n}", password=PASSWORD)
                for n, one in enumerate(secrets)
            ),
            return_exceptions=True,
        )
        refused = [one for one in outcomes if isinstance(one, BaseException)]
        assert [str(one) for one in refused] == ["This vault already has an admin."] * 3, refused
        assert await users.count_users(room.deployment.database) == 1


async def test_the_owners_link_signs_in_once_within_two_minutes(room: Room) -> None:
    user = await room.user()
    link = await signin.owner_link(room.deployment, user.id, return_to="/agents")
    assert user.id not in link
    assert user.name not in link
    person = await room.browser()
    assert (await person.open(link)).url.path == "/agents"
    assert (await (await room.browser()).http.get(link)).status_code == 403
    late = await signin.owner_link(room.deployment, user.id)
    room.deployment.database.clock_offset += signin.OWNER_LINK_LIFETIME
    assert (await (await room.browser()).http.get(late)).status_code == 403
    disabled = await room.user()
    link = await signin.owner_link(room.deployment, disabled.id)
    async with room.deployment.transaction() as transaction:
        await users.disable_user(transaction, disabled.id, now=room.deployment.now())
    assert (await (await room.browser()).http.get(link)).status_code == 403


async def test_the_owners_link_leads_nowhere_else(room: Room) -> None:
    user = await room.user()
    link = await signin.owner_link(room.deployment, user.id, return_to="//evil.example/")
    answer = await (await room.browser()).http.get(link)
    assert answer.headers["location"] == "/"


async def test_a_first_admin_secret_is_no_sign_in_link_and_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with running_room(tmp_path_factory.mktemp("kinds")) as room:
        link = await signin.owner_link(room.deployment, (await room.user("alice")).id)
        secret = link.partition("ticket=")[2].partition("&")[0]
        await _forget_everybody(room)
        with pytest.raises(signin.SignInRefused):
            await signin.create_first_admin(room.deployment, secret=secret, name="Ada", password=PASSWORD)
        first = await signin.first_admin_secret(room.deployment)
        with pytest.raises(signin.SignInRefused):
            await signin.owner_of_link(room.deployment, first or "")


async def test_this_computers_owner_gets_a_window_that_the_page_never_sees(room: Room) -> None:
    opened: list[str] = []

    def open_browser(url: str) -> bool:
        opened.append(url)
        return True

    page = await (await room.browser()).open("/sign-in")
    assert "token-vault sign-in" in page.text
    listening = free_socket()
    url = f"http://localhost:{listening.getsockname()[1]}"
    server = room.vault.settings.server.model_copy(update={"public_url": url})
    settings = room.vault.settings.model_copy(update={"server": server})
    async with (
        open_deployment(settings, data=room.deployment.data, open_browser=open_browser) as deployment,
        serve_app(build_app(deployment), listening),
        Person(url) as person,
        Person(url) as owner,
    ):
        page = await person.open("/sign-in?return_to=/agents")
        answer = await person.submit(page, form="/sign-in/local")
        assert answer.status_code == 200
        assert len(opened) == 1
        assert opened[0] not in answer.text
        assert (await person.http.get("/connections")).status_code == 303, "whoever pressed the button is not signed in"
        assert (await owner.open(opened[0])).url.path == "/agents"
        foreign = await person.http.post("/sign-in/local", data={}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert len(opened) == 1
        second = await room.vault.add_user("second-admin", is_admin=True)  # so that nobody is the computer's owner
        assert is_refused(await person.submit(page, form="/sign-in/local"), "no_owner", 403)
        assert len(opened) == 1
        async with deployment.transaction() as transaction:
            await users.disable_user(transaction, second.id, now=deployment.now())
        answers = [await person.submit(page, form="/sign-in/local") for _ in range(7)]
        assert answers[0].status_code == 200
        assert is_refused(answers[-1], "many_windows", 429)


async def test_a_vault_on_the_network_offers_no_window(room: Room) -> None:
    from server.portal.sign_in import local_owner

    assert await local_owner(room.deployment) is not None
    remote = room.vault.settings.server.model_copy(update={"public_url": "https://vault.example"})
    settings = room.vault.settings.model_copy(update={"server": remote})
    assert await local_owner(replace(room.deployment, settings=settings)) is None


async def test_the_owners_link_signs_in_one_of_many_at_once(room: Room) -> None:
    link = await signin.owner_link(room.deployment, (await room.user()).id)
    answers = await asyncio.gather(*[(await room.browser()).http.get(link) for _ in range(3)])
    assert sorted(answer.status_code for answer in answers) == [303, 403, 403]


async def test_guessing_the_current_password_on_the_account_page_is_throttled(room: Room) -> None:
    person = await room.signed_in(await room.user())
    page = await person.open("/account/password")
    answers = {"password": "a new and good password", "password_again": "a new and good password"}
    limit = room.vault.settings.sign_in.failures_per_account
    statuses = [
        (await person.submit(page, {**answers, "current": f"guess {n}"}, form="/account/password")).status_code
        for n in range(limit + 1)
    ]
    assert statuses == [400] * limit + [429]


async def test_sessions_end_when_nobody_uses_them(room: Room) -> None:
    person = await room.signed_in(await room.user())
    for _ in range(3):
        room.deployment.database.clock_offset += 11 * 3600
        assert (await person.http.get("/connections")).status_code == 200
    room.deployment.database.clock_offset += 13 * 3600
    assert (await person.http.get("/connections")).status_code == 303


async def test_how_long_an_unused_session_lives_is_a_setting(tmp_path_factory: pytest.TempPathFactory) -> None:
    overrides = {"sign_in": {"session_idle_lifetime": 3600}}
    async with running_room(tmp_path_factory.mktemp("idle"), overrides=overrides) as room:
        person = await room.signed_in(await room.user())
        room.deployment.database.clock_offset += 3000
        assert (await person.http.get("/connections")).status_code == 200
        room.deployment.database.clock_offset += 3700
        assert (await person.http.get("/connections")).status_code == 303


async def test_password_sign_in_can_be_switched_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_room(tmp_path_factory.mktemp("off"), overrides={"sign_in": {"local": False}}) as room:
        person = await room.browser()
        page = await person.open("/sign-in")
        assert 'name="password"' not in page.text
        token = dict(forms_of(page.text)[0].fields).get("form_token", "") if forms_of(page.text) else ""
        data = {"name": "alice", "password": PASSWORD, "form_token": token}
        assert (await person.http.post("/sign-in", data=data, headers={"origin": room.url})).status_code == 403
