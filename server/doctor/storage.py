"""Check of what stands between the vault and its database."""

from __future__ import annotations

from collections.abc import Iterator

from server.doctor.findings import Finding, note
from vault.storage.database import Database


def check_pooler(database: Database) -> Iterator[Finding]:
    """PgBouncer's defaults work, and some of them make a fail-over longer. It does not tell us what they are."""
    if database.is_pooled:
        yield note(
            "pooler",
            "database.url leads through a connection pooler, which works",
            mend="for a short fail-over, set in pgbouncer.ini: server_login_retry = 1, server_connect_timeout = 2, "
            "query_wait_timeout = 5",
        )
