"""Connecting an account: who owns the link, which browser may finish, what the provider says, and what is stored."""

from __future__ import annotations

import asyncio

import pytest

from providers.simulator.person import consent
from server.administration import group_accounts
from server.administration import groups as admin_groups
from server.administration.actor import Actor
from server.connecting.links import ConnectRefused, redeem_user_code
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.inspection import unstorable
from tests.support.person import Person
from tests.support.rooms.portal_room import (
    CHAT,
    Room,
    accounts_of,
    query_of,
    running_room,
    scopes_allowed,
    someone,
    with_parameters,
)
from vault import delegations, users
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.records import ConnectionState, Principal, TicketPurpose, User

EVENTS = "https://www.googleapis.com/auth/calendar.events"
READONLY = "https://www.googleapis.com/auth/calendar.events.readonly"


async def test_a_link_leads_through_our_page_and_the_providers_to_connection_and_delegation(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client)
    page = await person.open(link.url)
    for shown in ("Test agent", "unverified", "Slack", "Post, change, and delete messages as you", "slack_post"):
        assert shown in page.text, shown
    answer = await person.submit(page, form="/connect/", button=("decision", "allow"))
    done = await person.open(await consent(answer.headers["location"]))
    assert done.url.path.startswith("/connect/done/")
    assert "Slack is connected" in done.text
    assert "Go back to the agent" in done.text
    (connection,) = await accounts_of(room, user)
    assert connection.scopes == CHAT
    assert await scopes_allowed(room, user, client) == [CHAT]
    assert await room.kinds(user) == ["session.started", "connection.opened", "delegation.extended"]


async def test_an_account_that_is_there_needs_no_trip(room: Room) -> None:
    user, person, first = await someone(room)
    await room.connect(person, user, first)
    second = await room.agent()
    trips_before = len(room.simulator.books()["redemptions"])
    link = await room.link(user, second, reason="delegation")
    page = await person.open(link.url)
    assert "needs only your permission" in page.text
    done = await person.submit(page, form="/connect/", button=("decision", "allow"))
    assert done.url.path.startswith("/connect/done/")
    assert len(room.simulator.books()["redemptions"]) == trips_before
    assert await scopes_allowed(room, user, second) == [CHAT]
    assert len(await accounts_of(room, user)) == 1


async def test_a_groups_account_needs_no_trip_while_the_person_is_in_the_group(room: Room) -> None:
    (giver, giving, first), (user, person, client) = await someone(room), await someone(room)
    await room.connect(giving, giver, first)
    (own,) = await accounts_of(room, giver)
    operator = Actor(room.deployment, None, "command_line")
    group = await admin_groups.create(operator, f"Group of {user.name}")
    given = await group_accounts.give(operator, giver, own.id, group, reads_only=False, asks_writes=False)
    link = await room.link(user, client, reason="delegation")
    assert given.id not in (await person.open(link.url)).text
    await admin_groups.add_member(operator, group, user)
    page = await person.open(link.url)
    done = await person.submit(page, {"account": given.id}, form="/connect/", button=("decision", "allow"))
    assert done.url.path == f"/connect/done/{given.id}"
    assert done.status_code == 200
    assert await scopes_allowed(room, user, client) == [CHAT]
    assert (await room.kinds(user))[-1] == "delegation.extended"


async def test_asking_for_more_keeps_what_the_account_has(room: Room) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client)
    link = await room.link(user, client, scopes=frozenset({"channels:history"}), reason="scopes")
    url = await room.to_provider(person, link)
    assert set(query_of(url)["user_scope"].split(",")) == {"chat:write", "channels:history"}
    await person.open(await consent(url))
    (connection,) = await accounts_of(room, user)
    assert connection.scopes == {"chat:write", "channels:history"}
    assert await scopes_allowed(room, user, client) == [frozenset({"chat:write", "channels:history"})]


async def test_connecting_again_asks_for_what_was_granted_and_what_is_missing(room: Room) -> None:
    """Google doesn't accumulate scopes: whatever isn't requested again is missing from the new answer."""
    user, person, client = await someone(room)
    await room.connect(person, user, client, provider="google", scopes=frozenset({READONLY}))
    (before,) = await accounts_of(room, user)
    link = await room.link(user, client, provider="google", scopes=frozenset({EVENTS}), reason="scopes")
    url = await room.to_provider(person, link)
    assert {READONLY, EVENTS} <= set(query_of(url)["scope"].split())
    await person.open(await consent(url))
    (connection,) = await accounts_of(room, user)
    assert connection.id == before.id
    assert {READONLY, EVENTS} <= connection.scopes
    assert await scopes_allowed(room, user, client) == [frozenset({READONLY, EVENTS})], "the earlier permission stays"


