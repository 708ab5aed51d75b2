"""Notifications: a real mail server and a real receiver get each event once, with the exact page and no secret."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from server.connecting.approvals import event_of
from server.notice_settings import MailSettings
from server.notices.delivery import deliver
from server.notices.schedule import due_at
from server.portal.csrf import form_token
from server.provider_settings import SettingsRefused
from server.settings import load_settings
from tests.support.doubles.mailbox import Mailbox, Receiver, running_mailbox, running_receiver
from tests.support.harness import PASSWORD
from tests.support.person import Person, session_token
from tests.support.rooms.portal_room import Room, running_room
from vault import groups, users
from vault.approvals import approvals, requests
from vault.approvals.approvals import ToolCall
from vault.approvals.requests import BackchannelRequest
from vault.audit import audit
from vault.notices import channels, outbox
from vault.notices.channels import NoticeSettings
from vault.records import Client, Event, Principal, User

SECRET = "the launch code is 0000"


@dataclass
class Place:
    """A vault with places to send notifications to."""

    room: Room
    mailbox: Mailbox
    receiver: Receiver


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    async with running_mailbox() as mailbox, running_receiver() as receiver:
        mail = {"host": "127.0.0.1", "port": mailbox.port, "security": "none", "sender": "vault@example.com"}
        async with running_room(tmp_path_factory.mktemp("notices"), overrides={"mail": mail}) as room:
            await deliver(room.deployment)  # start the feed
            yield Place(room, mailbox, receiver)


@pytest.fixture(autouse=True)
def empty_mailboxes(place: Place) -> None:
    place.mailbox.mails.clear()
    place.receiver.posted.clear()
    place.mailbox.refuses, place.receiver.status = "", 200


async def add(person: Person, kind: str, target: str) -> str:
    """Add a channel; returns the page that follows."""
    page = await person.open("/notifications")
    return (await person.submit(page, {"kind": kind, "target": target}, form="/notifications/channels")).text


async def reach_person(place: Place, *, kind: str = "webhook", target: str = "") -> tuple[User, Client, Person]:
    """A person with one channel, and an agent."""
    user, client = await place.room.user(), await place.room.agent(name="Cursor\r\nBcc: everybody@example.com")
    person = await place.room.signed_in(user)
    assert "Added." in await add(person, kind, target or f"{place.receiver.url}/{user.id}")
    return user, client, person


async def ask(room: Room, user: User, client: Client) -> str:
    """A call of the agent waits for its person; returns the ID of the question."""
    principal = Principal(user.id, client.id, "grant", frozenset({"tools"}), f"{room.url}/mcp")
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        asked, _ = await approvals.ask(
            transaction,
            room.deployment.keys,
            call=ToolCall("slack_post", lambda: {"channel": "#launch", "text": SECRET}),
            principal=principal,
            connection_id="account",
            provider="slack",
            account="alice",
            label="alice",
            scopes=frozenset({"chat:write"}),
            now=now,
        )
        await audit.append(transaction, event_of(asked, "approval.requested"), now=now)
    return asked.id


async def record(room: Room, event: Event) -> None:
    async with room.deployment.transaction() as transaction:
        await audit.append(transaction, event, now=room.deployment.now())


def messages_to(place: Place, user: User) -> list[dict[str, object]]:
    return [json.loads(body) for path, body in place.receiver.posted if path == f"/{user.id}"]


async def make_due(room: Room) -> None:
    """Let time pass until everything that waits is due."""
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update notices set due_at = 1 where due_at is not null")


async def test_a_confirmed_mail_address_gets_the_page_of_an_approval_and_signs_in_on_the_way(place: Place) -> None:
    room, user = place.room, await place.room.user()
    client, person = await room.agent(name="Cursor\r\nBcc: everybody@example.com"), await room.signed_in(user)
    assert "A link was mailed" in await add(person, "email", "alice@example.com")
    (mail,) = place.mailbox.mails
    (link,) = re.findall(r"http://\S+confirm=\S+", mail.get_content())
    place.mailbox.mails.clear()
    await ask(room, user, client)
    await deliver(room.deployment)
    assert place.mailbox.mails == []  # not before somebody has opened the link
    other = await room.signed_in(await room.user())
    assert "This link has expired" not in (await person.open(link)).text
    assert "belongs to another person" in (await other.open(link)).text
    page = await person.submit(await person.open(link), form="/notifications/confirm")
    assert "Confirmed." in page.text
    page = await person.submit(page, form="/notifications/", button=("action", "test"))
    assert "The test was sent." in page.text
    place.mailbox.mails.clear()

    client = await room.agent(name="Cursor\r\nBcc: everybody@example.com")
    approval = await ask(room, user, client)
    assert await deliver(room.deployment) == 1
    (mail,) = place.mailbox.mails
    assert mail["To"] == "alice@example.com"
    assert mail["Bcc"] is None
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Subject"] == "Cursor‹U+000D› Bcc: everybody@example.com asks for your approval: Post to Slack (alice)"
    (url,) = re.findall(r"http://\S+", mail.get_content())
    assert url == f"{room.url}/approvals/{approval}"
    assert SECRET not in str(mail)
    stranger = await room.browser()
    page = await stranger.open(url)
    assert page.url.path == "/sign-in"
    page = await stranger.submit(page, {"name": user.name, "password": PASSWORD}, form="/sign-in")
    assert page.url.path == f"/approvals/{approval}"
    assert await deliver(room.deployment) == 0


async def test_two_processes_send_each_event_once(place: Place) -> None:
    user, client, _ = await reach_person(place)
    for _ in range(3):
        await ask_about(place.room, user, client)
        await asyncio.gather(*(deliver(place.room.deployment) for _ in range(4)))
        await make_due(place.room)
        await asyncio.gather(*(deliver(place.room.deployment) for _ in range(4)))
    lines = [line for one in messages_to(place, user) for line in one["lines"]]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] -- JSON
    assert len(lines) == 3


async def ask_about(room: Room, user: User, client: Client) -> None:
    await record(room, Event("consent.given", user_id=user.id, client_id=client.id))


async def test_an_answered_question_is_not_sent_and_an_open_one_is(place: Place) -> None:
    user, client, person = await reach_person(place)
    answered = await ask(place.room, user, client)
    page = await person.open(f"/approvals/{answered}")
    await person.submit(page, form="/approvals/", button=("decision", "deny"))
    await deliver(place.room.deployment)
    assert messages_to(place, user) == []
    other = await place.room.agent(name="Zed")
    await ask(place.room, user, other)
    await deliver(place.room.deployment)
    (message,) = messages_to(place, user)
    assert message["title"] == "Zed asks for your approval: Post to Slack (alice)"
    assert SECRET not in json.dumps(message)


async def test_a_clients_request_is_sent_as_long_as_it_can_be_answered(place: Place) -> None:
    user, client, _ = await reach_person(place)
    room, now = place.room, place.room.deployment.now()
    wanted = BackchannelRequest(frozenset({"openid"}), f"{room.url}/mcp", SECRET[:20])
    async with room.deployment.transaction() as transaction:
        asked, _ = await requests.ask(
            transaction,
            room.deployment.keys,
            request=wanted,
            user_id=user.id,
            client_id=client.id,
            lifetime=3000,
            ping_token=None,
            now=now,
        )
        await audit.append(transaction, event_of(asked, "approval.requested"), now=now)
    await outbox.enter(room.deployment.database, room.deployment.keys, due_at=due_at)
    rows = await room.deployment.database.fetch(
        "select expires_at - created_at as lifetime from notices where user_id = :id", {"id": user.id}
    )
    assert 2990 <= int(str(rows[0]["lifetime"])) <= 3000
    await deliver(room.deployment)
    (message,) = messages_to(place, user)
    assert str(message["title"]).endswith("asks you to approve a request")
    assert message["url"] == f"{room.url}/approvals/{asked.id}"
    assert SECRET[:20] not in json.dumps(message)


@pytest.mark.parametrize(
    ("kind", "how", "count"), [("agent", "off", 0), ("agent", "at_once", 1), ("expiring", "off", 1)]
)
async def test_a_kind_that_is_off_is_not_sent(place: Place, kind: str, how: str, count: int) -> None:
    user, client, person = await reach_person(place)
    page = await person.open("/notifications")
    saved = await person.submit(page, {f"how.{kind}": how, "zone": "Europe/Berlin"}, form=-1)
    assert "Saved." in saved.text
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    assert len(messages_to(place, user)) == count


async def test_the_chosen_language_is_that_of_pages_and_messages(place: Place) -> None:
    user, client, person = await reach_person(place)
    answer = await person.submit(await person.open("/notifications"), {"language": "de"}, form=-1)
    assert "Gespeichert." in answer.text
    assert '<html lang="de">' in (await person.open("/")).text
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    (message,) = messages_to(place, user)
    assert "wurde für deinen Tresor zugelassen" in str(message["title"])
    stranger = await place.room.browser()
    german = await stranger.http.get("/sign-in", headers={"accept-language": "de-DE,de;q=0.9,en;q=0.5"})
    assert '<html lang="de">' in german.text
    assert "Anmelden" in german.text
    assert '<html lang="en">' in (await stranger.open("/sign-in")).text


async def test_what_waited_comes_as_one_digest(place: Place) -> None:
    user, client, _ = await reach_person(place)
    async with place.room.deployment.transaction() as transaction:
        daily = NoticeSettings(kinds={"agent": "daily"})
        await channels.save_settings(transaction, user.id, daily)
    for _ in range(2):
        await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    assert messages_to(place, user) == []
    await make_due(place.room)
    await deliver(place.room.deployment)
    (message,) = messages_to(place, user)
    assert message["title"] == "2 things need your attention"
    assert message["kind"] == "digest"


async def test_a_server_that_fails_is_asked_again_a_few_times_and_one_that_refuses_is_not(place: Place) -> None:
    user, client, person = await reach_person(place)
    place.receiver.status = 503
    await ask_about(place.room, user, client)
    for _ in range(len(outbox.BACKOFF) + 3):
        await deliver(place.room.deployment)
        await make_due(place.room)
    assert len(messages_to(place, user)) == len(outbox.BACKOFF) + 1
    assert "The server was busy." in (await person.open("/notifications")).text
    place.receiver.posted.clear()
    place.receiver.status = 404
    await ask_about(place.room, user, client)
    for _ in range(3):
        await deliver(place.room.deployment)
        await make_due(place.room)
    assert len(messages_to(place, user)) == 1
    assert "The server refused the message." in (await person.open("/notifications")).text
    place.receiver.status = 200
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    page = (await person.open("/notifications")).text
    assert "The server refused" not in page
    assert "Last message" in page


async def test_a_private_address_gets_nothing_and_ntfy_gets_its_own_form(place: Place) -> None:
    user, client, person = await reach_person(place, kind="ntfy", target=f"{place.receiver.url}/alice-topic")
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    ((path, body),) = place.receiver.posted
    assert path == "/"
    assert json.loads(body)["topic"] == "alice-topic"
    assert json.loads(body)["click"] == f"{place.room.url}/agents/{client.id}"
    assert "can&#39;t be used" in await add(person, "webhook", "https://10.0.0.1/hook")
    assert "can&#39;t be used" in await add(person, "webhook", "ftp://example.com/hook")
    assert "isn&#39;t the URL of an ntfy topic" in await add(person, "ntfy", f"{place.receiver.url}/a/b")
    assert "isn&#39;t an email address" in await add(person, "email", "alice@example.com\r\nBcc: x@example.com")
    assert "Added." in await add(person, "slack", f"{place.receiver.url}/services/T0/B0/token")
    page = (await person.open("/notifications")).text
    assert "services/T0" not in page  # the rest of a URL may contain a password


async def test_a_channel_of_somebody_else_cannot_be_tested_or_removed(place: Place) -> None:
    user, _, person = await reach_person(place)
    (channel,) = await channels.list_channels(place.room.deployment.database, place.room.deployment.keys, user.id)
    other, _, thief = await reach_person(place)
    page = await thief.open("/notifications")
    deployment = place.room.deployment
    token = form_token(deployment.keys.subkey("csrf"), session_token(thief.http), action=f"/notifications/{channel.id}")
    wanted = {"form_token": token, "action": "remove"}
    answer = await thief.http.post(f"/notifications/{channel.id}", data=wanted)
    assert answer.status_code == 404
    page = await person.open("/notifications")
    page = await person.submit(page, form=f"/notifications/{channel.id}", button=("action", "remove"))
    assert "Removed." in page.text
    assert len(await channels.list_channels(deployment.database, deployment.keys, other.id)) == 1


@pytest.mark.parametrize("change", ["disabled", "left the group", ""])
async def test_who_may_no_longer_know_of_a_groups_account_gets_no_notice(place: Place, change: str) -> None:
    user, _, _ = await reach_person(place)
    deployment, now = place.room.deployment, place.room.deployment.now()
    async with deployment.transaction() as transaction:
        group = await groups.create_group(transaction, f"ops-{user.name}", now=now)
        await groups.add_member(transaction, group.id, user.id, source=groups.LOCAL, now=now)
    account = await place.room.account(
        replace(user, id=group.id), "slack", label="board", scopes=frozenset({"chat:write"})
    )
    async with deployment.transaction() as transaction:
        sql = "update connections set state = 'needs_reauth' where id = :id"
        await transaction.execute(sql, {"id": account.id})
    details: dict[str, object] = {"provider": "slack", "account": "board"}
    await record(
        place.room, Event("connection.needs_reauth", user_id=group.id, connection_id=account.id, details=details)
    )
    await outbox.enter(deployment.database, deployment.keys, due_at=lambda _settings, _how, at: at)
    async with deployment.transaction() as transaction:
        if change == "disabled":
            await users.disable_user(transaction, user.id, now=now)
        elif change:
            await groups.remove_member(transaction, group.id, user.id, source=groups.LOCAL)
    await make_due(place.room)
    await deliver(deployment)
    assert len(messages_to(place, user)) == (0 if change else 1)


async def test_a_deleted_person_leaves_no_channel(place: Place) -> None:
    user, _, _ = await reach_person(place)
    async with place.room.deployment.transaction() as transaction:
        await users.delete_user(transaction, user.id, now=place.room.deployment.now())
    deployment = place.room.deployment
    assert await channels.list_channels(deployment.database, deployment.keys, user.id) == ()


BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp())


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("how", "now", "expected"),
    [
        ("at_once", "2026-11-27T12:00", "2026-11-27T12:00"),
        ("at_once", "2026-11-27T22:00", "2026-11-28T07:00"),  # quiet hours have begun
        ("at_once", "2026-11-28T06:59", "2026-11-28T07:00"),
        ("at_once", "2026-11-28T07:00", "2026-11-28T07:00"),
        ("daily", "2026-11-27T12:00", "2026-11-28T08:00"),
        ("daily", "2026-11-27T03:00", "2026-11-27T08:00"),
        ("daily", "2026-03-28T12:00", "2026-03-29T08:00"),  # daylight saving time begins in between
    ],
)
def test_quiet_hours_and_the_daily_summary_follow_the_clock_of_the_person(how: str, now: str, expected: str) -> None:
    settings = NoticeSettings(zone="Europe/Berlin", quiet=(22 * 60, 7 * 60), digest_at=8 * 60)
    assert datetime.fromtimestamp(due_at(settings, how, at(now)), BERLIN) == datetime.fromtimestamp(
        at(expected), BERLIN
    )


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        # Clocks go from 03:00 back to 02:00 at 01:00 UTC on 25 October.
        ("2026-10-24T23:00Z", "2026-10-25T00:30Z"),
        ("2026-10-25T00:30Z", "2026-10-25T00:30Z"),  # 02:30 the first time
        ("2026-10-25T00:31Z", "2026-10-26T01:30Z"),
        ("2026-10-25T01:10Z", "2026-10-26T01:30Z"),  # 02:10 the second time
        ("2026-10-25T01:30Z", "2026-10-26T01:30Z"),  # 02:30 the second time
        ("2026-10-25T01:31Z", "2026-10-26T01:30Z"),
        # Clocks go from 02:00 to 03:00 at 01:00 UTC on 29 March, so nothing shows 02:30.
        ("2026-03-28T12:00Z", "2026-03-29T01:30Z"),
        ("2026-03-29T00:59Z", "2026-03-29T01:30Z"),
        ("2026-03-29T01:00Z", "2026-03-29T01:30Z"),
        ("2026-03-29T01:31Z", "2026-03-30T00:30Z"),
    ],
)
def test_the_daily_summary_comes_once_on_the_days_on_which_clocks_change(now: str, expected: str) -> None:
    settings = NoticeSettings(zone="Europe/Berlin", digest_at=2 * 60 + 30)
    assert datetime.fromtimestamp(due_at(settings, "daily", instant(now)), UTC) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe"])
@pytest.mark.parametrize("minute", [0, 30, 60, 90, 105, 120, 150, 180])
def test_each_day_of_a_year_has_one_summary(zone: str, minute: int) -> None:
    settings = NoticeSettings(zone=zone, digest_at=minute)
    begin, end = instant("2026-01-01T12:00Z"), instant("2027-01-01T12:00Z")
    found = {due_at(settings, "daily", now) for now in range(begin, end, 900)}
    days = [datetime.fromtimestamp(one, ZoneInfo(zone)).date() for one in sorted(found)]
    assert len(days) == len(set(days)) in {365, 366}
    assert (days[-1] - days[0]).days == len(days) - 1


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-10-25T00:10Z", "2026-10-25T00:30Z"),  # 02:10 the first time
        ("2026-10-25T00:40Z", "2026-10-25T00:40Z"),
        ("2026-10-25T01:10Z", "2026-10-25T01:30Z"),  # 02:10 the second time: quiet until the clock shows 02:30 again
        ("2026-10-25T01:40Z", "2026-10-25T01:40Z"),
        ("2026-03-28T23:10Z", "2026-03-28T23:10Z"),
        ("2026-03-29T01:00Z", "2026-03-29T01:00Z"),  # 03:00, and nothing shows 02:00 or 02:30
    ],
)
def test_quiet_hours_end_each_time_that_the_clock_shows_their_end(now: str, expected: str) -> None:
    settings = NoticeSettings(zone="Europe/Berlin", quiet=(2 * 60, 2 * 60 + 30))
    found = due_at(settings, "at_once", instant(now))
    assert datetime.fromtimestamp(found, UTC) == datetime.fromisoformat(expected)


def test_a_digest_within_the_quiet_hours_waits_for_their_end() -> None:
    settings = NoticeSettings(zone="UTC", quiet=(6 * 60, 9 * 60), digest_at=8 * 60)
    now = int(datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp())
    assert datetime.fromtimestamp(due_at(settings, "daily", now), UTC) == datetime(2026, 11, 28, 9, tzinfo=UTC)


def test_a_mail_password_is_not_sent_in_the_clear() -> None:
    with pytest.raises(SettingsRefused, match="in the clear"):
        load_settings(overrides={"mail": {"host": "mail.example", "security": "none", "username": "vault"}})
    for fine in ({"security": "tls"}, {"host": "127.0.0.1"}, {"username": None}):
        MailSettings(**{"host": "mail.example", "security": "none", "username": "vault"} | fine)  # pyright: ignore[reportArgumentType]
