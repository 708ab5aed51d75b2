"""Approvals answered in a notification: only by the browser and session that may, and each refusal with its twin."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from html import unescape

import httpx2
import pytest

from providers.tools.slack import CHANNEL_NAME
from server import local_vault
from server.commands import serve
from server.http.page_texts import english, text
from server.lifecycle.maintenance import run_step
from server.notices.delivery import deliver
from server.portal import notice_delivery
from server.portal.approvals import notification_answers
from tests.portal.notices.test_notifications import SECRET
from tests.portal.notices.test_web_push import sign_up
from tests.portal.sign_in.test_passkeys import Holder, holder, options_of, submit_answer
from tests.support.doubles.push_service import PushService, SubscribedBrowser, running_push_service
from tests.support.person import Person
from tests.support.rooms.portal_room import Room, running_room
from vault.approvals import approvals
from vault.approvals.approvals import RELEASE, ToolCall
from vault.audit import audit
from vault.notices import channels
from vault.notices.channels import NoticeChannel
from vault.records import Client, Event, Principal, User

HALF_DAY = 12 * 3600
FORM = {"channel": "#launch", "text": SECRET}


@dataclass
class Place:
    room: Room
    service: PushService


@dataclass
class ReachedPerson:
    """A person with a passkey, and one of their browsers, whose notifications can answer."""

    place: Place
    one: Holder
    person: Person
    browser: SubscribedBrowser
    client: Client
    asked: list[str] = field(default_factory=list)
    said: str = ""  # the answer to the last press

    @property
    def user(self) -> User:
        return self.one.user

    async def ask(self, tool: str = "slack_post", **arguments: object) -> str:
        """Make a call that waits for the person; returns the ID of the question."""
        self.asked.append(await ask(self.place.room, self.user, self.client, tool, arguments or FORM))
        return self.asked[-1]

    async def deliver_message(self) -> dict[str, object]:
        """The message that the browser's worker receives."""
        self.place.service.messages.clear()
        await run_step(self.place.room.deployment, notice_delivery.STEP)
        (sent,) = self.place.service.sent_to(self.browser)
        return json.loads(self.browser.read(sent.body))

    async def press(
        self, message: Mapping[str, object], decision: str = "allow", *, by: Person | None = None, **changes: str | None
    ) -> int:
        """Post what the worker posts when a notification's button is pressed; returns the status of the answer."""
        form: Mapping[str, object] = message["answer"]  # pyright: ignore[reportAssignmentType] -- parsed JSON
        fields: dict[str, str] = {**form["fields"], "decision": decision}  # pyright: ignore[reportGeneralTypeIssues] -- parsed JSON
        site = changes.pop("site", "same-origin")
        fields |= {name: value for name, value in changes.items() if value is not None}
        headers = {"Origin": self.place.room.url} | ({} if site is None else {"Sec-Fetch-Site": site})
        answer = await (by or self.person).http.post(str(form["path"]), data=fields, headers=headers)
        self.said = unescape(answer.text)
        return answer.status_code

    async def state(self, approval: str | None = None) -> str:
        deployment = self.place.room.deployment
        found = await approvals.get(deployment.database, deployment.keys, approval or self.asked[-1])
        assert found is not None
        return found.state.value


async def ask(room: Room, user: User, client: Client, tool: str, arguments: Mapping[str, object]) -> str:
    deployment = room.deployment
    async with deployment.transaction() as transaction:
        asked, _ = await approvals.ask(
            transaction,
            deployment.keys,
            call=ToolCall(tool, lambda: arguments),
            principal=Principal(user.id, client.id, "grant", frozenset({"tools"}), f"{room.url}/mcp"),
            connection_id="account",
            provider="slack",
            account="alice",
            label="alice",
            scopes=frozenset({"chat:write"}),
            now=deployment.now(),
        )
        event = Event(
            "approval.requested",
            user_id=user.id,
            client_id=client.id,
            details={"tool": tool, "provider": "slack", "account": "alice", "approval": asked.id},
        )
        await audit.append(transaction, event, now=deployment.now())
    return asked.id


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    async with running_push_service() as service, running_room(tmp_path_factory.mktemp("answering")) as room:
        await deliver(room.deployment)  # start the feed
        yield Place(room, service)


