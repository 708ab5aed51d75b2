"""Signing out browsers elsewhere."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from server.http import pages
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.sign_in import step_up
from vault.audit import audit
from vault.records import Event
from vault.sign_in import sessions

OTHERS: Final = "others"  # every browser but this one


async def sign_out(visit: OwnVisit) -> Response:
    """Sign out one browser, or every other one, after a recent sign-in (OWASP ASVS 5.0, 7.5.2)."""
    deployment, now = visit.deployment, visit.deployment.now()
    step_up.check_recent(deployment, visit.session)
    wanted = visit.form.one("session")
    idle = deployment.settings.sign_in.session_idle_lifetime
    live = await sessions.list_sessions(deployment.database, visit.user.id, now=now, idle_lifetime=idle)
    ended = [one for one in live if one.token_hash != visit.session.token_hash and wanted in (OTHERS, one.id)]
    if not ended and wanted != OTHERS:
        raise PageRefused("no_session", kind="not_found")
    async with deployment.transaction() as transaction:
        if wanted == OTHERS:
            await sessions.end_user_sessions(transaction, visit.user.id, now=now, except_hash=visit.session.token_hash)
        for one in ended:
            await sessions.end_session(transaction, one.token_hash, now=now)
        details: dict[str, object] = {"browsers": sorted({one.device for one in ended if one.device})}
        event = Event("session.ended_elsewhere", user_id=visit.user.id, details={"number": len(ended)} | details)
        await audit.append(transaction, event, now=now)
    return pages.go("/account?done=signed_out")
