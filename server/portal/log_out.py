"""The page for people who logged out of one of Auth0's clients: whether to sign out here, too.

The person is asked, since any site could send a browser here (OpenID Connect RP-Initiated Logout 1.0 §2).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.responses import Response

from server.deployment import Deployment
from server.http import pages
from server.oauth.clients.auth0 import speaks_auth0
from server.oauth.redirect_uris import check_redirect_uri
from server.oauth.rules import OAuthError
from server.portal.forms import PageRefused
from server.portal.requests import Visit
from server.sign_in import password
from vault import clients
from vault.records import Client


async def show(visit: Visit) -> Response:
    """With `auth0.enabled`, an app's log-out: ask whether to sign out here, too; go back if no one is signed in."""
    wanted = visit.query("returnTo")
    client = await _client_of(visit.deployment, visit.query("client_id"), wanted)
    back = wanted or "/sign-in"
    if visit.session is None:
        return pages.go(back)
    return visit.page("log_out.html", {"client": client, "back": back, "return_to": wanted})


async def decide(visit: Visit) -> Response:
    """Sign out, and go back to `returnTo`, at an origin of the app's redirect URIs."""
    wanted = visit.form.one("return_to")
    await _client_of(visit.deployment, visit.form.one("client_id"), wanted)
    response = pages.leave(visit.request, wanted) if wanted else pages.go("/sign-in")
    if visit.session is not None:
        await password.sign_out(visit.deployment, visit.request, response, session=visit.session)
    return response


async def _client_of(deployment: Deployment, client_id: str, back: str) -> Client:
    """The client, if the address has one of its own origins. Raises PageRefused."""
    client = await clients.get_client(deployment.database, client_id)
    if client is None or not speaks_auth0(deployment, client):
        raise PageRefused("log_out", detail="unknown client")
    if not back:
        return client
    origin = _origin_of(back)
    if origin is None:
        raise PageRefused("log_out", detail="no web address")
    if origin not in {_origin_of(uri) for uri in client.redirect_uris}:
        raise PageRefused("log_out", detail="foreign address")
    return client


def _origin_of(uri: str) -> tuple[str, str] | None:
    """None for what isn't a web address, as a native app's own scheme."""
    try:
        check_redirect_uri(uri, private_use_schemes=())
    except OAuthError:
        return None
    parts = urlsplit(uri)
    return parts.scheme, parts.netloc
