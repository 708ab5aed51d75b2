"""Refusals to which no page leads: of a form that was changed on the way, or of an outdated page."""

from __future__ import annotations

import html
import json

import httpx2
import pytest
from starlette.requests import Request
from starlette.types import Message

from server.administration import webhooks
from server.administration.actor import Actor
from server.http import page_texts
from server.http.addresses import counting_key
from server.portal.forms import PageRefused, read_form
from tests.portal.test_page_refusals import post
from tests.support.person import Person, forms_of
from tests.support.refused_pages import is_refused
from tests.support.rooms.portal_room import Room
from vault import connections, delegations, limits
from vault.notices import channels
from vault.records import Connection

READ = frozenset({"channels:read"})


def fields_of(page: httpx2.Response, action: str) -> dict[str, str]:
    """What a browser would send for the form."""
    return dict(next(one for one in forms_of(page.text) if action in one.action).fill_in({}))


async def agent_of(room: Room) -> tuple[Person, str, Connection]:
    """A person with an account, and the page of an agent that may not use it."""
    user, client = await room.user(), await room.agent(name="Cursor")
    await room.grant(user, client)
    account = await room.account(user, "slack", label="Team", scopes=READ)
    return await room.signed_in(user), f"/agents/{client.id}", account


async def test_an_access_that_the_page_never_showed_is_not_saved(room: Room) -> None:
    person, path, account = await agent_of(room)
    fields = fields_of(await person.open(path), "/access") | {f"level.{account.id}": "read"}
    fields.pop("form_token")
    unseen = {name: value for name, value in fields.items() if name != "held"}
    assert is_refused(await post(room, person, f"{path}/access", **unseen), "permissions_changed", 409)
    assert (await post(room, person, f"{path}/access", **fields)).status_code == 303


async def test_a_saved_access_is_not_taken_back_over_a_newer_one(room: Room) -> None:
    person, path, account = await agent_of(room)
    stranger, own_path, _ = await agent_of(room)
    for is_changed, status in ((True, 409), (False, 303)):
        page = await person.submit(await person.open(path), {f"level.{account.id}": "read"}, form="/access")
        handle = fields_of(page, "/undo")["saved"]
        assert is_refused(await post(room, person, "/agents/nothing/undo", saved=handle), "no_agent", 404)
        assert is_refused(await post(room, stranger, f"{own_path}/undo", saved=handle), "undo_over", 410)
        if is_changed:
            which = {
                "user_id": account.user_id,
                "client_id": path.removeprefix("/agents/"),
                "connection_id": account.id,
            }
            async with room.deployment.transaction() as transaction:
                await delegations.revoke(transaction, **which, now=room.deployment.now())
        undone = await post(room, person, f"{path}/undo", saved=handle)
        assert undone.status_code == status
        assert is_refused(undone, "permissions_changed", 409) is is_changed


@pytest.mark.parametrize(("role", "is_taken"), [("auditor", True), ("king", False)])
async def test_a_role_is_one_that_there_is(room: Room, role: str, is_taken: bool) -> None:
    admin, person = await room.signed_in("alice"), await room.user()
    answer = await post(room, admin, f"/administration/people/{person.id}/role", role=role)
    assert (answer.status_code == 303, is_refused(answer, "person_changed", 400)) == (is_taken, not is_taken)


async def test_a_page_that_adds_an_endpoint_says_that_there_are_too_many(room: Room) -> None:
    operator = Actor(room.deployment, None, "command_line")
    for number in range(20):
        last = await webhooks.add(operator, f"https://hooks.example/{number}", events=())
    admin = await room.signed_in("alice")
    sent = {"url": "https://hooks.example/more", "event": "connection.opened"}
    assert is_refused(await post(room, admin, "/administration/webhooks", **sent), "endpoint_refused", 409)
    await webhooks.remove(operator, last)
    assert (await post(room, admin, "/administration/webhooks", **sent)).status_code == 303
    for one in await webhooks.list_all(room.deployment):
        await webhooks.remove(operator, one)


@pytest.mark.parametrize(
    ("code", "is_taken"),
    [
        ("1" * 6, True),
        ("1" * 64, True),
        ("1" * 5, False),
        ("1" * 65, False),
        (f" {'1' * 6}", False),
        (f"\u202e{'1' * 6}", False),
    ],
)
async def test_a_code_has_a_length_and_no_hidden_characters(room: Room, code: str, is_taken: bool) -> None:
    person = await room.signed_in(await room.user())
    answer = await post(room, person, "/approvals/code", code=code)
    assert answer.status_code == (303 if is_taken else 400)
    assert (page_texts.english()["refused"]["user_code_title"] in html.unescape(answer.text)) is not is_taken


