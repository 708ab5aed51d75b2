"""The person chooses an agent's tools when they let it in, and on the page of agents."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import httpx2

from server.portal.access.access import agent_path
from tests.support.inspection import until_waiting
from tests.support.person import Form, Person, forms_of
from tests.support.rooms.portal_room import Room, query_of
from vault import tool_choices
from vault.records import Client, User

FIELD, SHOWN = "tool_set", "tool_set_shown"
SETS = ("read-only", "everyday")
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


async def get_tool_set(room: Room, user: User, client: Client) -> str | None:
    return await tool_choices.get_tool_set(room.deployment.database, user.id, client_id=client.id)


async def let_in(
    room: Room, person: Person, client: Client, *, tool_set: str | None = None, decision: str = "allow"
) -> None:
    page = await person.open(room.authorize_path(client))
    answers: dict[str, str | list[str] | None] = {} if tool_set is None else {FIELD: tool_set}
    answer = await person.submit(page, answers, form="/consent", button=("decision", decision))
    if decision == "deny":
        return
    redeemed = await room.vault.redeem(
        client.id, query_of(answer.headers["location"])["code"], VERIFIER, redirect_uri=client.redirect_uris[0]
    )
    assert redeemed.status_code == 200, redeemed.text


def form_with(page: httpx2.Response, client: Client) -> Form:
    return next(one for one in forms_of(page.text) if one.action == f"{agent_path(client.id)}/tools")


def value(form: Form, name: str = FIELD) -> Sequence[str]:
    return [content for field, content in form.fields if field == name]


async def kinds(room: Room, person: Person) -> str:
    return (await person.open("/activity")).text


async def test_a_set_is_chosen_where_the_agent_is_let_in_and_there_again_the_next_time(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(client))
    (form,) = [one for one in forms_of(page.text) if one.action == "/consent"]
    assert value(form) == [""]  # everything that the operator offers, unless the person chooses otherwise
    options = re.findall(r'<option value="([^"]*)"', page.text[page.text.index(f'name="{FIELD}"') :])
    assert options[:5] == ["", "everyday", "read-only", "slack", "google"]
    await let_in(room, person, client, tool_set="read-only")
    assert await get_tool_set(room, user, client) == "read-only"
    assert "You chose the tools of" in await kinds(room, person)
    again = await person.open(room.authorize_path(client, scope="tools connections openid"))
    (form,) = [one for one in forms_of(again.text) if one.action == "/consent"]
    assert value(form) == ["read-only"]


async def test_a_refused_agent_leaves_no_choice(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await let_in(room, person, client, tool_set="read-only", decision="deny")
    assert await get_tool_set(room, user, client) is None
    await let_in(room, person, client, tool_set="read-only")
    assert await get_tool_set(room, user, client) == "read-only"


async def test_a_set_is_changed_on_the_agents_page_for_this_person_alone(room: Room) -> None:
    user, other, client = await room.user(), await room.user(), await room.agent()
    person, stranger = await room.signed_in(user), await room.signed_in(other)
    for one in (person, stranger):
        await let_in(room, one, client)
    page = await person.open(agent_path(client.id))
    form = form_with(page, client)
    assert value(form) == [""]
    await person.submit(page, {FIELD: "everyday"}, form=form.action)
    assert await get_tool_set(room, user, client) == "everyday"
    assert await get_tool_set(room, other, client) is None
    page = await person.open(agent_path(client.id))
    assert value(form_with(page, client)) == ["everyday"]
    await person.submit(page, {FIELD: ""}, form=form.action)
    assert await get_tool_set(room, user, client) is None


async def test_an_old_form_does_not_overwrite_a_newer_choice(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await let_in(room, person, client)
    old = await person.open(agent_path(client.id))
    form = form_with(old, client)
    await person.submit(old, {FIELD: "read-only"}, form=form.action)
    refused = await person.submit(old, {FIELD: "everyday"}, form=form.action)
    assert refused.status_code == 409
    assert await get_tool_set(room, user, client) == "read-only"
    untouched = await person.submit(old, {}, form=form.action)  # a form that changes something else
    assert untouched.status_code == 200
    assert await get_tool_set(room, user, client) == "read-only"
    new = await person.open(agent_path(client.id))
    assert (await person.submit(new, {FIELD: "everyday"}, form=form.action)).status_code == 200
    assert await get_tool_set(room, user, client) == "everyday"


async def test_of_two_forms_that_arrive_at_once_one_counts(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await let_in(room, person, client)
    page = await person.open(agent_path(client.id))
    form = form_with(page, client)
    async with room.deployment.transaction() as holding:
        sent = [asyncio.ensure_future(person.submit(page, {FIELD: one}, form=form.action)) for one in SETS]
        await until_waiting(holding, number=2, is_sqlite=True)
    answers = await asyncio.gather(*sent)
    assert sorted(one.status_code for one in answers) == [200, 409]
    (counted,) = [one for one, answer in zip(SETS, answers, strict=True) if answer.status_code == 200]
    assert await get_tool_set(room, user, client) == counted


async def test_only_a_set_that_the_page_offers_can_be_chosen(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await let_in(room, person, client)
    page = await person.open(agent_path(client.id))
    form = form_with(page, client)
    assert (await person.submit(page, {FIELD: "no-such-set"}, form=form.action)).status_code == 409
    assert await get_tool_set(room, user, client) is None
    assert (await person.submit(page, {FIELD: "slack"}, form=form.action)).status_code == 200
    assert await get_tool_set(room, user, client) == "slack"


async def test_an_agent_without_the_tools_is_not_asked_about_them(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(client, scope="openid"))
    assert FIELD not in page.text
    assert FIELD in (await person.open(room.authorize_path(client, scope="openid tools"))).text


async def registered_again(room: Room, name: str) -> tuple[User, Person, Client, Client]:
    """The person gave a client of this name a smaller set; now it has registered again with another ID."""
    user = await room.user()
    person = await room.signed_in(user)
    old = await room.agent(name=name, redirect_uris=("http://localhost:40001/callback",))
    await let_in(room, person, old, tool_set="read-only")
    new = await room.agent(name=name, redirect_uris=("http://localhost:40002/callback",))
    return user, person, old, new


async def test_software_that_registers_again_keeps_its_smaller_set(room: Room) -> None:
    user, person, _, new = await registered_again(room, "Cursor")
    page = await person.open(room.authorize_path(new))
    assert "read-only" in page.text
    await person.submit(page, {}, form="/consent", button=("decision", "again"))
    assert await get_tool_set(room, user, new) == "read-only"


async def test_a_set_that_changed_meanwhile_is_asked_about_again(room: Room) -> None:
    user, person, old, new = await registered_again(room, "Zed")
    page = await person.open(room.authorize_path(new))
    async with room.deployment.transaction() as transaction:
        await tool_choices.set_tool_set(transaction, user.id, client_id=old.id, tool_set=None, now=2)
    again = await person.submit(page, {}, form="/consent", button=("decision", "again"))
    assert again.status_code == 200
    assert "/consent" in str(again.url)
    await person.submit(again, {}, form="/consent", button=("decision", "again"))
    assert await get_tool_set(room, user, new) is None
