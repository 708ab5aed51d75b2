"""Whether what happened can still be proved: the activity since its last checkpoint."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from vault.audit.proof import ChainBroken, last_checkpoint, prove

LIMIT: Final = 100_000  # events to read; a running vault seals what it verified every ten minutes
_CHECK: Final = "activity"
_WHOLE: Final = "token-vault activity verify reads all of it"


async def check_activity(deployment: Deployment) -> list[Finding]:
    """Verify the activity from the last sealed checkpoint to the head; reads only."""
    database = deployment.database
    try:
        key = database.event_key
        last = None if key is None else await last_checkpoint(database, key)
        report = await prove(database, since=last, limit=LIMIT)
    except ChainBroken as broken:
        mend = "find out who writes to the database beside the vault; token-vault activity verify says more"
        return [problem(_CHECK, broken.description, mend=mend)]
    if report.unkeyed:
        first, end = report.unkeyed[0]
        sentence = f"{report.unkeyed_count} events came without the vault's key, the first {first} to {end}"
        return [note(_CHECK, sentence, mend="end processes of an earlier release; if there were none, look who wrote")]
    if not report.is_complete:
        return [note(_CHECK, f"{report.last} events are whole, there are more", mend=_WHOLE)]
    if report.first > report.last:
        return [ok(_CHECK, f"nothing new since event {report.last}, which was verified before")]
    before = f"; those before were verified when they were sealed ({_WHOLE})" if report.trusted else ""
    return [ok(_CHECK, f"events {report.first} to {report.last} are whole{before}")]
