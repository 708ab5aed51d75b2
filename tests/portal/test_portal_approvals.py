"""The pages of approvals over plain HTTP: what a person reads, answers, approves in advance, ends, and takes back."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from html import unescape
from itertools import count

import httpx2
import pytest
from mcp_types import CallToolResult

from server.connecting import lookups
from server.mcp.approval_settings import ApprovalRules
from server.portal.approvals.asked_call import asked_call, is_exact, target_words
from server.portal.csrf import form_token
from server.settings import Settings, SettingsRefused
from tests.mcp.test_approve import link_of
from tests.support.accounts import revoke, set_ask
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events, unstorable
from tests.support.person import Person, forms_of, session_token
from tests.support.refused_pages import is_refused
from tests.support.rooms.mcp_room import SLACK, Agent, Room, room, text_of
from vault.approvals import approvals, standing_approvals
from vault.approvals.standing_approvals import StandingApproval
from vault.exchange.approval_rules import WRITES
from vault.records import Connection, Event, TicketPurpose

GOOGLE = "https://www.googleapis.com/auth/"
CALENDAR = frozenset({f"{GOOGLE}calendar.events"})
NUMBERS = count()  # the people of all tests share one database
POST: Mapping[str, object] = {"channel": "#general", "text": "CANARY-hello"}


@dataclass(frozen=True)
class Approver:
    """A person, their agent with one account that asks before each write, and their browser."""

    place: Room
    agent: Agent
    connection: Connection
    browser: Person

    async def call(self, tool: str = "slack_post", arguments: Mapping[str, object] = POST) -> CallToolResult:
        async with self.place.client(self.agent) as client:
            return await client.call_tool(tool, dict(arguments))

    async def page(self, tool: str = "slack_post", arguments: Mapping[str, object] = POST) -> httpx2.Response:
        """The page that a call leads to."""
        return await self.browser.open(link_of(await self.call(tool, arguments)))

    async def answer(self, page: httpx2.Response, decision: str, **fields: str | list[str] | None) -> httpx2.Response:
        return await self.browser.submit(page, fields, form="/approvals/", button=("decision", decision))

    async def list_standing_approvals(self) -> tuple[StandingApproval, ...]:
        deployment = self.place.vault.deployment
        return await standing_approvals.list_live(
            deployment.database, deployment.keys, self.agent.principal.user_id, now=deployment.now()
        )

    async def give(self, per_day: str = "2", days: str = "7") -> StandingApproval:
        said = await self.answer(await self.page(), "standing", per_day=per_day, days=days)
        assert "Approved" in said.text, said.text
        assert not (await self.call()).is_error  # the approved call itself, which doesn't count against the number
        (held,) = await self.list_standing_approvals()
        return held

    async def events(self) -> list[Event]:
        deployment = self.place.vault.deployment
        return list(await read_events(deployment, user_id=self.agent.principal.user_id))


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("approvals")) as opened:
        yield opened


class Maker:
    def __init__(self, place: Room, stack: AsyncExitStack) -> None:
        self.place, self.stack = place, stack

    async def __call__(
        self,
        provider: str = "slack",
        scopes: frozenset[str] = SLACK,
        *,
        delegated: frozenset[str] | None = None,
        account: str = "alice",
    ) -> Approver:
        place = self.place
        name = f"person-{next(NUMBERS)}"
        await place.vault.add_user(name)
        agent = await place.agent(name, client_name="Cursor")
        connection = await place.connect(agent, provider, scopes=scopes, delegated=delegated, account=account)
        deployment = place.vault.deployment
        await set_ask(deployment, agent.principal, connection, {WRITES})
        browser = await self.stack.enter_async_context(Person(place.url))
        assert (await browser.sign_in(name, PASSWORD)).status_code == 200
        return Approver(place, agent, connection, browser)


@pytest.fixture
async def maker(place: Room) -> AsyncGenerator[Maker]:
    async with AsyncExitStack() as stack:
        yield Maker(place, stack)


def heading_text(page: httpx2.Response) -> str:
    """The heading's sentence as a person reads it."""
    (found,) = re.findall(r"<h1>(.*?)</h1>", page.text, re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", found)).split())


async def channel_id(one: Approver, name: str = "general") -> str:
    found = (await one.call("slack_channels", {})).structured_content
    assert found is not None
    return next(str(each["id"]) for each in found["channels"] if each["name"] == name)


async def test_a_call_reads_as_a_sentence_with_names_for_ids_that_the_agent_itself_may_not_look_up(
    maker: Maker,
) -> None:
    reader = await maker()
    where = await channel_id(reader)
    one = await maker(delegated=frozenset({"chat:write"}))
    page = await one.page("slack_post", {**POST, "channel": where})
    assert heading_text(page) == f"Cursor wants to post to #general {where} in Slack as alice (Sandbox)."
    assert "CANARY-hello" in page.text
    (event,) = [each for each in await one.events() if each.kind == "approval.names_read"]
    assert (event.client_id, event.details["scopes"]) == (None, ["channels:read"])
    again = await one.page("slack_post", {"channel": where, "text": "again"})
    assert "#general" in heading_text(again)
    assert len([each for each in await one.events() if each.kind == "approval.names_read"]) == 1, "kept"
    assert "channels:read" in text_of(await one.call("slack_channels", {})), "the agent still may not"


@pytest.mark.parametrize("why", ["no scope", "no such channel", "too slow", "refused"])
async def test_the_page_works_without_the_names(maker: Maker, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "PATIENCE", 0.05 if why == "too slow" else 10.0)
    reader = await maker()
    where = "C0NOSUCHONE" if why == "no such channel" else await channel_id(reader)
    one = await maker(scopes=frozenset({"chat:write"}), account="bob") if why == "no scope" else reader
    simulator = one.place.simulator
    if why in {"too slow", "refused"}:
        simulator.fault(
            "slack.api.conversations.info", "hold" if why == "too slow" else "ok_false", error="fatal", times=3
        )
    page = await one.page("slack_post", {**POST, "channel": where})
    assert heading_text(page) == f"Cursor wants to post to {where} in Slack as {one.connection.label}."
    assert "Show them" in page.text if why == "too slow" else "Show them" not in page.text
    simulator.control("release")
    simulator.control("clear_faults")
    assert "Approved" in (await one.answer(page, "allow")).text


async def test_a_change_is_shown_with_what_is_there_now(maker: Maker) -> None:
    one = await maker("google", CALENDAR)
    times = {"start": "2026-12-01T10:00:00+01:00", "end": "2026-12-01T11:00:00+01:00"}
    arguments = {"summary": "Retro", "location": "Room 4", **times}
    page = await one.page("calendar_create", {**arguments, "attendees": ["bob@example.com"]})
    assert heading_text(page).startswith("Cursor wants to create the event Retro in the calendar primary in Google")
    assert "Tue 1 Dec 2026, 10:00 (UTC+01:00)" in page.text
    assert '<li class="chip plain"><bdi>bob@example.com</bdi></li>' in page.text
    await one.answer(await one.page("calendar_create", arguments), "allow")
    made = (await one.call("calendar_create", arguments)).structured_content
    assert made is not None
    changed = await one.page("calendar_update", {"event_id": made["id"], "summary": "Moved", "location": "Room 5"})
    assert f"change the event Retro {made['id']} in the calendar" in heading_text(changed)
    for before, after in (("Retro", "Moved"), ("Room 4", "Room 5")):
        assert f"<del><bdi>{before}</bdi></del>" in changed.text
        assert f"<ins><bdi>{after}</bdi></ins>" in changed.text
    assert "This changes or deletes data." in changed.text
    assert "Approve this and calls like it" not in changed.text, "what is destructive is asked each time"
    refused = await one.answer(changed, "standing", per_day="5", days="7")
    assert refused.status_code == 403
    assert await one.list_standing_approvals() == ()
    assert "Approved" in (await one.answer(changed, "allow")).text  # the twin


async def test_deny_and_cut_off_ends_the_agent(maker: Maker) -> None:
    one = await maker()
    page = await one.page()
    assert (await one.answer(page, "nonsense")).status_code == 400
    said = await one.answer(page, "cut_off")
    assert said.url.path == "/agents"
    assert "Denied" in (await one.browser.open(str(page.url))).text
    with pytest.raises(BaseException):  # noqa: B017 -- whatever the client makes of a 401
        await one.call()
    assert [each.kind for each in await one.events()].count("agent.cut_off") == 1


async def test_an_answer_in_advance_lets_equal_calls_through_and_says_so(maker: Maker) -> None:
    one = await maker()
    page = await one.page()
    assert "Approve calls like this in advance" in page.text
    assert not re.search(r"<details[^>]* open", page.text), "never preselected"
    held = await one.give(per_day="2")
    assert (held.per_day, held.target, held.used) == (2, {"channel": "#general"}, 0)
    for number in (1, 2):
        done = await one.call("slack_post", {**POST, "text": f"another {number}"})
        assert f"standing approval {held.id}, call {number} of 2 today" in text_of(done)
    assert "needs the person's approval" in text_of(await one.call("slack_post", {**POST, "text": "a third"}))
    other = {**POST, "channel": "#random"}
    assert "needs the person's approval" in text_of(await one.call("slack_post", other))
    called = [each for each in await one.events() if each.kind == "tool.called" and each.outcome == "ok"]
    assert any("call 2 of 2" in str(each.details.get("approval")) for each in called)
    listed = (await one.browser.open("/approvals")).text
    assert "2 of 2 used today" in listed
    assert "channel #general" in listed
    assert "2 of 2 used today" in (await one.browser.open(f"/agents/{one.agent.principal.client_id}")).text


async def test_the_third_yes_to_the_same_suggests_it(maker: Maker) -> None:
    one = await maker()
    for number in range(3):
        page = await one.page("slack_post", {**POST, "text": str(number)})
        assert "Stop asking?" not in page.text
        await one.answer(page, "allow")
    assert "You approved 3 calls like this. Stop asking?" in (await one.page()).text
    assert "Stop asking?" not in (await one.page("slack_post", {**POST, "channel": "#random"})).text
    await one.answer(await one.page(), "deny")
    assert "Stop asking?" not in (await one.page("slack_post", {**POST, "text": "again"})).text


@pytest.mark.parametrize("back", ["agent", ""])
async def test_a_standing_approval_is_ended_and_taken_back_once(maker: Maker, back: str) -> None:
    one = await maker()
    held = await one.give()
    where = f"/agents/{one.agent.principal.client_id}" if back else "/approvals"
    page = await one.browser.open(where)
    ended = await one.browser.submit(page, form=f"/approvals/standing/{held.id}/end")
    assert str(ended.url).partition("?")[0].endswith(where)
    assert "asks you again before" in unescape(ended.text)
    assert "needs the person's approval" in text_of(await one.call("slack_post", {**POST, "text": "more"}))
    assert (await one.browser.submit(page, form=f"/approvals/standing/{held.id}/end")).status_code == 410
    handle = next(dict(each.fields)["saved"] for each in forms_of(ended.text) if "/undo" in each.action)
    stranger = await maker()
    theirs = await post_form(stranger, "/approvals/undo", saved=handle)
    assert is_refused(theirs, "undo_over", 410)
    elsewhere = await post_form(one, f"/agents/{one.agent.principal.client_id}/undo", saved=handle)
    assert is_refused(elsewhere, "undo_over", 410)
    undone = await one.browser.submit(ended, form="/undo")
    assert undone.status_code == 200
    assert [each.id for each in await one.list_standing_approvals()] == [held.id]
    assert (await one.browser.submit(ended, form="/undo")).status_code == 410
    kinds = [each.kind for each in await one.events()]
    assert {"approval.standing_given", "approval.standing_revoked", "approval.standing_restored"} <= set(kinds)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_standing_approval_is_ended_with_its_way_back_and_taken_back_with_its_event(
    maker: Maker, *, fails: bool
) -> None:
    one = await maker()
    held, database = await one.give(), one.place.vault.deployment.database
    page = await one.browser.open("/approvals")
    faults = (("tickets", "purpose", "undo"), ("events", "kind", "approval.standing_restored"))
    assert TicketPurpose.UNDO.value == "undo"
    for (table, column, value), form, left in (
        (faults[0], f"/approvals/standing/{held.id}/end", []),
        (faults[1], "/approvals/undo", [held.id]),
    ):
        before = [each.id for each in await one.list_standing_approvals()]
        async with unstorable(database, table, column, value if fails else "unrelated", is_sqlite=True):
            answer = await one.browser.submit(page, form=form)
        if fails:
            assert answer.status_code >= 500
            assert [each.id for each in await one.list_standing_approvals()] == before
            answer = await one.browser.submit(page, form=form)
        assert answer.status_code == 200, answer.text
        assert [each.id for each in await one.list_standing_approvals()] == left
        page = answer


async def post_form(one: Approver, path: str, **fields: str) -> httpx2.Response:
    """Send a form as this person that no page offers."""
    token = form_token(one.place.vault.deployment.keys.subkey("csrf"), session_token(one.browser.http), action=path)
    data = {"form_token": token, **fields}
    return await one.browser.http.post(path, data=data, headers={"Origin": one.place.url})


async def test_a_way_back_of_an_access_is_none_of_a_standing_approval(maker: Maker) -> None:
    one = await maker()
    agent = f"/agents/{one.agent.principal.client_id}"
    page = await one.browser.submit(
        await one.browser.open(agent), {f"level.{one.connection.id}": "off"}, form="/access"
    )
    handle = next(dict(each.fields)["saved"] for each in forms_of(page.text) if "/undo" in each.action)
    assert is_refused(await post_form(one, "/approvals/undo", saved=handle), "undo_over", 410)
    assert (await post_form(one, f"{agent}/undo", saved=handle)).status_code == 303


async def test_a_way_back_is_over_once_the_same_was_given_anew(maker: Maker) -> None:
    one = await maker()
    held = await one.give()
    ended = await one.browser.submit(await one.browser.open("/approvals"), form=f"/approvals/standing/{held.id}/end")
    again = await one.give()
    refused = await one.browser.submit(ended, form="/approvals/undo")
    assert is_refused(refused, "undo_over", 410)
    assert [each.id for each in await one.list_standing_approvals()] == [again.id]


async def test_a_way_back_is_over_after_a_cut_off_and_for_others(maker: Maker) -> None:
    one, stranger = await maker(), await maker()
    held = await one.give()
    page = await one.browser.open("/approvals")
    theirs = await stranger.browser.open("/approvals")
    action = f"/approvals/standing/{held.id}/end"
    forged = await stranger.browser.http.post(action, data={"csrf": "x"}, headers={"origin": one.place.url})
    assert forged.status_code == 403
    assert held.id not in theirs.text
    ended = await one.browser.submit(page, form=action)
    agent = f"/agents/{one.agent.principal.client_id}"
    await one.browser.submit(await one.browser.open(f"{agent}/cut-off"), form="/cut-off")
    assert (await one.browser.submit(ended, form="/approvals/undo")).status_code == 410
    assert await one.list_standing_approvals() == ()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"per_day": "0", "days": "7"}, 400),
        ({"per_day": "101", "days": "7"}, 400),
        ({"per_day": "-1", "days": "7"}, 400),
        ({"per_day": "", "days": "7"}, 400),
        ({"per_day": "+3", "days": "7"}, 400),
        ({"per_day": "\u0663", "days": "7"}, 400),  # an Arabic-Indic digit 3
        ({"per_day": "1000000000000000000000", "days": "7"}, 400),
        ({"per_day": "5", "days": "365"}, 400),
        ({"per_day": "5", "days": ""}, 400),
        ({"per_day": "5", "days": "90"}, 200),
    ],
)
async def test_a_form_with_other_limits_gives_nothing(
    maker: Maker, fields: dict[str, str | list[str] | None], status: int
) -> None:
    one = await maker()
    page = await one.page()
    assert (await one.answer(page, "standing", **fields)).status_code == status
    assert len(await one.list_standing_approvals()) == (status == 200)


