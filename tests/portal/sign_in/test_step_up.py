"""What the operator wants confirmed with a passkey: each refusal, the way on from it, and the same with the proof."""

from __future__ import annotations

import html
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx2
import pytest

from server.connecting import approvals as approve
from server.connecting import provider_authorization
from server.connecting.provider_authorization import ConsentRequest
from server.http.page_texts import text
from server.sign_in import password as signin
from server.sign_in.step_up import StepUpRequired, check_recent
from tests.portal.sign_in.test_passkeys import Holder, holder, options_of, submit_answer
from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.harness import PASSWORD
from tests.support.person import Person, session_token
from tests.support.rooms.portal_room import Room, query_of, running_room
from tests.support.seeded_grant import SESSION_IDLE
from vault import connections
from vault.approvals import approvals
from vault.approvals.approvals import Approval, ToolCall
from vault.records import ApprovalState, Principal, Session, User
from vault.sign_in import passkeys, sessions
from vault.upstream import Account, TokenAnswer

RECENT = 900
DESTRUCTIVE, HARMLESS = "calendar_delete", "calendar_calendars"


@pytest.fixture(scope="module")
async def provider() -> AsyncGenerator[OpenIDDouble]:
    async with running_openid(lambda: int(time.time())) as running:
        yield running


@pytest.fixture(scope="module")
async def shared_room(provider: OpenIDDouble, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {
        "sign_in": {
            "passkey_for": ["destructive_tools", "connections"],
            "openid": {"company": {**provider.settings(), "create_users": True}},
        },
        "sandbox": {"loopback_openid": True},
    }
    async with running_room(tmp_path_factory.mktemp("step-up"), overrides=overrides) as opened:
        yield opened


@pytest.fixture
async def room(shared_room: Room) -> AsyncGenerator[Room]:
    shared_room.deployment.database.clock_offset += 10 * RECENT
    yield shared_room


def action_of(page: httpx2.Response) -> str:
    """Where the refusal's page leads."""
    found = re.search(r'class="button primary" href="([^"]+)"', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


async def question(room: Room, user: User, tool: str) -> Approval:
    """A question that an agent asks this person."""
    client, deployment = await room.agent(), room.deployment
    connection = await _account(room, user, "google")
    principal = Principal(user.id, client.id, "grant", frozenset({"tools"}), f"{room.url}/mcp")
    async with deployment.transaction() as transaction:
        asked, _ = await approvals.ask(
            transaction,
            deployment.keys,
            call=ToolCall(tool, dict),
            principal=principal,
            connection_id=connection.id,
            provider=connection.provider,
            account=connection.label,
            label=connection.label,
            scopes=frozenset(),
            now=deployment.now(),
        )
    return asked


async def _account(room: Room, user: User, name: str) -> connections.Connection:
    policy = room.deployment.catalog.provider(name).policy()
    answer = TokenAnswer("made-up", "made-up", scopes=frozenset({"openid"}), account=Account("a", "a"))
    async with room.deployment.transaction() as transaction:
        return await connections.open_connection(
            transaction,
            room.deployment.keys,
            user_id=user.id,
            provider=name,
            answer=answer,
            asked=answer.scopes or frozenset(),
            policy=policy,
            now=room.deployment.now(),
        )


async def answer(person: Person, asked: Approval, decision: str) -> httpx2.Response:
    page = await person.open(f"/approvals/{asked.id}")
    return await person.submit(page, form=f"/approvals/{asked.id}", button=("decision", decision))


async def state(room: Room, asked: Approval) -> ApprovalState:
    found = await approvals.get(room.deployment.database, room.deployment.keys, asked.id)
    assert found is not None
    return found.state


async def confirm(one: Holder, page: httpx2.Response) -> httpx2.Response:
    """Follow the refusal's button and use the passkey there."""
    page = await one.person.open(action_of(page))
    assert "Confirm that it" in page.text
    assert 'type="password"' not in page.text, "a password is not enough"
    return await submit_answer(one.person, page, one.device.get(options_of(page)))


def test_the_tools_of_these_tests_are_what_they_seem(room: Room) -> None:
    found = {name: room.deployment.tool(name) for name in (DESTRUCTIVE, HARMLESS)}
    assert {name: spec is not None and spec.destructive for name, spec in found.items()} == {
        DESTRUCTIVE: True,
        HARMLESS: False,
    }


async def test_approving_a_destructive_call_needs_the_passkey_and_comes_back(room: Room) -> None:
    one = await holder(room)
    await one.add()
    room.deployment.database.clock_offset += RECENT
    asked = await question(room, one.user, DESTRUCTIVE)
    refused = await answer(one.person, asked, "allow")
    assert refused.status_code == 403
    assert "needs your passkey here" in refused.text
    assert await state(room, asked) is ApprovalState.PENDING
    back = await confirm(one, refused)
    assert back.url.path == f"/approvals/{asked.id}"
    assert "Approved" in (await answer(one.person, asked, "allow")).text
    assert await state(room, asked) is ApprovalState.APPROVED


async def test_a_proof_ends_with_its_time_and_a_fresh_password_is_none(room: Room) -> None:
    one = await holder(room)
    await one.add()
    assert (await answer(one.person, await question(room, one.user, DESTRUCTIVE), "allow")).status_code == 200
    room.deployment.database.clock_offset += RECENT
    page = await one.person.open("/sign-in?again=1")
    await one.person.sign_in(one.user.name, PASSWORD, page=page)
    assert (await answer(one.person, await question(room, one.user, DESTRUCTIVE), "allow")).status_code == 403


async def test_refusing_and_harmless_calls_need_no_passkey(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    asked = await question(room, user, DESTRUCTIVE)
    assert "Denied" in (await answer(person, asked, "deny")).text
    assert "Approved" in (await answer(person, await question(room, user, HARMLESS), "allow")).text


async def test_a_call_of_a_tool_that_is_gone_counts_as_destructive(room: Room) -> None:
    one = await holder(room)
    await one.add()
    room.deployment.database.clock_offset += RECENT
    asked = await question(room, one.user, "slack_of_yesterday")
    refused = await answer(one.person, asked, "allow")
    assert refused.status_code == 403
    await confirm(one, refused)
    assert (await answer(one.person, asked, "allow")).status_code == 200


async def test_who_has_no_passkey_is_led_to_add_one_and_back(room: Room) -> None:
    one = await holder(room)
    asked = await question(room, one.user, DESTRUCTIVE)
    refused = await answer(one.person, asked, "allow")
    assert refused.status_code == 403
    assert "you have none. Add one" in refused.text
    page = await one.person.open(action_of(refused))
    assert text("profile.then_back") in page.text
    page = await one.person.submit(page, {"answer": one.device.create(options_of(page))}, form="/passkeys/new")
    assert page.url.path == f"/approvals/{asked.id}"
    assert "Approved" in (await answer(one.person, asked, "allow")).text


async def test_the_rule_is_in_the_code_that_answers_and_that_connects(room: Room) -> None:
    """Not in a page: both refuse a session without proof and accept one with it, and the operator needs none."""
    user, now, deployment = await room.user(), room.deployment.now(), room.deployment
    weak = Session(b"", user.id, created_at=now, seen_at=now, expires_at=now + RECENT)
    strong = replace(weak, proved_at=now)
    asked = await question(room, user, DESTRUCTIVE)
    with pytest.raises(StepUpRequired):
        await approve.decide(deployment, asked, user=user, session=weak, is_approved=True)
    await approve.decide(deployment, asked, user=user, session=strong, is_approved=True)
    other = await question(room, user, DESTRUCTIVE)
    await approve.decide(deployment, other, user=user, session=None, is_approved=True)
    trip = ConsentRequest("slack", frozenset({"chat:write"}))
    with pytest.raises(StepUpRequired):
        await provider_authorization.start(deployment, trip, user=user, session=weak)
    with pytest.raises(StepUpRequired):
        await provider_authorization.consent_here(deployment, trip, user=user, session=weak)
    target = await provider_authorization.start(deployment, trip, user=user, session=strong)
    assert target.startswith(room.simulator.url)
    done = await provider_authorization.consent_here(deployment, trip, user=user, session=strong)
    assert done.connection.account == user.id


@pytest.mark.parametrize(("age", "is_recent"), [(0, True), (RECENT - 1, True), (RECENT, False)])
async def test_a_sign_in_is_recent_for_a_while(room: Room, age: int, is_recent: bool) -> None:
    user, now = await room.user(), room.deployment.now()
    session = Session(b"", user.id, created_at=now - age, seen_at=now, expires_at=now + RECENT)
    if is_recent:
        check_recent(room.deployment, session)
        return
    with pytest.raises(StepUpRequired) as refused:
        check_recent(room.deployment, session, back="/account")
    assert (refused.value.needs, refused.value.back) == ("recent", "/account")


async def test_connecting_from_a_link_needs_the_passkey_and_does_not_spend_the_link(room: Room) -> None:
    one, client = await holder(room), await room.agent()
    await one.add()
    room.deployment.database.clock_offset += RECENT
    link = await room.link(one.user, client)
    page = await one.person.open(link.url)
    refused = await one.person.submit(page, form="/connect/", button=("decision", "allow"))
    assert refused.status_code == 403
    back = await confirm(one, refused)
    assert str(back.url) == link.url
    gone = await one.person.submit(back, form="/connect/", button=("decision", "allow"))
    assert gone.headers["location"].startswith(room.simulator.url)


async def test_an_account_that_is_there_is_allowed_without_a_passkey(room: Room) -> None:
    one, client = await holder(room), await room.agent()
    await one.add()
    await room.connect(one.person, one.user, client)
    room.deployment.database.clock_offset += RECENT
    link = await room.link(one.user, await room.agent())
    page = await one.person.open(link.url)
    done = await one.person.submit(page, form="/connect/", button=("decision", "allow"))
    assert done.url.path.startswith("/connect/done/")


async def test_connecting_from_the_accounts_page_asks_before_the_choices_are_made(room: Room) -> None:
    one = await holder(room)
    await one.add()
    room.deployment.database.clock_offset += RECENT
    refused = await one.person.open("/connections/connect?provider=slack")
    assert refused.status_code == 403
    back = await confirm(one, refused)
    assert (back.url.path, query_of(str(back.url))) == ("/connections/connect", {"provider": "slack"})
    gone = await one.person.submit(back, form="/connections/connect")
    assert gone.headers["location"].startswith(room.simulator.url)


async def test_the_companys_sign_in_counts_where_it_says_that_it_used_several_factors(
    room: Room, provider: OpenIDDouble
) -> None:
    at = room.deployment.now
    for factors, allowed in ((["pwd"], 403), (["pwd", "otp", "mfa"], 200)):
        provider.change_claims = lambda claims, amr=factors: {**claims, "auth_time": at(), "amr": amr}
        provider.now = at
        person = await room.browser()
        page = await person.http.get("/sign-in/openid/company")
        async with httpx2.AsyncClient(timeout=30) as elsewhere:
            answer_ = await elsewhere.get(page.headers["location"])
        await person.open(answer_.headers["location"])
        found = await sessions.find_session(
            room.deployment.database, session_token(person.http), now=at(), idle_lifetime=SESSION_IDLE
        )
        assert found is not None
        asked = await question(room, found[1], DESTRUCTIVE)
        assert (await answer(person, asked, "allow")).status_code == allowed, factors
    provider.reset()


async def test_a_stolen_password_adds_no_second_passkey_but_an_admins_link_does(room: Room) -> None:
    one = await holder(room)
    assert (await one.add()).status_code == 200, "the first one needs a recent sign-in only"
    thief = Holder(room, one.user, await room.signed_in(one.user), one.device)
    page = await thief.person.open("/account")
    assert "data-options" not in page.text
    link = await signin.owner_link(room.deployment, one.user.id, return_to="/account")
    helped = Holder(room, one.user, await room.browser(), one.device)
    page = await helped.person.open(link)
    assert page.url.path == "/account"
    (lost,) = await passkeys.list_passkeys(room.deployment.database, one.user.id)
    page = await helped.person.submit(page, form=f"/account/passkeys/{lost.id}/remove")
    assert "Passkey removed" in page.text
    assert (await helped.add()).status_code == 200


async def test_without_the_setting_nothing_is_asked(room: Room) -> None:
    object.__setattr__(room.deployment.settings.sign_in, "passkey_for", ())
    try:
        user = await room.user()
        person = await room.signed_in(user)
        asked = await question(room, user, DESTRUCTIVE)
        assert "Approved" in (await answer(person, asked, "allow")).text
        assert (await person.open("/connections/connect?provider=slack")).status_code == 200
    finally:
        object.__setattr__(room.deployment.settings.sign_in, "passkey_for", ("destructive_tools", "connections"))
