"""The state of the vault as a whole: the doctor's cheap checks, and overdue upkeep."""

from __future__ import annotations

from dataclasses import replace

from server.deployment import Deployment
from server.doctor.database import check_history, check_pooler
from server.doctor.findings import Finding, ok, problem
from server.doctor.refreshes import check_refreshes
from server.http.page_texts import text
from server.http.translations import translate_filled
from vault.refusals import VaultError
from vault.storage.database import schema_files
from vault.upkeep.health import check_keys, check_schema, check_writable
from vault.upkeep.revocations import count_overdue


async def find_troubles(deployment: Deployment) -> list[Finding]:
    """The findings of the doctor's cheap checks, and overdue upkeep."""
    database, found = deployment.database, list[Finding]()
    for check, name, sentence in (
        (
            check_schema(database),
            "schema",
            text("admin_overview.schema", number=len(schema_files()), shape=database.fingerprint),
        ),
        (check_keys(database, deployment.keys), "keys", text("admin_overview.keys")),
        (check_writable(database), "storage", text("admin_overview.writes")),
    ):
        try:
            await check
            found.append(ok(name, sentence))
        except VaultError as refusal:
            found.append(problem(name, translate_filled(refusal.description), fix=text("admin_overview.see_log")))
    for one in (await check_history(deployment), *check_pooler(database), *await check_refreshes(deployment)):
        found.append(replace(one, sentence=translate_filled(one.sentence), fix=translate_filled(one.fix)))
    overdue, since = await count_overdue(database, now=deployment.now())
    if overdue:
        late = text("admin_overview.overdue", number=overdue, minutes=(deployment.now() - since) // 60)
        found.append(problem("revocations", late, fix=text("admin_overview.overdue_fix")))
    else:
        found.append(ok("revocations", text("admin_overview.on_time")))
    return found