async def test_the_operator_chooses_for_which_tools_a_yes_can_stand(maker: Maker) -> None:
    deployment = maker.place.vault.deployment

    def standing_tools(*names: str) -> frozenset[str]:
        rules = deployment.settings.approvals.model_copy(update={"no_standing": names})
        settings: Settings = deployment.settings.model_copy(update={"approvals": rules})
        found = ApprovalRules.from_settings(settings, deployment.catalog, deployment.tools)
        return found.standing_tools.get("google", frozenset())

    assert {"calendar_create"} <= standing_tools("destructive")
    assert not {"calendar_update", "calendar_delete"} & standing_tools("destructive")
    assert {"calendar_create", "calendar_update", "calendar_delete"} <= standing_tools()
    assert "calendar_create" not in standing_tools("calendar_create")
    assert standing_tools("all") == frozenset()
    with pytest.raises(SettingsRefused, match=r"approvals\.no_standing"):
        standing_tools("calendar_creat")


HOSTILE = "<b onclick=x>\u202eevil\u200b\r\n" + "x" * 3000


async def test_hostile_arguments_show_as_they_are_and_stay_text(maker: Maker) -> None:
    one = await maker()
    page = await one.page("slack_post", {"channel": "general", "text": HOSTILE})
    assert "<b onclick" not in page.text
    assert "&lt;b onclick=x&gt;‹U+202E›evil‹U+200B›‹U+000D›\n" in page.text
    assert "\u202e" not in page.text
    assert "general" in heading_text(page)


