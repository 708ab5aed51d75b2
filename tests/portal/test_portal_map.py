"""The map on the start page: who can use what, as a drawing and as a table, for one of each and for very many."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import pytest

from server.portal.access_map import MOST_ACCOUNTS, MOST_AGENTS
from tests.generating.images.showcase import furnish, provider_settings
from tests.support.rooms.portal_room import Room, running_room
from vault import connections, delegations
from vault.audit import audit
from vault.records import Event


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_room(tmp_path_factory.mktemp("map"), overrides={"providers": provider_settings()}) as opened:
        yield opened


def lines(text: str) -> list[str]:
    """The lines of the drawing, identified by their titles."""
    return re.findall(r"<title>([^<]*)</title></path>", text)


def table(text: str) -> list[str]:
    """The rows of the table, which has the same content in the same words."""
    body = text.partition('<details class="as-table">')[2].partition("</details>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', body)
    return [" ".join(re.sub(r"<[^>]*>", " ", one).split()) for one in rows]


async def test_one_agent_and_one_account_are_joined_by_one_line_that_use_makes_thick(room: Room) -> None:
    user, client = await room.user(), await room.agent(name="Cursor")
    person = await room.signed_in(user)
    empty = (await person.open("/")).text
    assert "<path d=" not in empty
    assert "No agents yet" in empty
    await room.connect(person, user, client)
    (account,) = await connections.list_connections(room.deployment.database, user.id)
    page = (await person.open("/")).text
    assert lines(page) == ["Cursor · Slack: Read & write, 0 times"]
    assert 'stroke-width="1.25" class="write unused"' in page
    call = Event("tool.called", "ok", user.id, client.id, account.id, {"tool": "slack_post"})
    async with room.deployment.transaction() as transaction:
        await audit.append(transaction, call, call, now=room.deployment.now())
    page = (await person.open("/")).text
    assert lines(page) == ["Cursor · Slack: Read & write, 2 times"]
    assert table(page) == [f"Cursor Slack {account.label} Read & write 2 times"]
    assert 'stroke-width="7.00" class="write"' in page
    async with room.deployment.transaction() as transaction:
        which = {"user_id": user.id, "client_id": client.id, "connection_id": account.id}
        await delegations.revoke(transaction, **which, now=room.deployment.now())
    assert lines((await person.open("/")).text) == []


async def test_a_map_of_very_many_is_bounded_and_says_how_many_more_there_are(room: Room) -> None:
    user = await room.user()
    await furnish(room, user, agents=MOST_AGENTS + 3, accounts=MOST_ACCOUNTS + 2, questions=0)
    page = (await (await room.signed_in(user)).open("/")).text
    assert len(re.findall(r'<li data-from="', page)) == MOST_AGENTS
    assert len(re.findall(r'<li data-to="', page)) == MOST_ACCOUNTS
    assert re.findall(r"and (\d+) more", page) == ["3", "2"]
    assert len(lines(page)) == len(table(page)) > 20


async def test_the_page_of_an_agent_draws_its_uses_of_each_day(room: Room) -> None:
    user, client, idle = await room.user(), await room.agent(name="Cursor"), await room.agent(name="Zed")
    for one in (client, idle):
        await room.grant(user, one)
    now = room.deployment.now()
    for age, uses in ((13, 1), (1, 4), (0, 2), (14, 9)):
        call = Event("tool.called", "ok", user.id, client.id, None, {"tool": "slack_post"})
        async with room.deployment.transaction() as transaction:
            await audit.append(transaction, *[call] * uses, now=now - age * 86400)
    person = await room.signed_in(user)
    page = (await person.open(f"/agents/{client.id}")).text
    assert "Uses in the last 14 days: 7. The most on one day: 4." in page
    drawing = page.partition('<svg class="spark"')[2].partition("</svg>")[0]
    assert re.findall(r' height="([\d.]+)"', drawing) == ["6.5", *["1.0"] * 11, "23.0", "12.0"]
    assert '<svg class="spark"' not in (await person.open(f"/agents/{idle.id}")).text
