"""Access requests as people file, answer, and end them: in the browser, at the Admin API, and with commands."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from server.administration import access_requests, group_accounts
from server.administration import groups as administration
from server.administration.access_requests import AccessAnswer, AccessInput
from server.administration.actor import RECENT, Actor, ChangeRefused
from server.notices.texts import line_of
from server.sign_in.approvers import approvers_of
from tests.conftest import Store
from tests.portal.test_page_refusals import post
from tests.support.commands import content, run
from tests.support.harness import PASSWORD
from tests.support.person import Person, forms_of
from tests.support.refused_pages import is_refused
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import delegations, groups, limits, users
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import MEMBERSHIP
from vault.groups import LOCAL, Group
from vault.notices import channels, outbox
from vault.records import Client, Connection, Delegation, User
from vault.upkeep import access_ends

PAGE = "/access-requests"
READ, WRITE = frozenset({"channels:read"}), frozenset({"chat:write"})
DAY = 86400


@dataclass
class Office:
    """Alice is the admin, bob a member of Sales with an agent, mia the manager of Sales, and otto is in no group."""

    admin: AdminRoom
    bob: User
    mia: User
    otto: User
    agent: Client
    group: Group
    account: Connection

    def access_input(self, **changes: object) -> AccessInput:
        facts: dict[str, object] = {
            "account": self.account.id,
            "client_id": self.agent.id,
            "scopes": WRITE,
            "reason": "the launch",
            "days": 3,
        }
        return AccessInput(**(facts | changes))  # pyright: ignore[reportArgumentType]

    async def browser(self, user: User) -> Person:
        return await self.admin.room.signed_in(user)

    async def may(self) -> frozenset[str]:
        """What requests currently allow bob's agent to do with the account beyond the group's rule."""
        now = self.admin.deployment.now()
        found = await stored.list_of_person(self.admin.deployment.database, self.bob.id)
        return frozenset(scope for one in found if one.is_allowed(now) for scope in one.access.scopes)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    overrides = {"access_requests": {"groups": ["Sales", "Admins"]}, "admin": {"group_roles": {"Admins": "auditor"}}}
    async with running_admin_room(tmp_path, **overrides) as admin:
        room, alice = admin.room, await admin.person("alice")
        bob, mia, otto = await room.user("bob"), await room.user("mia"), await room.user("otto")
        group = await administration.create(admin.operator, "Sales")
        await administration.create(admin.operator, "Admins")
        await administration.add_member(admin.operator, group, bob)
        own = await room.account(alice, "slack", label="Team", scopes=READ | WRITE)
        given = await group_accounts.give(admin.operator, alice, own.id, group, reads_only=True, asks_writes=False)
        agent = await room.agent(name="Report bot")
        await room.grant(bob, agent)
        await access_requests.set_manager(admin.operator, group, mia, is_manager=True)
        yield Office(admin, bob, mia, otto, agent, group, given)


async def test_a_member_asks_the_manager_answers_and_either_ends_it(office: Office) -> None:
    asker, manager = await office.browser(office.bob), await office.browser(office.mia)
    assert "More permissions for Slack (Team) of the group Sales" in (await asker.open(PAGE)).text
    form = await asker.open(f"{PAGE}/new?account={office.account.id}&agent={office.agent.id}&scopes=chat:write")
    refused = await asker.submit(form, {"reason": " ", "days": "3"}, form="/new")
    assert refused.status_code == 400
    assert "Give a reason of 1 to 500 characters" in refused.text
    assert [one for one in forms_of(refused.text) if "/new" in one.action], "it can be corrected there"
    assert "Choose 1 to 30 days" in (await asker.submit(form, {"reason": "x", "days": "31"}, form="/new")).text
    filed = await asker.submit(form, {"reason": "the <b>launch</b>", "days": "3"}, form="/new")
    assert "Waiting" in filed.text
    assert "the &lt;b&gt;launch" in filed.text
    again = await asker.submit(form, {"reason": "again", "days": "3"}, form="/new")
    assert again.url == filed.url, "one open request for the same thing"
    path = filed.url.path
    assert not [one for one in forms_of(filed.text) if ("decision", "allow") in one.buttons]
    own = await asker.submit(filed, {"days": "3", "scopes": "chat:write"}, form=path, button=("decision", "allow"))
    assert own.status_code == 403
    assert "Someone else must answer" in own.text
    assert (await (await office.browser(office.otto)).open(path)).status_code == 404
    assert "waiting for you" in (await manager.open("/")).text
    seen = await manager.open(path)
    assert "bob" in seen.text
    assert await office.may() == frozenset()
    given = await manager.submit(seen, {"days": "2", "words": "until Friday"}, form=path, button=("decision", "allow"))
    assert "Allowed" in given.text
    assert await office.may() == WRITE
    shown = await asker.open(f"/agents/{office.agent.id}")
    assert "By access requests" in shown.text
    assert "until Friday" in (await asker.open(path)).text
    late = await manager.submit(seen, {"days": "2"}, form=path, button=("decision", "allow"))
    assert late.status_code == 409
    assert "It was answered, withdrawn, or ended in the meantime." in late.text
    ended = await asker.submit(await asker.open(path), form=path, button=("decision", "end"))
    assert "Ended" in ended.text
    assert await office.may() == frozenset()
    kinds = [one.kind for one in await office.admin.room.events() if one.kind.startswith("permission.")]
    assert kinds == ["permission.requested", "permission.allowed", "permission.ended"]


REFUSED = (
    ({"account": "nothing"}, "no_such_access"),
    ({"client_id": "another"}, "request_agent"),
    ({"scopes": frozenset({"admin"})}, "request_scopes"),
    ({"scopes": frozenset()}, "request_scopes"),
    ({"scopes": READ}, "nothing_more"),
    ({"reason": " "}, "request_reason"),
    ({"reason": "x" * 501}, "request_reason"),
    ({"days": 0}, "request_days"),
    ({"days": 31}, "request_days"),
    ({"account": "", "group": "Admins"}, "no_such_access"),
    ({"account": "", "group": "Elsewhere"}, "no_such_access"),
    ({"account": "", "company": "acme"}, "no_such_access"),
)


async def test_only_what_others_can_give_is_asked_for(office: Office) -> None:
    deployment = office.admin.deployment
    for changes, reason in REFUSED:
        with pytest.raises(ChangeRefused) as refused:
            await access_requests.ask(deployment, office.bob, office.access_input(**changes))
        assert refused.value.reason == reason, changes
    request, is_new = await access_requests.ask(deployment, office.bob, office.access_input())
    assert is_new
    assert not (await access_requests.ask(deployment, office.bob, office.access_input()))[1]
    assert request.access.scopes == WRITE


async def test_what_is_ones_own_needs_nobody(office: Office) -> None:
    mine = await office.admin.room.account(office.bob, "slack", label="Bob", scopes=READ | WRITE)
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.ask(office.admin.deployment, office.bob, office.access_input(account=mine.id))
    assert refused.value.reason == "own_account"
    asker = await office.browser(office.bob)
    query = f"agent={office.agent.id}&scopes=chat:write"
    assert is_refused(await asker.open(f"{PAGE}/new?account={mine.id}&{query}"), "own_account", 400)
    assert is_refused(await asker.open(f"{PAGE}/new?account=nothing&{query}"), "no_such_access", 404)
    assert (await asker.open(f"{PAGE}/new?account={office.account.id}&{query}")).status_code == 200


async def test_another_request_isnt_lost_behind_an_open_one(office: Office) -> None:
    deployment, operator = office.admin.deployment, office.admin.operator
    first, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    manager = await office.browser(office.mia)
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.ask(deployment, office.bob, office.access_input(scopes=READ | WRITE))
    assert (refused.value.reason, refused.value.kind) == ("request_open", "conflict")
    assert refused.value.values["url"].endswith(first.id)
    await access_requests.allow(operator, first.id, AccessAnswer(1))
    second, is_new = await access_requests.ask(deployment, office.bob, office.access_input(scopes=READ | WRITE))
    assert is_new
    page = await manager.open(f"{PAGE}/{second.id}")
    assert "Approval replaces what is allowed until" in page.text
    await access_requests.end(operator, first.id)
    assert "Approval replaces" not in (await manager.open(f"{PAGE}/{second.id}")).text


async def test_a_person_asks_only_so_often(office: Office) -> None:
    deployment = office.admin.deployment
    for _ in range(access_requests.PER_DAY):
        request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.ask(deployment, office.bob, office.access_input())
    assert (refused.value.reason, refused.value.kind) == ("request_limit", "too_many_requests")
    deployment.database.clock_offset += 2 * DAY
    assert (await access_requests.ask(deployment, office.bob, office.access_input()))[0].id == request.id


async def test_only_the_right_one_answers_and_within_what_was_asked_for(office: Office) -> None:
    deployment = office.admin.deployment
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    for user, reason in ((office.otto, "no_request"), (office.bob, "not_approver")):
        with pytest.raises(ChangeRefused) as refused:
            await access_requests.allow(Actor(deployment, user, "administration"), request.id, AccessAnswer(1))
        assert refused.value.reason == reason
    manager = Actor(deployment, office.mia, "administration")
    for answer, reason in (
        (AccessAnswer(4), "request_days"),
        (AccessAnswer(0), "request_days"),
        (AccessAnswer(1, READ | WRITE), "request_scopes"),
        (AccessAnswer(1, frozenset()), "request_scopes"),
    ):
        with pytest.raises(ChangeRefused) as refused:
            await access_requests.allow(manager, request.id, answer)
        assert refused.value.reason == reason
    await access_requests.set_manager(office.admin.operator, office.group, office.mia, is_manager=False)
    with pytest.raises(ChangeRefused):
        await access_requests.allow(manager, request.id, AccessAnswer(1))
    assert await office.may() == frozenset()
    await access_requests.set_manager(office.admin.operator, office.group, office.mia, is_manager=True)
    given = await access_requests.allow(manager, request.id, AccessAnswer(1))
    assert given.made_permission, "who asks for an agent allows it with that"
    assert await office.may() == WRITE
    event = (await office.admin.room.events(office.bob))[-1]
    assert (event.kind, event.details["by"], event.details["group"]) == ("permission.allowed", "mia", "Sales")


async def test_what_is_off_or_gives_a_role_is_not_given_and_a_part_is_left(office: Office) -> None:
    deployment, settings = office.admin.deployment, office.admin.deployment.settings
    none = settings.access_requests.model_copy(update={"longest_days": 0})
    off = replace(deployment, settings=settings.model_copy(update={"access_requests": none}))
    roles = settings.admin.model_copy(update={"group_roles": {**settings.admin.group_roles, "Sales": "auditor"}})
    other = replace(deployment, settings=settings.model_copy(update={"admin": roles}))
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.ask(off, office.bob, office.access_input())
    assert refused.value.reason == "requests_off"
    joining, _ = await access_requests.ask(deployment, office.otto, office.access_input(account="", group="Sales"))
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.allow(Actor(other, office.mia, "administration"), joining.id, AccessAnswer(1))
    assert refused.value.reason == "no_such_access"
    manager = Actor(deployment, office.mia, "administration")
    await access_requests.allow(manager, joining.id, AccessAnswer(1))
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    await access_requests.allow(manager, request.id, AccessAnswer(2))
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.narrow(manager, request.id, scopes=frozenset(), days=1)
    assert refused.value.reason == "request_scopes"
    await access_requests.narrow(manager, request.id, scopes=WRITE, days=1)
    assert await office.may() == WRITE


async def test_a_request_is_answered_by_a_button_and_for_some_days(office: Office) -> None:
    request, _ = await access_requests.ask(office.admin.deployment, office.bob, office.access_input())
    manager, path = await office.browser(office.mia), f"{PAGE}/{request.id}"
    fields = {"scopes": "chat:write", "words": ""}
    room = office.admin.room
    assert is_refused(await post(room, manager, path, decision="maybe", days="1", **fields), "no_decision", 400)
    late = await post(room, manager, path, decision="allow", days="4", **fields)
    assert (late.status_code, "Choose 1 to 3 days" in late.text) == (400, True)
    assert [one for one in forms_of(late.text) if path in one.action], "it can be corrected there"
    assert (await post(room, manager, path, decision="allow", days="3", **fields)).status_code == 303


async def test_a_manager_may_allow_their_own_request_a_member_may_not(office: Office) -> None:
    deployment, room = office.admin.deployment, office.admin.room
    await administration.add_member(office.admin.operator, office.group, office.mia)
    agent = await room.agent(name="Own bot")
    await room.grant(office.mia, agent)
    request, _ = await access_requests.ask(deployment, office.mia, office.access_input(client_id=agent.id))
    assert await access_requests.allow(Actor(deployment, office.mia, "administration"), request.id, AccessAnswer(1))
    theirs, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.allow(Actor(deployment, office.bob, "administration"), theirs.id, AccessAnswer(1))
    assert refused.value.reason == "not_approver"


async def bobs_delegation(office: Office) -> Delegation | None:
    """What bob's agent itself is allowed to do with the account."""
    which = {"user_id": office.bob.id, "client_id": office.agent.id, "connection_id": office.account.id}
    return await delegations.get(office.admin.deployment.database, **which)


