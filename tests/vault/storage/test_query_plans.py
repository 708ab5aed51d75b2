"""Every SQL statement of the vault finds its rows by an index: no table that grows is read completely.

The statements come from the source of `vault/` and `server/`. A search by only the tenant is a scan, too, because there
is only one tenant.
"""

from __future__ import annotations

import ast
import importlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.world import ROOT
from tests.conftest import Store
from vault.backup import quarantine
from vault.storage.postgres import translate
from vault.storage.schema_shape import BOOKKEEPING
from vault.storage.snapshots import tables

SMALL = {  # operator entries, single rows, one row for 2,000 events, and what is in progress
    "intents", "deletions", "panics", "receipt_keys", "revocation_pauses",
    "apis", "api_clients", "provider_registrations", "mcp_servers", "mcp_tools", "imported_apis",
    "replicas", "directory_tokens",
    "event_heads", "event_deliveries", "notice_feeds", "event_checkpoints", "keys.ring", "keys.masters",
    "keys.event_starts", "schema_versions", "schema_migrations",
}  # fmt: skip
DRIVERS = ("postgres", "sqlite", "schema_shape", "__init__")  # these modules have SQL for only one database
STATEMENT = re.compile(  # no sentence on a page matches this
    r"\s*(select\s.*\bfrom\s|insert into\s|update\s+[a-z_.]+\s+set\s|delete from\s|with\s+[a-z_]+\s+as\s)", re.DOTALL
)

# By only the tenant, everything that hasn't ended yet, or everything that has.
UNBOUNDED = re.compile(r"tenant=\?( AND (expires_at|ended_at|seen_at)>\?)?")

# These read a whole table on purpose. The first words of the statement, and the reason.
ALLOWED = {
    "select id from notice_channels where tenant = :tenant limit 1": "the first row, if there is one",
    "insert into notice_feeds (tenant, sequence) select h.tenant, h.sequence from event_heads h": "as above",
    "select g.user_id from grants g where g.tenant = :tenant and g.revoked_at is null and g.created_at <= :before": (
        "a command that ends everybody's access"
    ),
    "select r.connection_id, r.user_id, r.provider, r.sealed, r.attempts, r.outcome, r.next_at, r.created_at, "
    "r.done_at, k.account, k.label, k.access_expires_at, coalesce(k.reason, cast(:nothing as text)) as reason from "
    "upstream_revocations r join connections k on k.tenant = r.tenant and k.id = r.connection_id where r.tenant = "
    ":tenant and r.owes_receipt = 1": "those that owe a receipt, by an index of them alone",
    "select r.connection_id, r.user_id, r.provider, r.sealed, r.attempts, r.outcome, r.next_at, r.created_at, "
    "r.done_at, k.account, k.label, k.access_expires_at, coalesce(k.reason, cast(:nothing as text)) as reason from "
    "upstream_revocations r join connections k on k.tenant = r.tenant and k.id = r.connection_id where r.tenant = "
    ":tenant and r.done_at is null and r.next_at is null": "a page of admins: those held, by an index of them alone",
    "select a.client_id, a.user_id, a.connection_id, a.ended_at, a.provider, a.token_hash, a.released_at, "
    "a.expires_at, case when k.id is not null and k.ended_at is null then 1 else 0 end as is_connected from "
    "agent_receipts a": ("those that are owed, by an index of them alone"),
    "select id from users limit 1": "a restore asks whether the place is empty: one row",
    "select id from clients limit 1": "as above",
    "insert into released_tokens (tenant, client_id, user_id, connection_id, token_hash, released_at, expires_at) "
    "select d.tenant, d.client_id": "a restore assumes that every permission was used since the backup",
    "select id from connections limit 1": "as above",
    "select count(*) as n from users where tenant = :tenant": "a command of the owner",
    "update standing_approvals set revoked_at = :now where tenant = :tenant and expires_at > :now and tool = :tool": (
        "an operator accepts another form of a tool: those in force, by an index"
    ),
    "select count(*) as n from standing_approvals where tenant = :tenant and expires_at": (
        "a page of administrators: those in force, by an index"
    ),
    "select id, name, password_hash, is_admin, role, created_at, disabled_at, stopped_at, stopped_by from users where "
    "tenant": "the admins, by an index of them alone",
    "select id from users where tenant = :tenant and is_admin = 1": "as above",
    "update grants set revoked_at = :now, revoked_reason = :reason where tenant = :tenant and resource": (
        "an operator removes an API"
    ),
    "select h.height, h.sequence, h.hash, h.keyed, coalesce((select min(sequence)": "the end of an index, not all",
    "select coalesce((select min(sequence) from events where tenant = :tenant), 0) as first": "both ends of an index",
    "select g.provider, g.scopes, g.n, k.user_id, k.label from": "`doctor`, a command",
    "delete from memberships where tenant = :tenant and source <> :local": "a restore",
    "select count(*) as n from people_groups where tenant = :tenant and is_provisioned": "as the next",
    "select id, name, name_key, external_id, is_provisioned, created_at, changed_at from people_groups where tenant = "
    ":tenant and is_provisioned = 1 order by": "as the next but one",
    "select count(*) as n from provisioned_people where tenant = :tenant": "a directory's list says how long it is",
    "select p.user_id, p.user_name, p.user_name_key, p.external_id, p.attributes, p.created_at, p.changed_at, u.name, "
    "u.disabled_at from provisioned_people p join users u on u.tenant = p.tenant and u.id = p.user_id where p.tenant "
    "= :tenant order by": "a directory's list, a page by its number (RFC 7644 §3.4.2.4)",
    "select provider, state, count(*) as n from connections": "an entry of an index each, where metrics are on",
    "select k.id, k.user_id, k.provider, k.account, k.label, k.state, k.generation, k.access_expires_at, u.name": (
        "quarantine and restore judge every connection"
    ),
    "update connections set lease_owner = null, lease_until = null where tenant = :tenant and (": "as above",
    "update grants set revoked_at = :now, revoked_reason = :reason where tenant = :tenant and revoked_at": "as above",
    "delete from notices where tenant = :tenant": "as above",
    "delete from approvals where tenant = :tenant": "as above",
    "delete from backchannel_pings where tenant = :tenant": "as above",
    "delete from standing_approvals where tenant = :tenant": "as above",
    "delete from access_requests where tenant = :tenant": "as above",
    "delete from approval_answers where tenant = :tenant": "as above",
    "delete from sessions where tenant = :tenant": "as above",
    "delete from tickets where tenant = :tenant": "as above",
    "delete from handles where tenant = :tenant": "as above",
    "delete from refresh_tokens where tenant = :tenant": "as above",
}


