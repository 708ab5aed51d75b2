"""The modes by name: single peculiarities first, then services that combine several.

A service's mode states what its documentation says (read 2026-11-25, not run against the service). It covers only what
affects tokens, their narrowing and their end.
"""

from __future__ import annotations

from collections.abc import Mapping

from providers.simulator.modes.known_services import KNOWN
from providers.simulator.modes.model import Mode, RevocationMode, Shape, lenient
from providers.simulator.modes.services import SERVICES
from providers.simulator.rules import RotationRule

_FOREVER = 10**9

# Rotation, and what a used refresh token does.
_ROTATION: Mapping[str, Mode] = {
    "plain": Mode("Plain OAuth"),
    "generic": Mode(
        "A service that nobody has described",
        identity={"sub": "{id}", "id": "{id}", "email": "{email}", "name": "{name}"},
    ),
    "grace": Mode("Grace", lenient(rotation=RotationRule.GRACE, grace_seconds=60)),
    "grace-sibling": Mode("Grace, another pair", lenient(rotation=RotationRule.GRACE, grace_answer="sibling")),
    "strict": Mode("Strict", lenient(rotation=RotationRule.STRICT)),
    "reuse-revokes": Mode("Re-use revokes", lenient(rotation=RotationRule.REUSE_REVOKES_FAMILY)),
    "ends-access": Mode("Refresh ends access", lenient(rotation=RotationRule.STRICT, refresh_ends_access=True)),
    "old-stays": Mode(
        "Old one stays", lenient(rotation=RotationRule.GRACE, grace_seconds=_FOREVER, grace_answer="sibling")
    ),
    "no-refresh": Mode("No refresh tokens", lenient(access_lifetime=_FOREVER), has_refresh=False),
}

# What `scope` on refresh does.
_NARROWING: Mapping[str, Mode] = {
    "narrows": Mode("Narrows"),
    "ignores-scope": Mode("Ignores scope", lenient(narrowing="ignored")),
    "refuses-scope": Mode("Refuses other scopes", lenient(narrowing="refused")),
    # Doorkeeper, django-oauth-toolkit, Canaille: the grant itself shrinks, and earlier access tokens stop working.
    "sticky": Mode("Sticky", lenient(rotation=RotationRule.STRICT, narrowing="sticky", refresh_ends_access=True)),
    "narrows-unsaid": Mode("Narrows, says nothing", shape=Shape(scope="absent"), status=True),
}

# How requests are read.
_REQUESTS: Mapping[str, Mode] = {
    "pkce-required": Mode("PKCE required", pkce="required"),
    "pkce-ignored": Mode("PKCE ignored", pkce="ignored"),
    "pkce-refused": Mode("PKCE refused", pkce="refused"),
    "basic-only": Mode("Basic only", client_auth=frozenset({"basic"})),
    "post-only": Mode("Secret in the body", client_auth=frozenset({"post"})),
    "public": Mode("No secret", client_auth=frozenset({"none"}), pkce="required"),
    "refresh-without-secret": Mode(
        "Refresh without secret", client_auth=frozenset({"post"}), refresh_client_auth=frozenset({"none"})
    ),
    "json-body": Mode("JSON requests", body="json", client_auth=frozenset({"post", "basic"})),
    "query-body": Mode("Parameters in the query", body="query", client_auth=frozenset({"basic"})),
    "comma-scopes": Mode("Commas", scope_separator=",", shape=Shape(separator=",")),
    "user-scope": Mode("Another scope parameter", scope_parameter="user_scope", scope_separator=","),
    "client-key": Mode("Another client parameter", names={"client_id": "client_key"}, client_auth=frozenset({"post"})),
    "auth-code": Mode("Other words", names={"code": "auth_code", "client_id": "app_id", "client_secret": "secret"}),
    "other-grant-types": Mode(
        "Other grant types", grant_types={"authorization_code": "web_server", "refresh_token": "refresh"}
    ),
    "no-redirect-at-token": Mode("No redirect_uri at token", redirect_uri_at_token="refused"),
    "redirects-errors": Mode("Redirects errors", authorize_errors="redirect"),
    "app-scopes": Mode("Scopes set on the app", fixed_scopes=frozenset({"read", "write"})),
    "access-type": Mode("access_type", offline_parameter=("access_type", "offline")),
    "offline-access": Mode("offline_access", offline_scope="offline_access"),
    "needs-audience": Mode("audience", required_authorize={"audience": "api.example"}),
    "needs-version": Mode("Version header", required_headers={"X-Version": "2026-01-01"}),
    "needs-token-parameter": Mode("Token parameter", required_token={"expiring": "1"}),
}

