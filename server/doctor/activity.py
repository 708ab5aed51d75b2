"""Check of the activity since its last sealed checkpoint: whether it is intact."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from vault.audit.deliveries import list_deliveries
from vault.audit.proof import ChainBroken, last_checkpoint, prove

LIMIT: Final = 100_000  # events to read; a running vault seals verified events every ten minutes
_CHECK: Final = "activity"
_WHOLE: Final = "to read it all, run token-vault activity verify"


async def check_activity(deployment: Deployment) -> list[Finding]:
    """Verify the activity from the last sealed checkpoint to the end, and report where checkpoints don't arrive.

    Reads only.
    """
    return [*await _check_chain(deployment), *await _check_deliveries(deployment)]


async def _check_deliveries(deployment: Deployment) -> list[Finding]:
    from server.checkpoints.publication import destinations_of

    names = destinations_of(deployment).names
    known = await list_deliveries(deployment.database) if names else {}
    fix = "token-vault activity checkpoint tries again and prints what fails"
    return [
        problem(_CHECK, f"{name} doesn't get the signed checkpoints: {known[name].failure}", fix=fix)
        for name in names
        if name in known and known[name].failure is not None
    ]


async def _check_chain(deployment: Deployment) -> list[Finding]:
    database = deployment.database
    try:
        key = database.event_key
        last = None if key is None else await last_checkpoint(database, key)
        report = await prove(database, since=last, limit=LIMIT)
    except ChainBroken as broken:
        fix = "find out who else writes to the database; run token-vault activity verify for details"
        return [problem(_CHECK, broken.description, fix=fix)]
    if report.unkeyed:
        first, end = report.unkeyed[0]
        sentence = f"{report.unkeyed_count} events were written without the vault's key, the first {first} to {end}"
        return [
            note(
                _CHECK,
                sentence,
                fix="stop processes of an earlier release; if there are none, find out who wrote them",
            )
        ]
    if not report.is_complete:
        return [note(_CHECK, f"{report.last} events are intact; more follow", fix=_WHOLE)]
    if report.first > report.last:
        return [ok(_CHECK, f"no new events since event {report.last}, which was verified before")]
    before = f"; earlier events were verified when they were sealed ({_WHOLE})" if report.trusted else ""
    return [ok(_CHECK, f"events {report.first} to {report.last} are intact{before}")]
