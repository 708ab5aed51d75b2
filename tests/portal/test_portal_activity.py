"""The activity as a story: sentences, reasons with their fix, filters in the address, live updates, and as a file."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from server.http import page_texts
from server.portal.story import Storyteller
from tests.support.person import Person
from tests.support.rooms.portal_room import CHAT, Room
from vault import connections
from vault.audit import audit
from vault.records import Client, Connection, Event, User
from vault.sign_in import sessions


async def connect_person(room: Room, *, name: str = "Cursor") -> tuple[User, Client, Person, Connection]:
    """A person with an agent that may use a Slack account."""
    user, client = await room.user(), await room.agent(name=name)
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    (account,) = await connections.list_connections(room.deployment.database, user.id)
    return user, client, person, account


async def record(room: Room, *events: Event) -> None:
    async with room.deployment.transaction() as transaction:
        await audit.append(transaction, *events, now=room.deployment.now())


def rows(text: str) -> list[str]:
    """The sentences of a page, without markup."""
    found = re.findall(r'<div class="told">\s*<p>(.*?)</p>', text, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", "", one).split()) for one in found]


async def test_a_call_is_told_with_its_results_and_how_far_its_token_went(room: Room) -> None:
    user, client, person, account = await connect_person(room)
    facts: dict[str, object] = {
        "tool": "slack_channels",
        "items": 7,
        "scopes": ["channels:read"],
        "narrowing": "enforced",
        "account": account.label,
    }
    call = Event("tool.called", user_id=user.id, client_id=client.id, connection_id=account.id, details=facts)
    await record(room, call, replace(call, details=facts | {"items": 1, "narrowing": "upstream"}))
    page = await person.open("/activity")
    assert rows(page.text)[:2] == [
        f"Cursor listed 1 Slack channel of {account.label}",
        f"Cursor listed 7 Slack channels of {account.label}",
    ]
    assert "Slack narrowed the token to: " in page.text
    assert "The vault allowed only:" in page.text


@pytest.mark.parametrize(
    ("code", "reason", "why", "fix"),
    [
        ("delegation_required", "", "You haven&#39;t allowed this agent", "/agents/"),
        ("connection_required", "needs_reauth", "Slack no longer accepts this connection.", "/connections/"),
        ("approval_required", "", "You approve each call of this kind", "/approvals"),
        ("some_new_code", "", "The vault answered with some_new_code.", ""),
    ],
)
async def test_a_refusal_says_why_and_where_it_is_fixed(room: Room, code: str, reason: str, why: str, fix: str) -> None:
    user, client, person, account = await connect_person(room)
    details: dict[str, object] = {"code": code, "provider": "slack"} | ({"reason": reason} if reason else {})
    refused = Event("exchange.refused", "refused", user.id, client.id, account.id, details)
    await record(room, refused)
    page = (await person.open("/activity?outcome=refused")).text
    (told,) = re.findall(r'<p class="why">(.*?)</p>', page, re.DOTALL)
    assert why in told.replace("'", "&#39;")
    assert (f'href="{fix}' in told) is bool(fix)
    await record(room, Event("token.exchanged", "ok", user.id, client.id, account.id, {"provider": "slack"}))
    assert 'class="why"' not in (await person.open("/activity?outcome=ok")).text


def test_every_code_that_is_recorded_has_words(room: Room) -> None:
    """Each refusal code of the vault, the tools and the proxy is in the catalog, or is a form of call."""
    from server.errors import TABLE

    known = page_texts.section("why")
    internal = {"chain_broken", "backup_refused", "client_exists", "conflict", "key_unavailable", "storage_unavailable"}
    internal |= {"name_refused", "name_taken", "identity_taken", "password_refused", "transition_refused"}
    internal |= {"user_name_taken", "group_name_taken", "group_name_refused"}  # only in the administration
    internal |= {"passkey_taken", "too_many_passkeys"}  # only on the account page
    codes = {kind.code for kind in TABLE} - internal - {"vault_error", "invalid_token"}
    assert {code for code in codes if code not in known} == set()
    assert set(page_texts.section("fix")) <= set(known)


async def test_what_a_tool_did_is_told_in_its_own_words_and_language(room: Room) -> None:
    teller = Storyteller(room.deployment, agents={"c": "<i>Cursor</i>"}, accounts={})
    details: dict[str, object] = {"tool": "slack_channels", "items": 2, "account": "a@b.example"}
    event = Event("tool.called", client_id="c", connection_id="k", details=details)
    agent = "<bdi>&lt;i&gt;Cursor&lt;/i&gt;</bdi>"
    assert teller.sentence(event) == f"{agent} listed 2 Slack channels of <bdi>a@b.example</bdi>"
    with page_texts.use_language("de"):
        assert teller.sentence(event) == f"{agent} hat 2 Slack-Kanäle von <bdi>a@b.example</bdi> aufgelistet"
    one = replace(event, details=details | {"items": 1})
    assert teller.sentence(one) == f"{agent} listed 1 Slack channel of <bdi>a@b.example</bdi>"
    gone = replace(event, details=details | {"tool": "of_yesterday"})
    assert teller.sentence(gone) == f"{agent} used “of_yesterday” with <bdi>a@b.example</bdi>"


@pytest.mark.parametrize(
    ("details", "english", "german"),
    [
        ({}, "You connected {}", "Du hast {} verbunden"),
        ({"method": "import"}, "An operator imported {}", "Ein Betreiber hat {} importiert"),
    ],
)
async def test_an_imported_account_is_not_told_as_connected_by_the_person(
    room: Room, details: dict[str, object], english: str, german: str
) -> None:
    event = Event("connection.opened", user_id="u", details=details | {"provider": "slack", "account": "a@b.example"})
    person = Storyteller(room.deployment, agents={}, accounts={})
    label = "<bdi>a@b.example</bdi>"
    assert person.sentence(event) == english.format(label)
    admin = Storyteller(room.deployment, agents={}, accounts={}, people={"u": ("bob", "/page")})
    told = '<a href="/page"><bdi>bob</bdi></a> connected {}' if not details else english
    assert admin.sentence(event) == told.format(label)
    with page_texts.use_language("de"):
        assert person.sentence(event) == german.format(label)


def test_every_event_that_is_recorded_has_words() -> None:
    """The kinds that occur in the code, wherever an event is made."""
    known, kinds = page_texts.section("event"), set[str]()
    for room_ in ("vault", "server"):
        for path in (Path(__file__).parents[2] / room_).rglob("*.py"):
            kinds |= set(
                re.findall(r'(?:[Ee]vent\(|event_of\([^,()]+,|kind=)\s*"([a-z_]+\.[a-z_]+)"', path.read_text("utf-8"))
            )
    assert len(kinds) > 50
    assert sorted(kinds - set(known)) == []


async def test_filters_are_in_the_address_and_hold_together(room: Room) -> None:
    user, client, person, account = await connect_person(room)
    other = await room.agent(name="Zed")
    await record(
        room,
        Event("tool.called", "ok", user.id, client.id, account.id, {"tool": "slack_post"}),
        Event("tool.called", "failed", user.id, other.id, account.id, {"tool": "slack_post", "code": "timeout"}),
        Event("tool.called", "ok", user.id, other.id, None, {"tool": "slack_users"}),
    )
    everything = f"agent={other.id}&account={account.id}&tool=slack_post&outcome=failed"
    assert len(rows((await person.open(f"/activity?{everything}")).text)) == 1
    for dropped in everything.split("&"):
        fewer = "&".join(one for one in everything.split("&") if one != dropped)
        assert len(rows((await person.open(f"/activity?{fewer}")).text)) >= 1
    assert rows((await person.open(f"/activity?{everything}&to=2020-01-01")).text) == []
    assert len(rows((await person.open(f"/activity?{everything}&from=2020-01-01&zone=Europe/Berlin")).text)) == 1
    page = (await person.open(f"/activity?{everything}&from=2020-01-01")).text
    assert f'<option value="{other.id}" selected>Zed</option>' in page
    assert 'name="from" value="2020-01-01"' in page
    for odd in (
        "from=never",
        "zone=../../etc/passwd&from=2020-01-01",
        "outcome=unknown",
        "tool=%01",
        "from=9999-12-31",
    ):
        assert (await person.open(f"/activity?{odd}")).status_code == 200


async def test_equal_events_in_a_row_are_one_row(room: Room) -> None:
    user, client, person, account = await connect_person(room)
    call = Event("tool.called", "ok", user.id, client.id, account.id, {"tool": "slack_post"})
    await record(room, *([call] * 3))
    first = rows((await person.open("/activity")).text)[0]
    assert first == f"Cursor posted a message to Slack as {account.label} 3 times"


async def test_new_events_come_without_keeping_the_session_awake(room: Room) -> None:
    user, client, person, account = await connect_person(room)
    page = (await person.open("/activity")).text
    (live,) = re.findall(r'data-live="([^"]*)"', page)
    live = live.replace("&amp;", "&")
    async with room.deployment.transaction() as transaction:
        await transaction.execute(
            "update sessions set seen_at = seen_at - :rest where user_id = :id",
            {"rest": sessions.TOUCH_INTERVAL, "id": user.id},
        )
    before = await seen_at(room, user)
    assert rows((await person.http.get(live)).text) == []
    await record(room, Event("tool.called", "ok", user.id, client.id, account.id, {"tool": "slack_post"}))
    answer = (await person.http.get(live)).text
    assert rows(answer) == [f"Cursor posted a message to Slack as {account.label}"]
    (further,) = re.findall(r'data-live="([^"]*)"', answer)
    assert rows((await person.http.get(further.replace("&amp;", "&"))).text) == []
    assert await seen_at(room, user) == before
    await person.open("/activity")  # visiting the page does change it
    assert await seen_at(room, user) > before


async def seen_at(room: Room, user: User) -> int:
    row = await room.deployment.database.fetch_one(
        "select max(seen_at) as at from sessions where user_id = :id", {"id": user.id}
    )
    assert row is not None
    assert isinstance(row["at"], int)
    return row["at"]


async def test_an_export_holds_every_event_and_no_formula(room: Room) -> None:
    user, client, person, account = await connect_person(room, name="=cmd|' /C calc'!A0")
    other = await room.user()
    await record(
        room,
        *(Event("tool.called", "ok", user.id, client.id, account.id, {"tool": f"t{n}"}) for n in range(600)),
        Event("tool.called", "ok", other.id, client.id, None, {"tool": "theirs"}),
    )
    answer = await person.http.get(f"/activity/export?format=csv&agent={client.id}")
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert {one["agent"] for one in table} == {"'=cmd|' /C calc'!A0"}
    tools = [str(json.loads(one["details"]).get("tool")) for one in table]
    assert [one for one in tools if re.fullmatch(r"t\d+", one)] == [f"t{n}" for n in range(599, -1, -1)]
    assert not any(cell.startswith(("=", "+", "-", "@")) for one in table for cell in one.values())
    lines = (await person.http.get(f"/activity/export?format=jsonl&agent={client.id}")).text.splitlines()
    assert len(lines) == len(table)
    assert json.loads(lines[0])["agent"] == "=cmd|' /C calc'!A0"
    assert "theirs" not in answer.text
    assert (await person.http.get("/activity/export?format=xml")).status_code == 400
    assert (await (await room.browser()).http.get("/activity/export?format=csv")).status_code == 303


async def test_recent_events_of_a_disconnected_account_keep_its_nickname(room: Room) -> None:
    user, client = await room.user(), await room.agent(name="Cursor")
    person, account = await room.signed_in(user), await room.account(user, "slack", label="Alice", scopes=CHAT)
    call = Event("tool.called", "ok", user.id, client.id, account.id, {"tool": "slack_post", "account": "Alice"})
    async with room.deployment.transaction() as transaction:
        await connections.rename(transaction, account, nickname="Acme workspace")
        await audit.append(transaction, call, now=room.deployment.now())
    connected = (await person.open("/")).text
    async with room.deployment.transaction() as transaction:
        await transaction.execute(
            "update connections set state = 'revoked', ended_at = 1 where id = :id", {"id": account.id}
        )
    ended = (await person.open("/")).text
    assert [page.count(f'href="/connections/{account.id}"') for page in (connected, ended)] == [1, 0]
    assert [page.partition("<tbody>")[2].count("Acme workspace") for page in (connected, ended)] == [1, 1]


async def test_an_agents_old_events_are_found_behind_many_newer_ones(room: Room) -> None:
    user, old, busy = await room.user(), await room.agent(name="Old bot"), await room.agent(name="Busy bot")
    person = await room.signed_in(user)
    now = room.deployment.now()
    events = [Event(kind="tool.called", user_id=user.id, client_id=busy.id) for _ in range(450)]
    async with room.deployment.transaction() as transaction:
        await audit.append(transaction, Event("tool.called", user_id=user.id, client_id=old.id), *events, now=now)
    text = (await person.open(f"/activity?agent={old.id}")).text
    assert text.count('<li class="event"') == 1
    assert "Older" not in text
