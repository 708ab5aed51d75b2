"""The mail service's uses of private keys: assertions, installations of an app, and a signed token used directly. Each
check is as strict as the strictest known service: RFC 7523 §3 with an assertion used once, GitHub's installation
tokens, and Apple's tokens of at most 20 minutes that may list operations.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from starlette.responses import JSONResponse, Response

from providers.simulator.calls import SimulatedCall
from providers.simulator.state.keys import Signer
from providers.simulator.state.sandbox import Sandbox

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME: Final = 3600  # seconds, of an access token
DIRECT: Final = "mailroom-v1"  # the audience of a token that is used directly
SCOPES: Final = frozenset({"read", "write"})


class SignatureRefused(Exception):
    """`error` is the code that the service answers with."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


def answer_assertion(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """RFC 7523 §2.1, with the refusals of Google's endpoint."""
    sandbox.books.write("mailroom", sandbox.clock.now(), call="assertion", way=call.text("grant_type"))
    try:
        person, scopes = _check_assertion(sandbox, call)
    except SignatureRefused as refused:
        content = {"error": refused.error, "error_description": refused.description}
        return JSONResponse(content, status_code=401 if refused.error == "unauthorized_client" else 400)
    token = _issue(sandbox, person, scopes)
    return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME})


def _check_assertion(sandbox: Sandbox, call: SimulatedCall) -> tuple[str, frozenset[str]]:
    """The subject of an assertion, and its scopes. Raises SignatureRefused."""
    signer, claims = _verify(sandbox, call.text("assertion") or "", algorithm="RS256", longest=3600)
    if call.text("grant_type") != GRANT:
        raise SignatureRefused("unsupported_grant_type", "")
    if claims.get("aud") != f"{sandbox.url}/mailroom/assertion":
        raise SignatureRefused("invalid_grant", "Invalid JWT: Failed audience check.")
    nonce = str(claims.get("jti", ""))
    if not nonce or nonce in sandbox.keys.used:
        raise SignatureRefused("invalid_grant", "Invalid JWT: used before.")
    scopes = frozenset(str(claims.get("scope", "")).split())
    if not scopes <= SCOPES or not scopes:
        raise SignatureRefused("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
    person = str(claims.get("sub") or signer.account)
    if person != signer.account and not (signer.may_impersonate and scopes <= signer.may_impersonate):
        raise SignatureRefused("unauthorized_client", "Client is unauthorized to retrieve access tokens this way.")
    sandbox.keys.used.add(nonce)
    return person, scopes


def answer_installation(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """GitHub's `POST /app/installations/{id}/access_tokens`; permissions are `mail: read`, boxes its repositories."""
    asked = call.arguments.get("permissions")
    boxes = call.arguments.get("repositories")
    sandbox.books.write("mailroom", sandbox.clock.now(), call="installation", asked=json.dumps(dict(call.arguments)))
    try:
        signer, _ = _verify(sandbox, call.bearer or "", algorithm="RS256", longest=600)
    except SignatureRefused as refused:
        return JSONResponse({"message": refused.description}, status_code=401)
    if call.path_params["id"] != signer.installation:
        return JSONResponse({"message": "Not Found"}, status_code=404)
    granted = signer.permissions
    permissions = dict(asked) if isinstance(asked, Mapping) else dict(granted)
    levels = {"read": 1, "write": 2}
    if any(levels.get(str(level), 9) > levels.get(granted.get(name, ""), 0) for name, level in permissions.items()):
        return JSONResponse({"message": "The permissions requested are not granted"}, status_code=422)
    can = {f"{name}:{level}" for name, level in permissions.items()}
    scopes = SCOPES if "mail:write" in can else frozenset({"read"}) if "mail:read" in can else frozenset[str]()
    ends = datetime.fromtimestamp(sandbox.clock.now() + LIFETIME, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    content: dict[str, object] = {
        "token": _issue(sandbox, signer.account, scopes),
        "expires_at": ends,
        "permissions": permissions,
        "repository_selection": "selected" if isinstance(boxes, list) else "all",
    }
    if isinstance(boxes, list):
        content["repositories"] = [{"full_name": f"{signer.account}/{name}"} for name in boxes]
    return JSONResponse(content, status_code=201)


def account_of_signed(sandbox: Sandbox, token: str, *, operation: str) -> tuple[str, bool] | None:
    """The owner of a token that is used directly, and whether it may do this; None for an invalid one."""
    try:
        signer, claims = _verify(sandbox, token, algorithm="ES256", longest=1200)
    except SignatureRefused:
        return None
    if claims.get("aud") != DIRECT:
        return None
    listed = claims.get("scope")
    return signer.account, not isinstance(listed, list) or operation in listed


def _verify(sandbox: Sandbox, token: str, *, algorithm: str, longest: int) -> tuple[Signer, Mapping[str, object]]:
    """The signer, and its claims: signature, key id, issuer, and times."""
    now = sandbox.clock.now()
    try:
        kid = str(json.loads(_decode_part(token.partition(".")[0])).get("kid", ""))
    except ValueError as error:
        raise SignatureRefused("invalid_grant", "Invalid JWT.") from error
    signer = sandbox.keys.signers.get(kid)
    if signer is None:
        raise SignatureRefused("invalid_grant", "Invalid JWT Signature.")
    key = RSAKey.import_key(signer.public) if algorithm == "RS256" else ECKey.import_key(signer.public)
    try:
        claims = jwt.decode(token, key, algorithms=[algorithm]).claims
    except (JoseError, ValueError) as error:
        raise SignatureRefused("invalid_grant", "Invalid JWT Signature.") from error
    if claims.get("iss") != signer.issuer:
        raise SignatureRefused("invalid_grant", "Invalid issuer.")
    issued, ends = claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(ends, int):
        raise SignatureRefused("invalid_grant", "Invalid JWT: iat and exp are missing.")
    if ends - issued > longest or issued > now + 30 or ends <= now or issued < now - longest:
        raise SignatureRefused("invalid_grant", "Invalid JWT: not in a reasonable timeframe.")
    return signer, claims


def _decode_part(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _issue(sandbox: Sandbox, account: str, scopes: frozenset[str]) -> str:
    token = secrets.token_urlsafe(24)
    sandbox.keys.tokens[token] = account
    sandbox.keys.scopes[token] = scopes
    return token