async def test_a_yes_for_longer_moves_the_end_of_what_the_one_before_made(office: Office) -> None:
    deployment, operator = office.admin.deployment, office.admin.operator
    first, _ = await access_requests.ask(deployment, office.bob, office.access_input(days=7))
    await access_requests.allow(operator, first.id, AccessAnswer(7))
    deployment.database.clock_offset += 5 * DAY
    second, _ = await access_requests.ask(deployment, office.bob, office.access_input(days=30))
    longer = await access_requests.allow(operator, second.id, AccessAnswer(30))
    held = await bobs_delegation(office)
    assert held is not None
    assert (longer.made_permission, held.expires_at) == (True, longer.expires_at)
    deployment.database.clock_offset += 5 * DAY
    assert await access_ends.end_over(deployment.database) == 0
    await access_requests.end(operator, second.id)
    held = await bobs_delegation(office)
    assert held is not None
    assert not held.is_live(deployment.now()), "it ends with the request that made it"


async def test_a_yes_leaves_alone_what_the_person_allowed_themselves(office: Office) -> None:
    deployment, operator = office.admin.deployment, office.admin.operator
    which = {"user_id": office.bob.id, "client_id": office.agent.id, "connection_id": office.account.id}
    async with deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=READ, now=deployment.now())
    for days in (2, 3):
        request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
        given = await access_requests.allow(operator, request.id, AccessAnswer(days))
        assert not given.made_permission
    held = await bobs_delegation(office)
    assert held is not None
    assert (held.scopes, held.expires_at) == (READ, None)


