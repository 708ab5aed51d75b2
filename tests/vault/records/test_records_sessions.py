"""Signed-in browsers: found while they are live, and invalid on the server as soon as they end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.seeded_grant import NOW, SESSION_IDLE, SESSION_LIFETIME, seed
from vault.records import DAY, Session
from vault.sign_in import sessions
from vault.storage.database import Database


def test_a_sign_in_is_recent_for_its_time_and_a_later_proof_renews_it() -> None:
    signed_in = Session(b"", "user", created_at=NOW, seen_at=NOW, expires_at=NOW + DAY)
    proved = replace(signed_in, proved_at=NOW + 100)
    unknown = replace(signed_in, created_at=0)
    for session, begun in ((signed_in, NOW), (proved, NOW + 100), (replace(unknown, proved_at=NOW), NOW)):
        assert [session.is_recent(begun + age, lifetime=60) for age in (59, 60)] == [True, False]
    assert not unknown.is_recent(NOW, lifetime=60)
    assert [one.auth_time for one in (signed_in, proved, unknown)] == [NOW, NOW, None]
    assert [one.is_strong for one in (signed_in, proved)] == [False, True]


async def test_a_session_is_found_by_its_token_with_its_user(database: Database) -> None:
    alice = await seed(database)
    async with database.transaction() as transaction:
        token, started = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
    assert len(token) == 43  # 256 bits
    found = await sessions.find_session(database, token, now=NOW, idle_lifetime=SESSION_IDLE)
    assert found == (started, alice.user)
    assert started.token_hash == sessions.session_hash(token)
    assert await sessions.find_session(database, token + "x", now=NOW, idle_lifetime=SESSION_IDLE) is None
    assert await sessions.find_session(database, "", now=NOW, idle_lifetime=SESSION_IDLE) is None
    rows = await database.fetch("select token_hash from sessions")
    assert token.encode() not in [row["token_hash"] for row in rows]


@pytest.mark.requirement("S-133")
async def test_an_ended_session_is_dead_on_the_server_and_the_other_one_lives(database: Database) -> None:
    alice = await seed(database)
    async with database.transaction() as transaction:
        left, ended = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        other, _ = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        assert await sessions.end_session(transaction, ended.token_hash, now=NOW)
        assert not await sessions.end_session(transaction, ended.token_hash, now=NOW)
    assert await sessions.find_session(database, left, now=NOW, idle_lifetime=SESSION_IDLE) is None
    assert await sessions.find_session(database, other, now=NOW, idle_lifetime=SESSION_IDLE) is not None


async def test_signing_out_everywhere_can_spare_the_browser_at_hand(database: Database) -> None:
    alice, bob = await seed(database), await seed(database, name="bob", client_id="agent-2")
    async with database.transaction() as transaction:
        here, kept = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        there, _ = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        bobs, _ = await sessions.start_session(transaction, bob.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        assert await sessions.end_user_sessions(transaction, alice.user.id, now=NOW, except_hash=kept.token_hash) == 1
    assert await sessions.find_session(database, there, now=NOW, idle_lifetime=SESSION_IDLE) is None
    assert await sessions.find_session(database, here, now=NOW, idle_lifetime=SESSION_IDLE) is not None
    async with database.transaction() as transaction:
        assert await sessions.end_user_sessions(transaction, alice.user.id, now=NOW) == 1
    assert await sessions.find_session(database, here, now=NOW, idle_lifetime=SESSION_IDLE) is None
    assert await sessions.find_session(database, bobs, now=NOW, idle_lifetime=SESSION_IDLE) is not None


async def test_an_idle_session_ends_and_a_seen_one_goes_on_until_its_absolute_end(database: Database) -> None:
    alice = await seed(database)
    async with database.transaction() as transaction:
        token, started = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
    step = SESSION_IDLE - 1
    assert not sessions.needs_touch(started, now=NOW + 1)
    assert sessions.needs_touch(started, now=NOW + step)
    assert await sessions.find_session(database, token, now=NOW + step + 1, idle_lifetime=SESSION_IDLE) is None
    now = NOW
    while now + step < NOW + SESSION_LIFETIME:
        now += step
        found = await sessions.find_session(database, token, now=now, idle_lifetime=SESSION_IDLE)
        assert found is not None
        async with database.transaction() as transaction:
            await sessions.touch_session(transaction, found[0], now=now)
    end = NOW + SESSION_LIFETIME
    assert await sessions.find_session(database, token, now=end - 1, idle_lifetime=SESSION_IDLE) is not None
    assert await sessions.find_session(database, token, now=end, idle_lifetime=SESSION_IDLE) is None


async def test_a_browser_is_noted_at_most_once_in_five_minutes(database: Database) -> None:
    alice = await seed(database)
    async with database.transaction() as transaction:
        token, session = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
    for passed, seen in ((299, 0), (300, 300)):
        assert sessions.needs_touch(session, now=NOW + passed) is (seen > 0)
        async with database.transaction() as transaction:
            await sessions.touch_session(transaction, session, now=NOW + passed)
        found = await sessions.find_session(database, token, now=NOW + passed, idle_lifetime=SESSION_IDLE)
        assert found is not None
        assert found[0].seen_at == NOW + seen


async def test_seeing_an_ended_session_does_not_revive_it_and_long_ended_ones_are_forgotten(database: Database) -> None:
    alice = await seed(database)
    later = NOW + 40 * 86400
    async with database.transaction() as transaction:
        token, session = await sessions.start_session(transaction, alice.user.id, now=NOW, lifetime=SESSION_LIFETIME)
        await sessions.end_session(transaction, session.token_hash, now=NOW)
        await sessions.touch_session(transaction, session, now=NOW + 600)
        fresh, _ = await sessions.start_session(transaction, alice.user.id, now=later, lifetime=SESSION_LIFETIME)
        assert await sessions.sweep_sessions(transaction, now=NOW + 30 * 86400 - 1) == 0
        assert await sessions.sweep_sessions(transaction, now=NOW + 30 * 86400) == 1
    assert await sessions.find_session(database, token, now=NOW + 600, idle_lifetime=SESSION_IDLE) is None
    assert await sessions.find_session(database, fresh, now=later, idle_lifetime=SESSION_IDLE) is not None
