"""The permissions that a company's assertions create; the person narrows and ends them like any other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx2
import pytest

from server.administration import access, companies
from server.administration.actor import Actor, ChangeRefused
from server.app import build_app, open_deployment
from server.oauth.enterprise.explanation import explain_assertion
from server.portal.access.access import Change, rows_of_agent
from server.portal.access.access_changes import save
from tests.conftest import Store
from tests.support.harness import free_socket, serve_app
from tests.support.inspection import get_grant
from tests.support.rooms.enterprise_room import Company, issuer_of, running_company
from tests.support.rooms.exchange_room import Caller
from tests.support.rooms.mcp_room import SLACK, Agent, modern, modern_headers
from tests.support.rooms.oauth_world import claims_of
from vault import clients, company_access, company_permissions, delegations, grants, users
from vault.company_access import OwnedAccount
from vault.company_permissions import CUT_OFF, DROPPED, Renewal, renew
from vault.grants import derive_grant
from vault.records import ClientKind, Connection, Delegation, Event, Principal
from vault.upkeep import retention

READS = frozenset({"channels:read", "channels:history"})
DAY = 86400


@pytest.fixture
async def company(shared_company: Company) -> Company:
    """The company with a new person and a new agent."""
    subject = f"employee-{secrets.token_hex(4)}"
    user = await shared_company.place.user(subject)
    async with shared_company.place.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=shared_company.idp.url, subject=subject, user_id=user.id, now=shared_company.now()
        )
    return replace(shared_company, caller=await shared_company.place.caller(), user=user, subject=subject)


async def admit(company: Company, caller: Caller | None = None, **claims: object) -> Agent:
    """The agent receives a token for a new assertion."""
    caller = caller or company.caller
    answer = await company.ask(company.assertion(client_id=caller.client.id, **claims), caller=caller)
    assert answer.status_code == 200, answer.text
    token, told = str(answer.json()["access_token"]), frozenset(answer.json()["scope"].split())
    claimed = claims_of(token)
    return Agent(
        Principal(str(claimed["sub"]), caller.client.id, str(claimed["gid"]), told, str(claimed["aud"])), token
    )


async def connect(company: Company) -> Connection:
    """Connect an account of the person without involving an agent."""
    place = company.place
    other = await place.room.agent(company.user.name)
    return await place.room.connect(other, "slack", scopes=SLACK)


async def connect_another(company: Company) -> Connection:
    place = company.place
    return await place.room.connect(await place.room.agent(company.user.name), "slack", scopes=SLACK, account="bob")


async def get_delegation(company: Company, connection: Connection) -> Delegation:
    found = await delegations.get(
        company.place.deployment.database,
        user_id=company.user.id,
        client_id=company.caller.client.id,
        connection_id=connection.id,
    )
    assert found is not None
    return found


async def live_scopes(company: Company, connection: Connection) -> frozenset[str]:
    found = await delegations.get(
        company.place.deployment.database,
        user_id=company.user.id,
        client_id=company.caller.client.id,
        connection_id=connection.id,
    )
    return found.scopes if found is not None and found.is_live(company.now()) else frozenset()


async def allow(company: Company, connection: Connection, scopes: frozenset[str], *, end: int | None = None) -> None:
    """Does what the person does on the agent's page."""
    which = {"user_id": company.user.id, "client_id": company.caller.client.id, "connection_id": connection.id}
    async with company.place.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=scopes, now=company.now(), expires_at=end)


async def cut_off(company: Company) -> None:
    """Does what the person does on the agent's page."""
    deployment, now = company.place.deployment, company.now()
    async with deployment.transaction() as transaction:
        which = {"user_id": company.user.id, "client_id": company.caller.client.id}
        await grants.revoke_client_grants(transaction, **which, reason="cut_off", now=now)
        await delegations.revoke_for_client(transaction, **which, now=now)


