"""Grants: the live read behind every call, remembered consent, and revocation; how companies' permissions end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest

from tests.support.inspection import get_grant
from tests.support.seeded_grant import LIFETIMES, NOW, REDIRECT, RESOURCE, SCOPES, SeededGrant, allow, issue_code, seed
from vault import clients, company_permissions, grants, tickets, users
from vault.company_permissions import ENDED_BY_ADMIN, CompanyPermission
from vault.keys.key_ring import KeyRing
from vault.records import ClientKind, Grant, TicketPurpose
from vault.refusals import GrantEnded
from vault.storage.database import Database, Transaction
from vault.tokens.tokens import issue_refresh_token


async def test_the_live_read_brings_grant_client_and_user(database: Database) -> None:
    seeded = await seed(database)
    facts = await grants.live_principal_facts(database, seeded.grant.id)
    assert facts == grants.LiveGrant(
        grant=seeded.grant,
        client_kind=ClientKind.DYNAMIC,
        client_name="An agent",
        auth_method="none",
        user_name="alice",
    )
    assert await get_grant(database, seeded.grant.id) == seeded.grant
    assert await grants.live_principal_facts(database, "unknown") is None
    assert await get_grant(database, "unknown") is None


async def _revoke(transaction: Transaction, seeded: SeededGrant) -> None:
    await grants.revoke_grant(transaction, seeded.grant.id, reason="test", now=NOW)


async def _remove_client(transaction: Transaction, seeded: SeededGrant) -> None:
    await clients.remove_client(transaction, seeded.client.id, now=NOW)


async def _disable_user(transaction: Transaction, seeded: SeededGrant) -> None:
    await users.disable_user(transaction, seeded.user.id, now=NOW)


async def _only_mark_client(transaction: Transaction, seeded: SeededGrant) -> None:
    await transaction.execute(
        "update clients set removed_at = :now where id = :id", {"now": NOW, "id": seeded.client.id}
    )


async def _only_mark_user(transaction: Transaction, seeded: SeededGrant) -> None:
    await transaction.execute("update users set disabled_at = :now where id = :id", {"now": NOW, "id": seeded.user.id})


@pytest.mark.requirement("S-086")
@pytest.mark.parametrize("end", [_revoke, _remove_client, _disable_user, _only_mark_client, _only_mark_user])
async def test_the_live_read_fails_at_once_when_grant_client_or_user_ends(
    database: Database, end: Callable[[Transaction, SeededGrant], Awaitable[None]]
) -> None:
    seeded, other = await seed(database), await seed(database, name="bob", client_id="agent-2")
    first, second = [frozenset({(one.grant.id, "token")}) for one in (seeded, other)]
    assert await grants.live_among(database, first | second) == first | second
    async with database.transaction() as transaction:
        await end(transaction, seeded)
    assert await grants.live_principal_facts(database, seeded.grant.id) is None
    assert await grants.live_principal_facts(database, other.grant.id) is not None
    for asked, live in ((first | second, second), (first, frozenset[tuple[str, str]]()), (second, second)):
        assert await grants.live_among(database, asked) == live


async def test_revoking_again_keeps_the_first_reason_and_one_contender_is_told(database: Database) -> None:
    seeded = await seed(database)

    async def contend(reason: str) -> Grant | None:
        async with database.transaction() as transaction:
            return await grants.revoke_grant(transaction, seeded.grant.id, reason=reason, now=NOW)

    told = [grant for grant in await asyncio.gather(*(contend(f"reason-{n}") for n in range(8))) if grant is not None]
    assert len(told) == 1
    assert told[0] == replace(seeded.grant, revoked_at=NOW, revoked_reason=told[0].revoked_reason)
    assert await contend("later") is None
    assert await get_grant(database, seeded.grant.id) == told[0]


@pytest.mark.requirement("S-086")
async def test_cutting_an_agent_off_ends_its_grants_and_codes_for_this_user_only(
    database: Database, key_ring: KeyRing
) -> None:
    alice, bob = await seed(database), await seed(database, name="bob", client_id="agent-2")
    second = await allow(database, alice.user, alice.client)
    others = await allow(database, alice.user, bob.client)
    bobs = await allow(database, bob.user, alice.client)
    codes: dict[str, str] = {}
    async with database.transaction() as transaction:
        for user in (alice.user, bob.user):
            codes[user.name] = await issue_code(transaction, key_ring, user_id=user.id, client_id=alice.client.id)
        ended = await grants.revoke_client_grants(
            transaction, user_id=alice.user.id, client_id=alice.client.id, reason="cut_off", now=NOW
        )
    assert {grant.id for grant in ended} == {alice.grant.id, second.id}
    assert await grants.list_grants(database, alice.user.id) == (others,)
    assert {grant.id for grant in await grants.list_grants(database, bob.user.id)} == {bob.grant.id, bobs.id}
    for name, code in codes.items():
        ticket = await tickets.peek(database, key_ring, code, purpose=TicketPurpose.CODE, now=NOW)
        assert (ticket is None) is (name == "alice")


@pytest.mark.requirement("S-049")
async def test_consent_is_remembered_only_for_the_same_user_client_redirect_resource_and_scopes(
    database: Database,
) -> None:
    alice, bob = await seed(database), await seed(database, name="bob", client_id="agent-2")

    async def find_consent(**changed: str) -> Grant | None:
        asked = {
            "user_id": alice.user.id,
            "client_id": alice.client.id,
            "redirect_uri": REDIRECT,
            "resource": RESOURCE,
            "scope": "tools",
        } | changed
        return await grants.find_consent(
            database,
            user_id=asked["user_id"],
            client_id=asked["client_id"],
            redirect_uri=asked["redirect_uri"],
            resource=asked["resource"],
            scopes=frozenset(asked["scope"].split()),
        )

    assert await find_consent() == alice.grant
    assert await find_consent(scope="tools connections offline_access") == alice.grant
    assert await find_consent(scope="tools exchange") is None
    assert await find_consent(user_id=bob.user.id) is None
    assert await find_consent(client_id=bob.client.id) is None
    assert await find_consent(redirect_uri=REDIRECT + "/other") is None
    assert await find_consent(resource=RESOURCE + "/other") is None
    async with database.transaction() as transaction:
        await grants.revoke_grant(transaction, alice.grant.id, reason="test", now=NOW)
    assert await find_consent() is None


async def test_the_event_of_a_revocation_names_who_and_why(database: Database) -> None:
    seeded = await seed(database)
    event = grants.revocation_event(replace(seeded.grant, revoked_at=NOW, revoked_reason="cut_off"))
    assert (event.kind, event.user_id, event.client_id) == ("grant.revoked", seeded.user.id, seeded.client.id)
    assert event.details == {"grant": seeded.grant.id, "reason": "cut_off"}
    assert seeded.grant.scopes == SCOPES


async def _new_grant(database: Database, like: Grant, **changes: object) -> Grant:
    facts: dict[str, object] = {
        "user_id": like.user_id,
        "client_id": like.client_id,
        "scopes": like.scopes,
        "resource": like.resource,
        "redirect_uri": like.redirect_uri,
        "now": NOW,
        **changes,
    }
    async with database.transaction() as transaction:
        return await grants.create_grant(transaction, **facts)  # pyright: ignore[reportArgumentType]


async def _end_run_out(database: Database, now: int) -> int:
    async with database.transaction() as transaction:
        return await grants.end_run_out(transaction, now=now)


async def _holds(transaction: Transaction) -> bool:
    return True


async def test_a_grant_ends_with_its_only_access_token_and_takes_along_what_is_based_on_it(database: Database) -> None:
    seeded = await seed(database)
    brief, stays = await _new_grant(database, seeded.grant, ends_at=NOW + 60), await _new_grant(database, seeded.grant)
    based = await grants.derived_grant(
        database, user_id=brief.user_id, client_id=brief.client_id, derived_from=brief.id, scopes=SCOPES,
        resource=RESOURCE, hold=_holds, now=NOW,
    )  # fmt: skip
    assert await _end_run_out(database, NOW + 59) == 0
    assert await _end_run_out(database, NOW + 60) == 1
    ended = [await get_grant(database, one.id) for one in (brief, based, stays)]
    reasons = [None if one is None else one.revoked_reason for one in ended]
    assert reasons == ["run_out", "derived_from_ended", None]
    assert await _end_run_out(database, NOW + 60) == 0


async def test_a_derived_grant_grows_with_what_its_client_asks_for_and_is_new_only_once(database: Database) -> None:
    seeded = await seed(database)

    async def derive(*scopes: str) -> tuple[Grant, bool]:
        async with database.transaction() as transaction:
            return await grants.derive_grant(
                transaction, user_id=seeded.user.id, client_id=seeded.client.id, derived_from=seeded.grant.id,
                scopes=frozenset(scopes), resource=RESOURCE, now=NOW,
            )  # fmt: skip

    first, is_new = await derive("read")
    assert is_new
    for asked, held in ((["read"], {"read"}), (["write"], {"read", "write"}), (["read"], {"read", "write"})):
        again, is_new = await derive(*asked)
        assert (again.id, again.scopes, is_new) == (first.id, held, False)
    facts = await grants.live_principal_facts(database, first.id)
    assert facts is not None
    assert facts.grant.scopes == {"read", "write"}


@pytest.mark.parametrize("ended", ["", "client", "base"])
async def test_nothing_is_derived_once_the_client_or_what_it_depends_on_has_ended(
    database: Database, ended: str
) -> None:
    seeded = await seed(database)
    if ended == "client":
        async with database.transaction() as transaction:
            await _only_mark_client(transaction, seeded)

    async def hold(_: Transaction) -> bool:
        return ended != "base"

    with pytest.raises(GrantEnded) if ended else nullcontext():
        await grants.derived_grant(
            database, user_id=seeded.user.id, client_id=seeded.client.id, derived_from=seeded.grant.id, scopes=SCOPES,
            resource=RESOURCE, hold=hold, now=NOW,
        )  # fmt: skip
    rows = await database.fetch("select id from grants where derived_from = :base", {"base": seeded.grant.id})
    assert len(rows) == (0 if ended else 1)


async def test_grants_end_a_batch_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "RUN_OUT_BATCH", 2)
    seeded = await seed(database)
    for number in range(3):
        await _new_grant(database, seeded.grant, ends_at=NOW + number)
    assert [await _end_run_out(database, NOW + 9) for _ in range(3)] == [2, 1, 0]


async def test_an_earlier_sign_in_ends_with_its_token_and_never_the_consent_or_one_that_refreshes(
    database: Database,
) -> None:
    seeded = await seed(database)
    older = seeded.grant
    wider = await _new_grant(database, older, scopes=SCOPES | {"more"})
    elsewhere = await _new_grant(database, older, redirect_uri="https://other.example/cb")
    refreshes = await _new_grant(database, older)
    async with database.transaction() as transaction:
        await issue_refresh_token(
            transaction, refreshes, scopes=SCOPES, resource=RESOURCE, now=NOW, lifetimes=LIFETIMES
        )
    newest = await _new_grant(database, older)
    async with database.transaction() as transaction:
        await grants.let_older_end(transaction, newest, lifetime=3600)
    assert await _end_run_out(database, NOW + 3599) == 0
    assert await _end_run_out(database, NOW + 100_000) == 1
    assert await grants.live_principal_facts(database, older.id) is None
    for kept in (wider, elsewhere, refreshes, newest):
        assert await grants.live_principal_facts(database, kept.id) is not None
    consent = await grants.find_consent(
        database, user_id=older.user_id, client_id=older.client_id, redirect_uri=older.redirect_uri,
        resource=older.resource, scopes=older.scopes,
    )  # fmt: skip
    assert consent is not None


COMPANY_ROW = {"user_id": "u", "client_id": "c"}


async def company_row(database: Database) -> CompanyPermission:
    found = await company_permissions.get(database, **COMPANY_ROW, company="acme")
    assert found is not None
    return found


@pytest.mark.parametrize("is_ended_by_admin", [True, False])
async def test_a_cut_off_is_kept_whoever_ended_the_row_before(database: Database, is_ended_by_admin: bool) -> None:
    async with database.transaction() as transaction:
        held = await company_permissions.hold(transaction, **COMPANY_ROW, company="acme", now=10)
        if is_ended_by_admin:
            held = replace(held, ended_at=20, ended_reason=ENDED_BY_ADMIN)
        await company_permissions.save(transaction, held)
    assert (await company_row(database)).ended_by_person_at is None
    async with database.transaction() as transaction:
        assert await company_permissions.end(transaction, **COMPANY_ROW, reason="cut_off", now=30) == 1
    found = await company_row(database)
    assert (found.ended_at, found.ended_reason) == ((20, ENDED_BY_ADMIN) if is_ended_by_admin else (30, "cut_off"))
    assert found.ended_by_person_at == found.cut_off_at == 30
    async with database.transaction() as transaction:
        assert await company_permissions.end(transaction, user_id="u", client_id="other", reason="cut_off", now=40) == 0


async def test_a_row_that_an_earlier_release_ended_says_who_did(database: Database) -> None:
    for reason, at in (("cut_off", 20), (ENDED_BY_ADMIN, None)):
        async with database.transaction() as transaction:
            held = await company_permissions.hold(transaction, **COMPANY_ROW, company="acme", now=10)
            await company_permissions.save(transaction, replace(held, ended_at=20, ended_reason=reason))
        assert (await company_row(database)).ended_by_person_at == at
