"""Checks which providers did not answer a refresh."""

from __future__ import annotations

from datetime import UTC, datetime

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok
from vault.refresh import recovery


async def check_refreshes(deployment: Deployment) -> list[Finding]:
    """The vault waits for a provider that did not answer: nobody has to reconnect."""
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
