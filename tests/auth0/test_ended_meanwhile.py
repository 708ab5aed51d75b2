"""What ends while an application's user connects an account: it gets no code for it, and its services no permission."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from providers.simulator.person import consent
from server.connecting.app_returns import AppReturn, issue_code
from server.sign_in.callers import SessionCaller, SessionEnded
from tests.auth0.application import CALLBACK, Application, running_application
from tests.conftest import Store
from tests.support.inspection import session_of, until_waiting
from tests.support.rooms.portal_room import Room, accounts_of, query_of
from tests.support.simulator_apps import wait_until_held
from vault import clients, connections, delegations, grants, tickets, users
from vault.records import Client, Connection, Ticket, TicketPurpose
from vault.storage.database import Transaction

SCOPES = frozenset({"chat:write"})
DENIED = {"error": "access_denied", "state": "connect-state"}


@pytest.fixture
async def application(store: Store) -> AsyncGenerator[Application]:
    async with running_application(store) as made:
        yield made


async def end(
    what: str,
    transaction: Transaction,
    application: Application,
    account: Connection | None = None,
    service: Client | None = None,
) -> None:
    """End one of the things that a code depends on, as whoever ends it does."""
    deployment, user_id, client_id = application.room.deployment, application.user.id, application.client.id
    now, which = deployment.now(), {"user_id": user_id, "client_id": client_id}
    if what == "application":
        await clients.remove_client(transaction, client_id, now=now)
    elif what == "cut off":
        await users.hold_user(transaction, user_id)
        await grants.revoke_client_grants(transaction, **which, reason="cut_off", now=now)
        await delegations.revoke_for_client(transaction, **which, now=now)
    elif what == "person":
        await users.disable_user(transaction, user_id, now=now)
    elif what == "service" and service is not None:
        await clients.remove_client(transaction, service.id, now=now)
    elif what == "permission" and account is not None:
        await delegations.expire(transaction, **which, connection_id=account.id, now=now)
    elif what == "account" and account is not None:
        await connections.disconnect(transaction, deployment.keys, account, now=now)
    else:
        assert what == "nothing"


async def unused_codes(room: Room, application: Application) -> Sequence[Ticket]:
    return await tickets.list_unused(
        room.deployment.database,
        room.deployment.keys,
        purpose=TicketPurpose.APP_CODE,
        user_id=application.user.id,
        client_id=application.client.id,
        now=room.deployment.now(),
    )


@pytest.mark.parametrize("what", ["application", "cut off", "permission", "account", "service", "person", "nothing"])
async def test_a_code_is_for_what_is_there_when_it_is_made(application: Application, store: Store, what: str) -> None:
    room, user = application.room, application.user
    deployment, now = room.deployment, room.deployment.now()
    account = await room.account(user, "slack", label="Team", scopes=SCOPES)
    services = [await room.agent(name="Orders"), await room.agent(name="Invoices")]
    client_id = application.client.id
    async with deployment.transaction() as transaction:
        await delegations.allow(
            transaction, user_id=user.id, client_id=client_id, connection_id=account.id, scopes=SCOPES, now=now
        )
    caller = SessionCaller(deployment, await session_of(deployment, application.person))
    back = AppReturn(CALLBACK, "connect-state", "", services=tuple(one.id for one in services))
    async with deployment.transaction() as ending:
        await end(what, ending, application, account, services[0])
        issuing = asyncio.ensure_future(
            issue_code(
                deployment.for_caller(caller),
                back,
                connection=account,
                client_id=client_id,
                is_allowed=True,
            )
        )
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=issuing)
    if what == "person":
        with pytest.raises(SessionEnded):
            await issuing
    else:
        told = query_of(await issuing)
        told.pop("error_description", None)
        assert told == DENIED or (what in ("service", "nothing") and "connect_code" in told)
    live = [
        one.client_id
        for one in await delegations.list_for_connection(deployment.database, user.id, connection_id=account.id)
        if one.is_live(now)
    ]
    expected = {"service": services[1:], "nothing": services}.get(what, [])
    assert set(live) - {client_id} == {one.id for one in expected}
    assert len(await unused_codes(room, application)) == (1 if expected else 0)


async def test_an_answer_that_was_stored_after_the_application_ended_brings_no_code(application: Application) -> None:
    """Its `state` no longer names the application."""
    room, back = application.room, AppReturn(CALLBACK, "connect-state", "")
    account = await room.account(application.user, "slack", label="Team", scopes=SCOPES)
    for client_id in (None, application.client.id):
        told = query_of(
            await issue_code(room.deployment, back, connection=account, client_id=client_id, is_allowed=False)
        )
        assert ("connect_code" in told, told.get("error")) == (
            (False, "access_denied") if client_id is None else (True, None)
        )


@pytest.mark.parametrize("what", ["cut off", "application", "nothing"])
async def test_an_application_that_ends_while_the_provider_answers_gets_no_code(
    application: Application, what: str
) -> None:
    room, started = application.room, (await application.start()).json()
    page = await application.person.open(f"{started['connect_uri']}?ticket={started['connect_params']['ticket']}")
    there = await application.person.submit(page, form="/connect/", button=("decision", "allow"))
    agreed = await consent(there.headers["location"])
    room.simulator.fault("slack.token.code", "hold", when="after")
    returning = asyncio.ensure_future(application.person.open(agreed))
    await wait_until_held(room.simulator, "slack.token.code")
    async with room.deployment.transaction() as ending:
        await end(what, ending, application)
    room.simulator.sandbox.faults.release()
    told = query_of((await returning).headers["location"])
    assert ("connect_code" in told) is (what == "nothing")
    assert told.get("error") == (None if what == "nothing" else "access_denied")
    assert "slack" in [one.provider for one in await accounts_of(room, application.user)], "the account stays"
    assert len(await unused_codes(room, application)) == (1 if what == "nothing" else 0)


@pytest.mark.parametrize("what", ["account", "nothing"])
async def test_an_account_that_is_disconnected_while_an_application_completes_it_is_gone(
    application: Application, store: Store, what: str
) -> None:
    room, started = application.room, await application.start()
    code = query_of(await application.to_return(started))["connect_code"]
    body = {"auth_session": started.json()["auth_session"], "connect_code": code, "redirect_uri": CALLBACK}
    (account,) = await accounts_of(room, application.user)
    token = await application.me_token()
    async with room.deployment.transaction() as ending:
        await end(what, ending, application, account)
        completing = asyncio.ensure_future(application.me("POST", "complete", token=token, json=body))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=completing)
    answer = await completing
    if what == "account":
        assert (answer.status_code, answer.json()["detail"]) == (404, "Invalid or expired session")
    else:
        assert (answer.status_code, answer.json()["connection"]) == (201, "sign-in-with-slack")