async def test_a_dead_connection_is_renewed_with_all_it_had(room: Room) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client, provider="google", scopes=frozenset({READONLY, EVENTS}))
    (before,) = await accounts_of(room, user)
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update connections set state = 'needs_reauth' where id = :id", {"id": before.id})
    link = await room.link(user, client, provider="google", scopes=frozenset({EVENTS}), reason="needs_reauth")
    url = await room.to_provider(person, link)
    assert {READONLY, EVENTS} <= set(query_of(url)["scope"].split())
    await person.open(await consent(url))
    (connection,) = await accounts_of(room, user)
    assert (connection.id, connection.state) == (before.id, ConnectionState.ACTIVE)
    assert connection.scopes == before.scopes


async def test_an_answer_without_a_refresh_token_keeps_the_one_there_is(room: Room) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client, provider="google", scopes=frozenset({READONLY}))
    (before,) = await accounts_of(room, user)
    room.simulator.control("omit_refresh_token", face="google", times=1)
    link = await room.link(user, client, provider="google", scopes=frozenset({EVENTS}), reason="scopes")
    await person.open(await consent(await room.to_provider(person, link)))
    (after,) = await accounts_of(room, user)
    assert after.id == before.id
    assert after.generation > before.generation
    assert after.has_refresh_token
    room.deployment.database.clock_offset += 3600
    try:
        principal = Principal(user.id, client.id, await room.grant(user, client), frozenset({"tools"}), room.url)
        request = ExchangeRequest(principal, "google", frozenset({READONLY}))
        token = await exchange(request, vault=room.deployment.vault, now=room.deployment.now())
    finally:
        room.deployment.database.clock_offset -= 3600
    assert token.generation > after.generation, "the old refresh token was spent for it"


async def test_a_link_for_an_alias_leads_to_its_provider(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client, provider="google-calendar", scopes=frozenset({READONLY}))
    assert "/google/o/oauth2" in await room.to_provider(person, link)


async def test_another_account_may_be_chosen_instead(room: Room) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client)
    link = await room.link(user, await room.agent())
    page = await person.open(link.url)
    answer = await person.submit(page, {"account": "new"}, form="/connect/", button=("decision", "allow"))
    await person.open(await consent(answer.headers["location"], account="bob"))
    assert len(await accounts_of(room, user)) == 2


@pytest.mark.parametrize("by", ["label", "id"])
async def test_a_link_about_one_of_two_accounts_offers_that_one(room: Room, by: str) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client)
    other = await room.agent()
    page = await person.open((await room.link(user, other)).url)
    answer = await person.submit(page, {"account": "new"}, form="/connect/", button=("decision", "allow"))
    await person.open(await consent(answer.headers["location"], account="bob"))
    alice, bob = sorted(await accounts_of(room, user), key=lambda one: one.label)
    link = await room.link(user, client, reason="delegation", account=bob.label if by == "label" else bob.id)
    await person.submit(await person.open(link.url), form="/connect/", button=("decision", "allow"))
    held = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert {one.connection_id for one in held} == {alice.id, bob.id}


async def test_a_link_about_an_account_that_is_not_there_offers_another_one_at_the_provider(room: Room) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client, provider="google", scopes=frozenset({READONLY}))
    asked = frozenset({READONLY})
    link = await room.link(user, client, provider="google", scopes=asked, account="bob@example.com")
    assert query_of(await room.to_provider(person, link))["login_hint"] == "bob@example.com"
    link = await room.link(user, client, provider="google", scopes=asked, account="bo\u202eb@example.com")
    assert "login_hint" not in query_of(await room.to_provider(person, link))


async def test_what_the_person_left_out_at_the_provider_is_said_and_not_delegated(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client, provider="google", scopes=frozenset({EVENTS, READONLY}))
    url = await room.to_provider(person, link)
    page = await person.open(await consent(url, scopes=[READONLY]))
    assert "You didn't grant everything" in page.text
    (connection,) = await accounts_of(room, user)
    assert EVENTS not in connection.scopes
    assert await scopes_allowed(room, user, client) == [frozenset({READONLY})]


async def test_declining_uses_the_link_up_and_gives_nothing(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client)
    page = await person.open(link.url)
    assert "Nothing was connected" in (await person.submit(page, form="/connect/", button=("decision", "deny"))).text
    assert (await person.open(link.url)).status_code == 410
    assert not await scopes_allowed(room, user, client)
    assert "connect.declined" in await room.kinds(user)