# How answers are built.
_ANSWERS: Mapping[str, Mode] = {
    "under-root": Mode("Tokens under a member", shape=Shape(root="data.token")),
    "ok-flag": Mode("ok flag", shape=Shape(ok_flag="ok")),
    "errors-with-200": Mode("Errors with 200", shape=Shape(errors_with_200=True)),
    "camel-case": Mode(
        "Camel case", shape=Shape(names={"access_token": "accessToken", "refresh_token": "refreshToken"}, status=201)
    ),
    "expires-text": Mode("Lifetime as text", shape=Shape(expiry="text")),
    "expires-milliseconds": Mode("Milliseconds", shape=Shape(expiry="milliseconds")),
    "expires-iso": Mode("Instant as text", shape=Shape(expiry="iso", expiry_name="expires_at")),
    "expires-epoch": Mode("Instant as a number", shape=Shape(expiry="epoch", expiry_name="expires_at")),
    "expires-unsaid": Mode("Lifetime not said", shape=Shape(expiry="absent")),
    "scope-array": Mode("Scopes as an array", shape=Shape(scope="array")),
    "scope-unsaid": Mode("Scopes not said", shape=Shape(scope="absent")),
    "form-answers": Mode("Form answers", shape=Shape(form_unless_asked=True)),
    "callback-facts": Mode("Facts in the redirect", callback={"realmId": "4620816365"}),
    "answer-facts": Mode("Facts in the answer", shape=Shape(extra={"instance_url": "https://eu7.example.com"})),
}

# How a grant ends.
_ENDINGS: Mapping[str, Mode] = {
    "revoke-unsupported": Mode("No revocation", revoking=RevocationMode(exists=False)),
    "revoke-delete": Mode(
        "DELETE with the token in the path", lenient(revoke="token"), revoking=RevocationMode("DELETE", token_in="path")
    ),
    "revoke-bearer": Mode(
        "The token revokes itself",
        lenient(revoke="token"),
        revoking=RevocationMode(token_in="bearer", client_auth=frozenset(), takes=frozenset({"access"})),
    ),
    "revoke-query": Mode("Revoke by query", revoking=RevocationMode("GET", token_in="query")),
    "revoke-unknown-refused": Mode("Unknown tokens refused", revoking=RevocationMode(unknown="refused")),
    "revoke-access-only": Mode(
        "Ends one access token", lenient(revoke="token"), revoking=RevocationMode(takes=frozenset({"access"}))
    ),
    "revoke-lies": Mode("Says revoked, is not", lenient(revoke="lies")),
    "identity-post": Mode("Identity by POST", identity_method="POST"),
}

MODES: Mapping[str, Mode] = {**_ROTATION, **_NARROWING, **_REQUESTS, **_ANSWERS, **_ENDINGS, **SERVICES}
SERVED: Mapping[str, Mode] = {**MODES, **{f"known-{name}": mode for name, mode in KNOWN.items()}}


def mode_of(provider: str) -> str | None:
    """The mode in which a provider file of this name is tested; None if there is none."""
    return next((name for name in (f"known-{provider}", provider) if name in SERVED), None)
