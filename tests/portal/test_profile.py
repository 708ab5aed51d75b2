"""The account page: signed-in browsers, the company's sign-in, the download, and deleting the account."""

from __future__ import annotations

import asyncio
import html
import json
import socket
from collections.abc import AsyncGenerator
from typing import Final

import pytest

from server.administration import people
from server.administration.actor import Actor
from tests.support.harness import PASSWORD
from tests.support.person import Person, forms_of, session_cookie, session_token
from tests.support.rooms.portal_room import Room, running_room
from vault import connections, directory, groups, tool_choices, users
from vault.approvals import access_requests, approvals, standing_approvals
from vault.approvals.approvals import ToolCall
from vault.approvals.standing_approvals import Binding
from vault.audit import audit
from vault.directory import ProvisionedPerson
from vault.records import Event, Principal, User
from vault.sign_in import passkeys, sessions
from vault.storage.database import schema_files
from vault.storage.schema_shape import expected_shape
from vault.upkeep import revocations

RECENT = 900
IDLE = 2 * 86400


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {"sign_in": {"session_idle_lifetime": IDLE}}
    async with running_room(tmp_path_factory.mktemp("profile"), overrides=overrides) as opened:
        yield opened


@pytest.fixture
async def room(shared_room: Room) -> AsyncGenerator[Room]:
    shared_room.deployment.database.clock_offset += 10 * RECENT
    yield shared_room


async def _is_in(room: Room, cookie: str) -> bool:
    stranger = await room.browser()
    return (await stranger.http.get("/connections", headers={"cookie": cookie})).status_code == 200


async def _sign_out(person: Person, session: str) -> int:
    page = await person.open("/account")
    token = next(one for one in forms_of(page.text) if one.action == "/account/sessions").fields[0][1]
    data = {"form_token": token, "session": session}
    return (await person.http.post("/account/sessions", data=data, headers={"origin": person.origin})).status_code


async def _id_of(room: Room, person: Person) -> str:
    found = await sessions.find_session(
        room.deployment.database, session_token(person.http), now=room.deployment.now(), idle_lifetime=IDLE
    )
    assert found is not None
    return found[0].id


async def test_a_person_sees_their_browsers_and_signs_one_out_there(room: Room) -> None:
    user = await room.user()
    here, there, kept = [await room.signed_in(user) for _ in range(3)]
    page = await here.open("/account")
    assert page.text.count("Sign out there") == 2
    assert page.text.count("This browser") == 1
    assert "this computer or a local network" in page.text
    assert session_token(here.http) not in page.text
    assert await _sign_out(here, await _id_of(room, there)) == 303
    assert [await _is_in(room, session_cookie(one.http)) for one in (here, there, kept)] == [True, False, True]
    assert (await room.kinds(user))[-1] == "session.ended_elsewhere"


async def test_a_browser_that_may_be_idle_for_days_is_still_shown_and_signed_out(room: Room) -> None:
    user = await room.user()
    there = await room.signed_in(user)
    wanted = await _id_of(room, there)
    room.deployment.database.clock_offset += IDLE - 60
    here = await room.signed_in(user)
    assert len(json.loads((await here.http.get("/account/data")).text)["browsers"]) == 2
    assert await _sign_out(here, wanted) == 303


@pytest.mark.parametrize(
    ("language", "method", "done"),
    [("de", "Passwort ·", "Dort abgemeldet."), ("en", "password ·", "Signed out there.")],
)
async def test_the_page_is_in_the_browser_s_language(room: Room, language: str, method: str, done: str) -> None:
    user = await room.user()
    here, _ = await room.signed_in(user), await room.signed_in(user)
    here.http.headers["accept-language"] = language
    page = await here.open("/account")
    assert method in page.text
    page = await here.submit(page, {"session": "others"}, form="/account/sessions")
    assert done in page.text


async def test_signing_out_everywhere_else_keeps_this_browser(room: Room) -> None:
    user, bystander = await room.user(), await room.signed_in(await room.user())
    here, there = await room.signed_in(user), await room.signed_in(user)
    page = await here.open("/account")
    page = await here.submit(page, {"session": "others"}, form="/account/sessions")
    assert "Signed out there" in page.text
    assert [await _is_in(room, session_cookie(one.http)) for one in (here, there, bystander)] == [True, False, True]