async def test_an_agent_calls_a_tool_without_any_page(company: Company) -> None:
    await connect(company)
    agent = await admit(company)
    async with company.place.room.client(agent) as client:
        listed = await client.call_tool("slack_channels", {})
        assert not listed.is_error, listed
        posted = await client.call_tool("slack_post", {"channel": "C024BE91L", "text": "hello"})
        assert posted.is_error, "the rule lets it read only"
    event = (await company.place.events("company.allowed"))[-1]
    assert event.details["company"] == "acme"
    assert event.user_id == company.user.id
    admitted = [one for one in await company.place.events("company.admitted") if one.user_id == company.user.id]
    assert [one.details["rules"] for one in admitted] == [["everyone"]]


async def allow_opened(company: Company, connection: Connection) -> tuple[Event, ...]:
    """Do what storing a consent does."""
    deployment, policies = company.place.deployment, company.place.deployment.vault.policies
    async with deployment.transaction() as transaction:
        return await company_access.allow_opened(transaction, connection, policies["slack"], now=company.now())


async def test_an_account_that_is_connected_later_is_allowed_at_once(company: Company) -> None:
    agent = await admit(company)
    connection = await connect(company)
    assert await live_scopes(company, connection) == frozenset()
    assert [one.kind for one in await allow_opened(company, connection)] == ["company.allowed"]
    assert await live_scopes(company, connection) >= READS
    async with company.place.room.client(agent) as client:
        assert not (await client.call_tool("slack_channels", {})).is_error


async def test_an_agent_that_was_cut_off_keeps_no_other_from_an_account_that_is_connected_later(
    company: Company,
) -> None:
    cut, kept = sorted((company.caller, await company.place.caller()), key=lambda one: one.client.id)
    for caller in (cut, kept):
        await admit(company, caller)
    await cut_off(replace(company, caller=cut))
    events = await allow_opened(company, await connect(company))
    assert [(one.kind, one.client_id) for one in events] == [("company.allowed", kept.client.id)]


async def test_groups_give_more_and_take_it_back(company: Company) -> None:
    connection = await connect(company)
    await admit(company)
    reads = await live_scopes(company, connection)
    assert "chat:write" not in reads
    await admit(company, groups=["writers"])
    found = await get_delegation(company, connection)
    assert "chat:write" in found.scopes
    assert found.ask == {delegations.WRITES}, "what it gives anew changes something"
    await admit(company)
    assert await live_scopes(company, connection) == reads
    taken = await company.place.events("company.taken")
    assert taken[-1].details["scopes"] == sorted(reads)
    await admit(company)
    assert await company.place.events("company.taken") == taken, "an assertion that changes nothing adds no event"


@pytest.mark.parametrize(("others", "is_read"), [(999, True), (1000, False)])
async def test_of_the_groups_in_an_assertion_1000_are_read(company: Company, others: int, *, is_read: bool) -> None:
    connection = await connect(company)
    await admit(company, groups=[*(f"{number:x}" for number in range(others)), "writers"])
    assert ("chat:write" in await live_scopes(company, connection)) is is_read


@pytest.mark.parametrize(("group", "asked"), [("writers", {delegations.WRITES}), ("others", set[str]())])
async def test_a_rule_can_have_changes_approved(company: Company, group: str, asked: set[str]) -> None:
    connection = await connect(company)
    await admit(company, groups=[group])
    assert (await get_delegation(company, connection)).ask == asked
    later = await connect_another(company)
    await allow_opened(company, later)
    assert (await get_delegation(company, later)).ask == asked


async def test_what_the_person_narrows_stays_narrow(company: Company) -> None:
    connection = await connect(company)
    await admit(company)
    end = (await get_delegation(company, connection)).expires_at
    assert end is not None
    assert 0 <= company.now() + 30 * DAY - end < 60
    await allow(company, connection, frozenset({"channels:read"}), end=end)
    company.place.deployment.database.clock_offset += DAY
    await admit(company, groups=["writers"])
    found = await get_delegation(company, connection)
    assert "channels:history" not in found.scopes
    assert {"channels:read", "chat:write"} <= found.scopes, "what the company gives anew is given"
    assert found.expires_at is not None
    assert found.expires_at - end >= DAY


