"""The way back from a provider: whose browser, which `state`, whose answer, and what is left after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from urllib.parse import urlencode, urlsplit

import pytest

from providers.simulator.local_server import running_simulator
from providers.simulator.person import consent
from tests.support.harness import PASSWORD, running_vault
from tests.support.rooms.portal_room import (
    CHAT,
    Room,
    accounts_of,
    query_of,
    scopes_allowed,
    someone,
    with_parameters,
)


@pytest.mark.requirement("S-140")
@pytest.mark.parametrize("who", ["another user", "the same user in another browser", "nobody"])
@pytest.mark.requirement("S-061")
async def test_a_callback_counts_only_in_the_browser_and_for_the_user_that_started(room: Room, who: str) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    victim = await room.user()
    match who:
        case "another user":
            wrong = await room.signed_in(victim)
        case "nobody":
            wrong = await room.browser()
        case _:
            wrong = await room.signed_in(user)
    answer = await wrong.http.get(callback)
    assert answer.status_code in {400, 403}
    assert not await accounts_of(room, user)
    assert not await accounts_of(room, victim)
    own = await person.open(callback)
    assert own.status_code == 200
    assert len(await accounts_of(room, user)) == 1


@pytest.mark.requirement("S-140")
async def test_a_callback_after_signing_in_anew_counts_for_nobody(room: Room) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    await person.submit(await person.open("/connections"), form="/sign-out")
    await person.sign_in(user.name, PASSWORD)
    assert (await person.open(callback)).status_code == 400
    assert not await accounts_of(room, user)


@pytest.mark.requirement("S-141")
async def test_state_is_long_random_and_made_only_after_our_own_page(room: Room) -> None:
    user, person, client = await someone(room)
    states: set[str] = set()
    for _ in range(3):
        states.add(query_of(await room.to_provider(person, await room.link(user, client)))["state"])
    assert len(states) == 3
    assert all(len(state) >= 43 for state in states)
    link = await room.link(user, client)
    got = await person.http.get(link.url)
    assert "state" not in got.text
    assert "location" not in got.headers


@pytest.mark.requirement("S-141")
@pytest.mark.parametrize("change", ["missing", "forged", "bent", "twice", "late"])
async def test_state_that_is_not_fresh_and_ours_connects_nothing(room: Room, change: str) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    state = query_of(callback)["state"]
    match change:
        case "missing":
            assert (await person.open(with_parameters(callback, state=None))).status_code == 400
        case "forged":
            assert (await person.open(with_parameters(callback, state="A" * 43))).status_code == 400
        case "bent":
            bent = state[:-2] + ("A" if state[-2] != "A" else "B") + state[-1]
            assert (await person.open(with_parameters(callback, state=bent))).status_code == 400
        case "late":
            room.deployment.database.clock_offset += 600
            assert (await person.open(callback)).status_code == 400
            assert not await accounts_of(room, user)
            return
        case _:
            pass
    assert len(await accounts_of(room, user)) == 0
    assert (await person.open(callback)).status_code == 200
    assert (await person.open(callback)).status_code == 400
    assert len(await accounts_of(room, user)) == 1


@pytest.mark.requirement("S-142")
async def test_the_request_to_the_provider_asks_for_just_this_with_pkce_and_one_address(room: Room) -> None:
    user, person, client = await someone(room)
    asked = frozenset({"https://www.googleapis.com/auth/calendar.events.readonly"})
    query = query_of(await room.to_provider(person, await room.link(user, client, provider="google", scopes=asked)))
    assert query["redirect_uri"] == f"{room.url}/connect/callback/google"
    assert query["code_challenge_method"] == "S256"
    assert len(query["code_challenge"]) == 43
    provider = room.deployment.catalog.get("google")
    assert provider is not None
    assert set(query["scope"].split()) - provider.always_granted == asked
    slack = query_of(await room.to_provider(person, await room.link(user, client)))
    assert slack["redirect_uri"] == f"{room.url}/connect/callback/slack"
    assert slack["user_scope"] == "chat:write"


@pytest.mark.requirement("S-144")
async def test_an_answer_at_another_providers_address_connects_nothing(room: Room) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    for path in ("google", "nobody", "slack/"):
        wrong = await person.http.get(callback.replace("/callback/slack", f"/callback/{path}"))
        assert 400 <= wrong.status_code < 500
    assert not await accounts_of(room, user)
    assert (await person.open(callback)).status_code == 200


@pytest.mark.requirement("S-144")
@pytest.mark.parametrize("issuer", ["https://accounts.evil.example", "http://[", "", "https://127.0.0.1"])
async def test_an_answer_of_another_issuer_connects_nothing(room: Room, issuer: str) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    answer = await person.open(with_parameters(callback, iss=issuer))
    if issuer:
        assert answer.status_code == 400
        assert not await accounts_of(room, user)
    own = urlsplit(room.simulator.url)
    if issuer:
        assert (
            await person.open(with_parameters(callback, iss=f"{own.scheme}://{own.netloc}/slack"))
        ).status_code == 200
    assert len(await accounts_of(room, user)) == 1


@pytest.fixture(scope="module")
async def discovery_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    """A room whose provider is found by its discovery document, which promises `iss`."""
    data = tmp_path_factory.mktemp("issuing")
    async with running_simulator() as simulator:
        google = simulator.google_settings()
        named = {name: google[name] for name in ("client_id", "client_secret")}
        issuer = {"issuer": f"{simulator.url}/google", "scopes": ["openid", "email"], **named}
        async with running_vault(data, providers={"mine": issuer}) as vault, AsyncExitStack() as stack:
            yield Room(vault, simulator, stack)


@pytest.mark.requirement("S-144")
@pytest.mark.parametrize("issuer", [None, "{own}", "{own}/google/", "{own}/google"])
async def test_an_issuer_that_promises_its_name_must_give_exactly_it(discovery_room: Room, issuer: str | None) -> None:
    user, person, client = await someone(discovery_room)
    link = await discovery_room.link(user, client, provider="mine", scopes=frozenset({"email"}))
    callback = await consent(await discovery_room.to_provider(person, link))
    given = None if issuer is None else issuer.format(own=discovery_room.simulator.url)
    assert query_of(callback)["iss"] == f"{discovery_room.simulator.url}/google"
    answer = await person.open(with_parameters(callback, iss=given))
    is_right = issuer == "{own}/google"
    assert answer.status_code == (200 if is_right else 400)
    assert len(await accounts_of(discovery_room, user)) == int(is_right)
    if not is_right:
        assert (await person.open(callback)).status_code == 200, "the state is not used up by a foreign answer"


@pytest.mark.requirement("S-145")
@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>"),
        ("access_denied", '"><svg onload=alert(1)>'),
        ("server_error", "x" * 3000),
        ("x" * 3000, "\u202e\x01\r\nevil"),
    ],
)
async def test_a_providers_error_is_escaped_cut_and_says_what_to_do(room: Room, error: str, text: str) -> None:
    user, person, client = await someone(room)
    state = query_of(await room.to_provider(person, await room.link(user, client)))["state"]
    query = urlencode({"state": state, "error": error, "error_description": text})
    page = await person.open(f"/connect/callback/slack?{query}")
    assert page.status_code == 400
    main = page.text.partition("<main")[2]
    assert not {"<script", "<img", "<svg"} & {part.partition(" ")[0] for part in main.split("\n")}
    assert "onload=alert(1)>" not in main
    assert len(main) < 2500
    assert "\u202e" not in main
    assert "Slack refused." in main
    assert "Try again" in main
    assert not await accounts_of(room, user)
    assert "connection.refused" in await room.kinds(user)


@pytest.mark.parametrize(
    ("has_code", "error", "said"),
    [(True, "access_denied", "access_denied"), (False, "", "no_code"), (True, "", "")],
    ids=["a code and an error", "neither", "a code"],
)
async def test_only_a_code_without_an_error_connects(room: Room, has_code: bool, error: str, said: str) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    given = query_of(callback)
    query = {name: value for name, value in given.items() if name != "code" or has_code}
    page = await person.open(f"{callback.partition('?')[0]}?{urlencode(query | ({'error': error} if error else {}))}")
    assert page.status_code == (400 if said else 200)
    assert said in page.text
    assert len(await accounts_of(room, user)) == (0 if said else 1)


async def test_after_saying_no_at_the_provider_the_person_can_try_again(room: Room) -> None:
    user, person, client = await someone(room)
    url = await room.to_provider(person, await room.link(user, client))
    page = await person.open(await consent(url, allow=False))
    assert page.status_code == 400
    retry = page.text.partition('<a class="button" href="')[2].partition('"')[0]
    assert retry.startswith("/connect/")
    again = await person.open(retry)
    answer = await person.submit(again, form="/connect/", button=("decision", "allow"))
    assert (await person.open(await consent(answer.headers["location"]))).status_code == 200
    assert await scopes_allowed(room, user, client) == [CHAT]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("html", "Slack refused"), ("cut", "Slack refused"), ("huge", "Slack refused"), ("ok_false", "Slack refused")],
)
async def test_a_token_endpoint_that_misbehaves_leaves_nothing_behind(room: Room, kind: str, shown: str) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    room.simulator.fault("slack.token.code", kind)
    page = await person.open(callback)
    assert page.status_code == 400
    assert shown in page.text
    assert not await accounts_of(room, user)
    assert not await scopes_allowed(room, user, client)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    assert (await person.open(callback)).status_code == 200


async def test_a_callback_that_comes_three_times_at_once_connects_once(room: Room) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    answers = await asyncio.gather(*(person.http.get(callback) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [303, 400, 400]
    assert len(await accounts_of(room, user)) == 1
