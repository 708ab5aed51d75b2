"""The authorization server, with one module per specification topic; `routes` maps them to paths at the root."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.deployment import Deployment


def routes(deployment: Deployment) -> list[Route]:
    """Every route of the authorization server."""
    # Imported here: pages need rules of this package, and endpoints of this package show pages.
    from server.oauth import authorize, device, identity, introspection, metadata, par, revocation, token
    from server.oauth.backchannel import authentication_request
    from server.oauth.clients import registration
    from server.oauth.exchange.recent import RepeatedExchanges
    from server.oauth.wire import endpoint

    answer_token = partial(token.token, repeats=RepeatedExchanges())

    async def show_authorize(request: Request) -> Response:
        """For a person's browser, sent by an agent: OAuth 2.1, RFC 6749, RFC 7636 (S256 only), RFC 8707, RFC 9207,
        OpenID Connect `prompt` and `max_age`.
        """
        return await authorize.authorize(deployment, request)

    resource_document = "/.well-known/oauth-protected-resource"
    return [
        *(
            Route(path, show_authorize, methods=["GET", "POST"])  # answers pages, never JSON or CORS headers
            for path in ("/authorize", "/authorize/")
        ),
        *endpoint(deployment, "/token", {"POST": answer_token}, is_cross_origin=True, decides_origin=True),
        *endpoint(deployment, "/par", {"POST": par.push}, is_cross_origin=True),
        *endpoint(deployment, "/device_authorization", {"POST": device.authorize_device}),
        *endpoint(deployment, "/bc-authorize", {"POST": authentication_request.ask}),
        *endpoint(deployment, "/register", {"POST": registration.register}, is_cross_origin=True),
        *endpoint(
            deployment,
            "/register/{client_id}",
            {"GET": registration.read, "PUT": registration.update, "DELETE": registration.delete},
            is_cross_origin=True,
        ),
        *endpoint(deployment, "/revoke", {"POST": revocation.revoke}, is_cross_origin=True),
        *endpoint(deployment, "/introspect", {"POST": introspection.introspect}),
        *endpoint(deployment, "/userinfo", {"GET": identity.userinfo, "POST": identity.userinfo}),
        *(
            route
            for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
            for route in endpoint(deployment, path, {"GET": metadata.authorization_server}, is_cross_origin=True)
        ),
        *(
            route
            for path in (
                resource_document,
                f"{resource_document}/mcp",
                f"{resource_document}/sse",
                f"{resource_document}/admin/v1",
            )
            for route in endpoint(deployment, path, {"GET": metadata.protected_resource}, is_cross_origin=True)
        ),
        *endpoint(deployment, "/.well-known/jwks.json", {"GET": metadata.jwks}, is_cross_origin=True),
        *endpoint(deployment, "/.well-known/receipt-keys.json", {"GET": metadata.receipt_keys}, is_cross_origin=True),
    ]