async def test_a_narrower_permission_narrows_what_it_made(office: Office) -> None:
    deployment, operator = office.admin.deployment, office.admin.operator
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input(scopes=READ | WRITE))
    await access_requests.allow(operator, request.id, AccessAnswer(3))
    narrowed = await access_requests.narrow(operator, request.id, scopes=READ, days=1)
    held = await bobs_delegation(office)
    assert held is not None
    assert (held.scopes, held.expires_at) == (READ, narrowed.expires_at)
    await access_requests.end(operator, request.id)
    held = await bobs_delegation(office)
    assert held is not None
    assert not held.is_live(deployment.now())


async def test_nothing_is_allowed_to_somebody_who_is_disabled_or_left(office: Office) -> None:
    deployment, manager = office.admin.deployment, Actor(office.admin.deployment, office.mia, "administration")
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    await administration.remove_member(office.admin.operator, office.group, office.bob)
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.allow(manager, request.id, AccessAnswer(1))
    assert refused.value.reason == "no_such_access"
    await administration.add_member(office.admin.operator, office.group, office.bob)
    async with deployment.transaction() as transaction:
        await users.disable_user(transaction, office.bob.id, now=deployment.now())
    with pytest.raises(ChangeRefused) as refused:
        await access_requests.allow(manager, request.id, AccessAnswer(1))
    assert refused.value.reason == "asker_gone"