async def test_what_the_person_narrows_stays_narrow_when_the_offer_shrinks_and_grows(company: Company) -> None:
    connection = await connect(company)
    await admit(company, groups=["writers"])
    found = await get_delegation(company, connection)
    await allow(company, connection, found.scopes - {"chat:write"}, end=found.expires_at)
    await admit(company)
    await admit(company, groups=["writers"])
    assert await live_scopes(company, connection) >= READS
    assert "chat:write" not in await live_scopes(company, connection)


async def test_an_end_that_the_person_chose_stays(company: Company) -> None:
    connection = await connect(company)
    await admit(company)
    chosen = company.now() + DAY
    await allow(company, connection, (await get_delegation(company, connection)).scopes, end=chosen)
    await admit(company)
    assert (await get_delegation(company, connection)).expires_at == chosen


async def test_a_permission_that_was_ended_stays_ended(company: Company) -> None:
    connection = await connect(company)
    await admit(company)
    which = {"user_id": company.user.id, "client_id": company.caller.client.id, "connection_id": connection.id}
    async with company.place.deployment.transaction() as transaction:
        await delegations.revoke(transaction, **which, now=company.now())
    await admit(company)
    assert await live_scopes(company, connection) == frozenset()


async def forget_ended(company: Company) -> None:
    """Ten days later, the upkeep deletes what ended more than eight days ago."""
    database = company.place.deployment.database
    database.clock_offset += 10 * DAY
    await retention.forget_ended(database, before=company.now() - 8 * DAY)


async def test_what_the_person_removed_stays_removed_after_ended_records_are_deleted(company: Company) -> None:
    connection = await connect(company)
    await allow(company, connection, READS)
    await admit(company)
    which = {"user_id": company.user.id, "client_id": company.caller.client.id, "connection_id": connection.id}
    async with company.place.deployment.transaction() as transaction:
        await delegations.revoke(transaction, **which, now=company.now())
    await forget_ended(company)
    await admit(company)
    assert await live_scopes(company, connection) == frozenset()
    left = await ended_by_itself(company, connection)
    assert left is None  # the twin: without a company, nothing is left of a permission that ended


async def test_a_company_can_give_again_what_it_took_long_ago(company: Company) -> None:
    connection = await connect(company)
    await admit(company, groups=["writers"])
    await admit(company, groups=[])
    permission = await company.permission()
    async with company.place.deployment.transaction() as transaction:
        taken = await company_access.take_back(transaction, permission, now=company.now())
        await company_permissions.save(transaction, taken)
    assert await live_scopes(company, connection) == frozenset()
    await forget_ended(company)
    await admit(company)
    assert await live_scopes(company, connection) >= READS


async def ended_by_itself(company: Company, connection: Connection) -> Delegation | None:
    """An ended permission of an agent that no company lets in, after the ended records were deleted."""
    caller = await company.place.caller()
    which = {"user_id": company.user.id, "client_id": caller.client.id, "connection_id": connection.id}
    async with company.place.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=READS, now=company.now(), expires_at=None)
        await delegations.revoke(transaction, **which, now=company.now())
    await forget_ended(company)
    return await delegations.get(company.place.deployment.database, **which)


async def test_what_the_person_allowed_is_left_alone(company: Company) -> None:
    connection = await connect(company)
    own = frozenset({"chat:write"})
    await allow(company, connection, own)
    await admit(company, groups=["writers"])
    found = await get_delegation(company, connection)
    assert (found.scopes, found.expires_at) == (own, None)


async def test_an_agent_that_the_person_cut_off_comes_back_only_by_the_person(company: Company) -> None:
    connection = await connect(company)
    agent = await admit(company)
    await cut_off(company)
    async with company.place.room.http(agent) as http:
        answer = await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
        assert answer.status_code == 401
    refused = await company.ask()
    assert (refused.status_code, refused.json()["error"]) == (400, "access_denied")
    await company.place.agent(company.caller, company.user.name)  # the person signs the agent in
    await admit(company)
    assert (await company.permission()).is_live(company.now())
    assert await live_scopes(company, connection) == frozenset(), "it was taken away, so the person gives it"


