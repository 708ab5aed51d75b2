"""Checks of the database: whether it is the one that this host last saw, and whether a pooler is in front of it."""

from __future__ import annotations

from collections.abc import Iterator

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from vault.refresh import sightings
from vault.storage.database import Database


async def check_history(deployment: Deployment) -> Finding:
    """Check whether the database went back in time: it would contain used refresh tokens, and using one can end a
    grant."""
    found = await sightings.look(deployment.database, deployment.data)
    if found is None:
        return ok("history", "the database includes everything this host has seen of it")
    signs = [
        f"the newest {found.lost_events} events are missing" if found.lost_events else "",
        f"{found.older_rows} accounts were older than this host's journal, which updated them"
        if found.older_rows
        else "",
        "the record of when the vault's key came into use was replaced, so anyone could have written earlier events"
        if found.is_rekeyed
        else "",
    ]
    said = " and ".join(sign for sign in signs if sign) or "different events replaced the ones that this host saw"
    return problem(
        "history",
        f"the database went back in time: {said}",
        fix=(
            "stop all processes and run token-vault quarantine. If every process runs on this host and the "
            "database went back less than 7 days, run token-vault quarantine --accept instead: the journal "
            "here had every newer token"
        ),
    )


def check_pooler(database: Database) -> Iterator[Finding]:
    """Check for PgBouncer, whose defaults work, although some of them prolong a failover.

    Only its admin console shows them, which has no login for the vault and doesn't support our driver's protocol.
    """
    if database.is_pooled:
        yield note(
            "pooler",
            "database.url leads through a connection pooler, and it works; its own settings weren't checked",
            fix="check SHOW CONFIG in PgBouncer's admin console, and set in pgbouncer.ini: query_wait_timeout = 5 "
            "(less than 8, because the vault's connection attempts leave after 8 s; the default is 120), "
            "server_login_retry = 1, server_connect_timeout = 2",
        )