async def test_nobody_signs_out_somebody_elses_browser_or_with_an_old_sign_in(room: Room) -> None:
    user = await room.user()
    here, there = await room.signed_in(user), await room.signed_in(user)
    stranger, _ = await _pair(room)
    wanted = await _id_of(room, there)
    assert await _sign_out(stranger, wanted) == 404
    room.deployment.database.clock_offset += RECENT
    assert await _sign_out(here, wanted) == 403
    assert await _is_in(room, session_cookie(there.http))
    page = await here.open("/sign-in?again=1&return_to=/account")
    await here.sign_in(user.name, PASSWORD, page=page)
    assert await _sign_out(here, wanted) == 303
    assert not await _is_in(room, session_cookie(there.http))


async def _pair(room: Room) -> tuple[Person, Person]:
    user = await room.user()
    return await room.signed_in(user), await room.signed_in(user)


async def test_a_first_password_needs_a_recent_sign_in(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update users set password_hash = null where id = :id", {"id": user.id})
    page = await person.open("/account/password")
    assert "Set a password" in page.text
    new = {"password": "quite another password", "password_again": "quite another password"}
    room.deployment.database.clock_offset += RECENT
    assert (await person.submit(page, new, form="/account/password")).status_code == 403
    room.deployment.database.clock_offset -= RECENT
    assert (await person.submit(page, new, form="/account/password")).status_code == 200


async def test_the_download_has_what_is_kept_and_nothing_secret(room: Room) -> None:
    user, client = await room.user(), await room.agent(name="Report bot")
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    async with room.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer="https://login.example", subject="alice-1", user_id=user.id, now=room.deployment.now()
        )
        await passkeys.add(
            transaction,
            user.id,
            credential_id=b"cred-" + user.id.encode(),
            public_key=b"public",
            sign_count=0,
            is_synced=False,
            name="Blue key",
            now=room.deployment.now(),
        )
        told = ProvisionedPerson(user.id, "a@x.example", 0, 0, external_id="00u1", attributes={"displayName": "A"})
        await directory.store_person(transaction, told)
        await groups.set_groups(transaction, user.id, ["Sales"], source="openid:company", now=0, expires_at=None)
    file = await person.http.get("/account/data")
    assert file.headers["content-disposition"] == 'attachment; filename="token-vault-account.json"'
    found = json.loads(file.text)
    assert found["user"]["name"] == user.name
    assert found["identities"] == [{"issuer": "https://login.example", "subject": "alice-1", "email": None}]
    assert found["passkeys"][0]["name"] == "Blue key"
    assert found["groups"] == [{"name": "Sales", "by": ["openid:company"], "until": None}]
    assert found["directory"] == {"userName": "a@x.example", "externalId": "00u1", "displayName": "A"}
    assert [one["provider"] for one in found["accounts"]] == ["slack"]
    assert found["permissions"][0]["scopes"] == ["chat:write"]
    assert [one["name"] for one in found["agents"]] == ["Report bot"]
    events = await room.events(user)
    assert [one["kind"] for one in found["activity"]] == [one.kind for one in events]
    stored = await users.get_user(room.deployment.database, user.id)
    assert stored is not None
    row = await room.deployment.database.fetch_one("select hex(refresh_sealed) as sealed from connections")
    assert row is not None
    for secret in (stored.password_hash, session_token(person.http), room.simulator.url):
        assert str(secret) not in file.text
    stranger = json.loads((await (await room.signed_in(await room.user())).http.get("/account/data")).text)
    assert stranger["accounts"] == []


