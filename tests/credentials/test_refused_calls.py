"""An API that refuses a call with 401: whether the connection ends, and who is notified."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from providers.oauth.credential_upstream import CredentialUpstream
from server.notices.delivery import deliver
from tests.conftest import Store
from tests.support.accounts import replace_token
from tests.support.doubles.mailbox import running_receiver
from tests.support.rooms.key_room import READ, KeyRoom, running_key_room
from tests.support.rooms.mcp_room import Room as McpRoom
from tests.support.rooms.portal_room import accounts_of
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.refusals import TemporarilyUnavailable

REFUSED = (502, "upstream_unauthorized")


async def test_a_refused_call_ends_no_key_that_the_service_still_accepts(room: KeyRoom) -> None:
    user = await room.user()
    key = room.simulator.sandbox.keys.make(user.name)
    connection = await room.connect_account(user, await room.signed_in(user), key=key)
    handle = await room.allow_agent(user, connection, READ)
    room.simulator.fault("mailroom.api.messages", "status", status=401)
    refused = await handle.call("GET", "/messages", api="main")
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == REFUSED, refused.text
    assert "stays connected" in refused.text
    [held] = await accounts_of(room, user)
    assert (held.state.value, held.reason) == ("active", None)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    room.simulator.sandbox.keys.delete(key)  # now the probe fails, too
    assert (await handle.call("GET", "/messages", api="main")).status_code == 403
    [held] = await accounts_of(room, user)
    assert held.state.value == "needs_reauth"


async def test_a_key_that_nobody_can_ask_about_is_in_doubt_and_goes_on(store: Store) -> None:
    async with running_key_room(store.data, database_url=store.url) as room:
        person, user = await room.signed_in(), await room.user("alice")
        values = {"key": room.simulator.sandbox.keys.make("alice"), "label": "Mine"}
        connection = await room.connect_account(user, person, "mailroom-blind", **values)
        handle = await room.allow_agent(user, connection, READ)
        named = await room.connect_account(user, person)
        for one, is_said in ((connection, True), (named, False)):
            assert ("offers no way to check a key" in (await person.open(f"/connections/{one.id}")).text) is is_said
        assert "Check there whether the key" not in (await person.open(f"/connections/{connection.id}")).text
        for _ in range(2):
            room.simulator.fault("mailroom.api.messages", "status", status=401)
            refused = await handle.call("GET", "/messages", api="main")
            assert (refused.status_code, refused.headers["token-vault-refusal"]) == REFUSED, refused.text
        [held] = [one for one in await accounts_of(room, user) if one.id == connection.id]
        assert (held.state.value, held.reason) == ("active", "doubted")
        assert (await room.kinds(user)).count("connection.doubted") == 1
        page = await person.open(f"/connections/{connection.id}")
        assert "Check there whether the key" in page.text
        assert (await handle.call("GET", "/messages", api="main")).status_code == 200


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_the_person_of_a_key_in_doubt_is_told_unless_it_was_replaced(room: KeyRoom, *, is_replaced: bool) -> None:
    await deliver(room.deployment)  # start the feed
    user = await room.user()
    person = await room.signed_in(user)
    async with running_receiver() as receiver:
        page = await person.open("/notifications")
        target = f"{receiver.url}/{user.id}"
        added = await person.submit(page, {"kind": "webhook", "target": target}, form="/notifications/channels")
        assert "Added." in added.text
        values = {"key": room.simulator.sandbox.keys.make(user.name), "label": "Mine"}
        connection = await room.connect_account(user, person, "mailroom-blind", **values)
        handle = await room.allow_agent(user, connection, READ)
        room.simulator.fault("mailroom.api.messages", "status", status=401)
        await handle.call("GET", "/messages", api="main")
        if is_replaced:
            page = await person.submit(await person.open(f"/connections/{connection.id}"), form="/reconnect")
            await room.enter(person, page, key=room.simulator.sandbox.keys.make(user.name), label="Mine")
        await room.deployment.activity.settle()
        await deliver(room.deployment)
        await deliver(room.deployment)
        told = [json.loads(body)["title"] for _, body in receiver.posted]
    expected = "Mailroom-Blind refused a call with the key of Mine: check whether the key still exists there"
    assert told == ([] if is_replaced else [expected])


async def test_a_tool_says_that_the_account_stays_connected(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(user, await room.signed_in(user))
    mcp = McpRoom(room.vault, room.simulator)
    agent = await mcp.agent(user.name)
    await mcp.allow(agent, connection, READ)
    async with mcp.client(agent) as client:
        room.simulator.fault("mailroom.api.messages", "status", status=401)
        refused = await client.call_tool("mailroom_api_get", {"path": "/messages"})
        assert (refused.is_error, "stays connected" in str(refused.content)) == (True, True), refused
        assert not (await client.call_tool("mailroom_api_get", {"path": "/messages"})).is_error


async def test_a_service_that_is_turned_off_serves_no_key(room: KeyRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    user, deployment = await room.user(), room.deployment
    connection = await room.connect_account(user, await room.signed_in(user))
    handle = await room.allow_agent(user, connection, READ)
    provider = deployment.catalog.provider("mailroom")
    off = provider.with_registration(replace(provider.registration, is_on=False))
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    with monkeypatch.context() as turned:  # as after a restart with the changed setting
        turned.setitem(vars(deployment.catalog)["_providers"], "mailroom", off)
        refused = await handle.call("GET", "/messages", api="main")
        assert (refused.status_code, "turned off" in refused.text) == (502, True)
    upstreams = {**deployment.vault.upstreams, "mailroom": CredentialUpstream(off, deployment.http)}
    request = ExchangeRequest(principal=handle.agent.principal, provider="mailroom", scopes=READ)
    now = deployment.now()
    with pytest.raises(TemporarilyUnavailable, match="no longer set up"):
        await exchange(request, vault=replace(deployment.vault, upstreams=upstreams), now=now)
    assert (await exchange(request, vault=deployment.vault, now=now)).connection_id == connection.id


async def test_a_stored_key_that_no_longer_fits_its_file_is_told_like_a_dead_one(room: KeyRoom) -> None:
    user = await room.user()
    values = {"login": "alice", "key": room.simulator.sandbox.keys.make("alice")}
    connection = await room.connect_account(user, await room.signed_in(user), "mailroom-basic", **values)
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    await replace_token(room.deployment, connection, "of an earlier form")
    refused = await handle.call("GET", "/messages", api="main")
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == REFUSED, refused.text


async def test_a_key_that_may_not_show_its_account_is_connected(room: KeyRoom) -> None:
    user = await room.user()
    person, key = await room.signed_in(user), room.simulator.sandbox.keys.make(user.name)
    for status, said in ((400, "confirm that this works"), (403, "Name of this account")):
        room.simulator.fault("mailroom.api.me", "status", status=status)
        page = await room.enter(person, await room.form(person), key=key)
        assert (page.status_code, said in page.text) == (400, True), page.text
    room.simulator.fault("mailroom.api.me", "status", status=403)
    answer = await room.enter(person, page, key=key, label="Mine")
    assert "/connect/done/" in str(answer.url), answer.text
    [held] = await accounts_of(room, user)
    assert (held.label, held.state.value) == ("Mine", "active")


async def test_a_probe_that_misses_a_permission_proves_a_key_by_its_words(room: KeyRoom) -> None:
    deployment, base = room.deployment, room.deployment.catalog.provider("mailroom")
    assert base.credential is not None
    for texts, outcome in ((frozenset[str](), "dead"), (frozenset({"insufficient permissions"}), "alive")):
        credential = base.credential.model_copy(update={"alive_texts": texts})
        provider = base.model_copy(update={"credential": credential})
        body = '{"message": "You have insufficient permissions. Missing scopes."}'
        room.simulator.fault("mailroom.api.me", "status", status=401, body=body)
        look = await CredentialUpstream(provider.with_registration(base.registration), deployment.http).look("mr_live_")
        assert look.outcome.value == outcome


async def test_a_person_tries_out_no_more_keys_than_people_do(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await room.form(person)
    for _ in range(19):
        room.deployment.entries.spend(user.id, "mailroom", now=time.monotonic())
    wrong = await room.enter(person, page, key="mr_live_" + "0" * 32)
    assert "accept this" in wrong.text
    asked = len(room.books())
    key = room.simulator.sandbox.keys.make(user.name)
    assert "Too many attempts" in (await room.enter(person, page, key=key)).text
    assert len(room.books()) == asked
    other = await room.enter(person, await room.form(person, "mailroom-user"), key=key)
    assert "/connect/done/" in str(other.url), "other services count for themselves"