async def test_somebody_outside_gets_the_groups_accounts_for_some_days(office: Office) -> None:
    deployment, database = office.admin.deployment, office.admin.deployment.database
    asker, manager = await office.browser(office.otto), await office.browser(office.mia)
    offered = await asker.open(PAGE)
    assert "The accounts of the group Sales" in offered.text
    assert "Admins" not in offered.text, "whoever is in it has a role here"
    form = await asker.open(f"{PAGE}/new?group=Sales")
    filed = await asker.submit(form, {"reason": "cover for bob", "days": "5"}, form="/new")
    path = filed.url.path
    assert not await groups.is_member(database, office.group.id, office.otto.id, now=deployment.now())
    given = await manager.submit(await manager.open(path), {"days": "2"}, form=path, button=("decision", "allow"))
    assert "Allowed" in given.text
    assert await groups.is_member(database, office.group.id, office.otto.id, now=deployment.now())
    alice = await office.admin.room.signed_in("alice")
    shown = await alice.open(f"/administration/groups/{office.group.id}")
    assert "By an access request." in shown.text
    with pytest.raises(ChangeRefused) as refused:
        await administration.remove_member(office.admin.operator, office.group, office.otto)
    assert refused.value.reason == "member_by_request"
    assert not await groups.has_other_members(database, office.group.id, source=LOCAL, besides=MEMBERSHIP)
    assert await groups.has_other_members(database, office.group.id, source=LOCAL)
    deployment.database.clock_offset += 2 * DAY + 60
    assert not await groups.is_member(database, office.group.id, office.otto.id, now=deployment.now())
    assert await access_ends.end_over(database) == 1
    assert (await office.admin.room.kinds(office.otto))[-1] == "permission.ended"