async def test_the_download_has_what_the_person_ended_chose_and_was_asked_and_nothing_of_others(room: Room) -> None:
    user, client = await room.user(), await room.agent(name="Report bot")
    person, deployment = await room.signed_in(user), room.deployment
    email, team = f"{user.id}@login.example".lower(), f"Team of {user.name}"
    await room.connect(person, user, client)
    (ended,) = await connections.list_connections(deployment.database, user.id)
    now, principal = deployment.now(), Principal(user.id, client.id, "", scopes=frozenset(), audience="")
    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, ended, now=now)
    await revocations.revoke_upstream(deployment.vault, ended.id)
    await room.connect(person, user, client)
    (connection,) = await connections.list_connections(deployment.database, user.id)
    async with deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer="https://login.example", subject=user.id, user_id=user.id, now=now
        )
        await users.note_email(transaction, issuer="https://login.example", subject=user.id, email=email)
        group = await groups.create_group(transaction, team, now=now)
        await access_requests.set_manager(transaction, group.id, user.id, is_manager=True, now=now)
        await tool_choices.set_tool_set(transaction, user.id, client_id=client.id, tool_set="reading", now=now)
        await standing_approvals.give(
            transaction,
            deployment.keys,
            binding=Binding(user.id, client.id, connection.id, tool="slack_post", target={"channel": "C1"}),
            provider="slack",
            account=connection.label,
            names={},
            per_day=3,
            expires_at=now + 3600,
            now=now,
        )
        await approvals.ask(
            transaction,
            deployment.keys,
            call=ToolCall("slack_post", lambda: {"text": "Hello"}),
            principal=principal,
            connection_id=connection.id,
            provider="slack",
            account=connection.account,
            label=connection.label,
            scopes=frozenset({"chat:write"}),
            now=now,
        )
    found = json.loads((await person.http.get("/account/data")).text)
    assert found["user"]["role"] == "member"
    assert found["identities"][0]["email"] == email
    assert found["manages_groups"] == [team]
    assert {one["id"]: one["status"] for one in found["accounts"]} == {ended.id: "revoked", connection.id: "active"}
    assert found["tool_sets"] == [{"agent": client.id, "tool_set": "reading"}]
    (standing,), (question,), (revoked,) = found["standing_approvals"], found["open_questions"], found["revocations"]
    assert (standing["target"], standing["calls_per_day"]) == ({"channel": "C1"}, 3)
    assert (question["tool"], question["arguments"]) == ("slack_post", {"text": "Hello"})
    assert revoked["account"] == ended.id
    assert found["notifications"]["language"] == ""
    stranger = json.loads((await (await room.signed_in(await room.user())).http.get("/account/data")).text)
    for name in ("accounts", "identities", "manages_groups", "tool_sets", "standing_approvals", "open_questions"):
        assert stranger[name] == []
    assert stranger["revocations"] == []


# Tables with rows about people that the download doesn't name one by one.
_LEFT_OUT: Final = {
    "agent_receipts": "the agent's receipts, whose events are in the activity",
    "approval_answers": "counts of answers, for the offer of a standing approval",
    "deletions": "the end of the account",
    "handles": "secrets that end within hours",
    "notices": "about events that are in the activity",
    "released_tokens": "digests of tokens, until they end",
    "tickets": "secrets that end within minutes",
    "upstream_revocations": "attempts, whose result is in revocations",
    "user_codes": "a secret",
}
_NAMED: Final = {
    "access_requests": "access_requests",
    "approvals": "open_questions",
    "company_permissions": "permissions_by_companies",
    "connections": "accounts",
    "delegations": "permissions",
    "events": "activity",
    "grants": "sign_ins_of_agents",
    "group_managers": "manages_groups",
    "identities": "identities",
    "memberships": "groups",
    "notice_channels": "notifications",
    "notice_settings": "notifications",
    "passkeys": "passkeys",
    "provisioned_people": "directory",
    "revocation_receipts": "revocations",
    "sessions": "browsers",
    "standing_approvals": "standing_approvals",
    "tool_choices": "tool_sets",
}


async def test_every_table_about_people_is_in_the_download_or_left_out_for_a_reason(room: Room) -> None:
    shape = expected_shape(schema_files()[-1].number, keys=False)
    tables = {one.split()[1].partition(".")[0] for one in shape if one.startswith("column ") and ".user_id " in one}
    assert tables == {*_NAMED, *_LEFT_OUT}
    found = json.loads((await (await room.signed_in(await room.user())).http.get("/account/data")).text)
    assert set(_NAMED.values()) <= found.keys()