async def test_a_time_zone_is_one_that_there_is(room: Room) -> None:
    person = await room.signed_in(await room.user())
    fields = {f"how.{kind}": "daily" for kind in channels.KINDS} | {"language": "en", "digest_at": "08:00"}
    wrong = await post(room, person, "/notifications", **fields, zone="Europe/Nowhere")
    assert wrong.status_code == 400
    assert (await post(room, person, "/notifications", **fields, zone="Europe/Berlin")).status_code == 303


async def test_a_browser_is_added_by_its_own_subscription(room: Room) -> None:
    person = await room.signed_in(await room.user())
    keys = {"p256dh": "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"}
    right = {"endpoint": "https://push.example/1", "keys": {**keys, "auth": "tBHItJI5svbpez7KI4CCXg"}}
    unsafe = right | {"endpoint": "http://push.example/1"}
    known = page_texts.english()["notifications"]["known"]
    path = "/notifications/browser"
    for text in ("", "nothing", json.dumps(right | {"keys": {}})):
        assert is_refused(await post(room, person, path, subscription=text), "notice_choice", 400)
    assert (await post(room, person, path, subscription=json.dumps(unsafe))).status_code == 400
    assert (await post(room, person, path, subscription=json.dumps(right))).status_code == 303
    again = await post(room, person, path, subscription=json.dumps(right))
    assert (again.status_code, known in html.unescape(again.text)) == (400, True)


async def test_what_nobody_can_give_is_not_asked_for(room: Room) -> None:
    """The twins are in tests/portal/administration/test_access_requests.py."""
    person = await room.signed_in(await room.user())
    sent = {"group": "nothing", "reason": "the launch", "days": "3"}
    assert is_refused(await post(room, person, "/access-requests/new", **sent), "no_such_access", 404)


async def test_a_consent_is_decided_by_a_button(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(client))
    fields = fields_of(page, "/consent") | {"decision": "maybe"}
    fields.pop("form_token")
    assert is_refused(await post(room, person, "/consent", **fields), "no_decision", 400)
    assert (await post(room, person, "/consent", **fields | {"decision": "deny"})).status_code in {200, 303}


async def test_a_consent_gives_an_account_until_a_day_that_is_to_come(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    account = await room.account(user, "slack", label="Team", scopes=READ)
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(client))
    fields = fields_of(page, "/consent") | {"decision": "allow", f"level.{account.id}": "read"}
    fields.pop("form_token")
    over = await post(room, person, "/consent", **fields | {f"until.{account.id}": "2001-01-01"})
    assert is_refused(over, "end_day", 400)
    assert (await post(room, person, "/consent", **fields | {f"until.{account.id}": "7"})).status_code == 303


async def test_a_form_counts_only_whole() -> None:
    """The person left during the upload, so nobody sees this answer."""
    head = [(b"content-type", b"application/x-www-form-urlencoded")]

    def make_request(last: Message) -> Request:
        pieces: list[Message] = [{"type": "http.request", "body": b"decision=", "more_body": True}, last]

        async def receive() -> Message:
            return pieces.pop(0)

        return Request({"type": "http", "method": "POST", "headers": head}, receive)

    with pytest.raises(PageRefused) as refused:
        await read_form(make_request({"type": "http.disconnect"}))
    assert refused.value.title == page_texts.english()["refused"]["form_cut_title"]
    form = await read_form(make_request({"type": "http.request", "body": b"allow"}))
    assert form.one("decision") == "allow"


@pytest.mark.parametrize("is_there", [True, False])
async def test_an_access_is_taken_back_at_an_account_that_is_there(room: Room, is_there: bool) -> None:
    person, path, account = await agent_of(room)
    page = await person.submit(await person.open(path), {f"level.{account.id}": "read"}, form="/access")
    handle = fields_of(page, "/undo")["saved"]
    assert (await person.open(f"/connections/{account.id}")).status_code == 200
    if not is_there:
        async with room.deployment.transaction() as transaction:
            await connections.disconnect(transaction, room.deployment.keys, account, now=room.deployment.now())
        assert is_refused(await person.open(f"/connections/{account.id}"), "no_connection", 404)
    undone = await post(room, person, f"{path}/undo", saved=handle)
    assert (undone.status_code == 303, is_refused(undone, "permissions_changed", 409)) == (is_there, not is_there)


@pytest.mark.parametrize("who", ["address", "somebody else"])
async def test_so_many_codes_are_tried_from_an_address(room: Room, who: str) -> None:
    person, deployment = await room.signed_in(await room.user()), room.deployment
    async with deployment.transaction() as transaction:
        bucket = f"device:address:{counting_key('127.0.0.1' if who == 'address' else '192.0.2.1')}"
        for _ in range(50):
            await limits.spend(transaction, bucket, limit=50, window=600, now=deployment.now())
    answer = await post(room, person, "/device", user_code="ABCD-EFGH")
    assert is_refused(answer, "many_codes", 429) is (who == "address")
    deployment.database.clock_offset += 1800