async def test_a_link_works_once_and_for_ten_minutes(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client)
    page = await person.open(link.url)
    outcomes = await asyncio.gather(
        *(person.submit(page, form="/connect/", button=("decision", "allow")) for _ in range(3))
    )
    assert sorted(answer.status_code for answer in outcomes) == [303, 410, 410]
    late = await room.link(user, client)
    room.deployment.database.clock_offset += 600
    assert (await person.open(late.url)).status_code == 410


@pytest.mark.requirement("S-143")
async def test_a_link_signs_nobody_in_and_says_nothing_about_its_user(room: Room) -> None:
    user, _, client = await someone(room)
    link = await room.link(user, client)
    for text in (link.url, link.device_url, link.user_code, link.message):
        assert user.id not in text
        assert user.name not in text
    handle = link.url.rpartition("/")[2]
    assert len(handle) >= 43
    anonymous = await room.browser()
    answer = await anonymous.http.get(link.url)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?return_to=%2Fconnect%2F")
    page = await anonymous.open(link.url)
    assert user.name not in page.text
    page = await anonymous.sign_in(user.name, PASSWORD, page=page)
    assert page.url.path == f"/connect/{handle}"


@pytest.mark.requirement("S-140")
@pytest.mark.requirement("S-061")
async def test_a_link_opened_by_somebody_else_connects_nothing(room: Room) -> None:
    attacker, _, client = await someone(room)
    victim, victims_browser, _ = await someone(room)
    link = await room.link(attacker, client)
    page = await victims_browser.open(link.url)
    assert page.status_code == 403
    assert "for someone else" in page.text
    assert "<form" not in page.text.partition("<main")[2]
    assert "connect.refused" in await room.kinds(victim)
    owner = await room.signed_in(attacker)
    assert (await owner.open(link.url)).status_code == 200, "the link still works for its own user"


@pytest.mark.requirement("S-140")
async def test_a_form_of_somebody_elses_link_connects_nothing(room: Room) -> None:
    attacker, attackers_browser, client = await someone(room)
    _, victims_browser, _ = await someone(room)
    link = await room.link(attacker, client)
    form = await attackers_browser.open(link.url)
    assert (await victims_browser.submit(form, form="/connect/", button=("decision", "allow"))).status_code == 403
    assert (await attackers_browser.submit(form, form="/connect/", button=("decision", "allow"))).status_code == 303


async def test_a_code_typed_on_another_device_leads_to_the_same_question(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client)
    page = await person.open("/device")
    page = await person.submit(page, {"user_code": link.user_code.lower().replace("-", " ")}, form="/device")
    assert page.url.path.startswith("/connect/")
    assert "Test agent" in page.text
    again = await person.submit(await person.open("/device"), {"user_code": link.user_code}, form="/device")
    assert again.status_code == 404


@pytest.mark.requirement("S-140")
@pytest.mark.requirement("S-061")
async def test_somebody_elses_code_and_a_wrong_code_look_the_same_and_are_few(room: Room) -> None:
    attacker, _, client = await someone(room)
    _, person, _ = await someone(room)
    link = await room.link(attacker, client)
    page = await person.open("/device")
    theirs = await person.submit(page, {"user_code": link.user_code}, form="/device")
    wrong = await person.submit(page, {"user_code": "BCDF-GHJK"}, form="/device")
    assert theirs.status_code == wrong.status_code == 404
    assert theirs.text.replace(link.user_code, "CODE") == wrong.text.replace("BCDF-GHJK", "CODE")
    statuses = [
        (await person.submit(page, {"user_code": f"BCDF-GHJ{letter}"}, form="/device")).status_code
        for letter in "BCDFGHJKL"
    ]
    assert statuses[-1] == 429
    room.deployment.database.clock_offset += 1200
    own = await room.link((await _user_of(room, person)), client)
    page = await person.submit(await person.open("/device"), {"user_code": own.user_code}, form="/device")
    assert page.url.path.startswith("/connect/")


async def _user_of(room: Room, person: Person) -> User:
    name = (await person.open("/account")).text.partition("<h1><bdi>")[2].partition("</bdi>")[0]
    found = await users.find_user(room.deployment.database, name)
    assert found is not None
    return found


async def test_the_address_of_the_result_page_shows_only_what_is_true(room: Room) -> None:
    user, person, client = await someone(room)
    await room.connect(person, user, client)
    (connection,) = await accounts_of(room, user)
    _, strangers_browser, other = await someone(room)
    assert (await strangers_browser.open(f"/connect/done/{connection.id}")).status_code == 404
    page = await person.open(f"/connect/done/{connection.id}?agent={other.id}&without=chat:write&without=<b>")
    assert page.status_code == 200
    assert "may now" not in page.text
    assert "You didn't grant" not in page.text