def interpolated_names(tree: ast.AST) -> set[str]:
    """Names that are used inside an f-string: a part of a statement isn't a statement."""
    return {
        name.id
        for joined in ast.walk(tree)
        if isinstance(joined, ast.JoinedStr)
        for name in ast.walk(joined)
        if isinstance(name, ast.Name)
    }


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from texts(one)


def fill_in_constants(joined: ast.JoinedStr, names: Mapping[str, object]) -> str:
    """An f-string with the module's constants filled in; a part that is known only at run time keeps its braces."""
    parts: list[str] = []
    for piece in joined.values:
        if isinstance(piece, ast.Constant):
            parts.append(str(piece.value))
        else:
            name = piece.value if isinstance(piece, ast.FormattedValue) else None
            value = names.get(name.id) if isinstance(name, ast.Name) else None
            parts.append(value if isinstance(value, str) else "{}")
    return "".join(parts)


def sources() -> list[Path]:
    """Files that may contain SQL; as a rule, the server has none."""
    return sorted([*(ROOT / "vault").rglob("*.py"), *(ROOT / "server").rglob("*.py")])


@cache
def statements() -> tuple[tuple[str, str], ...]:
    """Module and SQL, each only once."""
    found: dict[str, str] = {}
    for path in sources():
        if path.parent == ROOT / "vault" / "storage" and path.stem.startswith(DRIVERS):
            continue
        if path == ROOT / "server" / "administration" / "account_imports" / "contextforge.py":
            continue  # these tables belong to another program
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any(
            isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value)
            for node in ast.walk(tree)
        ):
            continue
        parts = interpolated_names(tree)
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        pieces = {id(one) for joined in ast.walk(tree) if isinstance(joined, ast.JoinedStr) for one in joined.values}
        whole = [text for name, value in vars(module).items() if name not in parts for text in texts(value)]
        assigned = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id in parts for target in node.targets)
        }
        joined = [fill_in_constants(node, vars(module)) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        inside = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in pieces
            and id(node) not in assigned
        ]
        for text in (*whole, *inside, *joined):
            if STATEMENT.match(text) and "{" not in text and text.count(" ") > 2:
                found.setdefault(" ".join(text.split()), path.stem)
    return tuple((module, sql) for sql, module in found.items())


def is_allowed(sql: str) -> bool:
    return any(sql == start if start.endswith(":tenant") else sql.startswith(start) for start in ALLOWED)


def growing_tables() -> set[str]:
    return {name.removeprefix("keys.") for name in tables() if name not in SMALL}


def aliases(sql: str) -> dict[str, str]:
    """Tables by alias."""
    pairs = re.findall(r"(?:from|join|update|into)\s+(?:keys\.)?([a-z_]+)(?:\s+as)?(?:\s+([a-z]+))?", sql)
    return {(alias if alias and len(alias) <= 2 else table): table for table, alias in pairs} | {t: t for t, _ in pairs}


