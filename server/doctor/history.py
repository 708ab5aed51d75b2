"""Checks whether the database is the one that this host saw last, and which providers did not answer a refresh."""

from __future__ import annotations

from datetime import UTC, datetime

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from vault.refresh import recovery, sightings


async def check_history(deployment: Deployment) -> Finding:
    """A database that went back in time holds refresh tokens that were spent since; presenting one can end a grant."""
    found = await sightings.look(deployment.database, deployment.data)
    if found is None:
        return ok("history", "the database has everything that this host saw of it")
    signs = [
        f"the newest {found.lost_events} events are missing" if found.lost_events else "",
        f"{found.older_rows} accounts were older than this host's journal, which brought them up"
        if found.older_rows
        else "",
        "the note of where the vault's key came into use was replaced, so the events before it may be anybody's"
        if found.is_rekeyed
        else "",
    ]
    said = " and ".join(sign for sign in signs if sign) or "other events took the place of those that this host saw"
    return problem(
        "history",
        f"the database went back in time: {said}",
        mend=(
            "stop all processes and run token-vault quarantine; or token-vault quarantine --accept if every process "
            "runs on this host and it went back by less than 7 days, since the journal here then had every newer token"
        ),
    )


async def check_refreshes(deployment: Deployment) -> list[Finding]:
    """An account whose provider kept silent is waited for: nobody has to connect it again."""
    waiting = await recovery.list_waiting(deployment.database)
    if not waiting:
        return [ok("refreshes", "no account waits for the answer of its provider")]
    return [
        note(
            "refreshes",
            f"{one.provider} did not answer the last refresh of {one.accounts} of its accounts, the first at "
            f"{datetime.fromtimestamp(one.since, UTC):%Y-%m-%d %H:%M} UTC",
            mend=(
                "nobody has to connect again: the vault tries again by itself, at least once a day; if it lasts, look "
                f"at the status page of {one.provider}"
            ),
        )
        for one in waiting
    ]