async def test_a_form_cannot_name_an_account_that_is_not_the_persons(room: Room) -> None:
    owner, owners_browser, client = await someone(room)
    await room.connect(owners_browser, owner, client)
    (theirs,) = await accounts_of(room, owner)
    user, person, agent = await someone(room)
    link = await room.link(user, agent)
    page = await person.open(link.url)
    wrong = await person.submit(page, {"account": theirs.id}, form="/connect/", button=("decision", "allow"))
    assert wrong.status_code == 400
    assert not await scopes_allowed(room, user, agent)
    assert (await person.submit(page, form="/connect/", button=("decision", "allow"))).status_code == 303


async def test_a_form_without_a_decision_leaves_the_link(room: Room) -> None:
    user, person, client = await someone(room)
    page = await person.open((await room.link(user, client)).url)
    assert (await person.submit(page, form="/connect/")).status_code == 400
    assert (await person.submit(page, form="/connect/", button=("decision", "allow"))).status_code == 303


async def test_a_code_that_is_typed_three_times_at_once_leads_on_once(room: Room) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client)
    page = await person.open("/device")
    answers = await asyncio.gather(
        *(person.submit(page, {"user_code": link.user_code}, form="/device") for _ in range(3))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404]


async def test_of_many_who_looked_at_a_code_one_uses_it(room: Room) -> None:
    user, _, client = await someone(room)
    typed = (await room.link(user, client)).user_code
    attempts = (redeem_user_code(room.deployment, typed, user=user) for _ in range(5))
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(one, ConnectRefused) for one in answers) == 4


@pytest.mark.parametrize("can_store", [False, True])
async def test_a_code_whose_link_cannot_be_stored_works_again(store: Store, *, can_store: bool) -> None:
    overrides = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as room:
        user, person, client = await someone(room)
        typed = (await room.link(user, client)).user_code
        page = await person.open("/device")
        if not can_store:
            purpose = TicketPurpose.CONNECT.value
            async with unstorable(room.deployment.database, "tickets", "purpose", purpose, is_sqlite=store.is_sqlite):
                assert (await person.submit(page, {"user_code": typed}, form="/device")).status_code >= 500
        answer = await person.submit(page, {"user_code": typed}, form="/device")
        assert answer.url.path.startswith("/connect/")
        assert (await person.submit(page, {"user_code": typed}, form="/device")).status_code == 404


@pytest.mark.parametrize("kind", ["connect.declined", "unrelated"])
async def test_a_link_is_declined_only_with_its_event(store: Store, kind: str) -> None:
    overrides = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as room:
        user, person, client = await someone(room)
        page = await person.open((await room.link(user, client)).url)
        async with unstorable(room.deployment.database, "events", "kind", kind, is_sqlite=store.is_sqlite):
            answer = await person.submit(page, form="/connect/", button=("decision", "deny"))
        if kind == "connect.declined":
            assert answer.status_code >= 500
            answer = await person.submit(page, form="/connect/", button=("decision", "deny"))
        assert answer.status_code == 200, answer.text
        assert (await room.kinds(user))[-1] == "connect.declined"


async def test_an_answer_that_is_too_long_is_not_looked_at(room: Room) -> None:
    user, person, client = await someone(room)
    callback = await consent(await room.to_provider(person, await room.link(user, client)))
    assert (await person.open(with_parameters(callback, code="x" * 5000))).status_code == 400
    assert (await person.open(callback)).status_code == 200


async def test_whoever_started_alone_and_said_no_starts_again_alone(room: Room) -> None:
    person = await room.signed_in(await room.user())
    page = await person.open("/connections/connect?provider=slack")
    answer = await person.submit(page, form="/connections/connect")
    page = await person.open(await consent(answer.headers["location"], allow=False))
    assert 'href="/connections/connect?provider=slack"' in page.text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("missing", "slack_post needs a Slack account."),
        ("needs_reauth", "must be reconnected"),
        ("ambiguous", "must be reconnected"),
        ("scopes", "needs more Slack permissions"),
        ("delegation", "isn't allowed to use it"),
    ],
)
async def test_a_link_says_why(room: Room, reason: str, words: str) -> None:
    user, person, client = await someone(room)
    link = await room.link(user, client, reason=reason)
    assert words in link.message
    assert (await person.open(link.url)).status_code == 200


async def test_an_unconfigured_provider_is_said_on_the_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_room(
        tmp_path_factory.mktemp("bare"), overrides={"providers": {"slack": {"client_id": None}}}
    ) as room:
        user, person, client = await someone(room)
        link = await room.link(user, client)
        page = await person.open(link.url)
        assert "isn't set up on this vault" in page.text
        assert "Allow" not in page.text.partition("<main")[2]
        answer = await person.open("/connections/connect?provider=slack")
        assert answer.status_code == 409