async def test_the_admin_api_lists_answers_and_ends(office: Office) -> None:
    admin, deployment = office.admin, office.admin.deployment
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    path = f"/access-requests/{request.id}"
    listed = (await admin.call("GET", "/access-requests", params={"status": "pending"})).json()["items"]
    assert [(one["person"], one["agent"], one["group"], one["days"]) for one in listed] == [
        ("bob", "Report bot", "Sales", 3)
    ]
    reader = await admin.token_with("admin:read")
    problem(await admin.call("POST", f"{path}/answer", token=reader, json={"allow": True}), 403, "insufficient_scope")
    problem(await admin.call("POST", f"{path}/answer", json={"allow": True, "days": 4}), 400, "request_days")
    given = await admin.call("POST", f"{path}/answer", json={"allow": True, "words": "fine"})
    assert (given.json()["status"], given.json()["answer"], given.json()["decided_by"]) == ("allowed", "fine", "alice")
    problem(await admin.call("POST", f"{path}/answer", json={"allow": False}), 409, "transition_refused")
    assert (await admin.call("DELETE", path)).json()["ended_reason"] == "by_approver"
    problem(await admin.call("DELETE", path), 409, "access_over")
    problem(await admin.call("GET", "/access-requests/nothing"), 404, "no_request")
    again, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    denied = await admin.call("POST", f"/access-requests/{again.id}/answer", json={"allow": False})
    assert denied.json()["status"] == "denied"
    manager = f"/groups/{office.group.id}/managers/{office.otto.id}"
    assert (await admin.call("PUT", manager)).status_code == 204
    assert office.otto.id in await stored.managers(deployment.database, office.group.id)
    assert (await admin.call("DELETE", manager)).status_code == 204
    assert office.otto.id not in await stored.managers(deployment.database, office.group.id)


