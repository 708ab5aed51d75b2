"""The call of Auth0's Management API for connected accounts: an administrator lists a person's accounts.

Its tokens are those of our Admin API: a service account gets one with its credentials for the audience
`PUBLIC_URL/api/v2/`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.auth0.accounts import account, page_of
from server.auth0.names import strategy_of
from server.auth0.problems import MeProblem, me_route
from server.deployment import Deployment
from server.http.answers import json_answer
from server.oauth import client_tokens, service_accounts
from server.oauth.rules import ADMIN_ACCESS, OAuthError, admin_resource
from server.oauth.token_request import TokenGrant, TokenRequest
from server.sign_in import roles
from vault import connections, users
from vault.records import Principal

_USUAL: Final = 50  # accounts per page, as requested by the Node SDK
_MOST: Final = 100


def routes(deployment: Deployment) -> list[Route]:
    """The route, for tokens of the Admin API; empty if that is turned off."""
    if not deployment.settings.admin.api:
        return []
    path, audience = "/api/v2/users/{id}/connected-accounts", admin_resource(deployment.public_url)
    return [me_route(deployment, path, audience, {"GET": (ADMIN_ACCESS, list_for_admin)})]


async def issue_token(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """The client credentials grant with Auth0's audience; `read:users` stands for `admin:access`."""
    audience = asked.form.get("audience")
    if client_tokens.acts_for_nobody(asked.client):
        if asked.resource is not None and audience not in {None, asked.resource}:
            raise OAuthError("invalid_target", "resource and audience name different targets")
        return await client_tokens.issue_token(deployment, replace(asked, resource=asked.resource or audience))
    if audience not in {None, f"{deployment.public_url}/api/v2/", admin_resource(deployment.public_url)}:
        raise OAuthError("invalid_target", f"the only audience of service accounts is {deployment.public_url}/api/v2/")
    scopes = asked.scopes
    if scopes is not None and "read:users" in scopes:
        scopes = scopes - {"read:users"} | {ADMIN_ACCESS}
    return await service_accounts.issue_token(deployment, replace(asked, scopes=scopes, resource=None))


async def list_for_admin(deployment: Deployment, request: Request, principal: Principal) -> Response:
    """List all accounts of a person, never tokens. The admin's token may be for `PUBLIC_URL/api/v2/`."""
    admin = await users.get_user(deployment.database, principal.user_id)
    if admin is not None:
        admin = await roles.with_groups(deployment, admin)
    if admin is None or not admin.role.administers:
        raise MeProblem("forbidden", "This token's person isn't an admin of this vault", number=2)
    person = await users.get_user(deployment.database, str(request.path_params["id"]))
    if person is None:
        raise MeProblem("not_found", "The user does not exist")
    owned = {one.id: one for one in await connections.list_connections(deployment.database, person.id)}
    ordered = sorted(owned, key=lambda one: (owned[one].created_at, one))
    chosen, following = page_of(request, ordered, usual=_USUAL, most=_MOST)
    shown = [
        {**account(deployment, owned[one]), "connection_id": owned[one].provider}
        | {"strategy": strategy_of(owned[one].provider)}
        for one in chosen
    ]
    return json_answer({"connected_accounts": shown, **({} if following is None else {"next": following})})
