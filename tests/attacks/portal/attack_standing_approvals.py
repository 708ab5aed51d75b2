"""Standing approvals: calls outside one, more calls than it allows, its end, forms of others and of old pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx2
import pytest

from tests.attacks.administration.attack_administration import someone
from tests.attacks.attack_races import is_done, link_of
from tests.attacks.portal.attack_people import form_of, let_in, send, software
from tests.attacks.target import LOOPBACK, Agent, Target
from tests.support.person import Form, Person

GENERAL: dict[str, object] = {"channel": "#general", "text": "hello"}


@dataclass
class Approver:
    """A person whose agent asks about each post."""

    target: Target
    person: Person
    agent: Agent

    async def call(self, **changes: object) -> httpx2.Response:
        return await self.target.call(self.agent, "slack_post", GENERAL | changes)

    async def question(self, **changes: object) -> Form:
        """The form of the approval page for a call that has to wait."""
        page = await self.person.open(link_of(self.target, await self.call(**changes), "approvals"))
        return form_of(page, "/approvals/")

    async def give(self, *, per_day: str = "3", days: str = "7") -> None:
        """Give a standing approval for #general, and use up the call that asked."""
        form = await self.question()
        answer = await send(self.target, self.person, form, decision="standing", per_day=per_day, days=days)
        assert answer.status_code == 303, answer.text[:300]
        assert is_done(await self.call())

    async def end(self, path: str = "/approvals") -> Form:
        """The form that ends the person's only standing approval."""
        return form_of(await self.person.open(path), "/approvals/standing/")


async def ask_first(target: Target, person: Person, agent: Agent, *, tool: str = "slack_post") -> None:
    page = await person.open(f"/agents/{agent.client_id}")
    form = form_of(page, "/access")
    form.fields.append(("ask", next(value for value in form.choices["ask"] if value.endswith(f"tool:{tool}"))))
    assert (await send(target, person, form)).status_code == 303


async def make_approver(target: Target) -> Approver:
    _, person = await someone(target)
    await target.connect(person, "slack", account="alice")
    agent = await let_in(target, person, await software(target))
    await ask_first(target, person, agent)
    one = Approver(target, person, agent)
    assert not is_done(await one.call())
    return one


async def test_it_lets_through_what_it_was_given_for(target: Target) -> None:
    """The twin of the attacks below."""
    one = await make_approver(target)
    await one.give(per_day="2")
    assert is_done(await one.call(text="another text"))
    assert is_done(await one.call())
    assert not is_done(await one.call())


SPELLINGS = (
    "general", "#GENERAL", "# general", "#general ", " #general", "#general\u200b", "#gener\u0430l", "#generaI",
    "#general#",
    "#ｇeneral", "#general\x00", "#random", "C0000000001", "#general,#random", "#general\n#random", "@general", "",
)  # fmt: skip


@pytest.mark.parametrize("channel", SPELLINGS)
async def test_it_is_not_for_another_spelling_or_channel(target: Target, channel: str) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    assert not is_done(await one.call(channel=channel))
    assert is_done(await one.call())


OTHERS: dict[str, object] = {
    "a list of channels": {"channel": ["#general", "#random"]},
    "an object": {"channel": {"toString": "#general"}},
    "a number": {"channel": 0},
    "the channel twice": {"channel": "#random", "Channel": "#general"},
    "an unknown argument": {"channel": "#general", "blocks": []},
    "another account": {"account": "bob"},
}


@pytest.mark.parametrize("what", OTHERS)
async def test_it_is_not_for(target: Target, what: str) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    changes = OTHERS[what]
    assert isinstance(changes, dict)
    assert not is_done(await one.call(**changes))


async def test_it_is_not_for_another_agent_or_person(target: Target) -> None:
    one, other = await make_approver(target), await make_approver(target)
    await one.give(per_day="100")
    assert not is_done(await other.call())
    second = await let_in(target, one.person, await software(target, client_name="Second"), redirect=LOOPBACK)
    await ask_first(target, one.person, second)
    assert not is_done(await target.call(second, "slack_post", GENERAL))