async def with_passkey(place: Place, one: Holder) -> Person:
    """Another browser of this person, signed in with their passkey."""
    browser = await place.room.browser()
    page = await browser.open("/sign-in")
    await submit_answer(browser, page, one.device.get(options_of(page)))
    return browser


async def switch(person: Person, channel: str, action: str) -> httpx2.Response:
    """Press a button of a channel on the page."""
    page = await person.open("/notifications")
    return await person.submit(page, form=f"/notifications/{channel}", button=("action", action))


async def own_channel(place: Place, user: User) -> NoticeChannel:
    deployment = place.room.deployment
    (found,) = await channels.list_channels(deployment.database, deployment.keys, user.id)
    return found


async def channel_of(place: Place, user: User) -> str:
    return (await own_channel(place, user)).id


async def reach_person(place: Place, *, is_on: bool = True) -> ReachedPerson:
    one = await holder(place.room)
    await one.add()
    person, browser = await with_passkey(place, one), place.service.browser(one.user.id)
    assert "Added." in await sign_up(person, browser.subscription())
    if is_on:
        page = await switch(person, await channel_of(place, one.user), "answer")
        assert text("notifications_done.answering") in page.text
        assert text("notifications.answers") in page.text
    return ReachedPerson(place, one, person, browser, await place.room.agent(name="Cursor"))


@pytest.mark.parametrize(("decision", "state"), [("allow", "approved"), ("deny", "refused")])
async def test_a_short_call_is_shown_whole_and_answered_once_in_its_notification(
    place: Place, decision: str, state: str
) -> None:
    it = await reach_person(place)
    approval = await it.ask()
    message = await it.deliver_message()
    assert message["title"] == "Cursor asks for your approval: Post to Slack (alice)"
    assert message["body"] == f"Unverified agent, account alice: Cursor\nPost to #launch\ntext: {SECRET}"
    assert message["url"] == f"{place.room.url}/approvals/{approval}"
    assert await it.press(message, decision) == 204
    assert await it.state() == state
    assert await it.press(message, decision) == 410, "once"
    page = unescape((await it.person.open("/activity")).text)
    said = "You approved “Post to Slack” by" if decision == "allow" else text("why.notification")
    assert said in page


async def test_only_the_session_that_turned_it_on_answers(place: Place) -> None:
    it = await reach_person(place)
    await it.ask()
    message = await it.deliver_message()
    same_person, password = await with_passkey(place, it.one), await place.room.signed_in(it.user)
    for other in (same_person, password, await place.room.signed_in(await place.room.user())):
        assert await it.press(message, by=other) == 403
    stranger = await place.room.browser()
    assert await it.press(message, by=stranger) == 403, "its forms are bound to another secret"
    assert await it.state() == "pending"
    assert await it.press(message) == 204


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("update approvals set tool = tool where id = :id", 204),
        ("update approvals set tool = 'gone' where id = :id", 403),
        ("delete from approvals where id = :id", 404),
    ],
)
async def test_a_question_that_is_another_by_now_is_not_answered_there(place: Place, change: str, status: int) -> None:
    it = await reach_person(place)
    approval = await it.ask()
    message = await it.deliver_message()
    async with place.room.deployment.transaction() as transaction:
        await transaction.execute(change, {"id": approval})
    assert await it.press(message) == status


async def test_another_session_of_the_person_needs_more_than_a_token_of_its_own(place: Place) -> None:
    """A page of the same person could make the form token, but not the token that came with the message."""
    it = await reach_person(place)
    approval = await it.ask()
    message = await it.deliver_message()
    other = await with_passkey(place, it.one)
    page = await other.open(f"/approvals/{approval}")
    assert page.status_code == 200
    from server.portal.csrf import form_token
    from tests.support.person import session_token

    key = place.room.deployment.keys.subkey("csrf")
    own = form_token(key, session_token(other.http), action=f"/approvals/{approval}/answer")
    assert await it.press(message, by=other, form_token=own) == 403
    assert await it.press(message) == 204


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"site": None}, 403),
        ({"site": "same-site"}, 403),
        ({"site": "cross-site"}, 403),
        ({"site": "none"}, 403),
        ({"form_token": "0" * 64}, 403),
        ({"answer": "0" * 64}, 403),
        ({"answer": "ä"}, 403),
        ({"channel": "nothing"}, 403),
        ({"decision": "cut_off"}, 400),
        ({}, 204),
    ],
)
async def test_each_part_of_the_form_counts(place: Place, changes: dict[str, str | None], status: int) -> None:
    it = await reach_person(place)
    await it.ask()
    message = await it.deliver_message()
    assert await it.press(message, **changes) == status
    is_for_page = (
        status == 403 and "form_token" not in changes and changes.get("site") not in {"same-site", "cross-site"}
    )
    assert (english()["refused"]["answer_on_page"] in it.said) == is_for_page
    assert await it.state() == ("approved" if status == 204 else "pending")


