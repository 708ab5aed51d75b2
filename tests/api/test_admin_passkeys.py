"""If administration requires a passkey, so do admins' tokens for the Admin API; an operator's programs need none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator

import httpx2
import pytest

from server.administration.agents import NewAgent, register
from tests.portal.sign_in.test_passkeys import Holder, holder
from tests.portal.sign_in.test_step_up import confirm
from tests.support.person import Person
from tests.support.rooms.admin_room import REDIRECT, AdminRoom, problem, running_admin_room
from tests.support.rooms.oauth_world import claims_of
from tests.support.rooms.portal_room import query_of
from vault import users
from vault.records import Client, Role

RECENT = 900
VERIFIER = "v" * 64


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AdminRoom]:
    wanted = {"passkey_for": ["administration"]}
    async with running_admin_room(tmp_path_factory.mktemp("admin-passkeys") / "vault", sign_in=wanted) as opened:
        yield opened


@pytest.fixture
async def room(shared_room: AdminRoom) -> AsyncGenerator[AdminRoom]:
    shared_room.deployment.database.clock_offset += 10 * RECENT
    yield shared_room


async def admin(room: AdminRoom) -> Holder:
    one = await holder(room.room)
    async with room.deployment.transaction() as transaction:
        await users.set_role(transaction, one.user.id, Role.OWNER)
    await one.add()
    return one


async def console(room: AdminRoom, redirect: str = REDIRECT) -> Client:
    wanted = NewAgent("Console", redirect_uris=(redirect,), resources=(room.resource,))
    return (await register(room.operator, wanted)).client


async def ask(room: AdminRoom, person: Person, client: Client) -> httpx2.Response:
    """Send the admin's browser to the vault, as the program would."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    parameters = {"scope": "admin:read admin:people", "resource": room.resource, "code_challenge": challenge}
    return await person.open(room.room.authorize_path(client, **parameters))


async def redeem(room: AdminRoom, client: Client, answer: httpx2.Response) -> str:
    code = query_of(answer.headers["location"])["code"]
    redeemed = await room.room.vault.redeem(client.id, code, VERIFIER, redirect_uri=client.redirect_uris[0])
    return redeemed.json()["access_token"]


async def allow(one: Holder, page: httpx2.Response) -> httpx2.Response:
    return await one.person.submit(page, form="/consent", button=("decision", "allow"))


async def add_person(room: AdminRoom, token: str, name: str) -> httpx2.Response:
    return await room.call("POST", "/people", token=token, json={"name": name})


async def test_an_admin_allows_a_program_with_the_passkey_and_then_it_changes_things(room: AdminRoom) -> None:
    one, client = await admin(room), await console(room)
    room.deployment.database.clock_offset += RECENT
    refused = await ask(room, one.person, client)
    assert refused.status_code == 403
    assert "needs your passkey here" in refused.text
    page = await confirm(one, refused)
    assert page.url.path == "/consent"
    token = await redeem(room, client, await allow(one, page))
    assert claims_of(token)["amr"] == ["mfa"]
    assert (await add_person(room, token, "with-a-passkey")).status_code == 201
    room.deployment.database.clock_offset += RECENT
    late = await add_person(room, token, "too-late")
    problem(late, 401, "sign_in_again")
    assert f'max_age="{RECENT}"' in late.headers["www-authenticate"]
    assert (await room.call("GET", "/people", token=token)).status_code == 200


async def test_what_was_allowed_before_is_not_allowed_again_without_the_passkey(room: AdminRoom) -> None:
    one, client = await admin(room), await console(room, "https://console.example/callback")
    first = await allow(one, await ask(room, one.person, client))
    assert first.status_code == 303, "adding a passkey proved it"
    await redeem(room, client, first)
    assert (await ask(room, one.person, client)).status_code == 303, "the same again is answered at once"
    room.deployment.database.clock_offset += RECENT
    assert (await ask(room, one.person, client)).status_code == 403


async def test_the_answer_counts_only_while_the_passkey_does_and_no_passkey_is_needed_to_refuse(
    room: AdminRoom,
) -> None:
    one, client = await admin(room), await console(room)
    room.deployment.database.clock_offset += RECENT - 60
    page = await ask(room, one.person, client)
    assert page.url.path == "/consent"
    room.deployment.database.clock_offset += 60
    assert (await allow(one, page)).status_code == 403
    denied = await one.person.submit(page, form="/consent", button=("decision", "deny"))
    assert query_of(denied.headers["location"])["error"] == "access_denied"


async def test_a_token_of_the_time_before_the_setting_only_reads(room: AdminRoom) -> None:
    object.__setattr__(room.deployment.settings.sign_in, "passkey_for", ())
    try:
        token = await room.signed_in_token("admin:read", "admin:people")
        assert "amr" not in claims_of(token)
        assert (await add_person(room, token, "before-the-setting")).status_code == 201
    finally:
        object.__setattr__(room.deployment.settings.sign_in, "passkey_for", ("administration",))
    problem(await add_person(room, token, "after-the-setting"), 401, "sign_in_again")
    assert (await room.call("GET", "/people", token=token)).status_code == 200


async def test_a_service_account_of_the_operator_needs_none(room: AdminRoom) -> None:
    assert (await add_person(room, await room.token_with(), "by-a-program")).status_code == 201


async def test_an_admin_s_other_agents_need_none(room: AdminRoom) -> None:
    one, client = await admin(room), await room.room.agent()
    room.deployment.database.clock_offset += RECENT
    page = await one.person.open(room.room.authorize_path(client))
    assert page.url.path == "/consent"
    assert "code" in query_of((await allow(one, page)).headers["location"])
