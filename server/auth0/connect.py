"""Connecting an account through the My Account API: start, send the browser, and complete with the code that it
returns.

The person decides on our own page, where they are signed in as the user of the application's token.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.auth0.accounts import account
from server.auth0.names import NAME, provider_of
from server.auth0.problems import MeProblem, invalid, me_route, read_object
from server.connecting.app_returns import AppReturn, read_return, session_digest
from server.connecting.links import LIFETIME, ConnectRequest, issue_link
from server.deployment import Deployment
from server.http import pages
from server.http.answers import json_answer, too_often
from server.oauth.clients.auth0 import me_audience
from server.oauth.pkce import check_challenge, verifier_matches
from server.oauth.redirect_uris import redirect_matches
from server.oauth.rules import OAuthError
from vault import apis, clients, connections, limits, tickets
from vault.records import Principal, TicketPurpose
from vault.refusals import TransitionRefused

BROWSER_PATH: Final = "/connected-accounts/connect"
_STARTED: Final = frozenset(
    {"connection", "redirect_uri", "state", "scopes", "code_challenge", "code_challenge_method", "authorization_params"}
)
_COMPLETED: Final = frozenset({"auth_session", "connect_code", "redirect_uri", "code_verifier"})
_LIMITS: Final = {
    "connection": 128,
    "redirect_uri": 2048,
    "state": 4096,
    "code_challenge": 128,
    "code_challenge_method": 8,
    "auth_session": 64,
    "connect_code": 46,
    "code_verifier": 128,
}
_SCOPES: Final = 100
_SCOPE_LIMIT: Final = 255
_PER_GRANT: Final = 30  # within a link's lifetime, as for agents


def routes(deployment: Deployment) -> list[Route]:
    """The routes of the two calls, and of the browser's address between them."""
    audience, base = me_audience(deployment), "/me/v1/connected-accounts"
    scope = "create:me:connected_accounts"

    async def send_browser(request: Request) -> Response:
        """Redirect any browser with a `ticket` to the page where the person decides."""
        return pages.go("/connect/" + quote(request.query_params.get("ticket", "")[:100] or "-", safe=""))

    return [
        me_route(deployment, f"{base}/connect", audience, {"POST": (scope, connect)}),
        me_route(deployment, f"{base}/complete", audience, {"POST": (scope, complete)}),
        Route(BROWSER_PATH, send_browser, methods=["GET"]),
    ]


def _texts(content: dict[str, object], *required: str) -> dict[str, str]:
    """The text members, within their limits; an empty `state` counts as missing."""
    faults = {name: "required" for name in required if not content.get(name)}
    found: dict[str, str] = {}
    for name, limit in _LIMITS.items():
        value = content.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > limit or "\0" in value:
            faults[name] = f"a text of at most {limit} characters"
        elif value:
            found[name] = value
    if faults:
        raise invalid(faults)
    return found


def _scopes(content: dict[str, object]) -> frozenset[str]:
    given: object = content.get("scopes") or []
    texts = [str(one) for one in given if isinstance(one, str)] if isinstance(given, list) else [""]  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    is_list = isinstance(given, list) and len(given) == len(texts)  # pyright: ignore[reportUnknownArgumentType] -- as above
    if not is_list or len(texts) > _SCOPES or len(set(texts)) != len(texts):
        raise invalid({"scopes": f"a list of at most {_SCOPES} different texts"})
    if any(not 1 <= len(one) <= _SCOPE_LIMIT or any(not "!" <= c <= "~" for c in one) for one in texts):
        raise invalid({"scopes": f"each of 1 to {_SCOPE_LIMIT} printable characters"})
    return frozenset(texts)