async def remove_and_return(company: Company, kind: ClientKind) -> None:
    """The operator removes the agent, and if its kind can, it comes back under its ID."""
    agent = company.caller.client
    set_kind = "update clients set kind = :kind where id = :id"  # the rules name agents of other kinds by their ID
    async with company.place.deployment.transaction() as transaction:
        await transaction.execute(set_kind, {"kind": kind.value, "id": agent.id})
        await clients.remove_client(transaction, agent.id, now=company.now())
        if kind is ClientKind.METADATA:
            await clients.save_client(transaction, replace(agent, kind=kind))
            await transaction.execute(set_kind, {"kind": agent.kind.value, "id": agent.id})


async def end_by_admin(company: Company) -> None:
    await companies.end(Actor(company.place.deployment, None, "command_line"), await company.permission())


async def keep(_company: Company) -> None:
    pass


@pytest.mark.parametrize(("end", "reason"), [(cut_off, "ended"), (end_by_admin, "ended_by_admin"), (keep, "")])
async def test_an_agent_that_was_removed_and_returns_is_still_cut_off(
    company: Company, end: Callable[[Company], Awaitable[None]], reason: str
) -> None:
    await admit(company)
    await end(company)
    await remove_and_return(company, ClientKind.METADATA)
    assert (await explain_assertion(company.place.deployment, company.assertion())).reason == reason
    assert ((await company.ask()).status_code == 200) is (end is keep)
    if end is cut_off:
        await company.place.agent(company.caller, company.user.name)  # the person signs the agent in
        await admit(company)


async def test_nothing_is_kept_about_an_agent_that_can_not_return(company: Company) -> None:
    await admit(company)
    await cut_off(company)
    await remove_and_return(company, ClientKind.MANUAL)
    known = await company_permissions.list_for_user(company.place.deployment.database, company.user.id)
    assert [one for one in known if one.client_id == company.caller.client.id] == []


async def derive(company: Company, derived_from: str) -> None:
    """Create a grant that acts for the person without their involvement."""
    async with company.place.deployment.transaction() as transaction:
        await derive_grant(
            transaction,
            user_id=company.user.id,
            client_id=company.caller.client.id,
            derived_from=derived_from,
            scopes=frozenset({"tools"}),
            resource=f"{company.place.url}/mcp",
            now=company.now(),
        )


@pytest.mark.parametrize("derived_from", ["issuer:x", "company:public"])
async def test_a_persons_end_is_lifted_by_the_person_only(company: Company, derived_from: str) -> None:
    await admit(company)
    await cut_off(company)
    await derive(company, derived_from)
    assert (await company.ask()).json()["error"] == "access_denied"
    await company.place.agent(company.caller, company.user.name)
    await admit(company)


async def test_a_persons_end_counts_for_each_company(company: Company) -> None:
    """Also for a company that had given nothing before."""
    place, other = company.place, {"iss": issuer_of("public")}
    async with place.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=other["iss"], subject=company.subject, user_id=company.user.id, now=company.now()
        )
    await admit(company)
    await cut_off(company)
    refused = await company.ask(company.assertion(**other))
    assert refused.json()["error"] == "access_denied"
    assert (await explain_assertion(place.deployment, company.assertion(**other))).reason == "ended"
    await place.agent(company.caller, company.user.name)
    assert (await explain_assertion(place.deployment, company.assertion(**other))).reason == ""
    await admit(company, **other)


@pytest.mark.parametrize("first", ["admin", "person"])
async def test_lifting_an_admins_end_leaves_the_persons_cut_off(company: Company, first: str) -> None:
    actor = Actor(company.place.deployment, None, "command_line")
    await admit(company)
    if first == "person":
        await cut_off(company)
    await companies.end(actor, await company.permission())
    if first == "admin":
        await cut_off(company)
    assert (await explain_assertion(company.place.deployment, company.assertion())).reason == "ended_by_admin"
    shown = await company.permission()
    left = await companies.resume(actor, shown)
    assert left == await company.permission()
    with pytest.raises(ChangeRefused, match="changed this in the meantime"):  # a second admin with the earlier page
        await companies.resume(actor, shown)
    assert left == await company.permission()
    assert left.ended_reason == CUT_OFF
    assert (await company.ask()).json()["error"] == "access_denied"
    assert (await explain_assertion(company.place.deployment, company.assertion())).reason == "ended"
    await company.place.agent(company.caller, company.user.name)  # the person signs the agent in
    await admit(company)
    assert (await company.permission()).cut_off_at is None


