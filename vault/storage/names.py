"""Names for shell completion: read-only, without the drivers, so that nothing is created or upgraded. The caller hides
every database error: a failed completion prints nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final
from urllib.parse import quote

from vault.classes.immutable import immutable
from vault.records import LAST, TENANT, ApprovalState
from vault.storage.database import Value

MOST: Final = 200  # names of one kind
TIMEOUT: Final = 1.5  # seconds to wait for the database after a person pressed Tab
_STATEMENTS: Final = {  # kind -> the completed name, then what distinguishes it from others
    "users": "select name, id from users where tenant = :tenant and name_key >= :name_key "
    "order by name_key limit :most",
    "clients": "select name, id from clients where tenant = :tenant and removed_at is null and created_at <= :latest "
    "order by created_at desc, id desc limit :most",
    "connections": "select label, id, provider from connections where tenant = :tenant and ended_at is null "
    "and user_id in (select id from users where tenant = :tenant and name_key = :name_key "
    "union all select user_id from identities "
    "where tenant = :tenant and issuer = :issuer and subject = :subject) limit :most",
    "registrations": "select provider, inputs from provider_registrations where tenant = :tenant limit :most",
    "apis": "select resource, name from apis limit :most",
    # `+ 0` makes SQLite search by person, not by the index of ends
    "standing": "select id, tool from standing_approvals where tenant = :tenant and revoked_at is null "
    "and expires_at + 0 > :now and user_id in (select id from users where tenant = :tenant and name_key = :name_key "
    "union all select user_id from identities where tenant = :tenant and issuer = :issuer and subject = :subject) "
    "limit :most",
    "approvals": "select id, tool from approvals where tenant = :tenant and state = :pending and user_id "
    "in (select id from users where tenant = :tenant and name_key = :name_key union all select user_id from identities "
    "where tenant = :tenant and issuer = :issuer and subject = :subject) limit :most",
}


@immutable
class Whose:
    """The person whose names to list, by the key of their name or by an identity; for people, the key to begin at."""

    name_key: str
    issuer: str = ""
    subject: str = ""


def read_names(kind: str, url: str, *, sqlite: Path | None, whose: Whose) -> Sequence[tuple[str, ...]]:
    """The rows of one kind: `users`, `clients`, `registrations`, `apis`, or a person's `connections`, `approvals`, or
    `standing` approvals.

    Blocking. `sqlite`: the database's file, None for PostgreSQL at `url`.
    """
    facts: dict[str, Value] = {"tenant": TENANT, "most": MOST, "latest": LAST, **asdict(whose)}
    facts |= {"pending": ApprovalState.PENDING.value, "now": int(time.time())}
    if sqlite is None:
        import asyncio

        return asyncio.run(_from_postgres(url, _STATEMENTS[kind], facts))
    # Without a log, no one has the database open, so not even a lock file is created.
    is_closed = not sqlite.with_name(f"{sqlite.name}-wal").exists()
    address = f"file:{quote(str(sqlite))}?mode=ro{'&immutable=1' if is_closed else ''}"
    with closing(sqlite3.connect(address, uri=True, timeout=TIMEOUT)) as connection:
        return [tuple(map(str, row)) for row in connection.execute(_STATEMENTS[kind], facts)]


async def _from_postgres(url: str, statement: str, facts: Mapping[str, Value]) -> Sequence[tuple[str, ...]]:
    from vault.storage.postgres import translate
    from vault.storage.postgres_hosts import Servers, split_hosts

    numbered, names = translate(statement)
    connection = await Servers(split_hosts(url), {}).connect(within=TIMEOUT, statement_cache_size=0)
    try:
        rows = await connection.fetch(numbered, *(facts[name] for name in names), timeout=TIMEOUT)
        return [tuple(map(str, row.values())) for row in rows]
    finally:
        connection.terminate()
