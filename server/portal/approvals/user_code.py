"""The code that some apps must send before they can ask this person (`vault.approvals.user_codes`)."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from server.http import pages
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault.approvals import user_codes
from vault.audit import audit
from vault.keys import passwords
from vault.records import Event

_KIND: Final = "user_code.changed"


async def state(visit: OwnVisit) -> dict[str, object]:
    """The page's facts: whether a code is set, the requirements for a code, and what was just done."""
    done = visit.visit.query("done")
    return {
        "is_set": await user_codes.has_code(visit.deployment.database, visit.user.id),
        "shortest": user_codes.SHORTEST,
        "longest": user_codes.LONGEST,
        "done": done if done in {"set", "removed"} else "",
    }


async def change(visit: OwnVisit) -> Response:
    """Set, replace, or remove the code without which some clients can't ask this person."""
    deployment, now = visit.deployment, visit.deployment.now()
    if visit.form.one("action") == "remove":
        async with deployment.transaction() as transaction:
            if await user_codes.remove(transaction, visit.user.id):
                await audit.append(transaction, Event(_KIND, user_id=visit.user.id, details={"is_set": False}), now=now)
        return pages.go("/approvals?done=removed")
    code = visit.form.one("code")
    if not user_codes.SHORTEST <= len(code) <= user_codes.LONGEST or not code.isprintable() or code != code.strip():
        limits = {"shortest": str(user_codes.SHORTEST), "longest": str(user_codes.LONGEST)}
        raise PageRefused("user_code", **limits)
    code_hash = await passwords.hash_password(code)
    async with deployment.transaction() as transaction:
        await user_codes.save(transaction, visit.user.id, code_hash=code_hash, now=now)
        await audit.append(transaction, Event(_KIND, user_id=visit.user.id, details={"is_set": True}), now=now)
    return pages.go("/approvals?done=set")