async def test_a_person_who_cut_nothing_off_lets_an_admins_end_be_lifted(company: Company) -> None:
    await admit(company)
    await end_and_resume(company)


async def end_and_resume(company: Company) -> None:
    """Does what an admin does; afterward, the agent returns."""
    actor = Actor(company.place.deployment, None, "command_line")
    for change in (companies.end, companies.resume):
        await change(actor, await company.permission())
    await admit(company)


async def test_an_admins_end_gives_back_nothing_that_the_person_revoked(company: Company) -> None:
    connection, other = await connect(company), await connect_another(company)
    await admit(company)
    which = {"user_id": company.user.id, "client_id": company.caller.client.id, "connection_id": connection.id}
    async with company.place.deployment.transaction() as transaction:
        await delegations.revoke(transaction, **which, now=company.now())
    await end_and_resume(company)
    assert await live_scopes(company, connection) == frozenset()
    assert await live_scopes(company, other) >= READS


async def test_an_admins_end_leaves_what_the_person_allowed(company: Company) -> None:
    connection = await connect(company)
    await admit(company)
    own = frozenset({"chat:write"})
    await allow(company, connection, (await get_delegation(company, connection)).scopes | own)
    actor = Actor(company.place.deployment, None, "command_line")
    await companies.end(actor, await company.permission())
    assert await live_scopes(company, connection) == own


async def test_not_being_asked_is_the_persons_choice_until_more_is_given(company: Company) -> None:
    connection = await connect(company)
    await admit(company, groups=["writers"])
    which = {"user_id": company.user.id, "client_id": company.caller.client.id, "connection_id": connection.id}
    async with company.place.deployment.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=frozenset({"tool:slack_search"}), now=company.now())
    await admit(company, groups=["writers"])
    assert (await get_delegation(company, connection)).ask == {"tool:slack_search"}
    await admit(company)
    await admit(company, groups=["writers"])
    assert (await get_delegation(company, connection)).ask == {"tool:slack_search", delegations.WRITES}


async def revoke_as_admin(company: Company, held_now: Delegation) -> None:
    await access.revoke(Actor(company.place.deployment, None, "command_line"), held_now)


async def turn_off(company: Company, held_now: Delegation) -> None:
    """Does what the person does on the agent's page."""
    deployment = company.place.deployment
    rows = await rows_of_agent(deployment, company.user, company.caller.client)
    changes = [Change(row, replace(row.setting, scopes=frozenset())) for row in rows]
    assert held_now.connection_id in {one.row.connection.id for one in changes}
    await save(deployment, company.user, changes)


async def test_a_change_waits_for_an_assertion_that_is_being_redeemed(store: Store) -> None:
    async with running_company(store.data, database_url=store.url) as first:
        for change in (revoke_as_admin, turn_off):
            company = replace(first, caller=await first.place.caller())
            connection = await connect_another(company) if change is turn_off else await connect(company)
            await admit(company)
            before, now = await get_delegation(company, connection), company.now()
            which = {"user_id": company.user.id, "client_id": company.caller.client.id}
            async with company.place.deployment.transaction() as transaction:
                renewed = await company_permissions.hold(transaction, **which, company="acme", now=now)
                changing = asyncio.create_task(change(company, before))
                await asyncio.wait({changing}, timeout=0.3)
                assert not changing.done()
                account = OwnedAccount(connection, company.place.deployment.vault.policies["slack"])
                await company_access.settle(transaction, renewed, [account], before=renewed, now=now)
            await changing
            assert await live_scopes(company, connection) == frozenset()


async def test_the_permission_ends_some_time_after_the_last_assertion(company: Company) -> None:
    connection = await connect(company)
    await admit(company)
    held = await company.permission()
    assert [held.is_live(held.expires_at + late) for late in (-1, 0)] == [True, False]
    company.place.deployment.database.clock_offset += 30 * DAY
    assert await live_scopes(company, connection) == frozenset()
    await admit(company)
    assert await live_scopes(company, connection) >= READS


