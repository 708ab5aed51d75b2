"""Keys, policies, tools, and everyone's activity, as an administrator sees them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import AsyncGenerator

import pytest

from tests.portal.test_portal_activity import record, rows
from tests.support.person import Person
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.audit import search
from vault.keys.inventory import list_keys
from vault.keys.signing import LONGEST_TOKEN, PUBLISH_AHEAD
from vault.records import Client, Event, Role, User

ACTIVITY, KEYS = "/administration/activity", "/administration/keys"
CHANGES = {
    "registration": {"mode": "allow_list", "allowed_hosts": ["agents.example"]},
    "approvals": {"ask": ["slack_post", "slack:chat:write"], "no_standing": ["destructive", "gmail_send"]},
    "tools": {"calls_per_minute": 123, "profile": "everyday", "sets": {"quiet": {"disable": ["slack_*"]}}},
    "sign_in": {"passkey_for": ["connections"]},
    "activity": {"retention_days": 0},
}


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_room(tmp_path_factory.mktemp("rules"), overrides=CHANGES) as opened:
        yield opened


@pytest.fixture
async def admin(room: Room) -> Person:
    return await room.signed_in("alice")


def plain(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


@pytest.mark.parametrize("path", [ACTIVITY, f"{ACTIVITY}/new", f"{ACTIVITY}/export?format=csv", KEYS])
async def test_only_administrators_read_them(room: Room, admin: Person, path: str) -> None:
    assert (await (await room.signed_in(await room.user())).open(path)).status_code == 403
    assert (await admin.open(path)).status_code == 200


async def test_a_signing_key_is_rotated_in_the_browser_and_the_old_one_goes_on(room: Room, admin: Person) -> None:
    deployment = room.deployment
    before = await list_keys(deployment.database, now=deployment.now())
    assert [one.state for one in before.signing] == ["signing"]
    page = await admin.open(KEYS)
    assert before.signing[0].id in page.text
    assert before.masters[0].id in page.text
    done = await admin.submit(page, form=f"{KEYS}/rotate")
    after = await list_keys(deployment.database, now=deployment.now())
    assert {one.state for one in after.signing} == {"signing", "next"}
    new = next(one for one in after.signing if one.state == "next")
    assert f"Published the new key {new.id}" in done.text
    assert deployment.keys.signing.current(deployment.now()).kid == before.signing[0].id
    assert deployment.keys.signing.current(new.active_at).kid == new.id
    later = await list_keys(deployment.database, now=new.active_at)
    assert [one.state for one in later.signing] == ["verifying", "signing"]
    ended = await list_keys(deployment.database, now=deployment.now() + PUBLISH_AHEAD + LONGEST_TOKEN)
    assert [one.state for one in ended.signing] == ["ended", "signing"]
    (event,) = [one for one in await room.events() if one.kind == "signing_key.rotated"]
    assert (event.details["kid"], event.details["by"]) == (new.id, "alice")


async def test_who_is_no_administrator_any_more_rotates_nothing(room: Room, admin: Person) -> None:
    person, user = await _second_admin(room)
    page = await person.open(KEYS)
    known = await list_keys(room.deployment.database, now=room.deployment.now())
    async with room.deployment.transaction() as transaction:
        await users.set_role(transaction, user.id, Role.MEMBER)
    assert (await person.submit(page, form=f"{KEYS}/rotate")).status_code == 403
    assert await list_keys(room.deployment.database, now=room.deployment.now()) == known
    assert (await admin.submit(await admin.open(KEYS), form=f"{KEYS}/rotate")).status_code == 200


async def _second_admin(room: Room) -> tuple[Person, User]:
    user = await room.user()
    async with room.deployment.transaction() as transaction:
        await users.set_role(transaction, user.id, Role.OWNER)
    return await room.signed_in(user), user


async def test_the_rules_in_effect_are_said_with_their_settings(admin: Person) -> None:
    page = plain((await admin.open("/administration/policies")).text)
    for said in (
        "These hosts: agents.example. registration.allowed_hosts",
        "asked before each call of: slack_post, slack:chat:write. approvals.ask",
        "be approved in advance: tools that change or delete, gmail_send. approvals.no_standing",
        "A passkey is required for: connecting accounts. sign_in.passkey_for",
        "123 calls per minute of one person's agents",
        "An access token is valid for 60 minutes. tokens.access_lifetime",
        "All activity is kept. activity.retention_days",
    ):
        assert said in page.replace("&#39;", "'"), said


async def test_tools_are_listed_with_what_they_need_and_the_sets_they_are_in(room: Room, admin: Person) -> None:
    page = plain((await admin.open("/administration/tools")).text)
    for spec in room.deployment.tools:
        assert spec.name in page
    assert "Post to Slack slack_post Post, change, and delete messages as you creates asks each time" in page
    assert "Everyday tools everyday" in page and "quiet" in page
    found = plain((await admin.open("/administration/tools?find=calendar_del")).text)
    assert "calendar_delete" in found
    assert "slack_post" not in found
    assert "No tool name contains this" in (await admin.open("/administration/tools?find=nothing-like-it")).text


async def _two_people(room: Room) -> tuple[User, User, Client, Client]:
    one, other = await room.user(), await room.user()
    first, second = await room.agent(name=f"Cursor {one.id}"), await room.agent(name="Namesake")
    await record(
        room,
        Event("tool.called", "ok", one.id, first.id, None, {"tool": "slack_post", "account": "one@example.com"}),
        Event("tool.called", "failed", one.id, second.id, None, {"tool": "slack_post", "code": "timeout"}),
        Event("tool.called", "ok", other.id, second.id, None, {"tool": "slack_users", "account": "two@example.com"}),
    )
    return one, other, first, second


async def test_everybodys_activity_has_the_same_filters_and_says_whose_it_is(room: Room, admin: Person) -> None:
    one, other, first, second = await _two_people(room)
    everybody = await admin.open(ACTIVITY)
    assert f'href="/administration/people/{one.id}"' in everybody.text
    assert f'href="/administration/people/{other.id}"' in everybody.text
    for query, number in (
        (f"person={one.name}", 2),
        (f"person={one.id}&outcome=failed", 1),
        (f"agent={first.id}", 1),
        (f"agent=cursor+{one.id}", 1),
        (f"agent={second.id}&tool=slack_users", 1),
        (f"agent={second.id}&person={other.name}", 1),
        (f"agent={second.id}&account=two@example.com", 1),
        (f"agent={second.id}&account=one@example.com", 0),
        (f"agent={second.id}&from=2001-01-01&to=2001-01-02", 0),
    ):
        found = [row for row in rows((await admin.open(f"{ACTIVITY}?{query}")).text) if "signed in" not in row]
        assert len(found) == number, (query, found)


async def test_a_name_of_nobody_finds_nothing_and_a_name_of_several_asks_which(room: Room, admin: Person) -> None:
    await _two_people(room)
    nobody = await admin.open(f"{ACTIVITY}?person=no-such-person")
    assert "No one is called no-such-person." in nobody.text
    assert rows(nobody.text) == []
    assert "\n" not in (await admin.open(f"{ACTIVITY}/export?format=jsonl&person=no-such-person")).text
    assert 'id="event-' not in (await admin.open(f"{ACTIVITY}/new?after=0&person=no-such-person")).text
    await room.agent(name="Namesake")
    several = await admin.open(f"{ACTIVITY}?agent=namesake")
    assert "Several agents match namesake." in several.text
    assert rows(several.text) == []
    link = re.findall(r'<li><a href="(/administration/activity\?agent=[^"]+)"', several.text)
    assert len(link) >= 2
    assert "No agent is called" in (await admin.open(f"{ACTIVITY}?agent=no-such-agent")).text


async def test_new_events_of_everybody_arrive_live(room: Room, admin: Person) -> None:
    one, _, first, _ = await _two_people(room)
    page = await admin.open(f"{ACTIVITY}?agent={first.id}")
    (live,) = re.findall(r'data-live="([^"]+)"', page.text)
    assert 'id="event-' not in (await admin.open(live.replace("&amp;", "&"))).text
    await record(room, Event("tool.called", "ok", one.id, first.id, None, {"tool": "slack_users"}))
    new = await admin.open(live.replace("&amp;", "&"))
    assert len(rows(new.text)) == 1
    assert one.name in new.text


async def test_the_files_name_people_and_hold_what_the_filters_find(room: Room, admin: Person) -> None:
    one, other, first, second = await _two_people(room)
    lines = (await admin.open(f"{ACTIVITY}/export?format=jsonl&agent={second.id}")).text.splitlines()
    found = [json.loads(line) for line in lines]
    assert [(row["person"], row["person_id"]) for row in found] == [(other.name, other.id), (one.name, one.id)]
    assert found[0]["details"]["tool"] == "slack_users"
    table = list(csv.DictReader(io.StringIO((await admin.open(f"{ACTIVITY}/export?format=csv&agent={first.id}")).text)))
    assert [(row["person"], row["account"]) for row in table] == [(one.name, "one@example.com")]
    own = (await (await room.signed_in(one)).open("/activity/export?format=csv")).text
    assert "person" not in own.splitlines()[0]


async def test_a_search_among_everybody_looks_at_a_bounded_number_and_says_where_to_go_on(
    room: Room, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, first, _ = await _two_people(room)
    await record(room, *(Event("connection.renamed", details={"name": str(n)}) for n in range(30)))
    assert len(rows((await admin.open(f"{ACTIVITY}?agent={first.id}")).text)) == 1  # the twin
    monkeypatch.setattr(search, "EXAMINED", 20)
    page = await admin.open(f"{ACTIVITY}?agent={first.id}")
    assert "Older ones have not been searched yet" in page.text
    (older,) = re.findall(r'href="(/administration/activity\?[^"]*before=[^"]*)"', page.text)
    assert len(rows((await admin.open(older.replace("&amp;", "&"))).text)) == 1


async def test_what_an_admin_did_to_somebody_names_both(room: Room, admin: Person) -> None:
    other = await room.user()
    page = await admin.open(f"/administration/people/{other.id}")
    await admin.submit(page, form="/disable")
    text = plain((await admin.open(f"{ACTIVITY}?person={other.name}")).text)
    assert f"The account of {other.name} was disabled · by alice" in text


async def test_everybodys_activity_speaks_about_the_person_and_theirs_to_them(room: Room, admin: Person) -> None:
    one = await room.user()
    lost = {"provider": "google", "account": "old@example.com", "reason": "alive"}
    await record(
        room,
        Event("consent.given", user_id=one.id, client_id="agent"),
        Event("exchange.refused", "refused", one.id, "agent", details={"code": "delegation_required"}),
        Event("connection.upstream_revocation_failed", "failed", one.id, details=lost),
        Event("api.imported", details={"provider": "tickets"}),
    )
    everybody = await admin.open(ACTIVITY)
    told = plain(everybody.text)
    assert f"{one.name} allowed agent Details" in told, "named once"
    assert f'<a href="/administration/people/{one.id}"><bdi>{one.name}</bdi></a> allowed' in everybody.text
    assert "They haven't allowed this agent to do that with the account." in html.unescape(told)
    assert "the access still works" in told
    assert "The API tickets was imported" in told
    own = html.unescape(plain((await (await room.signed_in(one)).open("/activity")).text))
    assert "You allowed agent" in own
    assert "You haven't allowed this agent" in own
