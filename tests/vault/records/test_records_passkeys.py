"""Passkeys at rest: one owner each, a counter that only grows, deleted with their person; and their sessions."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.seeded_grant import NOW, SESSION_IDLE, SESSION_LIFETIME, seed
from vault import users
from vault.sign_in import passkeys, sessions
from vault.sign_in.passkeys import Passkey, PasskeyTaken, TooManyPasskeys
from vault.sign_in.sessions import SessionFacts
from vault.storage.database import Database


async def _add(database: Database, user_id: str, credential_id: bytes = b"credential", *, count: int = 0) -> Passkey:
    async with database.transaction() as transaction:
        return await passkeys.add(
            transaction,
            user_id,
            credential_id=credential_id,
            public_key=b"public",
            sign_count=count,
            is_synced=True,
            name="Laptop",
            now=NOW,
        )


async def _use(database: Database, passkey: Passkey, count: int) -> bool:
    async with database.transaction() as transaction:
        return await passkeys.note_use(transaction, passkey, sign_count=count, now=NOW + 5)


async def test_a_passkey_is_found_by_its_credential_with_its_owner_and_belongs_to_nobody_else(
    database: Database,
) -> None:
    alice, bob = (await seed(database)).user, (await seed(database, name="bob", client_id="agent-2")).user
    made = await _add(database, alice.id)
    assert await passkeys.find_passkey(database, b"credential") == (made, alice)
    assert await passkeys.find_passkey(database, b"another") is None
    with pytest.raises(PasskeyTaken):
        await _add(database, bob.id)
    async with database.transaction() as transaction:
        assert not await passkeys.rename(transaction, bob.id, made.id, name="Mine")
        assert not await passkeys.remove(transaction, bob.id, made.id)
        assert await passkeys.rename(transaction, alice.id, made.id, name="Desk")
    (kept,) = await passkeys.list_passkeys(database, alice.id)
    assert kept.name == "Desk"
    async with database.transaction() as transaction:
        assert await passkeys.remove(transaction, alice.id, made.id)
    await _add(database, bob.id)
    assert await passkeys.list_passkeys(database, alice.id) == ()


async def test_a_counter_that_does_not_grow_is_refused_and_one_that_is_always_zero_is_none(database: Database) -> None:
    alice = (await seed(database)).user
    counting, plain = await _add(database, alice.id, count=4), await _add(database, alice.id, b"plain")
    assert [await _use(database, counting, count) for count in (4, 3, 0, 5, 5)] == [False, False, False, True, False]
    assert [await _use(database, plain, count) for count in (0, 0, 1, 0)] == [True, True, True, False]
    async with database.transaction() as transaction:
        await passkeys.remove(transaction, alice.id, counting.id)
    assert not await _use(database, counting, 9)


async def test_of_many_uses_with_one_counter_one_counts(database: Database) -> None:
    passkey = await _add(database, (await seed(database)).user.id)
    assert sorted(await asyncio.gather(*(_use(database, passkey, 1) for _ in range(8)))) == [False] * 7 + [True]


async def test_a_person_has_a_bounded_number_of_passkeys(database: Database) -> None:
    alice = (await seed(database)).user
    made = [await _add(database, alice.id, bytes([number])) for number in range(20)]
    with pytest.raises(TooManyPasskeys):
        await _add(database, alice.id)
    async with database.transaction() as transaction:
        await passkeys.remove(transaction, alice.id, made[0].id)
    await _add(database, alice.id)


async def test_passkeys_that_come_at_once_keep_within_the_number(database: Database) -> None:
    alice = (await seed(database)).user
    for number in range(19):
        await _add(database, alice.id, bytes([number]))
    tries = (_add(database, alice.id, bytes([20, number])) for number in range(6))
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(one) for one in outcomes if not isinstance(one, Passkey)] == [TooManyPasskeys] * 5
    assert len(await passkeys.list_passkeys(database, alice.id)) == 20


async def test_a_deleted_person_leaves_no_passkey_and_no_session(database: Database) -> None:
    alice, bob = (await seed(database)).user, (await seed(database, name="bob", client_id="agent-2")).user
    await _add(database, alice.id)
    kept = await _add(database, bob.id, b"bobs")
    async with database.transaction() as transaction:
        await sessions.start_session(transaction, alice.id, now=NOW, lifetime=SESSION_LIFETIME)
        await users.delete_user(transaction, alice.id, now=NOW)
    assert await passkeys.find_passkey(database, b"credential") is None
    assert await sessions.list_sessions(database, alice.id, now=NOW, idle_lifetime=SESSION_IDLE) == ()
    assert await passkeys.find_passkey(database, b"bobs") == (kept, bob)


async def test_a_person_sees_their_live_sessions_and_how_they_began(database: Database) -> None:
    alice, bob = (await seed(database)).user, (await seed(database, name="bob", client_id="agent-2")).user
    facts = SessionFacts("passkey", "Firefox on Linux", "private", proved_at=NOW)
    async with database.transaction() as transaction:
        _, strong = await sessions.start_session(transaction, alice.id, now=NOW, facts=facts, lifetime=SESSION_LIFETIME)
        token, plain = await sessions.start_session(transaction, alice.id, now=NOW - 9, lifetime=SESSION_LIFETIME)
        _, ended = await sessions.start_session(transaction, alice.id, now=NOW, lifetime=SESSION_LIFETIME)
        await sessions.end_session(transaction, ended.token_hash, now=NOW)
        await sessions.start_session(transaction, bob.id, now=NOW, lifetime=SESSION_LIFETIME)
        await sessions.start_session(transaction, alice.id, now=NOW, lifetime=0)
    assert await sessions.list_sessions(database, alice.id, now=NOW, idle_lifetime=SESSION_IDLE) == (strong, plain)
    assert await sessions.list_sessions(database, alice.id, now=NOW, idle_lifetime=9) == (strong,)
    assert (strong.method, strong.device, strong.network) == ("passkey", "Firefox on Linux", "private")
    assert strong.is_proved(NOW + 59, lifetime=60)
    assert not strong.is_proved(NOW + 60, lifetime=60)
    assert plain.is_recent(NOW, lifetime=60)
    assert not plain.is_proved(NOW, lifetime=60)
    async with database.transaction() as transaction:
        await sessions.note_proof(transaction, plain.token_hash, now=NOW + 100)
    found = await sessions.find_session(database, token, now=NOW + 100, idle_lifetime=SESSION_IDLE)
    assert found is not None
    assert found[0].is_proved(NOW + 100, lifetime=60)
    assert found[0].is_recent(NOW + 100, lifetime=60)