async def test_a_file_that_is_read_slowly_tells_nothing_of_what_happens_meanwhile(room: Room) -> None:
    """Otherwise, whoever stole a session would keep learning what happens after it ended."""
    user = await room.user()
    person = await room.signed_in(user)
    long = {"note": "x" * 3000}
    async with room.deployment.transaction() as transaction:
        some = (Event("tool.called", user_id=user.id, details=long) for _ in range(1500))
        await audit.append(transaction, *some, now=room.deployment.now())
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", room.deployment.settings.server.port))
        head = f"GET /account/data HTTP/1.1\r\nhost: localhost:{room.deployment.settings.server.port}\r\n"
        slow.sendall(f"{head}connection: close\r\ncookie: {session_cookie(person.http)}\r\n\r\n".encode())
        assert b"200 OK" in await asyncio.to_thread(slow.recv, 1024)
        async with room.deployment.transaction() as transaction:
            later = Event("account.canary", user_id=user.id, details={})
            await audit.append(transaction, later, now=room.deployment.now())
        text = await asyncio.to_thread(_read_all, slow)
    assert text.count('"tool.called"') >= 1500
    assert "account.canary" not in text
    assert "account.canary" in (await person.http.get("/account/data")).text  # the twin


def _read_all(one: socket.socket) -> str:
    one.settimeout(20)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return b"".join(iter(lambda: one.recv(1 << 16), b"")).decode()


async def test_a_long_activity_is_written_in_parts(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    async with room.deployment.transaction() as transaction:
        many = [Event("tool.called", user_id=user.id, details={"number": number}) for number in range(1100)]
        await audit.append(transaction, *many, now=room.deployment.now())
    found = json.loads((await person.http.get("/account/data")).text)
    assert [one["details"]["number"] for one in found["activity"] if one["kind"] == "tool.called"] == list(range(1100))


async def _delete(person: Person, name: str) -> tuple[int, str]:
    page = await person.open("/account/delete")
    assert page.status_code == 200, page.text
    answer = await person.submit(page, {"name": name}, form="/account/delete")
    return answer.status_code, html.unescape(answer.text)


async def test_a_person_deletes_their_account_and_gets_a_receipt(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person, elsewhere = await room.signed_in(user), await room.signed_in(user)
    await room.connect(person, user, client)
    cookies = [session_cookie(one.http) for one in (person, elsewhere)]
    status, page = await _delete(person, "somebody else")
    assert status == 400
    assert "That isn't your user name." in page
    assert await users.get_user(room.deployment.database, user.id) is not None
    status, page = await _delete(person, user.name.upper())
    assert status == 200
    assert "Your account is deleted" in page
    assert "says that it revoked access" in page
    assert await users.get_user(room.deployment.database, user.id) is None
    assert not await connections.list_connections(room.deployment.database, user.id)
    assert [await _is_in(room, one) for one in cookies] == [False, False]
    assert {"user.removed", "connection.upstream_revoked", "user.key_destroyed"} <= set(await room.kinds(user))


async def test_deleting_needs_a_recent_sign_in(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open("/account/delete")
    room.deployment.database.clock_offset += RECENT
    assert (await person.submit(page, {"name": user.name}, form="/account/delete")).status_code == 403
    refused = await person.open("/account/delete")
    assert refused.status_code == 403
    assert "return_to=%2Faccount%2Fdelete" in refused.text
    page = await person.open("/sign-in?again=1&return_to=/account/delete")
    page = await person.sign_in(user.name, PASSWORD, page=page)
    assert (await person.submit(page, {"name": user.name}, form="/account/delete")).status_code == 200


async def test_the_only_admin_stays(room: Room) -> None:
    person = await room.signed_in("alice")
    refused = await person.open("/account/delete")
    assert refused.status_code == 409
    assert "this vault has no other administrator" in refused.text
    other = await room.vault.add_user("second-admin", is_admin=True)
    assert (await person.open("/account/delete")).status_code == 200
    async with room.deployment.transaction() as transaction:
        await users.disable_user(transaction, other.id, now=room.deployment.now())
    assert (await person.open("/account/delete")).status_code == 409


async def test_a_command_and_the_page_delete_the_same(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    await room.connect(await room.signed_in(user), user, client)
    await people.delete(Actor(room.deployment, None, "command_line"), user)
    assert await _traces(room, user) == 0


async def _traces(room: Room, user: User) -> int:
    """Rows that still have the person as their owner, except for the activity and ended records."""
    found = 0
    for table in ("users", "identities", "sessions", "passkeys", "tool_choices", "memberships"):
        column = "id" if table == "users" else "user_id"
        row = await room.deployment.database.fetch_one(
            f"select count(*) as n from {table} where {column} = :id", {"id": user.id}
        )
        assert row is not None
        found += int(str(row["n"]))
    return found
