"""The account page: passkeys, password, signed-in browsers, the company's sign-in, data, and deletion."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response

from server.http.page_texts import section
from server.portal.profile.passkeys import adding_form
from server.portal.requests import OwnVisit, safe_return
from server.sign_in.password import OWNER_ISSUER
from vault import users
from vault.records import Session
from vault.sign_in import passkeys, sessions
from vault.sign_in.passkeys import NAME_LIMIT

PATH: Final = "/account"
_OFFERS_SIGN_OUT: Final = frozenset({"passkey_added", "passkey_removed"})  # OWASP ASVS 5.0, 7.4.3


async def show(visit: OwnVisit) -> Response:
    """Everything about the person's own account."""
    return await profile_page(visit, done=visit.visit.query("done"))


async def profile_page(visit: OwnVisit, *, done: str = "", error: str = "", status: int = 200) -> Response:
    """The page, with a note about what was just done (a key in the texts `profile_done`) or an error."""
    deployment, user = visit.deployment, visit.user
    database = deployment.database
    held = await passkeys.list_passkeys(database, user.id)
    idle = deployment.settings.sign_in.session_idle_lifetime
    signed_in = await sessions.list_sessions(database, user.id, now=deployment.now(), idle_lifetime=idle)
    return_to = safe_return(visit.visit.query("return_to"))
    context: dict[str, object] = {
        "error": error,
        "done": section("profile_done").get(done, ""),
        "offers_sign_out": done in _OFFERS_SIGN_OUT and len(signed_in) > 1,
        "has_password": user.password_hash is not None,
        "takes_passwords": deployment.settings.sign_in.local,
        "passkeys": held,
        "name_limit": NAME_LIMIT,
        "adding": await adding_form(visit, held, return_to="" if return_to == "/" else return_to),
        "sessions": [_session_row(visit, one) for one in signed_in],
        "identities": await _identities(visit),
    }
    return visit.page("profile.html", context, status=status)


def _session_row(visit: OwnVisit, session: Session) -> dict[str, object]:
    return {
        "id": session.id,
        "device": session.device,
        "network": session.network,
        "method": section("sign_in_method").get(session.method, ""),
        "seen_at": session.seen_at,
        "is_here": session.token_hash == visit.session.token_hash,
    }


async def _identities(visit: OwnVisit) -> list[dict[str, str]]:
    """The external identities with which this person signs in, by the label of their button."""
    titles = {one.issuer: one.title for one in visit.deployment.settings.sign_in.openid.values()}
    found = await users.list_identities(visit.deployment.database, visit.user.id)
    return [
        {"title": titles.get(one.issuer, ""), "host": urlsplit(one.issuer).netloc, "subject": one.subject}
        for one in found
        if one.issuer != OWNER_ISSUER
    ]