async def test_one_grant_holds_all_its_tokens(company: Company) -> None:
    first = await admit(company)
    second = await admit(company, groups=["engineering"], scope=None)
    assert first.principal.grant_id == second.principal.grant_id
    grant = await get_grant(company.place.deployment.database, first.principal.grant_id)
    assert grant is not None
    assert {"tools", "connections"} <= grant.scopes


async def test_a_deleted_person_leaves_nothing(company: Company) -> None:
    await admit(company)
    database = company.place.deployment.database
    assert await company_permissions.list_for_user(database, company.user.id)
    async with company.place.deployment.transaction() as transaction:
        await users.delete_user(transaction, company.user.id, now=company.now())
    assert await company_permissions.list_for_user(database, company.user.id) == ()


async def test_an_assertion_counts_once_on_all_replicas(store: Store) -> None:
    async with AsyncExitStack() as stack:
        company = await stack.enter_async_context(running_company(store.data, database_url=store.url))
        vault = company.place.room.vault
        other = await stack.enter_async_context(open_deployment(vault.settings, data=store.data))
        listening = free_socket()
        await stack.enter_async_context(serve_app(build_app(other), listening))
        host = {"host": vault.url.removeprefix("http://")}
        door = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", headers=host, trust_env=False, timeout=20
            )
        )
        token = company.assertion()
        second = replace(company, place=replace(company.place, http=door))
        answers = await asyncio.gather(*(one.ask(token) for one in (company, second) * 4))
        assert sorted(one.status_code for one in answers) == [200, *[400] * 7]
        assert len(await company.place.events("company.admitted")) == 1
        assert (await second.ask(company.assertion())).status_code == 200


NOW, END = 1_000, 5_000


def permission(scopes: str, **changes: object) -> Delegation:
    made = Delegation("u", "c", "k", scopes=frozenset(scopes.split()), created_at=NOW, expires_at=END)
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("held", "given", "wanted", "expected"),
    [
        (None, None, "a b", Renewal(frozenset("ab"), frozenset("ab"), 9_000)),
        (None, None, "", Renewal(None)),
        (None, "a", "a", Renewal(frozenset("a"))),  # its record was deleted long after it ended
        (permission("a"), None, "a b", Renewal(None)),
        (permission("a b"), "a b", "a b", Renewal(frozenset("ab"), frozenset("ab"), 9_000)),
        (permission("a"), "a b", "a b c", Renewal(frozenset("abc"), frozenset("ac"), 9_000)),
        (permission("a"), "a b", "a", Renewal(frozenset("ab"), frozenset("a"), 9_000)),
        (permission("a", revoked_at=NOW), f"a b {DROPPED}", "a", Renewal(frozenset("ab"), frozenset("a"), 9_000)),
        (permission("a b x"), "a b", "a", Renewal(frozenset("a"), frozenset("ax"), 9_000)),
        (permission("a", expires_at=2_000), "a", "a b", Renewal(frozenset("ab"), frozenset("ab"), 2_000)),
        (permission("a", expires_at=None), "a", "a b", Renewal(frozenset("ab"), frozenset("ab"), None)),
        (permission("a", revoked_at=NOW), "a", "a b", Renewal(frozenset("a"))),
        (permission("a b"), "a b", "", Renewal(frozenset({"a", "b", DROPPED}), frozenset(), END)),
        (permission("a x"), "a b", "", Renewal(None, frozenset("x"), END)),
        (permission("a", revoked_at=NOW), f"a b {DROPPED}", "a b", Renewal(frozenset("ab"), frozenset("a"), 9_000)),
        (permission("a"), f"a {DROPPED}", "a b", Renewal(None)),  # the person allowed it in the meantime
        (permission("a", revoked_at=NOW), f"a {DROPPED}", "", Renewal(frozenset({"a", DROPPED}))),
    ],
)
def test_a_renewal_gives_back_nothing_that_was_taken(
    held: Delegation | None, given: str | None, wanted: str, expected: Renewal
) -> None:
    before = None if given is None else frozenset(given.split())
    assert renew(held, given=before, wanted=frozenset(wanted.split()), end_before=END, end=9_000) == expected
