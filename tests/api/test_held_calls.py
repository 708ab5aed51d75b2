"""A call of the Admin API whose token ends before its body has arrived, or while it is carried out, changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from server.administration import agents, people
from server.administration.actor import Actor
from server.administration.agents import RegisteredAgent
from server.oauth import tokens
from server.sign_in.callers import AgentCaller
from tests.conftest import Store
from tests.support.inspection import lock_row, until_waiting
from tests.support.network.held_requests import held_json
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import clients, grants, users
from vault.records import Principal, User

End = Callable[[AdminRoom, RegisteredAgent, User], Awaitable[object]]
PERSON = {"name": "mallory", "admin": True}


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[AdminRoom]:
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_admin_room(store.data, **overrides) as opened:
        yield opened


async def remove_agent(room: AdminRoom, account: RegisteredAgent, _: User) -> None:
    await agents.remove(room.operator, account.client)


async def disable(room: AdminRoom, _: RegisteredAgent, admin: User) -> None:
    await people.set_disabled(room.operator, admin, is_disabled=True)


async def revoke_grants(room: AdminRoom, account: RegisteredAgent, admin: User) -> None:
    async with room.deployment.transaction() as transaction:
        await grants.revoke_client_grants(
            transaction, user_id=admin.id, client_id=account.client.id, reason="test", now=room.deployment.now()
        )


async def revoke_token(room: AdminRoom, account: RegisteredAgent, _: User) -> None:
    form = {"client_id": account.client.id, "client_secret": account.secret, "token": account_token[account.client.id]}
    assert (await room.http.post("/revoke", data=form)).status_code == 200


async def expire(room: AdminRoom, _account: RegisteredAgent, _admin: User) -> None:
    room.deployment.database.clock_offset += 3600


async def do_nothing(_room: AdminRoom, _account: RegisteredAgent, _admin: User) -> None:
    pass


account_token: dict[str, str] = {}


async def caller(room: AdminRoom) -> tuple[RegisteredAgent, User, str]:
    """A service account of another admin than the room's, the admin, and a token."""
    admin = await room.room.vault.add_user("grace", is_admin=True)
    account = await room.service_account(name="grace")
    token = str((await room.request_token(account)).json()["access_token"])
    account_token[account.client.id] = token
    return account, admin, token


@pytest.mark.parametrize(
    "end", [remove_agent, disable, revoke_grants, revoke_token, expire, do_nothing], ids=lambda end: end.__name__
)
async def test_a_call_whose_body_arrives_after_its_token_ended_adds_no_one(room: AdminRoom, end: End) -> None:
    account, admin, token = await caller(room)
    async with held_json(room.room.url, "/admin/v1/people", PERSON, token=token) as held:
        await end(room, account, admin)
        answer = await held.finish()
    added = await users.find_user(room.deployment.database, "mallory")
    if end is do_nothing:
        assert answer.status_code == 201, answer.text
        assert added is not None
    else:
        problem(answer, 401, "invalid_token")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert added is None


async def test_a_call_whose_admin_lost_the_role_meanwhile_is_refused(room: AdminRoom) -> None:
    _, admin, token = await caller(room)
    async with held_json(room.room.url, "/admin/v1/people", PERSON, token=token) as held:
        await people.set_admin(room.operator, admin, is_admin=False)
        problem(await held.finish(), 403, "forbidden")


async def own_actor(room: AdminRoom) -> tuple[RegisteredAgent, User, Actor]:
    """The actor of a call that was accepted."""
    account, admin, token = await caller(room)
    async with asyncio.timeout(
        60
    ):  # the use of the client is recorded after the answer, and would wait for its row, too
        while (await clients.get_client(room.deployment.database, account.client.id)).last_used_at is None:
            await asyncio.sleep(0.01)
    principal: Principal = await tokens.verify(room.deployment, token, audiences=frozenset({room.resource}))
    ended = tokens.TokenRefused("ended")
    own = room.deployment.for_caller(AgentCaller(principal, lambda: ended))
    return account, admin, Actor(own, admin, "admin_api", agent=account.client)


@pytest.mark.parametrize("end", [remove_agent, disable], ids=lambda end: end.__name__)
async def test_a_change_that_waits_for_the_end_of_its_token_is_refused(room: AdminRoom, store: Store, end: End) -> None:
    account, admin, actor = await own_actor(room)
    async with room.deployment.transaction() as holding:
        table, identity = ("users", admin.id) if end is disable else ("clients", account.client.id)
        await lock_row(holding, table, identity, is_sqlite=store.is_sqlite)
        ending = asyncio.ensure_future(end(room, account, admin))
        await until_waiting(holding, number=1, is_sqlite=store.is_sqlite)
        changing = asyncio.ensure_future(people.add_person(actor, "mallory", is_admin=True))
        await until_waiting(holding, number=2, is_sqlite=store.is_sqlite)
    await ending
    with pytest.raises(tokens.TokenRefused):
        await changing
    assert await users.find_user(room.deployment.database, "mallory") is None


async def test_a_change_that_began_before_the_end_of_its_token_is_made_first(room: AdminRoom, store: Store) -> None:
    account, _, actor = await own_actor(room)
    async with actor.change() as transaction:
        ending = asyncio.ensure_future(agents.remove(room.operator, account.client))
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite)
        assert not ending.done()
        await users.create_user(transaction, "mallory", now=room.deployment.now())
    await ending
    assert await users.find_user(room.deployment.database, "mallory") is not None
    with pytest.raises(tokens.TokenRefused):
        await people.add_person(actor, "trudy", is_admin=True)
