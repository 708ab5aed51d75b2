"""Forms that arrive while what they change is changed: they are refused, and what has ended stays so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from html import unescape

import httpx2
import pytest

from server.portal.access.access_changes import end_agent
from server.sign_in.callers import SessionCaller
from tests.conftest import Store
from tests.portal.test_held_forms import post
from tests.portal.test_recognition import cursor
from tests.support.inspection import lock_row, session_of, until_waiting
from tests.support.refused_pages import is_refused
from tests.support.rooms.portal_room import Room, query_of, running_room
from vault import clients, delegations, tickets, users
from vault.records import Client, TicketPurpose, User

READ, WRITE = frozenset({"channels:read"}), frozenset({"channels:read", "chat:write"})


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as opened:
        yield opened


@pytest.mark.parametrize("is_ended", [True, False])
@pytest.mark.parametrize("undoes", [True, False])
async def test_a_permission_that_ends_while_a_form_changes_it_stays_ended(
    room: Room, store: Store, *, is_ended: bool, undoes: bool
) -> None:
    user, client = await room.user(), await room.agent()
    await room.grant(user, client)
    account = await room.account(user, "slack", label="Team", scopes=WRITE)
    which, now = {"user_id": user.id, "client_id": client.id, "connection_id": account.id}, room.deployment.now()
    async with room.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=READ, now=now)
    person = await room.signed_in(user)
    page = await person.open(f"/agents/{client.id}")
    answers: dict[str, str | list[str] | None] = {f"level.{account.id}": "write"}
    if undoes:
        page, answers = await person.submit(page, answers, form="/access"), {}
    async with room.deployment.transaction() as ending:
        await users.hold_user(ending, user.id)
        sent = asyncio.ensure_future(post(person, page, answers, form="/undo" if undoes else "/access"))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=sent)
        if is_ended:
            assert await delegations.revoke(ending, **which, now=now)
    answer = await sent
    held = await delegations.get(room.deployment.database, **which)
    assert held is not None
    if is_ended:
        assert is_refused(answer, "permissions_changed", 409)
        assert held.revoked_at is not None
    else:
        assert answer.status_code == 303, answer.text
        assert (held.revoked_at, held.scopes) == (None, READ if undoes else WRITE)


async def answer_while_cut_off(
    room: Room, store: Store, user: User, client: Client, *, account: str | None = None, cut_off: str
) -> httpx2.Response:
    """Allow what a new link asks for; another page cuts the agent off `before` or `after` it, or `never`."""
    await room.grant(user, client)
    person, other = await room.signed_in(user), await room.signed_in(user)
    page = await person.open((await room.link(user, client, scopes=WRITE)).url)
    ending = await other.open(f"/agents/{client.id}/cut-off")
    answers: dict[str, str | list[str] | None] = {"decision": "allow", "level.asked": "write"}
    if account is not None:
        answers["account"] = account
    forms = [post(person, page, answers, form="/connect/")]
    if cut_off != "never":
        forms.insert(0 if cut_off == "before" else 1, post(other, ending, {}, form="/cut-off"))
    sent = list[asyncio.Task[httpx2.Response]]()
    async with room.deployment.transaction() as holding:
        await lock_row(holding, "users", user.id, is_sqlite=store.is_sqlite)
        for number, form in enumerate(forms, start=1):
            sent.append(asyncio.ensure_future(form))
            await until_waiting(holding, number=number, is_sqlite=store.is_sqlite)
    done = await asyncio.gather(*sent)
    return done[1 if cut_off == "before" else 0]


@pytest.mark.parametrize("cut_off", ["before", "after", "never"])
async def test_an_agent_that_is_cut_off_while_a_link_lets_it_in_is_not_let_in(
    room: Room, store: Store, cut_off: str
) -> None:
    """Using the link and giving the permission are one step: the cut-off comes before both, or ends both."""
    user, client = await room.user(), await room.agent()
    account = await room.account(user, "slack", label="Team", scopes=WRITE)
    answer = await answer_while_cut_off(room, store, user, client, account=account.id, cut_off=cut_off)
    check_answer(answer, cut_off)
    held = await delegations.get(
        room.deployment.database, user_id=user.id, client_id=client.id, connection_id=account.id
    )
    assert (held is not None and held.revoked_at is None) is (cut_off == "never")


def check_answer(answer: httpx2.Response, cut_off: str) -> None:
    if cut_off == "before":
        assert answer.status_code == 410
        assert "This link was used, is older than ten minutes, or ended with the agent's access." in unescape(
            answer.text
        )
    else:
        assert answer.status_code == 303, answer.text


@pytest.mark.parametrize("is_ended", [True, False])
async def test_a_sign_in_asks_again_if_a_permission_ends_while_the_person_allows_it(
    room: Room, store: Store, *, is_ended: bool
) -> None:
    """The agent is let in with what the page showed, or not at all."""
    user, client = await room.user(), await room.agent()
    account = await room.account(user, "slack", label="Team", scopes=WRITE)
    which, now = {"user_id": user.id, "client_id": client.id, "connection_id": account.id}, room.deployment.now()
    async with room.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=READ, now=now)
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(client))
    async with room.deployment.transaction() as ending:
        await users.hold_user(ending, user.id)
        answers: dict[str, str | list[str] | None] = {f"level.{account.id}": "write", "decision": "allow"}
        sent = asyncio.ensure_future(post(person, page, answers, form="/consent"))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=sent)
        if is_ended:
            assert await delegations.revoke(ending, **which, now=now)
    answer = await sent
    assert answer.status_code == 303, answer.text
    held = await delegations.get(room.deployment.database, **which)
    assert held is not None
    assert (held.scopes, held.revoked_at is not None) == ((READ, True) if is_ended else (WRITE, False))
    if is_ended:
        page = await person.open(answer.headers["location"])
        answer = await post(person, page, {"decision": "allow"}, form="/consent")
    assert "code" in query_of(answer.headers["location"])


@pytest.mark.parametrize("decision", ["allow", "again"])
async def test_an_agent_that_is_cut_off_while_the_person_lets_it_in_keeps_no_permission(
    room: Room, store: Store, decision: str
) -> None:
    """The code and the permissions are one step: the cut-off comes before both, or ends both."""
    user, earlier = await room.user(), await cursor(room)
    account = await room.account(user, "slack", label="Team", scopes=WRITE)
    await room.grant(user, earlier)
    which = {"user_id": user.id, "connection_id": account.id}
    async with room.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, client_id=earlier.id, scopes=WRITE, now=room.deployment.now())
    for cuts_off in (True, False):
        client = await cursor(room, 40002)
        person, other = await room.signed_in(user), await room.signed_in(user)
        page = await person.open(room.authorize_path(client))
        caller = SessionCaller(room.deployment, await session_of(room.deployment, other))
        ending = list[asyncio.Task[None]]()
        async with room.deployment.transaction() as holding:
            await lock_row(holding, "users", user.id, is_sqlite=store.is_sqlite)
            answers: dict[str, str | list[str] | None] = {"decision": decision}
            if decision == "allow":
                answers[f"level.{account.id}"] = "write"
            sent = asyncio.ensure_future(post(person, page, answers, form="/consent"))
            await until_waiting(holding, number=1, is_sqlite=store.is_sqlite, unless=sent)
            if cuts_off:
                ending.append(asyncio.ensure_future(end_agent(room.deployment.for_caller(caller), user, client)))
                await until_waiting(holding, number=2, is_sqlite=store.is_sqlite, unless=sent)
        await asyncio.gather(*ending)
        answer = await sent
        assert "code" in query_of(answer.headers["location"])
        held = await delegations.get(room.deployment.database, **which, client_id=client.id)
        assert (held is not None and held.revoked_at is None) is not cuts_off


@pytest.mark.parametrize("cut_off", ["before", "after", "never"])
async def test_an_agent_that_is_cut_off_while_a_link_leads_to_the_provider_gets_nothing_there(
    room: Room, store: Store, cut_off: str
) -> None:
    user, client = await room.user(), await room.agent()
    answer = await answer_while_cut_off(room, store, user, client, cut_off=cut_off)
    check_answer(answer, cut_off)
    waiting = await tickets.list_unused(
        room.deployment.database,
        room.deployment.keys,
        purpose=TicketPurpose.UPSTREAM_STATE,
        user_id=user.id,
        client_id=client.id,
        now=room.deployment.now(),
    )
    assert bool(waiting) is (cut_off == "never")


@pytest.mark.parametrize("is_removed", [True, False])
async def test_a_link_that_an_agent_got_while_it_was_removed_lets_it_in_nowhere(
    room: Room, *, is_removed: bool
) -> None:
    user, client = await room.user(), await room.agent()
    account = await room.account(user, "slack", label="Team", scopes=WRITE)
    person = await room.signed_in(user)
    if is_removed:
        async with room.deployment.transaction() as transaction:
            await clients.remove_client(transaction, client.id, now=room.deployment.now())
    page = await person.open((await room.link(user, client, scopes=WRITE)).url)
    answers: dict[str, str | list[str] | None] = {"decision": "allow", "account": account.id}
    if not is_removed:
        answers["level.asked"] = "write"
    check_answer(await post(person, page, answers, form="/connect/"), "before" if is_removed else "never")
    held = await delegations.get(
        room.deployment.database, user_id=user.id, client_id=client.id, connection_id=account.id
    )
    assert (held is not None) is not is_removed