async def test_a_message_about_one_approval_answers_no_other(place: Place) -> None:
    it = await reach_person(place)
    first = await it.ask()
    message = await it.deliver_message()
    second = await it.ask(text="other", channel="#other")
    newer = await it.deliver_message()
    mixed = {"answer": {**message["answer"], "path": f"/approvals/{second}/answer"}}  # pyright: ignore[reportGeneralTypeIssues] -- parsed JSON
    assert await it.press(mixed) == 403
    form_token = newer["answer"]["fields"]["form_token"]  # pyright: ignore[reportIndexIssue] -- parsed JSON
    assert await it.press(mixed, form_token=str(form_token)) == 403  # pyright: ignore[reportUnknownArgumentType]
    assert await it.press(newer) == 204
    assert (await it.state(first), await it.state(second)) == ("pending", "approved")


@pytest.mark.parametrize("ended", ["off", "removed", "signed out", "too long ago", "too late", "nothing"])
async def test_what_ended_meanwhile_answers_no_more(place: Place, ended: str) -> None:
    it = await reach_person(place)
    await it.ask()
    message = await it.deliver_message()
    database = place.room.deployment.database
    match ended:
        case "off":
            assert (
                text("notifications_done.opening")
                in (await switch(it.person, await channel_of(place, it.user), "open")).text
            )
        case "removed":
            await switch(it.person, await channel_of(place, it.user), "remove")
        case "signed out":
            await it.person.submit(await it.person.open("/account"), form="/sign-out")
        case "too long ago":
            async with place.room.deployment.transaction() as transaction:
                await transaction.execute(
                    "update sessions set proved_at = proved_at - :by where user_id = :user and method = :method",
                    {"by": HALF_DAY, "user": it.user.id, "method": "passkey"},
                )
        case "too late":
            database.clock_offset += 3600
        case _:
            pass
    status = {"nothing": 204, "too late": 410}.get(ended, 403)
    assert await it.press(message) == status
    assert await it.state() == ("approved" if ended == "nothing" else "pending")
    if ended not in {"removed", "nothing", "too late"}:
        await it.ask(text="again", channel="#launch")
        assert (await it.deliver_message()).get("answer") is None, "the next one opens its page"