async def test_an_agents_own_request_is_confirmed_by_its_person_on_their_page(office: Office) -> None:
    deployment = office.admin.deployment
    request, _ = await access_requests.ask(
        deployment, office.bob, office.access_input(is_by_agent=True), via="Report bot"
    )
    assert (await office.admin.room.events(office.bob))[-1].details["via"] == "Report bot"
    path = f"{PAGE}/{request.id}"
    asker, manager = await office.browser(office.bob), await office.browser(office.mia)
    seen = await manager.open(path)
    assert "It has no effect until the person confirms it." in seen.text
    given = await manager.submit(seen, {"days": "1"}, form=path, button=("decision", "allow"))
    assert "It has no effect until the person confirms it." in given.text
    tried = await manager.submit(given, form=path, button=("decision", "confirm"))
    assert tried.status_code == 404
    found = await access_requests.request_with_id(deployment, request.id)
    assert (found.made_permission, found.confirmed_at) == (False, None)
    mine = await asker.open(path)
    assert "until you confirm" in mine.text
    confirmed = await asker.submit(mine, form=path, button=("decision", "confirm"))
    assert "until you confirm" not in confirmed.text
    assert (await access_requests.request_with_id(deployment, request.id)).confirmed_at is not None
    assert (await office.admin.room.kinds(office.bob))[-1] == "permission.confirmed"


async def test_what_a_person_asks_for_themselves_needs_no_confirmation(office: Office) -> None:
    request, _ = await access_requests.ask(office.admin.deployment, office.bob, office.access_input())
    page = await (await office.browser(office.bob)).open(f"{PAGE}/{request.id}")
    assert "until you confirm" not in page.text
    assert request.confirmed_at is not None


async def test_many_requests_of_others_hide_none_from_who_answers(office: Office) -> None:
    deployment = office.admin.deployment
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    now = deployment.now()
    async with deployment.transaction() as transaction:
        for number in range(200):
            theirs = replace(request.access, user_id=f"other-{number}", group_id="another")
            await stored.ask(transaction, theirs, now=now - DAY)
    assert [one.id for one in await access_requests.to_answer(deployment, office.mia)] == [request.id]
    async with deployment.transaction() as transaction:
        await transaction.execute(
            "update access_requests set state = 3, created_at = :late where group_id = 'another'", {"late": now + 1}
        )
    listed = (await office.admin.call("GET", "/access-requests", params={"status": "pending"})).json()["items"]
    assert [one["id"] for one in listed] == [request.id]
    place = Store(url="", data=deployment.data)
    assert [one["id"] for one in await content(place, "requests", "list")] == [request.id]


async def test_those_who_can_answer_are_told_and_then_who_asked(office: Office) -> None:
    deployment, database, keys = office.admin.deployment, office.admin.deployment.database, office.admin.deployment.keys
    alice, now = await office.admin.person("alice"), deployment.now()

    async def enter() -> list[tuple[object, str]]:
        """Enter what happened since the last call; returns who is told what."""
        await outbox.enter(database, keys, due_at=lambda _settings, _how, now: now, approvers=tell)
        found: list[tuple[object, str]] = []
        for channel_id in await outbox.list_due(database, now=deployment.now() + 60):
            async with deployment.transaction() as transaction:
                taken = await outbox.take(transaction, channel_id, now=deployment.now() + 60)
            lines = [await line_of(deployment, one) for one in taken]
            found += [(names[channel_id], f"{one.words} {one.url}") for one in lines]
        return sorted(found, key=str)

    tell, names = partial(approvers_of, deployment), dict[str, str]()
    await enter()  # start the feed
    async with deployment.transaction() as transaction:
        for user in (alice, office.bob, office.mia, office.otto):
            made = await channels.add_channel(
                transaction, keys, user_id=user.id, kind="webhook", label="x", target="https://x.example/", now=now
            )
            names[made.id] = user.name
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    said = f"bob asks for access: answer the request {deployment.url(f'/access-requests/{request.id}')}"
    assert await enter() == [("alice", said), ("mia", said)]
    await access_requests.deny(office.admin.operator, request.id)
    ((who, told),) = await enter()
    assert who == "bob"
    assert told.startswith("Your request for access was denied")


