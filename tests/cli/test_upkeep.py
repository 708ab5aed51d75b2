"""The upkeep's steps one by one: what they delete, what they keep, and which clock they use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx2
import pytest

import server.lifecycle.maintenance
import server.lifecycle.periodic_steps
import vault.audit.segments
import vault.storage.clock
from server.deployment import Deployment
from server.lifecycle.maintenance import run_step, upkeep
from server.lifecycle.periodic_steps import SHED, STEPS, SWEEPS, keep_activity
from server.lifecycle.upkeep_step import UpkeepStep
from server.settings import SHORTEST_RETENTION, RetentionSettings, SettingsRefused, load_settings
from tests.conftest import Store
from tests.support.harness import RunningVault, running_vault
from tests.vault.audit.test_audit_keyed_head import fill
from vault import users
from vault.audit.proof import prove
from vault.audit.segments import SEAL_AFTER
from vault.refresh.journal import KEEP
from vault.refusals import StorageUnavailable
from vault.storage.database import SWEEP_BATCH, Database
from vault.tickets import sweep_tickets
from vault.upkeep import retention

DAY = 86400


@pytest.fixture
async def opened_vault(store: Store) -> AsyncGenerator[RunningVault]:
    async with running_vault(store.data, database_url=store.url) as opened:
        yield opened


async def fails(deployment: Deployment) -> None:
    raise StorageUnavailable("no", detail="on purpose")


async def breaks(deployment: Deployment) -> None:
    raise ZeroDivisionError


async def hangs(deployment: Deployment) -> None:
    await asyncio.Event().wait()


async def works(deployment: Deployment) -> None:
    return None


async def test_a_step_that_fails_breaks_or_hangs_stops_no_other(
    opened_vault: RunningVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()

    async def last(deployment: Deployment) -> None:
        done.set()

    monkeypatch.setattr(server.lifecycle.maintenance, "FIRST", (UpkeepStep("first", 30.0, fails),))
    monkeypatch.setattr(
        server.lifecycle.periodic_steps,
        "STEPS",
        (UpkeepStep("one", 30.0, breaks), UpkeepStep("two", 30.0, hangs), UpkeepStep("three", 30.0, fails)),
    )
    monkeypatch.setattr(
        server.lifecycle.periodic_steps, "SWEEPS", (UpkeepStep("four", 600.0, breaks), UpkeepStep("five", 600.0, last))
    )
    async with upkeep(opened_vault.deployment), asyncio.timeout(30):
        await done.wait()
        while len(opened_vault.deployment.failing_upkeep) < 4:
            await asyncio.sleep(0.01)
    assert opened_vault.deployment.failing_upkeep == {
        "first": "storage_unavailable",
        "one": "ZeroDivisionError",
        "three": "storage_unavailable",
        "four": "ZeroDivisionError",
    }


async def test_readiness_names_a_failing_step_until_it_works(
    opened_vault: RunningVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx2.AsyncClient(base_url=opened_vault.url, timeout=30) as http:
        with monkeypatch.context() as short:
            short.setattr(server.lifecycle.maintenance, "STEP_LIMIT", 0.01)
            await run_step(opened_vault.deployment, UpkeepStep("revocations", 30.0, hangs))
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "upkeep": {"revocations": "timeout"}})
        await run_step(opened_vault.deployment, UpkeepStep("revocations", 30.0, works))
        assert (await http.get("/readyz")).json() == {"status": "ready"}


async def test_every_step_works_on_a_new_vault(opened_vault: RunningVault) -> None:
    for step in (*server.lifecycle.maintenance.FIRST, *STEPS, *SHED, *SWEEPS):
        await run_step(opened_vault.deployment, step)
    assert opened_vault.deployment.failing_upkeep == {}


async def test_a_busy_vaults_activity_is_sealed_and_pruned_in_as_many_turns_as_it_takes(
    opened_vault: RunningVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.audit.segments, "SEGMENT", 3)
    deployment = opened_vault.deployment
    await fill(deployment.database, 20)
    deployment.database.clock_offset += deployment.settings.activity.retention_days * DAY + 2 * SEAL_AFTER
    await keep_activity(deployment, events=4, pruned=2)
    kept = "select count(*) as count from events where kind = :kind"
    (row,) = await deployment.database.fetch(kept, {"kind": "tool.called"})
    assert row["count"] == 0
    report = await prove(deployment.database)
    assert (report.pruned[0].first, len(report.pruned)) == (1, 1)


async def test_a_sweep_ends_in_batches_and_touches_only_what_it_removes(opened_vault: RunningVault) -> None:
    deployment = opened_vault.deployment
    now = deployment.now()
    row = {"tenant": "default", "purpose": "code", "payload": b"x", "now": now}
    old = [
        {**row, "hash": number.to_bytes(4, "big"), "expires": now - 2 * DAY} for number in range(2 * SWEEP_BATCH + 1)
    ]
    kept = [{**row, "hash": b"kept", "expires": now}]
    async with deployment.database.transaction() as transaction:
        await transaction.execute_many(
            "insert into tickets (tenant, ticket_hash, purpose, payload, created_at, expires_at)"
            " values (:tenant, :hash, :purpose, :payload, :now, :expires)",
            old + kept,
        )
    async with deployment.database.transaction() as transaction:
        assert await sweep_tickets(transaction, now=now) == SWEEP_BATCH
    (step,) = [one for one in SHED if one.name == "tickets"]
    await run_step(deployment, step)
    rows = await deployment.database.fetch("select ticket_hash from tickets")
    assert [one["ticket_hash"] for one in rows] == [b"kept"]


async def insert(database: Database, table: str, **values: str | int | bytes | None) -> None:
    async with database.transaction() as transaction:
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        await transaction.execute(f"insert into {table} ({names}) values ({marks})", values)


async def connection(database: Database, name: str, *, ended_at: int | None) -> None:
    await insert(
        database, "connections", tenant="default", id=name, user_id="u", provider="slack", account=name, label=name,
        scopes="", state="ended" if ended_at else "active", generation=1, metadata="{}", created_at=1,
        ended_at=ended_at,
    )  # fmt: skip


async def revocation(database: Database, name: str, *, done_at: int | None) -> None:
    await insert(
        database, "upstream_revocations", tenant="default", connection_id=name, user_id="u", provider="slack",
        attempts=1, outcome="failed", created_at=1, done_at=done_at,
    )  # fmt: skip


async def grant(database: Database, name: str, *, revoked_at: int | None, derived_from: str = "") -> None:
    await insert(
        database, "grants", tenant="default", id=name, user_id="u", client_id="c", scopes="", resource="r",
        redirect_uri="", derived_from=derived_from, created_at=1, revoked_at=revoked_at,
    )  # fmt: skip


async def ids(database: Database, table: str, column: str = "id") -> list[object]:
    return sorted(str(row[column]) for row in await database.fetch(f"select {column} from {table}"))


async def test_what_ended_long_ago_is_forgotten_with_all_that_hung_on_it(database: Database) -> None:
    for name, ended_at in (("gone", 10), ("later", 11), ("alive", None), ("due", 10)):
        await connection(database, name, ended_at=ended_at)
        await insert(
            database, "delegations", tenant="default", user_id="u", client_id="c", connection_id=name, scopes="",
            created_at=1, changed_at=1,
        )  # fmt: skip
        # stays if the person's key was destroyed first: a restored vault ends such a connection as it is
        await insert(
            database, "keys.connection_keys", tenant="default", connection_id=name, salt=b"s" * 32, created_at=1
        )
    await revocation(database, "gone", done_at=10)
    await revocation(database, "due", done_at=None)
    for name, revoked_at, parent in (("old", 10, ""), ("new", 11, ""), ("live", None, ""), ("stood on", 10, "")):
        await grant(database, name, revoked_at=revoked_at, derived_from=parent)
    await grant(database, "child", revoked_at=None, derived_from="stood on")
    await insert(
        database, "delegations", tenant="default", user_id="u", client_id="forbidden", connection_id="alive",
        scopes="", created_at=1, changed_at=1, revoked_at=10,
    )  # fmt: skip
    assert await retention.forget_ended(database, before=10) == 3
    assert await ids(database, "connections") == ["alive", "due", "later"]
    assert await ids(database, "delegations", "connection_id") == ["alive", "due", "later"]
    assert await ids(database, "keys.connection_keys", "connection_id") == ["alive", "due", "later"]
    assert await ids(database, "upstream_revocations", "connection_id") == ["due"]
    assert await ids(database, "grants") == ["child", "live", "new", "stood on"]


async def test_the_last_account_that_a_person_disconnected_stays_where_companies_connect(database: Database) -> None:
    async with database.transaction() as transaction:
        person = (await users.create_user(transaction, "ada", now=1)).id
    rows = (
        *(("first", person, "linear", 8), ("second", person, "linear", 9), ("third", person, "linear", 9)),
        *(("other", person, "slack", 9), ("asana", person, "asana", 9), ("deleted", "nobody", "linear", 9)),
    )
    for name, user_id, provider, ended_at in rows:
        await insert(
            database, "connections", tenant="default", id=name, user_id=user_id, provider=provider, account=name,
            label=name, scopes="", state="revoked", reason="disconnected", generation=1, metadata="{}", created_at=1,
            ended_at=ended_at,
        )  # fmt: skip
    await retention.forget_ended(database, before=10, company_services=("linear", "asana"))
    assert await ids(database, "connections") == ["asana", "third"]
    await retention.forget_ended(database, before=10, company_services=("asana",))
    assert await ids(database, "connections") == ["asana"]
    await retention.forget_ended(database, before=10)
    assert await ids(database, "connections") == []


async def test_retention_of_zero_days_keeps_all(opened_vault: RunningVault) -> None:
    (step,) = [one for one in SWEEPS if one.name == "ended records"]
    await connection(opened_vault.deployment.database, "gone", ended_at=10)
    for days, left in ((0, ["gone"]), (SHORTEST_RETENTION, [])):
        chosen = {"retention": RetentionSettings(ended_days=days)}
        settings = opened_vault.deployment.settings.model_copy(update=chosen)
        await run_step(replace(opened_vault.deployment, settings=settings), step)
        assert await ids(opened_vault.deployment.database, "connections") == left


def test_records_outlive_the_answer_journal() -> None:
    assert SHORTEST_RETENTION * DAY > KEEP
    with pytest.raises(SettingsRefused, match=r"^retention\.ended_days: use at least 8 days, or 0 to keep everything"):
        load_settings(overrides={"retention": {"ended_days": SHORTEST_RETENTION - 1}})
    for days in (0, SHORTEST_RETENTION):
        assert load_settings(overrides={"retention": {"ended_days": days}}).retention.ended_days == days


async def client(database: Database, name: str, *, removed_at: int | None) -> None:
    await insert(
        database, "clients", tenant="default", id=name, kind="dynamic", name=name, auth_method="none",
        redirect_uris="[]", grant_types="[]", resources="[]", metadata="{}", created_at=1, last_used_at=1,
        removed_at=removed_at,
    )  # fmt: skip


async def test_a_removed_agent_is_forgotten_after_its_last_grant(database: Database) -> None:
    for name, removed_at in (("gone", 10), ("later", 11), ("kept", None), ("held", 10)):
        await client(database, name, removed_at=removed_at)
        await insert(
            database, "delegations", tenant="default", user_id="u", client_id=name, connection_id="k", scopes="",
            created_at=1, changed_at=1,
        )  # fmt: skip
        await insert(database, "api_clients", tenant="default", resource="r", client_id=name, created_at=1)
        await insert(
            database, "tool_choices", tenant="default", user_id="u", client_id=name, tool_set="read-only", changed_at=1
        )
    await insert(
        database, "grants", tenant="default", id="g", user_id="u", client_id="held", scopes="", resource="r",
        redirect_uri="", created_at=1, revoked_at=11,
    )  # fmt: skip
    assert await retention.forget_ended(database, before=10) == 1
    for table in ("clients", "delegations", "api_clients", "tool_choices"):
        column = "id" if table == "clients" else "client_id"
        assert await ids(database, table, column) == ["held", "kept", "later"], table
    assert await retention.forget_ended(database, before=11) == 3  # the grant, and two agents
    assert await ids(database, "clients") == ["kept"]


async def test_a_finished_revocation_is_forgotten_although_its_connection_is_kept(opened_vault: RunningVault) -> None:
    database, now = opened_vault.deployment.database, opened_vault.deployment.now()
    (step,) = [one for one in SWEEPS if one.name == "ended records"]
    for name, done_at in (
        ("old", now - 30 * DAY - 1),
        ("new", now - 30 * DAY + 60),
        ("due", None),
    ):
        await connection(database, name, ended_at=now - 60 * DAY)
        await revocation(database, name, done_at=done_at)
    await run_step(opened_vault.deployment, step)
    assert await ids(database, "upstream_revocations", "connection_id") == ["due", "new"]
    assert await ids(database, "connections") == ["due", "new", "old"]


async def test_what_ended_is_forgotten_batch_after_batch(database: Database) -> None:
    count = 2 * SWEEP_BATCH + 1
    row = {"tenant": "default", "client": "c", "none": "", "at": 10}
    async with database.transaction() as transaction:
        await transaction.execute_many(
            "insert into grants (tenant, id, user_id, client_id, scopes, resource, redirect_uri, created_at,"
            " revoked_at) values (:tenant, :id, :client, :client, :none, :none, :none, :at, :at)",
            [{**row, "id": f"g{number}"} for number in range(count)],
        )
    assert await retention.forget_ended(database, before=10) == count
    assert await ids(database, "grants") == []


async def test_every_successor_whose_grace_is_over_is_erased_in_one_sweep(opened_vault: RunningVault) -> None:
    database, now = opened_vault.deployment.database, opened_vault.deployment.now()
    row = {"tenant": "default", "none": "", "then": now - 3600, "later": now + DAY, "sealed": b"x"}
    async with database.transaction() as transaction:
        await transaction.execute_many(
            "insert into refresh_tokens (tenant, token_hash, grant_id, client_id, family, generation, scopes, resource,"
            " issued_at, expires_at, idle_expires_at, consumed_at, superseded_at, successor_hash, successor_sealed)"
            " values (:tenant, :hash, :none, :none, :none, 1, :none, :none, :then, :later, :later, :then, :then,"
            " :sealed, :sealed)",
            [{**row, "hash": number.to_bytes(4, "big")} for number in range(2 * SWEEP_BATCH + 1)],
        )
    (step,) = [one for one in SWEEPS if one.name == "refresh tokens"]
    await run_step(opened_vault.deployment, step)
    assert await database.fetch("select token_hash from refresh_tokens where successor_sealed is not null") == []


@pytest.mark.moving_clock
async def test_the_database_time_counts_the_sleep_of_this_machine(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database.now()
    asleep = 3600
    true, boot = time.time, time.clock_gettime
    monkeypatch.setattr(time, "time", lambda: true() + asleep)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: boot(clock) + asleep)  # CLOCK_MONOTONIC stopped
    assert asleep <= database.now() - before <= asleep + 30
    assert vault.storage.clock.boot_time() - time.monotonic() > asleep - 1