@pytest.mark.parametrize(
    ("tool", "arguments", "offers"),
    [
        ("slack_post", FORM, True),
        ("slack_post", {"channel": "#launch", "text": "x" * 161}, False),
        ("slack_post", {"channel": "#launch", "text": "\n".join("abcd")}, False),
        ("slack_post", {"channel": "#launch", "text": "\n".join("abc")}, False),
        ("slack_post", {"channel": "#launch", "text": "\n".join("ab")}, True),
        ("slack_post", {"channel": "#launch", "text": "x" * 75}, False),
        ("slack_post", {"channel": "#launch", "text": "x" * 74}, True),
        ("slack_post", {"channel": "#launch", "text": "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 38}, False),
        ("slack_post", {"channel": "#launch", "text": "\N{ZERO WIDTH SPACE}x"}, False),
        ("calendar_delete", {"event_id": "1"}, False),
        ("calendar_calendars", {"limit": 1}, True),
        (RELEASE, {"scopes": "a"}, False),
        ("gone_tool", {"a": "b"}, False),
    ],
)
async def test_only_a_call_that_is_seen_whole_and_undoes_nothing_is_answered_there(
    place: Place, tool: str, arguments: dict[str, object], offers: bool
) -> None:
    it = await reach_person(place)
    await it.ask(tool, **arguments)
    message = await it.deliver_message()
    assert ("answer" in message, "action" in message) == (offers, not offers)
    if not offers:
        assert SECRET not in str(message)


@pytest.mark.parametrize(("length", "offers"), [(80, False), (40, True)])
async def test_who_asks_and_for_which_account_count_as_well(place: Place, length: int, offers: bool) -> None:
    it = await reach_person(place)
    it.client = await place.room.agent(name="x" * length)
    await it.ask()
    message = await it.deliver_message()
    assert ("answer" in message) == offers
    assert not offers or str(message["body"]).startswith(f"Unverified agent, account alice: {'x' * length}\n")


@pytest.mark.parametrize(
    ("channel", "answer", "offers"),
    [
        ("C0NOTHING", None, False),
        ("C0NAMELESS", {"ok": True}, False),
        ("C0CUT", {"channel": {"name": "x" * 90}}, False),
        ("C0LAUNCH", {"channel": {"name": "launch"}}, True),
    ],
)
async def test_an_id_whose_name_was_not_found_opens_the_page(
    place: Place, channel: str, answer: Mapping[str, object] | None, offers: bool
) -> None:
    async def read() -> Mapping[str, object] | None:
        return answer

    key = ("account", CHANNEL_NAME.api, CHANNEL_NAME.path, "", (("channel", channel),))
    assert await place.room.deployment.lookups.ask({key: read}, patience=10)
    it = await reach_person(place)
    await it.ask(channel=channel, text="a")
    message = await it.deliver_message()
    assert ("answer" in message) == offers
    assert not offers or "Post to #launch (C0LAUNCH)\n" in str(message["body"])


async def test_what_a_notification_shows_is_in_no_record(place: Place) -> None:
    it = await reach_person(place)
    form = await notification_answers.form_of(place.room.deployment, await own_channel(place, it.user), await it.ask())
    assert form is not None
    assert SECRET in form.words
    assert SECRET not in repr(form)


async def test_two_questions_at_once_open_the_page(place: Place) -> None:
    it = await reach_person(place)
    await it.ask()
    await it.ask(text="other", channel="#launch")
    assert "answer" not in await it.deliver_message()
    await it.ask(text="third", channel="#launch")
    assert "answer" in await it.deliver_message()


async def test_a_browser_where_it_is_off_opens_the_page_and_gets_no_argument(place: Place) -> None:
    it = await reach_person(place, is_on=False)
    await it.ask()
    message = await it.deliver_message()
    assert message["action"] == "Review"
    assert SECRET not in str(message)
    assert "answer" not in message


async def test_turning_it_on_needs_a_passkey_of_this_sign_in(place: Place) -> None:
    one = await holder(place.room)
    browser = place.service.browser(one.user.id)
    await sign_up(one.person, browser.subscription())
    channel = await channel_of(place, one.user)
    refused = await switch(one.person, channel, "answer")
    assert "needs a passkey here, and you have none" in refused.text
    await one.add()
    one.person = await place.room.signed_in(one.user)
    assert "needs your passkey here" in (await switch(one.person, channel, "answer")).text
    assert (
        text("notifications_done.answering") in (await switch(await with_passkey(place, one), channel, "answer")).text
    )


async def test_an_operator_can_leave_answers_to_the_page(place: Place) -> None:
    it = await reach_person(place)
    settings = place.room.deployment.settings.sign_in
    object.__setattr__(settings, "answer_lifetime", 0)
    try:
        await it.ask()
        assert "answer" not in await it.deliver_message()
        page = await it.person.open("/notifications")
        assert 'value="answer"' not in page.text
        assert (await switch(it.person, await channel_of(place, it.user), "answer")).status_code == 400
    finally:
        object.__setattr__(settings, "answer_lifetime", HALF_DAY)
    await it.ask(text="again", channel="#launch")
    assert "answer" in await it.deliver_message()


async def test_a_browser_that_signs_up_again_is_the_same_and_brings_no_session_of_its_own(place: Place) -> None:
    it = await reach_person(place)
    assert text("notifications.known") in unescape(await sign_up(it.person, it.browser.subscription()))
    other = await reach_person(place, is_on=False)
    channel = await channel_of(place, other.user)
    await switch(other.person, channel, "remove")
    forged = json.loads(other.browser.subscription()) | {"answering": "A" * 43}
    await sign_up(other.person, json.dumps(forged))
    deployment = place.room.deployment
    (found,) = await channels.list_channels(deployment.database, deployment.keys, other.user.id)
    assert "answering" not in found.target


def test_both_programs_deliver_notices() -> None:
    assert notice_delivery.STEP.name == "notices"
    for program in (serve, local_vault):
        assert "notice_delivery.STEP" in inspect.getsource(program)
