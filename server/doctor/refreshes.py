"""Check for providers that didn't answer a refresh."""

from __future__ import annotations

from datetime import UTC, datetime

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok
from vault.refresh import recovery


async def check_refreshes(deployment: Deployment) -> list[Finding]:
    """Report accounts that wait for a provider that didn't answer; nobody has to reconnect."""
    waiting = await recovery.list_waiting(deployment.database)
    if not waiting:
        return [ok("refreshes", "no account is waiting for its provider")]
    return [
        note(
            "refreshes",
            f"{one.provider} didn't answer the last refresh of {one.accounts} of its accounts, the first at "
            f"{datetime.fromtimestamp(one.since, UTC)} UTC",
            fix=(
                "no action needed: the vault retries at least once a day. If it lasts, check the status "
                f"page of {one.provider}"
            ),
        )
        for one in waiting
    ]
