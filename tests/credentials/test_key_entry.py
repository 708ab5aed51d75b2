"""A person enters a key: its format, whether the service accepts it, whose account it is, and what its calls send."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.conftest import Store
from tests.support.inspection import read_events
from tests.support.rooms.key_room import READ, WRITE, KeyRoom, running_key_room
from tests.support.rooms.mcp_room import Room as McpRoom
from tests.support.rooms.portal_room import accounts_of
from tests.support.simulator_apps import make_client
from vault.upkeep import expiries


async def test_a_key_makes_a_connection_that_is_its_account(store: Store) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        person = await room.signed_in()
        alice = await room.user("alice")
        connection = await room.connect_account(alice, person)
        assert (connection.account, connection.label, connection.status(room.deployment.now())) == (
            "box-alice",
            "alice@mailroom.example",
            "active",
        )
        handle = await room.allow_agent(alice, connection, READ)
        answer = await handle.call("GET", "/messages", api="main")
        assert (answer.status_code, answer.json()["messages"][0]["subject"]) == (200, "For alice")


@pytest.mark.parametrize(
    ("provider", "way"),
    [
        ("mailroom", "header"),
        ("mailroom-bearer", "bearer"),
        ("mailroom-query", "query"),
        ("mailroom-basic", "password"),
        ("mailroom-user", "user"),
    ],
)
async def test_the_file_says_where_the_key_goes(room: KeyRoom, provider: str, way: str) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    values = {"key": room.simulator.sandbox.keys.make(user.name)}
    if provider == "mailroom-basic":
        values["login"] = "alice"
    if provider == "mailroom-bearer":
        values["label"] = "My box"
    connection = await room.connect_account(user, person, provider, **values)
    assert connection.label == ("My box" if provider == "mailroom-bearer" else f"{user.name}@mailroom.example")
    handle = await room.allow_agent(user, connection, WRITE)
    answer = await handle.call("POST", "/messages?later=1", api="main", json={"to": "bob"})
    assert (answer.status_code, answer.json()["to"]) == (200, "bob")
    last = room.books()[-1]
    assert (last["call"], last["way"], last["account"]) == ("messages", way, user.name)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "Enter: API key."),
        ("sk_live_0000000000000000", "in the format of: API key"),
        ("mr_live_" + "0" * 32, "accept this"),
    ],
)
async def test_what_is_no_key_connects_nothing(room: KeyRoom, key: str, said: str) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await room.form(person)
    asked = len(room.books())
    answer = await room.enter(person, page, key=key)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert not key or key not in answer.text
    assert await accounts_of(room, user) == ()
    assert len(room.books()) - asked == int(key.startswith("mr_live_"))  # only keys in the right format are tried
    good = await room.enter(person, answer, key=room.simulator.sandbox.keys.make(user.name))  # the same page
    assert "/connect/done/" in str(good.url), good.text


async def test_a_page_works_once_and_for_its_person_and_browser(room: KeyRoom) -> None:
    user, other = await room.user(), await room.user()
    person, stranger, again = await room.signed_in(user), await room.signed_in(other), await room.signed_in(user)
    page = await room.form(person)
    for somebody in (stranger, again):
        refused = await somebody.open(str(page.url))
        assert "no longer valid" in refused.text
    key = room.simulator.sandbox.keys.make(user.name)
    assert "/connect/done/" in str((await room.enter(person, page, key=key)).url)
    assert "no longer valid" in (await room.enter(person, page, key=key)).text
    assert len(await accounts_of(room, user)) == 1


async def test_a_service_that_cannot_answer_is_tried_later(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    key = room.simulator.sandbox.keys.make(user.name)
    page = await room.form(person)
    room.simulator.fault("mailroom.api.me", "status", status=500)
    answer = await room.enter(person, page, key=key)
    assert "confirm that this works" in answer.text
    assert await accounts_of(room, user) == ()
    assert "/connect/done/" in str((await room.enter(person, answer, key=key)).url)


async def test_a_key_of_nobody_knows_whom_replaces_none_of_a_named_account(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    keys = room.simulator.sandbox.keys
    connection = await room.connect_account(user, person)
    page = await person.submit(await person.open(f"/connections/{connection.id}"), form="/reconnect")
    room.simulator.fault("mailroom.api.me", "status", status=403)
    refused = await room.enter(person, page, key=keys.make(user.name))
    assert "report whether this belongs to" in refused.text
    replaced = await room.enter(person, refused, key=keys.make(user.name))
    assert str(replaced.url).endswith(f"/connections/{connection.id}")


async def test_an_account_that_the_service_does_not_name_is_named_by_its_person(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    for provider in ("mailroom-bearer", "mailroom-blind"):
        key = room.simulator.sandbox.keys.make(user.name)
        page = await room.form(person, provider)
        refused = await room.enter(person, page, key=key, label=" ")
        assert "Name the account" in refused.text
        named = await room.enter(person, refused, key=key, label="Newsletter")
        assert "/connect/done/" in str(named.url), named.text
    assert [one.label for one in await accounts_of(room, user)] == ["Newsletter", "Newsletter"]


async def test_a_new_key_replaces_the_old_one_and_agents_keep_their_permissions(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    keys = room.simulator.sandbox.keys
    old = keys.make(user.name)
    connection = await room.connect_account(user, person, key=old)
    handle = await room.allow_agent(user, connection, READ)
    foreign, new = keys.make("bob"), keys.make(user.name)
    page = await person.submit(await person.open(f"/connections/{connection.id}"), form="/reconnect")
    refused = await room.enter(person, page, key=foreign)
    assert "another account" in refused.text
    assert foreign not in refused.text
    replaced = await room.enter(person, refused, key=new)
    assert str(replaced.url).endswith(f"/connections/{connection.id}")
    keys.delete(old)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    assert len(await accounts_of(room, user)) == 1


async def test_a_key_that_was_deleted_there_is_asked_for_again(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    keys = room.simulator.sandbox.keys
    key = keys.make(user.name)
    connection = await room.connect_account(user, person, key=key)
    handle = await room.allow_agent(user, connection, READ)
    keys.delete(key)
    answer = await handle.call("GET", "/messages", api="main")
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (403, "connection_required")
    assert key not in answer.text
    [held] = await accounts_of(room, user)
    assert held.state.value == "needs_reauth"
    page = await person.open(f"/connections/{connection.id}")
    form = await person.submit(page, form="/reconnect")
    assert str((await room.enter(person, form, key=keys.make(user.name))).url).endswith(connection.id)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200


async def test_the_end_of_a_key_is_remembered(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    key = room.simulator.sandbox.keys.make(user.name)
    refused = await room.enter(person, await room.form(person), key=key, ends="2020-01-01")
    assert "a day in the future" in refused.text
    answer = await room.enter(person, refused, key=key, ends="2031-05-01")
    assert "/connect/done/" in str(answer.url), answer.text
    [held] = await accounts_of(room, user)
    assert held.ends_at == 1935446340  # 2031-05-01 23:59 UTC
    assert held.access_expires_at is None  # only the service ends a key


async def test_client_credentials_get_tokens_and_are_renewed(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    client_id, secret = make_client(room.simulator, user.name)
    page = await room.form(person, "mailroom-client")
    refused = await room.enter(person, page, client_id=client_id, client_secret="x" * 24)
    assert "accept this" in refused.text
    assert await accounts_of(room, user) == ()
    connection = await room.connect_account(user, person, "mailroom-client", client_id=client_id, client_secret=secret)
    assert (connection.account, connection.has_refresh_token) == (f"box-{user.name}", True)
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    room.simulator.sandbox.keys.tokens.clear()  # the service forgets the token: another one is fetched
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    tokens = [one for one in room.books() if one["call"] == "token"]
    assert {one["way"] for one in tokens} == {"client_credentials"}


async def test_nothing_that_was_entered_is_in_the_activity(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    key = room.simulator.sandbox.keys.make(user.name)
    await room.enter(person, await room.form(person), key="mr_live_" + "1" * 32)
    await room.connect_account(user, person, key=key)
    events = await read_events(room.deployment, user_id=user.id)
    kinds = [one.kind for one in events]
    assert "connection.refused" in kinds and "connection.opened" in kinds
    written = json.dumps([dict(one.details) for one in events], default=str)
    assert key not in written and "1" * 32 not in written


async def test_agents_get_tools_for_a_service_that_is_turned_on(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(user, await room.signed_in(user))
    tools = {one.name: one for one in room.deployment.tools if one.provider == "mailroom"}
    assert {name: (set(one.scopes), one.approval) for name, one in tools.items()} == {
        "mailroom_api_get": ({"read"}, False),
        "mailroom_api_call": ({"write"}, False),
    }
    assert not [one for one in room.deployment.tools if one.provider == "resend"]  # not turned on
    mcp = McpRoom(room.vault, room.simulator)
    agent = await mcp.agent(user.name)
    await mcp.allow(agent, connection, READ)
    async with mcp.client(agent) as client:
        answer = await client.call_tool("mailroom_api_get", {"path": "/messages"})
        assert not answer.is_error, answer
        assert f"For {user.name}" in json.dumps(answer.structured_content)
        refused = await client.call_tool("mailroom_api_call", {"path": "/keys", "method": "POST", "body": {}})
        assert refused.is_error


async def test_the_end_of_a_key_is_announced_a_week_before(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    now = room.deployment.now()
    for days, is_told in ((20, False), (5, True)):
        day = datetime.fromtimestamp(now + days * 86400, UTC).date().isoformat()
        key = room.simulator.sandbox.keys.make(user.name)
        answer = await room.enter(person, await room.form(person), key=key, ends=day)
        assert "/connect/done/" in str(answer.url), answer.text
        await expiries.announce(room.deployment.database)
        assert ("connection.expiring" in await room.kinds(user)) is is_told
    [held] = await accounts_of(room, user)
    assert held.status(now) == "expiring"


@pytest.mark.parametrize(("provider", "said"), [("mailroom", "tests it, seals it"), ("mailroom-blind", "test it at")])
async def test_the_page_says_whether_a_key_is_tried_out(room: KeyRoom, provider: str, said: str) -> None:
    page = await room.form(await room.signed_in(), provider)
    texts = [one for one in ("tests it, seals it", "test it at") if one in page.text]
    assert texts == [said]