def test_what_the_sentence_cuts_is_shown_whole_below_it() -> None:
    spec = asked_call("A tool", {"note": "x" * 100, "other": "short", "empty": None, "none": []})
    assert [(one.words, one.value) for one in spec.pieces] == [("use “A tool”", None)]
    assert [(one.label, one.value) for one in spec.texts] == [("note", "x" * 100)]
    assert [(label, value.shown) for label, value in spec.facts] == [("other", "short")]
    assert json.loads(spec.exact) == {"note": "x" * 100, "other": "short", "empty": None, "none": []}


@pytest.mark.parametrize(
    ("value", "is_shown"),
    [
        ("a b", True),
        ("a  b", False),
        (" a", False),
        ("a\u200b", False),
        (["a", "b"], True),
        (["a, b"], False),
        ([], False),
        ([1], False),
        ({"a": "b"}, False),
        ("2026-11-27T10:00:00Z", True),
        ("2026-11-27T10:00+01:00", True),
        ("2026-11-27T10:00:01Z", False),
        ("2026-11-27T10:00:00.5Z", False),
        (1, True),
        (True, True),
        (None, True),
    ],
)
def test_what_is_shown_otherwise_than_it_is_is_known(value: object, is_shown: bool) -> None:
    arguments = {"note": value}
    assert is_exact(asked_call("A tool", arguments), arguments) == is_shown


