"""How much of an agent's request its person allows on the connect page: nothing that writes is preselected."""

from __future__ import annotations

import httpx2
import pytest

from providers.simulator.person import consent
from tests.support.person import Person, forms_of
from tests.support.refused_pages import is_refused
from tests.support.rooms.portal_room import Room, query_of
from vault import connections, delegations
from vault.exchange.approval_rules import WRITES
from vault.records import Client, Delegation, User

ASKED = frozenset({"chat:write", "channels:read"})
DAY = 86400
LEVEL, ASKS, UNTIL = "level.asked", "asks.asked", "until.asked"


async def _open_connect_page(
    room: Room, scopes: frozenset[str] = ASKED
) -> tuple[User, Client, Person, httpx2.Response]:
    user, client = await room.user(), await room.agent(name="Post bot")
    person = await room.signed_in(user)
    return user, client, person, await person.open((await room.link(user, client, scopes=scopes)).url)


async def _send(
    person: Person, page: httpx2.Response, answers: dict[str, str | list[str] | None], *, decision: str = "allow"
) -> httpx2.Response:
    """Send the form as a browser does, with only these answers selected."""
    form = next(one for one in forms_of(page.text) if "/connect/" in one.action)
    data: dict[str, list[str]] = {"decision": [decision]}
    for name, value in form.fill_in(answers):
        data.setdefault(name, []).append(value)
    return await person.http.post(form.action, data=data, headers={"origin": person.origin})


async def _live_delegation(room: Room, user: User, client: Client) -> Delegation | None:
    found = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    live = [one for one in found if one.is_live(room.deployment.now())]
    return live[0] if live else None


async def test_nothing_that_writes_is_chosen_and_without_a_choice_nothing_happens(room: Room) -> None:
    user, client, person, page = await _open_connect_page(room)
    form = next(one for one in forms_of(page.text) if "/connect/" in one.action)
    assert LEVEL not in dict(form.fields)
    assert set(form.choices[LEVEL]) == {"off", "read", "write", "custom"}
    refused = await _send(person, page, {})
    assert refused.status_code == 400
    assert "Choose what the agent may do" in refused.text
    assert not await connections.list_connections(room.deployment.database, user.id)
    away = await _send(person, refused, {LEVEL: "write"})
    await person.open(await consent(away.headers["location"], account="alice"))
    held = await _live_delegation(room, user, client)
    assert held is not None
    assert (held.scopes, held.ask, held.expires_at) == (ASKED, frozenset(), None)


async def test_an_account_that_is_gone_is_not_replaced(room: Room) -> None:
    user, _, person, page = await _open_connect_page(room)
    mine = await room.account(user, "slack", label="Mine", scopes=frozenset({"channels:read"}))
    foreign = await room.account(await room.user(), "slack", label="Hers", scopes=ASKED)
    other = await room.account(user, "google", label="Elsewhere", scopes=frozenset())
    for account in ("nothing", foreign.id, other.id):
        assert is_refused(await _send(person, page, {LEVEL: "write", "account": account}), "account_gone", 400)
    away = await _send(person, page, {LEVEL: "write", "account": mine.id})
    assert "/connect/" not in away.headers["location"]


async def test_what_only_reads_is_chosen_where_only_that_is_asked(room: Room) -> None:
    _, _, _, page = await _open_connect_page(room, frozenset({"channels:read"}))
    form = next(one for one in forms_of(page.text) if "/connect/" in one.action)
    assert dict(form.fields)[LEVEL] == "read"
    assert "write" not in form.choices[LEVEL]


async def test_reading_only_asks_the_provider_for_no_more(room: Room) -> None:
    user, client, person, page = await _open_connect_page(room)
    away = await _send(person, page, {LEVEL: "read", UNTIL: "7"})
    asked_there = query_of(away.headers["location"])
    assert "channels:read" in asked_there["user_scope"]
    assert "chat:write" not in asked_there["user_scope"]
    await person.open(await consent(away.headers["location"], account="alice"))
    held = await _live_delegation(room, user, client)
    assert held is not None
    assert held.scopes == {"channels:read"}
    assert held.expires_at is not None
    assert 7 * DAY <= held.expires_at - room.deployment.now() <= 8 * DAY


async def test_being_asked_before_writes_survives_the_way_over_the_provider(room: Room) -> None:
    user, client, person, page = await _open_connect_page(room)
    away = await _send(person, page, {LEVEL: "write", ASKS: "writes"})
    await person.open(await consent(away.headers["location"], account="alice"))
    held = await _live_delegation(room, user, client)
    assert held is not None
    assert {WRITES, "tool:slack_post", "chat:write"} <= held.ask
    kinds = [one for one in await room.events(user) if one.kind == "delegation.extended"]
    assert WRITES in str(kinds[-1].details["ask"])


async def test_an_account_that_is_there_gets_the_chosen_terms_and_keeps_the_earlier_ones(room: Room) -> None:
    user, client, person, page = await _open_connect_page(room)
    away = await _send(person, page, {LEVEL: "write", ASKS: "writes"})
    await person.open(await consent(away.headers["location"], account="alice"))
    other = await room.agent()
    page = await person.open((await room.link(user, other, scopes=ASKED)).url)
    done = await _send(person, page, {LEVEL: "custom", "use": ["asked chat:write"], UNTIL: "1"})
    assert "/connect/done/" in done.headers["location"]
    held = await _live_delegation(room, user, other)
    assert held is not None
    assert (held.scopes, held.ask) == ({"chat:write"}, frozenset())
    assert held.expires_at is not None
    page = await person.open((await room.link(user, client, scopes=ASKED)).url)
    await _send(person, page, {LEVEL: "read"})
    kept = await _live_delegation(room, user, client)
    assert kept is not None
    assert kept.scopes == ASKED
    assert WRITES in kept.ask, "another yes takes no question away"


async def test_no_form_gives_more_than_was_asked(room: Room) -> None:
    user, client, person, page = await _open_connect_page(room)
    wanted: list[str] = ["asked chat:write", "asked search:read", "asked files:read"]
    away = await _send(person, page, {LEVEL: "custom", "use": wanted})
    await person.open(await consent(away.headers["location"], account="alice"))
    held = await _live_delegation(room, user, client)
    assert held is not None
    assert held.scopes == {"chat:write"}


@pytest.mark.parametrize(("level", "decision"), [("off", "allow"), ("write", "deny")])
async def test_off_and_deny_give_nothing_and_spend_the_link(room: Room, level: str, decision: str) -> None:
    user, client, person, page = await _open_connect_page(room)
    answer = await _send(person, page, {LEVEL: level}, decision=decision)
    assert "Nothing was connected" in answer.text
    assert await _live_delegation(room, user, client) is None
    assert (await room.kinds(user))[-1] == "connect.declined"
    assert (await _send(person, page, {LEVEL: "write"})).status_code == 410