async def test_whoever_has_the_data_directory_answers_by_commands(office: Office) -> None:
    deployment = office.admin.deployment
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    place = Store(url="", data=deployment.data)
    (listed,) = await content(place, "requests", "list")
    assert (listed["user"], listed["agent"], listed["scopes"], listed["reason"]) == (
        "bob", "Report bot", ["chat:write"], "the launch"
    )  # fmt: skip
    refused = await run(place, "requests", "approve", request.id, "--days", "4")
    assert refused.exit_code == 1
    assert "1 to 3 days" in refused.output
    given = await content(place, "requests", "approve", request.id, "--days", "2", "--words", "fine")
    assert (given["status"], given["answer"]) == ("allowed", "fine")
    assert await office.may() == WRITE
    assert await content(place, "requests", "list") == []
    ended = await run(place, "requests", "end", request.id)
    assert "Ended the request of bob." in ended.output
    again, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    assert (await content(place, "requests", "deny", again.id))["status"] == "denied"
    assert (await run(place, "requests", "deny", again.id)).exit_code == 1
    assert len(await content(place, "requests", "list", "--all")) == 2
    assert (await run(place, "groups", "manage", "Sales", "otto")).exit_code == 0
    assert office.otto.id in await stored.managers(deployment.database, office.group.id)
    await run(place, "groups", "manage", "Sales", "otto", "--stop")
    assert office.otto.id not in await stored.managers(deployment.database, office.group.id)


async def test_a_link_of_the_agent_leads_to_the_request(office: Office) -> None:
    link = await office.admin.room.link(office.bob, office.agent, scopes=WRITE)
    asker = await office.browser(office.bob)
    page = await asker.open(link.url)
    assert "The rule of the group Sales leaves this out for Slack (Team)." in page.text
    assert f"/access-requests/new?account={office.account.id}&amp;agent={office.agent.id}" in page.text
    outside = await office.browser(office.otto)
    agent = await office.admin.room.agent()
    theirs = await office.admin.room.link(office.otto, agent, scopes=WRITE)
    page = await outside.open(theirs.url)
    assert "leaves this out" not in page.text
    assert "/access-requests/new?group=Sales" in page.text


async def test_who_allows_something_signed_in_lately(office: Office) -> None:
    deployment = office.admin.deployment
    request, _ = await access_requests.ask(deployment, office.bob, office.access_input())
    path = f"{PAGE}/{request.id}"
    manager = await office.browser(office.mia)
    page = await manager.open(path)
    deployment.database.clock_offset += 2 * RECENT
    again = await manager.submit(page, {"days": "1"}, form=path, button=("decision", "allow"))
    assert again.url.path == "/sign-in"
    assert await office.may() == frozenset()
    await manager.sign_in("mia", PASSWORD, page=again)
    assert (
        "Allowed"
        in (await manager.submit(await manager.open(path), {"days": "1"}, form=path, button=("decision", "allow"))).text
    )


async def test_a_person_asks_so_many_times_a_day(office: Office) -> None:
    asker, deployment = await office.browser(office.bob), office.admin.deployment
    async with deployment.transaction() as transaction:
        for _ in range(access_requests.PER_DAY):
            spent = {"limit": access_requests.PER_DAY, "window": DAY, "now": deployment.now()}
            assert await limits.spend(transaction, f"access:{office.bob.id}", **spent)
    sent = {"account": office.account.id, "agent": office.agent.id, "scopes": "chat:write", "reason": "x", "days": "3"}
    assert (await post(office.admin.room, asker, f"{PAGE}/new", **sent)).status_code == 429
    deployment.database.clock_offset += 2 * DAY
    asker = await office.browser(office.bob)
    assert (await post(office.admin.room, asker, f"{PAGE}/new", **sent)).status_code == 303
