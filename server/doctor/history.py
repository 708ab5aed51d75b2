"""Checks whether the database is the one that this host saw last, or an older one that somebody put in its place."""

from __future__ import annotations

from server.deployment import Deployment
from server.doctor.findings import Finding, ok, problem
from vault import sightings


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
