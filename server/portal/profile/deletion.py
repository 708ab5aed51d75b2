"""Delete the account: explained, confirmed by name after a recent sign-in, and answered with the result."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from server.connecting.deletion import end_at_providers, remove_person
from server.errors import status_of
from server.http.page_texts import text
from server.portal.connections import end_row
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.sign_in import password, step_up
from vault import connections, users
from vault.records import Event, Role
from vault.upkeep import receipts, revocations
from vault.users import name_key

_PATH: Final = "/account/delete"


async def confirm(visit: OwnVisit) -> Response:
    """Explain what deletion does, and ask for the person's name as confirmation."""
    step_up.check_recent(visit.deployment, visit.session, back=_PATH)
    await _check_other_admin(visit)
    return await _form(visit, error="", status=200)


async def _form(visit: OwnVisit, *, error: str, status: int) -> Response:
    owned = await connections.list_connections(visit.deployment.database, visit.user.id)
    return visit.page("delete_account.html", {"accounts": len(owned), "error": error}, status=status)


async def _check_other_admin(visit: OwnVisit) -> None:
    """Raises PageRefused for the last admin: without one, anyone who reads the server's log can become admin."""
    admins = await users.list_admins(visit.deployment.database)
    others = [one for one in admins if one.id != visit.user.id and one.disabled_at is None]
    if visit.user.is_admin and not others:
        raise PageRefused("last_admin", kind="conflict")


async def delete(visit: OwnVisit) -> Response:
    """Delete the person and show them the receipt."""
    deployment, user = visit.deployment, visit.user
    step_up.check_recent(deployment, visit.session, back=_PATH)
    await _check_other_admin(visit)
    if name_key(visit.form.one("name")) != name_key(user.name):
        return await _form(visit, error=text("delete_account.wrong_name"), status=status_of("invalid_request"))
    async with deployment.transaction(holds_admins=user.is_admin) as transaction:
        if user.is_admin and await users.is_last_admin(transaction, user.id):  # another admin left first
            raise PageRefused("last_admin", kind="conflict")
        if user.role is Role.OWNER and await users.is_last_owner(transaction, user.id):
            raise PageRefused("last_owner", kind="conflict")
        owned = await remove_person(transaction, deployment, user, event=Event(kind="user.removed", user_id=user.id))
    await end_at_providers(deployment, [one.id for one in owned])
    ended = await revocations.list_revocations(deployment.database, user.id)
    known = await receipts.list_of_user(deployment.database, user.id, since=0)
    stranger = replace(visit.visit, session=None, user=None)
    context: dict[str, object] = {"ended": [end_row(visit, one, known) for one in ended if not one.is_superseded]}
    response = stranger.page("deleted.html", context)
    for cookie in ("session", "known"):
        password.set_cookie(deployment, visit.visit.request, response, cookie, value="")
    return response