def test_an_id_that_looks_like_a_name_is_marked_as_an_id() -> None:
    from providers.tools.slack import slack_post
    from server.connecting.lookups import LookupResult

    arguments = {"channel": "C0EVERYONE", "text": "hi"}
    known = LookupResult(names={"channel": "#general"})
    for found, name in ((None, ""), (known, "#general")):
        (piece,) = [
            one for one in asked_call("Post", arguments, slack_post.presentation, found).pieces if one.value is not None
        ]
        assert piece.value is not None
        assert (piece.value.shown, piece.value.name, piece.value.is_id) == ("C0EVERYONE", name, True)


def test_a_target_is_said_in_words() -> None:
    assert target_words({"channel": "C1"}, {"channel": "#general"}) == "channel #general (C1)"
    said = target_words({"calendar_id": "primary", "send": False, "domains": ["a.example"], "x": None}, {})
    assert said == "calendar id primary, send: no, recipients at a.example"
    assert target_words({"calendar_id": "primary", "domains": []}, {}) == "calendar id primary"


async def test_an_agent_without_its_permission_gets_no_standing_approval(maker: Maker) -> None:
    one = await maker()
    page = await one.page()
    await revoke(one.place.vault.deployment, one.agent.principal, one.connection)
    refused = await one.answer(page, "standing", per_day="5", days="7")
    assert refused.status_code == 403
    assert "Not possible for this call" in refused.text
    assert await one.list_standing_approvals() == ()
    pending = await approvals.list_pending(
        one.place.vault.deployment.database,
        one.place.vault.deployment.keys,
        one.agent.principal.user_id,
        now=one.place.vault.deployment.now(),
    )
    assert len(pending) == 1, "nothing was answered"