async def test_it_is_not_for_another_sign_in_of_a_look_alike(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    double = await let_in(target, one.person, await software(target))
    await ask_first(target, one.person, double)
    assert not is_done(await target.call(double, "slack_post", GENERAL))


async def test_of_twenty_calls_at_once_no_more_than_the_days_calls_go_through(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="3")
    answers = await asyncio.gather(*(one.call(text=f"call {n}") for n in range(20)))
    assert sum(map(is_done, answers)) == 3


async def test_a_second_yes_gives_the_days_calls_no_second_time(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="2")
    assert is_done(await one.call())
    assert is_done(await one.call())
    form = await one.question(text="again")
    assert (await send(target, one.person, form, decision="standing", per_day="2", days="7")).status_code == 303
    assert is_done(await one.call(text="again"))  # the call that was asked about
    assert not is_done(await one.call(text="and again"))


@pytest.mark.parametrize(
    ("per_day", "days"),
    [
        *(("101", "7"), ("0", "7"), ("-1", "7"), ("1e3", "7"), ("", "7"), ("٣", "7"), ("3.5", "7"), ("9" * 40, "7")),
        *(("3", "0"), ("3", "365"), ("3", "-1"), ("3", ""), ("3", "7\x00"), ("3", "٧"), (" 3", "7"), ("0x3", "7")),
    ],
)
async def test_a_form_asks_for_no_more_than_the_page_offers(target: Target, per_day: str, days: str) -> None:
    one = await make_approver(target)
    form = await one.question()
    answer = await send(target, one.person, form, decision="standing", per_day=per_day, days=days)
    assert answer.status_code == 400, answer.headers.get("location")
    assert not is_done(await one.call())
    assert "/approvals/standing/" not in (await one.person.open("/approvals")).text


async def test_a_question_is_answered_by_its_person_only(target: Target) -> None:
    one, thief = await make_approver(target), await make_approver(target)
    form, own = await one.question(), await thief.question()
    for token in (dict(form.fields)["form_token"], dict(own.fields)["form_token"]):
        answer = await send(target, thief.person, form, form_token=token, decision="standing", per_day="5", days="7")
        assert answer.status_code in {403, 404}
    assert not is_done(await one.call())


async def test_one_question_makes_one_standing_approval_of_eight_answers(target: Target) -> None:
    one = await make_approver(target)
    form = await one.question()
    fields = {"decision": "standing", "per_day": "1", "days": "1"}
    said = await asyncio.gather(*(send(target, one.person, form, **fields) for _ in range(8)))
    assert [each.status_code for each in said].count(303) == 1
    assert sum([is_done(await one.call()) for _ in range(4)]) == 2  # the call itself, and one more


async def test_somebody_elses_is_neither_ended_nor_taken_back(target: Target) -> None:
    one, thief = await make_approver(target), await make_approver(target)
    await one.give(per_day="100")
    await thief.give(per_day="100")
    theirs, own = await one.end(), await thief.end()
    for token in (dict(theirs.fields)["form_token"], dict(own.fields)["form_token"]):
        assert (await send(target, thief.person, theirs, form_token=token)).status_code in {403, 404, 410}
    assert is_done(await one.call())
    ended = await send(target, one.person, theirs)
    undo = form_of(await one.person.open(ended.headers["location"]), "/approvals/undo")
    for form in (undo, form_of(await thief.person.open("/approvals"), "/approvals/")):
        data = dict(undo.fields) | {"form_token": dict(form.fields)["form_token"]}
        answer = await thief.person.http.post("/approvals/undo", data=data, headers={"origin": target.url})
        assert answer.status_code in {403, 410}
    assert not is_done(await one.call(text="later"))


async def test_one_that_was_ended_lets_nothing_through_and_comes_back_once(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    ended = await send(target, one.person, await one.end())
    assert not is_done(await one.call())
    undo = form_of(await one.person.open(ended.headers["location"]), "/approvals/undo")
    said = await asyncio.gather(*(send(target, one.person, undo) for _ in range(4)))
    assert [each.status_code for each in said].count(303) == 1
    assert is_done(await one.call())
    again = await send(target, one.person, await one.end())
    assert again.status_code == 303
    assert (await send(target, one.person, undo)).status_code >= 400
    assert not is_done(await one.call(text="later"))


async def cut_off(one: Approver) -> None:
    page = await one.person.open(f"/agents/{one.agent.client_id}/cut-off")
    assert (await send(one.target, one.person, form_of(page, "cut-off"))).status_code == 303


async def test_an_undo_gives_nothing_back_that_a_cut_off_ended(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    ended = await send(target, one.person, await one.end())
    undo = form_of(await one.person.open(ended.headers["location"]), "/approvals/undo")
    await cut_off(one)
    assert (await send(target, one.person, undo)).status_code == 410
    again = await target.agent(one.person, client=one.agent.client_id, redirect_uri=LOOPBACK)
    assert not is_done(await target.call(again, "slack_post", GENERAL))


async def test_an_agent_that_was_cut_off_and_let_in_again_has_none(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    await cut_off(one)
    assert (await one.call()).status_code == 401
    back = await target.agent(one.person, client=one.agent.client_id, redirect_uri=LOOPBACK)
    page = await one.person.open(link_of(target, await target.call(back, "slack_post", GENERAL), "connect"))
    page = await one.person.submit(page, form="/connect/", button=("decision", "allow"))
    assert page.status_code == 200, page.text[:300]
    assert "/approvals/" in (await target.call(back, "slack_post", GENERAL)).text  # the person is asked as before


async def test_calls_that_race_with_its_end_are_none_after_it(target: Target) -> None:
    one = await make_approver(target)
    await one.give(per_day="100")
    form = await one.end()
    racing = [asyncio.ensure_future(one.call(text=f"call {n}")) for n in range(10)]
    assert (await send(target, one.person, form)).status_code == 303
    after = await asyncio.gather(*(one.call(text=f"late {n}") for n in range(5)))
    assert not any(map(is_done, after))
    await asyncio.gather(*racing)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_foreign_page_gives_none_and_ends_none(target: Target, origin: str) -> None:
    one = await make_approver(target)
    form = await one.question()
    data = dict(form.fields) | {"decision": "standing", "per_day": "5", "days": "7"}
    headers = {"origin": origin, "sec-fetch-site": "cross-site"}
    assert (await one.person.http.post(form.action, data=data, headers=headers)).status_code == 403
    assert not is_done(await one.call())
    await one.give()
    end = await one.end()
    assert (await one.person.http.post(end.action, data=dict(end.fields), headers=headers)).status_code == 403
    assert is_done(await one.call())
