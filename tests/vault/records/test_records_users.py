"""Users, their names and identities, and that ending their access ends all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.conftest import Store
from tests.support.inspection import get_grant, until_waiting
from tests.support.seeded_grant import (
    LIFETIMES,
    NOW,
    RESOURCE,
    SCOPES,
    SESSION_IDLE,
    SESSION_LIFETIME,
    issue_code,
    seed,
)
from vault import grants, tickets, users
from vault.keys.key_ring import KeyRing
from vault.records import Role, TicketPurpose
from vault.refusals import TransitionRefused
from vault.sign_in import sessions
from vault.storage.database import Database, Transaction
from vault.storage.names import Whose, read_names
from vault.tokens import tokens


async def test_a_user_is_found_by_id_and_by_name_whatever_its_case(database: Database) -> None:
    async with database.transaction() as transaction:
        made = await users.create_user(transaction, "  Älice ", password_hash="h", is_admin=True, now=NOW)
    assert made.name == "Älice"
    assert await users.get_user(database, made.id) == made
    assert await users.find_user(database, "äLICE") == made
    assert await users.find_user(database, "A\N{COMBINING DIAERESIS}lice") == made
    assert await users.find_user(database, "alice") is None
    assert await users.get_user(database, "nobody") is None
    async with database.transaction() as transaction:
        longest = await users.create_user(transaction, "ä" * 200, now=NOW)
    assert await users.find_user(database, "A\N{COMBINING DIAERESIS}" * 200) == longest
    assert "'h'" not in repr(made)


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "ali\u202ece", "ali\u200bce", "ali\nce", "ali\x00ce"])
async def test_a_name_that_cannot_be_seen_is_refused(database: Database, name: str) -> None:
    async with database.transaction() as transaction:
        with pytest.raises(users.NameRefused):
            await users.create_user(transaction, name, now=NOW)
        for usable in ("x", "x" * 200):
            await users.create_user(transaction, usable, now=NOW)


async def test_a_name_is_given_once_even_to_many_at_once(database: Database) -> None:
    async def contend(name: str) -> bool:
        try:
            async with database.transaction() as transaction:
                await users.create_user(transaction, name, now=NOW)
        except users.NameTaken:
            return False
        return True

    won = await asyncio.gather(*(contend("alice" if n % 2 else "ALICE") for n in range(10)), contend("bob"))
    assert sum(won[:10]) == 1
    assert won[10]
    assert await users.count_users(database) == 2
    assert [user.name.lower() for user in await users.list_users(database)] == ["alice", "bob"]


async def test_a_person_is_renamed_unless_another_one_has_the_name(database: Database) -> None:
    async with database.transaction() as transaction:
        alice = await users.create_user(transaction, "alice", now=NOW)
        await users.create_user(transaction, "Bob", now=NOW)
        await users.rename_user(transaction, alice.id, "ALICE")  # their own name
        with pytest.raises(users.NameTaken):
            await users.rename_user(transaction, alice.id, "bob")
        with pytest.raises(users.NameRefused):
            await users.rename_user(transaction, alice.id, "")
        await users.rename_user(transaction, alice.id, "carol")
    assert [user.name for user in await users.list_users(database)] == ["Bob", "carol"]
    assert await users.find_user(database, "alice") is None
    found = await users.find_user(database, "Carol")
    assert found is not None
    assert found.id == alice.id


async def test_users_are_walked_by_name_a_page_at_a_time_and_admins_are_few(database: Database) -> None:
    count = 503
    async with database.transaction() as transaction:
        await users.create_user(transaction, "Zoe", is_admin=True, now=NOW)
        for number in range(count):
            await users.create_user(transaction, f"user-{number:05}", now=NOW)
    pages = [[user.name for user in page] async for page in users.walk_users(database)]
    assert [len(page) for page in pages] == [500, 4]
    assert [name for page in pages for name in page] == [*(f"user-{number:05}" for number in range(count)), "Zoe"]
    assert [user.name for user in await users.list_users(database, limit=2)] == ["user-00000", "user-00001"]
    assert [user.name for user in await users.list_admins(database)] == ["Zoe"]


@pytest.mark.requirement("S-134")
async def test_an_identity_belongs_to_one_user_and_to_its_issuer(database: Database) -> None:
    async with database.transaction() as transaction:
        alice = await users.create_user(transaction, "alice", now=NOW)
        bob = await users.create_user(transaction, "bob", now=NOW)
        for _ in range(2):
            await users.link_identity(transaction, issuer="https://a.example", subject="1", user_id=alice.id, now=NOW)
        await users.link_identity(transaction, issuer="https://b.example", subject="1", user_id=bob.id, now=NOW)
    with pytest.raises(users.IdentityTaken):
        async with database.transaction() as transaction:
            await users.link_identity(transaction, issuer="https://a.example", subject="1", user_id=bob.id, now=NOW)
    assert await users.find_by_identity(database, issuer="https://a.example", subject="1") == alice
    assert await users.find_by_identity(database, issuer="https://b.example", subject="1") == bob
    assert await users.find_by_identity(database, issuer="https://b.example", subject="2") is None


async def _change_password(transaction: Transaction, user_id: str) -> bool:
    return await users.set_password(transaction, user_id, password_hash="new", now=NOW + 1)


async def _disable(transaction: Transaction, user_id: str) -> bool:
    return await users.disable_user(transaction, user_id, now=NOW + 1)


async def _delete(transaction: Transaction, user_id: str) -> bool:
    return await users.delete_user(transaction, user_id, now=NOW + 1)


@pytest.mark.requirement("S-086")
@pytest.mark.parametrize("end", [_change_password, _disable, _delete])
async def test_password_change_disabling_and_deletion_end_everything_of_this_user_only(
    database: Database, key_ring: KeyRing, end: Callable[[Transaction, str], Awaitable[bool]]
) -> None:
    alice, bob = await seed(database), await seed(database, name="bob", client_id="agent-2")
    held: dict[str, tuple[str, str, str]] = {}
    for seeded in (alice, bob):
        async with database.transaction() as transaction:
            cookie, _ = await sessions.start_session(transaction, seeded.user.id, now=NOW, lifetime=SESSION_LIFETIME)
            refresh = await tokens.issue_refresh_token(
                transaction, seeded.grant, scopes=SCOPES, resource=RESOURCE, now=NOW, lifetimes=LIFETIMES
            )
            code = await issue_code(transaction, key_ring, user_id=seeded.user.id, client_id=seeded.client.id)
        held[seeded.user.id] = (cookie, refresh, code)
    async with database.transaction() as transaction:
        assert await end(transaction, alice.user.id)
        assert not await end(transaction, "nobody")

    for seeded, ended in ((alice, True), (bob, False)):
        cookie, refresh, code = held[seeded.user.id]
        assert (await sessions.find_session(database, cookie, now=NOW + 1, idle_lifetime=SESSION_IDLE) is None) is ended
        assert (await grants.live_principal_facts(database, seeded.grant.id) is None) is ended
        assert (await tokens.find_live(database, refresh, now=NOW + 1) is None) is ended
        peeked = await tickets.peek(database, key_ring, code, purpose=TicketPurpose.CODE, now=NOW + 1)
        assert (peeked is None) is ended
    cookie, refresh, code = held[alice.user.id]
    with pytest.raises(tokens.RefreshTokenRefused):
        await tokens.rotate(
            database, refresh, request=tokens.RefreshRequest(alice.client.id), now=NOW + 1, lifetimes=LIFETIMES
        )
    with pytest.raises(TransitionRefused):
        async with grants.redeem_code(database, key_ring, code, is_holder=lambda _: True, now=NOW + 1):
            pass


async def test_an_enabled_user_signs_in_again_but_nothing_comes_back(database: Database) -> None:
    alice = await seed(database)
    async with database.transaction() as transaction:
        cookie, _ = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        await users.disable_user(transaction, alice.user.id, now=NOW)
        assert not await users.disable_user(transaction, alice.user.id, now=NOW)
        assert await users.enable_user(transaction, alice.user.id, now=NOW)
        assert not await users.enable_user(transaction, alice.user.id, now=NOW)
        fresh, _ = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
    assert await sessions.find_session(database, cookie, now=NOW, idle_lifetime=SESSION_IDLE) is None
    assert await sessions.find_session(database, fresh, now=NOW, idle_lifetime=SESSION_IDLE) is not None
    assert await grants.live_principal_facts(database, alice.grant.id) is None


async def test_the_record_of_who_disabled_a_person_changes_from_the_directory_to_a_person_only(
    database: Database,
) -> None:
    alice = await seed(database)
    assert await users.may_directory_enable(database, alice.user.id)
    assert await users.may_directory_enable(database, "unknown")
    for is_by_directory, changes, by in (
        (True, True, users.DIRECTORY),
        (True, False, users.DIRECTORY),
        (False, False, None),
    ):
        async with database.transaction() as transaction:
            changed = await users.disable_user(transaction, alice.user.id, now=NOW, is_by_directory=is_by_directory)
        assert changed == changes
        (row,) = await database.fetch("select disabled_by from users where id = :id", {"id": alice.user.id})
        assert row["disabled_by"] == by
        assert await users.may_directory_enable(database, alice.user.id) == (by is not None)


async def test_deletion_forgets_name_password_and_identities(database: Database) -> None:
    alice = await seed(database)
    async with database.transaction() as transaction:
        await users.link_identity(transaction, issuer="https://a.example", subject="1", user_id=alice.user.id, now=NOW)
        assert await users.delete_user(transaction, alice.user.id, now=NOW)
    assert await users.get_user(database, alice.user.id) is None
    assert await users.find_by_identity(database, issuer="https://a.example", subject="1") is None
    assert await database.fetch("select 1 as one from identities") == []
    ended = await get_grant(database, alice.grant.id)
    assert ended is not None
    assert ended.revoked_reason == "user_deleted"


async def test_a_fresh_hash_keeps_sessions_and_yields_to_a_password_set_meanwhile(database: Database) -> None:
    alice = await seed(database)
    old = alice.user.password_hash or ""
    async with database.transaction() as transaction:
        cookie, _ = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        assert await users.store_rehash(transaction, alice.user.id, old_hash=old, new_hash="fresh")
        assert not await users.store_rehash(transaction, alice.user.id, old_hash=old, new_hash="late")
    assert await sessions.find_session(database, cookie, now=NOW, idle_lifetime=SESSION_IDLE) is not None
    stored = await users.get_user(database, alice.user.id)
    assert stored is not None
    assert stored.password_hash == "fresh"


async def test_of_two_admins_who_end_each_other_at_once_one_stays(database: Database) -> None:
    async with database.transaction() as transaction:
        one, other = [await users.create_user(transaction, name, is_admin=True, now=NOW) for name in ("one", "other")]

    async def end(by: str, whom: str) -> bool:
        async with database.transaction() as transaction:
            await users.hold_admins(transaction)
            current = await users.get_user(transaction, by)
            if current is None or not current.is_admin:
                return False
            return await users.set_role(transaction, whom, Role.MEMBER)

    assert sorted(await asyncio.gather(end(one.id, other.id), end(other.id, one.id))) == [False, True]
    assert len(await users.list_admins(database)) == 1


async def test_admins_are_locked_in_one_order_wherever_the_database_keeps_their_rows(
    store: Store, database: Database
) -> None:
    async with database.transaction() as transaction:
        for name in ("one", "other", "third"):
            await users.create_user(transaction, name, is_admin=True, now=NOW)
    ids = sorted(one.id for one in await users.list_admins(database))
    async with database.transaction() as transaction:
        await users.hold_user(transaction, ids[0])  # PostgreSQL now keeps its row behind the others

    async def hold() -> None:
        async with database.transaction() as transaction:
            await users.hold_admins(transaction)

    async with database.transaction() as holding:
        await users.hold_user(holding, ids[0])
        waiting = asyncio.ensure_future(hold())
        await until_waiting(holding, number=1, is_sqlite=store.is_sqlite)
        async with asyncio.timeout(30):  # nobody else has locked them yet
            for one in ids[1:]:
                await users.hold_user(holding, one)
    await waiting


@pytest.mark.parametrize(("begun", "is_ended"), [(NOW - 10, True), (NOW, True), (NOW + 10, False)])
async def test_a_stop_leaves_what_began_after_its_cause(
    database: Database, key_ring: KeyRing, begun: int, is_ended: bool
) -> None:
    alice = await seed(database)
    facts = sessions.SessionFacts(signed_in_at=0)  # the provider doesn't say when
    async with database.transaction() as transaction:
        cookie, _ = await sessions.start_session(
            transaction, alice.user.id, now=begun, facts=facts, lifetime=SESSION_LIFETIME
        )
        code = await issue_code(transaction, key_ring, at=begun, user_id=alice.user.id)
        await users.stop_agents(transaction, alice.user.id, by="https://one.example", at=NOW, now=NOW + 60)
    assert (await sessions.find_session(database, cookie, now=NOW + 60, idle_lifetime=SESSION_IDLE) is None) is is_ended
    assert (await tickets.peek(database, key_ring, code, purpose=TicketPurpose.CODE, now=NOW + 60) is None) is is_ended
    async with database.transaction() as transaction:
        await users.stop_agents(transaction, alice.user.id, by="https://one.example", at=NOW - 50, now=NOW + 60)
        found = await users.get_user(transaction, alice.user.id)
        assert found is not None
        assert found.stopped_at == NOW, "an older event doesn't make the stop older"


async def test_only_a_later_sign_in_there_or_an_admin_clears_a_person(database: Database) -> None:
    alice = await seed(database)
    issuer, subject = "https://one.example", "alice-there"
    async with database.transaction() as transaction:
        await users.link_identity(transaction, issuer=issuer, subject=subject, user_id=alice.user.id, now=NOW)

        async def was_cleared(*, by: str = issuer) -> bool:
            return await users.was_cleared(transaction, alice.user.id, by=by, since=NOW)

        assert not await was_cleared()
        for at in (NOW, NOW - 100):
            await users.note_sign_in(transaction, issuer=issuer, subject=subject, at=at)
            assert not await was_cleared()
        for at in (NOW + 100, NOW - 100):
            await users.note_sign_in(transaction, issuer=issuer, subject=subject, at=at)
            assert await was_cleared()
        assert not await was_cleared(by="https://other.example")
        await users.disable_user(transaction, alice.user.id, now=NOW)
        await users.enable_user(transaction, alice.user.id, now=NOW + 5)
        assert await was_cleared(by="https://other.example")


async def test_200_names_are_completed(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    try:
        async with database.transaction() as transaction:
            for number in range(201):
                await users.create_user(transaction, f"user-{number:05}", now=NOW)
    finally:
        await database.close()
    found = read_names("users", "", sqlite=sqlite_store.data / "vault.sqlite", whose=Whose(""))
    assert len(found) == 200
