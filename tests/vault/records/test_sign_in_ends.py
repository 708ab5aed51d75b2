"""A notice a day before an agent must sign in again: once, and only if it is true."""

from __future__ import annotations

import json
from dataclasses import replace

import asyncpg
import pytest

from tests.conftest import Store
from tests.support.seeded_grant import LIFETIMES, NOW, RESOURCE, SCOPES, SeededGrant, seed
from vault import grants
from vault.audit import audit
from vault.records import TENANT, Event
from vault.storage.database import Database
from vault.storage.database_url import open_database
from vault.tokens import tokens
from vault.tokens.tokens import Lifetimes, RefreshRequest
from vault.upkeep import sign_ins

DAY = 86400


async def issue(database: Database, seeded: SeededGrant, lifetimes: Lifetimes = LIFETIMES) -> str:
    now = database.now()
    async with database.transaction() as transaction:
        return await tokens.issue_refresh_token(
            transaction, seeded.grant, scopes=SCOPES, resource=RESOURCE, now=now, lifetimes=lifetimes
        )


async def expiry_events(database: Database) -> list[Event]:
    return [event for event in await audit.list_events(database) if event.kind == "token.expiring"]


async def test_a_person_is_told_once_a_day_before_an_agent_falls_out(database: Database) -> None:
    seeded = await seed(database)
    await issue(database, seeded)
    start, end = database.clock_offset, database.now() + 90 * DAY
    try:
        database.clock_offset = start + 89 * DAY - 60
        assert await sign_ins.announce(database) == 0
        database.clock_offset = start + 89 * DAY + 60
        assert await sign_ins.announce(database) == 1
        assert await sign_ins.announce(database) == 0
        (event,) = await expiry_events(database)
        assert (event.user_id, event.client_id) == (seeded.user.id, seeded.grant.client_id)
        assert event.details["why"] == "unused"
        assert abs(int(str(event.details["ends_at"])) - end) < 60
        database.clock_offset = start + 91 * DAY
        assert await sign_ins.announce(database) == 0
    finally:
        database.clock_offset = start


async def test_the_age_of_a_sign_in_is_told_and_its_renewal_puts_off_only_the_idle_end(database: Database) -> None:
    seeded = await seed(database)
    token = await issue(database, seeded)
    start = database.clock_offset
    request = RefreshRequest(seeded.grant.client_id)
    try:
        for day in (80, 160, 240, 320):
            database.clock_offset = start + day * DAY
            assert await sign_ins.announce(database) == 0
            used = await tokens.rotate(database, token, request=request, now=database.now(), lifetimes=LIFETIMES)
            token = used.refresh_token
        database.clock_offset = start + 364 * DAY + 60
        assert await sign_ins.announce(database) == 1
        await tokens.rotate(database, token, request=request, now=database.now(), lifetimes=LIFETIMES)
        assert await sign_ins.announce(database) == 0
        (event,) = await expiry_events(database)
        assert event.details["why"] == "age"
    finally:
        database.clock_offset = start


async def test_nobody_is_told_of_an_access_that_was_cut_off_or_that_is_always_short(database: Database) -> None:
    seeded = await seed(database)
    start = database.clock_offset
    await issue(database, seeded, replace(LIFETIMES, idle=DAY))
    assert await sign_ins.announce(database) == 0
    await issue(database, seeded)
    async with database.transaction() as transaction:
        await grants.revoke_grant(transaction, seeded.grant.id, reason="test", now=NOW)
    try:
        database.clock_offset = start + 89 * DAY + 60
        assert await sign_ins.announce(database) == 0
    finally:
        database.clock_offset = start


async def test_a_token_that_tells_nothing_is_judged_once_and_hides_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_ins, "BATCH", 2)
    start = database.clock_offset
    cut_off = await seed(database)
    for _ in range(5):
        await issue(database, cut_off)
    async with database.transaction() as transaction:
        await grants.revoke_grant(transaction, cut_off.grant.id, reason="test", now=NOW)
    await issue(database, await seed(database, name="bob", client_id="agent-2"))
    try:
        database.clock_offset = start + 89 * DAY + 60
        assert await sign_ins.announce(database) == 1
        rows = await database.fetch("select announced_end from refresh_tokens where consumed_at is null")
        assert len(rows) == 6 and all(row["announced_end"] for row in rows)
    finally:
        database.clock_offset = start


_COPIES = """
    insert into refresh_tokens (tenant, token_hash, grant_id, client_id, family, generation, scopes, resource,
        issued_at, expires_at, idle_expires_at)
    select tenant, sha256(convert_to(cast(n as text), :encoding)), grant_id, client_id, family, generation, scopes,
        resource, issued_at, expires_at, idle_expires_at
    from refresh_tokens cross join generate_series(1, 300) as copies (n)
"""


async def test_what_was_judged_costs_the_next_round_no_look_at_its_row(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL keeps the entries of judged tokens in its index until a search passes them again."""
    monkeypatch.setattr(sign_ins, "BATCH", 50)
    setting = await asyncpg.connect(postgres_store.url)
    name = await setting.fetchval("select current_database()")
    for plan in ("seqscan", "bitmapscan", "sort"):  # because the table is small here
        await setting.execute(f"alter database {name} set enable_{plan} = off")
    await setting.close()
    database = await open_database(postgres_store.url, data=postgres_store.data)
    try:
        await issue(database, await seed(database))
        async with database.transaction() as transaction:
            await transaction.execute(_COPIES, {"encoding": "UTF8"})
        database.clock_offset += 89 * DAY + 60
        assert await sign_ins.announce(database) == 1
        now = database.now()
        which = {"tenant": TENANT, "soon": now + DAY, "day": DAY, "limit": 50, "from": now + 1, "after": b""}
        (found,) = await database.fetch(f"explain (analyze, buffers, format json) {sign_ins._SOON}", which)
        (explained,) = json.loads(str(found["QUERY PLAN"]))
        assert explained["Plan"]["Shared Hit Blocks"] < 100
    finally:
        await database.close()
