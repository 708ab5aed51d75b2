"""The page for entering the code that an agent on another device shows.

It leads to a connect page, or to the consent page if the agent's device asks to be signed in (RFC 8628 §3.3).
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from server.connecting.links import ConnectRefused, redeem_user_code
from server.http import pages
from server.http.addresses import address_of, counting_key
from server.http.page_texts import text
from server.oauth import device as device_grant
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.portal.texts import refusal_words
from vault import limits

_TRIES: Final = 10  # codes per user, and per address, in a window
_WINDOW: Final = 600


async def show(visit: OwnVisit) -> Response:
    """Ask for the code. No link fills it in, so that one click on a stranger's link isn't enough."""
    return visit.page("device.html", {"error": "", "typed": ""})


async def enter(visit: OwnVisit) -> Response:
    """Accept the code that an agent shows. A few attempts are allowed per ten minutes."""
    deployment, typed = visit.deployment, visit.form.one("user_code")[:64]
    now, address = deployment.now(), address_of(visit.visit.request)
    async with deployment.transaction() as transaction:
        by_user = await limits.spend(transaction, f"device:user:{visit.user.id}", limit=_TRIES, window=_WINDOW, now=now)
        by_address = await limits.spend(
            transaction, f"device:address:{counting_key(address)}", limit=5 * _TRIES, window=_WINDOW, now=now
        )
    if not (by_user and by_address):
        raise PageRefused("many_codes", kind="too_many_requests")
    try:
        handle = await redeem_user_code(deployment, typed, user=visit.user)
    except ConnectRefused as refusal:
        request = await device_grant.open_request(deployment, typed, session=visit.session)
        if request is not None:
            return pages.go(f"/consent?request={request}")
        return visit.page("device.html", {"error": refusal_words(refusal), "typed": typed[:20]}, status=refusal.status)
    return pages.go(f"/connect/{handle}")


async def show_answered(visit: OwnVisit) -> Response:
    """Say what was decided about a device's sign-in."""
    return visit.page("message.html", {"title": text("device.answered_title"), "message": text("device.answered")})
