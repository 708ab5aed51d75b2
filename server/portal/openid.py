"""The two addresses of a sign-in through an OpenID Connect provider. `server.sign_in.openid` has the rules."""

from __future__ import annotations

from starlette.responses import Response

from server.http import pages
from server.http.addresses import address_of, counting_key
from server.portal.forms import PageRefused
from server.portal.requests import Visit, safe_return
from server.sign_in import openid, password, proofs
from server.sign_in.openid import OpenIDRefused, SignInAnswer
from vault import limits

_STARTS_PER_MINUTE = 30  # per address: each one fetches the provider's metadata


async def _count_start(visit: Visit) -> None:
    """Count a start from this address, and with it the one return. Raises PageRefused beyond the limit."""
    bucket, now = f"sign-in:openid:{counting_key(address_of(visit.request))}", visit.deployment.now()
    async with visit.deployment.transaction() as transaction:
        may = await limits.spend(transaction, bucket, limit=_STARTS_PER_MINUTE, window=60, now=now)
    if not may:
        raise PageRefused("many_sign_ins", kind="too_many_requests")


async def start(visit: Visit) -> Response:
    """Send the browser to the provider."""
    deployment = visit.deployment
    await _count_start(visit)
    name = str(visit.request.path_params["name"])
    try:
        begun = await openid.start(
            deployment, name, return_to=safe_return(visit.query("return_to")), is_again=visit.query("again") == "1"
        )
    except OpenIDRefused as refusal:
        raise _page(refusal) from refusal
    response = pages.go(begun.url)
    password.set_cookie(deployment, visit.request, response, "openid", value=begun.browser, lifetime=openid.LIFETIME)
    return response


async def callback(visit: Visit) -> Response:
    """The provider sends the browser back; a new session starts."""
    answer = SignInAnswer(
        state=visit.query("state")[:200],
        code=visit.query("code")[:4096],
        error=visit.query("error")[:200],
        issuer=visit.query("iss")[:2000] or None,
        browser=password.read_cookie(visit.deployment, visit.request, "openid")[:200],
    )
    try:
        found = await openid.finish(visit.deployment, str(visit.request.path_params["name"]), answer)
    except OpenIDRefused as refusal:
        raise _page(refusal) from refusal
    response = pages.go(safe_return(found.return_to))
    await password.begin_session(
        visit.deployment,
        visit.request,
        response,
        user=found.user,
        method="openid",
        proof=proofs.identity(found.issuer, found.subject),
        signed_in_at=password.UNKNOWN_TIME if found.signed_in_at is None else found.signed_in_at,
        is_strong=found.is_strong,
    )
    password.set_cookie(visit.deployment, visit.request, response, "openid", value="")
    return response


def _page(refusal: OpenIDRefused) -> PageRefused:
    return PageRefused("not_signed_in", refusal.description, kind="forbidden", detail=refusal.detail)
