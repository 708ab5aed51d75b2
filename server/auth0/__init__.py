"""The interface of Auth0's Token Vault and My Account API, for clients that were written for it.

The paths are those that such clients call, at the root of the host. Each is our own endpoint or a translation of one:
exchange, permissions, and activity are the same.
"""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from server.deployment import Deployment


def routes(deployment: Deployment) -> list[Route]:
    """The routes, if the operator has turned them on."""
    if not deployment.settings.auth0.enabled:
        return []
    from server.auth0 import accounts, connect, grants, management
    from server.oauth import identity, revocation, token
    from server.oauth.clients import registration
    from server.oauth.exchange.recent import RepeatedExchanges
    from server.oauth.wire import endpoint

    answer_token = partial(token.token, repeats=RepeatedExchanges(), dialect=grants.DIALECT)
    return [
        *endpoint(deployment, "/oauth/token", {"POST": answer_token}, is_cross_origin=True, decides_origin=True),
        *endpoint(deployment, "/oauth/revoke", {"POST": revocation.revoke_either}, is_cross_origin=True),
        *endpoint(deployment, "/oidc/register", {"POST": registration.register}, is_cross_origin=True),
        *accounts.routes(deployment),
        *connect.routes(deployment),
        *management.routes(deployment),
        *endpoint(deployment, "/oauth/userinfo", {"GET": identity.userinfo}, is_cross_origin=True),
    ]
