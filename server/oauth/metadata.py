"""Discovery documents: authorization server (RFC 8414, OpenID Connect Discovery), protected resources (RFC 9728), keys.

Everything derives from the configured public URL, never from a request.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.oauth.backchannel.clients import MODES
from server.oauth.clients.rules import AUTH_METHODS, BACKCHANNEL_GRANT, GRANT_TYPES
from server.oauth.enterprise.assertions import JWT_BEARER, JWT_DPOP, PROFILE
from server.oauth.rules import ADMIN_SCOPES, CLIENT_CREDENTIALS, ORDINARY_SCOPES, SCOPES, admin_resource
from server.oauth.wire import cached_answer
from server.signatures.jose import FOREIGN_ALGORITHMS, SIGNING_ALGORITHM
from vault.upkeep.receipts import public_keys

_FRESH: Final = 300  # seconds; far below the hour that a new key is published before it is used


def server_document(deployment: Deployment) -> dict[str, object]:
    """RFC 8414 §2, OpenID Connect Discovery §3 and CIBA Core §4 in one."""
    confidential = [method for method in AUTH_METHODS if method != "none"]
    algorithms = list(FOREIGN_ALGORITHMS)
    document: dict[str, object] = {
        "issuer": deployment.issuer,
        "authorization_endpoint": deployment.url("/authorize"),
        "device_authorization_endpoint": deployment.url("/device_authorization"),
        "backchannel_authentication_endpoint": deployment.url("/bc-authorize"),
        "backchannel_token_delivery_modes_supported": list(MODES),
        "backchannel_user_code_parameter_supported": True,
        "backchannel_authentication_request_signing_alg_values_supported": algorithms,
        "pushed_authorization_request_endpoint": deployment.url("/par"),
        "require_pushed_authorization_requests": deployment.settings.tokens.require_pushed,
        "token_endpoint": deployment.url("/oauth/token" if deployment.settings.auth0.enabled else "/token"),
        "jwks_uri": deployment.url("/.well-known/jwks.json"),
        "revocation_endpoint": deployment.url("/revoke"),
        "introspection_endpoint": deployment.url("/introspect"),
        "userinfo_endpoint": deployment.url("/userinfo"),
        "scopes_supported": sorted(SCOPES | ADMIN_SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [*GRANT_TYPES, BACKCHANNEL_GRANT, CLIENT_CREDENTIALS, JWT_BEARER, JWT_DPOP],
        "authorization_grant_profiles_supported": [PROFILE],
        "token_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint_auth_methods_supported": confidential,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": deployment.settings.registration_mode != "closed",
        "dpop_signing_alg_values_supported": algorithms,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [SIGNING_ALGORITHM],
        "claims_supported": [
            "iss",
            "sub",
            "aud",
            "azp",
            "exp",
            "iat",
            "auth_time",
            "nonce",
            "at_hash",
            "preferred_username",
        ],
        "protected_resources": [
            deployment.url("/mcp"),
            deployment.url("/sse"),
            admin_resource(deployment.public_url),
        ],
        "service_documentation": deployment.url("/"),
    }
    if any(one.can_revoke for one in deployment.settings.signals.transmitters.values()):
        document["global_token_revocation_endpoint"] = deployment.url("/global-token-revocation")
    if deployment.settings.registration_mode != "closed":
        document["registration_endpoint"] = deployment.url("/register")
    return document


async def authorization_server(deployment: Deployment, request: Request) -> Response:
    """RFC 8414, OpenID Connect Discovery."""
    return cached_answer(server_document(deployment), seconds=_FRESH)


async def protected_resource(deployment: Deployment, request: Request) -> Response:
    """RFC 9728: `resource` is the URL that the path names."""
    path = request.url.path.removeprefix("/.well-known/oauth-protected-resource").rstrip("/")
    is_admin = deployment.public_url + path == admin_resource(deployment.public_url)
    document: dict[str, object] = {
        "resource": deployment.public_url + path,
        "authorization_servers": [deployment.issuer],
        "scopes_supported": sorted(ADMIN_SCOPES if is_admin else ORDINARY_SCOPES),
        "bearer_methods_supported": ["header"],
        "resource_name": "Token Vault Admin API" if is_admin else "Token Vault",
        "dpop_signing_alg_values_supported": list(FOREIGN_ALGORITHMS),
        "dpop_bound_access_tokens_required": deployment.settings.tokens.require_dpop,
    }
    return cached_answer(document, seconds=_FRESH)


async def receipt_keys(deployment: Deployment, request: Request) -> Response:
    """RFC 7517: public keys of receipts, including replaced signing keys."""
    del request
    return cached_answer(await public_keys(deployment.database), seconds=_FRESH)


async def jwks(deployment: Deployment, request: Request) -> Response:
    """RFC 7517: public keys only, including those that will be used soon or are still needed."""
    await deployment.keys.signing.reload(deployment.database)  # another process may have rotated
    return cached_answer(deployment.keys.signing.public_jwks(deployment.now()), seconds=_FRESH)