def scans(sql: str, plan: Iterable[str]) -> list[str]:
    """Lines of SQLite's plan that read a whole growing table, by only the tenant, or by an end in the future."""
    named, grows, bad = aliases(sql), growing_tables(), []
    for line in plan:
        match = re.match(r"(SCAN|SEARCH) (\w+)(.*)", line)
        if match is None or named.get(match[2], match[2]) not in grows:
            continue
        found = re.search(r"\((.*)\)", match[3])
        if match[1] == "SCAN" or (found is not None and UNBOUNDED.fullmatch(found[1])):
            bad.append(line)
    return bad


def explain(connection: sqlite3.Connection, sql: str) -> list[str]:
    names = set(re.findall(r":([a-z_][a-z0-9_]*)", sql))
    return [row[3] for row in connection.execute(f"explain query plan {sql}", dict.fromkeys(names, 1))]


def test_no_statement_reads_a_growing_table_whole_on_sqlite(sqlite_store: Store) -> None:
    found: list[str] = []
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("attach database ? as keys", (str(sqlite_store.data / "keys.sqlite"),))
        connection.execute("attach database ? as vault", (str(sqlite_store.data / "vault.sqlite"),))
        for module, sql in statements():
            bad = scans(sql, explain(connection, sql))
            if bad and not is_allowed(sql):
                found.append(f"{module}: {sql[:150]}\n    {bad}")
    assert found == [], "\n".join(found)


async def test_no_statement_reads_a_growing_table_whole_on_postgresql(postgres_store: Store) -> None:
    import asyncpg

    grows, found = growing_tables(), []
    connection = await asyncpg.connect(postgres_store.url)
    try:
        await connection.execute("set enable_seqscan = off; set plan_cache_mode = force_generic_plan")
        for module, sql in statements():
            query, names = translate(sql)
            given = f"({', '.join(['null'] * len(names))})" if names else ""
            try:
                await connection.execute(f"prepare planned as {query}")
                rows = await connection.fetch(f"explain execute planned{given}")
                await connection.execute("deallocate planned")
            except asyncpg.PostgresError as error:
                found.append(f"{module}: {sql[:150]}\n    {error}")
                continue
            bad = [row[0].strip() for row in rows for table in grows if re.search(rf"Seq Scan on {table}\b", row[0])]
            if bad and not is_allowed(sql):
                found.append(f"{module}: {sql[:150]}\n    {bad}")
    finally:
        await connection.close()
    assert found == [], "\n".join(found)


async def test_a_page_of_the_quarantine_begins_in_the_keys_where_it_begins_in_the_connections(
    postgres_store: Store,
) -> None:
    """PostgreSQL merges the two by their indexes; otherwise, each page would read all keys of the pages before."""
    import asyncpg

    query, names = translate(quarantine._PAGE)
    connection = await asyncpg.connect(postgres_store.url)
    try:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute("set enable_seqscan = off; set enable_nestloop = off; set enable_hashjoin = off")
        await connection.execute(f"prepare planned as {query}")
        plan = await connection.fetch(f"explain execute planned({', '.join(['null'] * len(names))})")
    finally:
        await connection.close()
    keys = next(number for number, row in enumerate(plan) if "on connection_keys " in row[0])
    assert "(connection_id > $" in plan[keys + 1][0], "\n".join(row[0] for row in plan)


def test_the_search_finds_statements_and_the_judgment_finds_scans(sqlite_store: Store) -> None:
    assert len(statements()) > 150
    assert ROOT / "server" / "commands" / "activity" / "verification.py" in sources()
    for sql in ("select a from b where c = 1", "insert into b (a) values (1)", "update b set a = 1", "delete from b"):
        assert STATEMENT.match(sql), sql
    assert not STATEMENT.match("delete what was sent from here")
    assert BOOKKEEPING
    with closing(sqlite3.connect(sqlite_store.data / "vault.sqlite")) as connection:
        for sql, is_bad in {
            "select id from connections where label = :label": True,
            "select id from connections where tenant = :tenant": True,
            "select token_hash from sessions where tenant = :tenant and expires_at > :now": True,
            "select token_hash from sessions where tenant = :tenant and expires_at < :now": False,
            "select k.id from connections k where k.tenant = :tenant and k.label = :label": True,
            "select id from connections where tenant = :tenant and id = :id": False,
            "select name from apis": False,
        }.items():
            assert bool(scans(sql, explain(connection, sql))) is is_bad, sql


@pytest.mark.parametrize("start", sorted(ALLOWED))
def test_each_exception_is_still_needed(start: str) -> None:
    assert any(sql.startswith(start) for _, sql in statements())