async def connect(deployment: Deployment, request: Request, principal: Principal) -> Response:
    """Start connecting an account; returns a secret for this session, and an address and ticket for the person's
    browser."""
    content = await read_object(deployment, request, principal, _STARTED)
    given, wanted = _texts(content, "connection", "redirect_uri"), _scopes(content)
    provider = provider_of(deployment, given["connection"])
    if provider is None or not deployment.vault.upstreams[provider.name].is_configured:
        raise MeProblem(
            "not_found", "This connection doesn't exist here: see GET /me/v1/connected-accounts/connections"
        )
    client = await clients.get_client(deployment.database, principal.client_id)
    if client is None or not redirect_matches(client.redirect_uris, given["redirect_uri"]):
        raise invalid({"redirect_uri": "not registered for this client"})
    try:
        challenge = given.get("code_challenge")
        proof = "" if challenge is None else check_challenge(challenge, given.get("code_challenge_method"))
    except OAuthError as error:
        raise invalid({"code_challenge": error.description}) from error
    if unknown := wanted - provider.scopes.keys() - provider.always_granted - {"offline_access"}:
        raise invalid({"scopes": f"{provider.title} doesn't have {' '.join(sorted(unknown))}"})
    async with deployment.transaction() as transaction:
        bucket = f"link:{principal.grant_id}"
        if not await limits.spend(transaction, bucket, limit=_PER_GRANT, window=LIFETIME, now=deployment.now()):
            headers = too_often(LIFETIME, limit=_PER_GRANT, now=deployment.now())
            raise MeProblem("too_many_requests", "Too many requests", headers=headers)
    linked = [await apis.linked_clients(deployment.database, resource) for resource in client.resources]
    services = tuple(dict.fromkeys(one for found in linked for one in found if one != client.id))
    secret = secrets.token_urlsafe(32)
    ticket = await issue_link(
        deployment,
        ConnectRequest(
            user_id=principal.user_id,
            client_id=principal.client_id,
            provider=provider.name,
            scopes=(wanted & provider.scopes.keys()) or provider.scope.default,
            reason="missing",
            tool="",
            account=_login_hint(content),
            back=AppReturn(
                given["redirect_uri"],
                given.get("state"),
                session_digest(secret),
                proof,
                services,
                name=given["connection"],
            ),
        ),
    )
    answer = {
        "auth_session": secret,
        "connect_uri": deployment.url(BROWSER_PATH),
        "connect_params": {"ticket": ticket},
        "expires_in": LIFETIME,
    }
    return json_answer(answer, status=201)


def _login_hint(content: dict[str, object]) -> str:
    given = content.get("authorization_params")
    hint: object = given.get("login_hint") if isinstance(given, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] -- parsed JSON
    return hint[:320] if isinstance(hint, str) else ""


async def _check_code(
    deployment: Deployment, principal: Principal, code: str, *, secret: str, redirect_uri: str, verifier: str | None
) -> tuple[str, str]:
    """The connection's ID, and the application's name for it. Leaves the code unused. Raises TransitionRefused."""
    now = deployment.now()
    ticket = await tickets.peek(deployment.database, deployment.keys, code, purpose=TicketPurpose.APP_CODE, now=now)
    back = None if ticket is None else read_return(ticket.payload)
    if ticket is None or back is None:
        raise TransitionRefused("the code is wrong, used, or expired", detail="unknown app code")
    is_own = (ticket.user_id, ticket.client_id) == (principal.user_id, principal.client_id)
    if not is_own or not hmac.compare_digest(back.session, session_digest(secret)) or back.redirect_uri != redirect_uri:
        raise TransitionRefused("the code belongs to another session", detail="app code of another session")
    if back.challenge and (verifier is None or not verifier_matches(verifier, back.challenge)):
        raise TransitionRefused(
            "the code belongs to another session", detail="code_verifier doesn't match code_challenge"
        )
    return str(ticket.payload["connection"]), back.name


async def complete(deployment: Deployment, request: Request, principal: Principal) -> Response:
    """Finish connecting; returns the account behind the code that the browser returned."""
    content = await read_object(deployment, request, principal, _COMPLETED)
    given = _texts(content, "auth_session", "connect_code", "redirect_uri")
    code, now = given["connect_code"], deployment.now()
    try:
        found, name = await _check_code(
            deployment,
            principal,
            code,
            secret=given["auth_session"],
            redirect_uri=given["redirect_uri"],
            verifier=given.get("code_verifier"),
        )
        async with deployment.transaction() as transaction:
            await tickets.consume(transaction, deployment.keys, code, purpose=TicketPurpose.APP_CODE, now=now)
            is_live = await connections.hold(transaction, found, user_id=principal.user_id)
            connection = await connections.get_connection(transaction, found, user_id=principal.user_id)
            if connection is None or not is_live:
                raise MeProblem("not_found", "Invalid or expired session")
            await connections.note_fact(transaction, connection.id, NAME, name)
    except TransitionRefused as error:
        raise MeProblem("not_found", "Invalid or expired session") from error
    return json_answer(account(deployment, connection, asked=[name]), status=201)
