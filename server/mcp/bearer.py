"""The bearer check of the MCP endpoints (RFC 6750, RFC 9449, RFC 9728): headers in, principal or challenge out.

It reads headers only, so nobody without a token gets a body parsed. What makes a token valid is `server.oauth.tokens`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope, Send

from server.deployment import Deployment
from server.errors import answer_for, retry_after, tool_text
from server.http import responses
from server.oauth import tokens
from server.oauth.dpop import sent_path
from server.oauth.jose import FOREIGN_ALGORITHMS
from server.oauth.rules import ORDINARY_SCOPES
from vault.records import Principal, format_scope
from vault.refusals import VaultError

NEEDED: Final = "tools"  # the fine permission is the delegation, which grows without a new token
_MENDS: Final = {
    "invalid_token": "The token is unknown, expired or revoked: sign in again.",
    "insufficient_scope": f"The token lacks the scope {NEEDED}: sign in again and ask for it.",
    "invalid_request": "Send exactly one Authorization header.",
    "invalid_dpop_proof": "Send a fresh DPoP proof for this address, method and token, made with the token's key.",
}
logger = logging.getLogger("token_vault.bearer")


class Bearer:
    """Checks the Authorization header of one protected resource, `/mcp` or `/sse`."""

    def __init__(self, deployment: Deployment, *, path: str) -> None:
        self._deployment = deployment
        self._metadata = deployment.url(f"/.well-known/oauth-protected-resource{path}")
        self._signpost = (
            f"This is an MCP endpoint. Add {deployment.url(path)} to an MCP client, which signs in by itself; "
            f"people find their accounts at {deployment.url('/connections')}."
        )

    async def check(self, scope: Scope, send: Send, *, grant_later: bool = False) -> Principal | None:
        """The principal; None when a challenge was sent instead. With `grant_later`, call `confirm` before answering
        unless something else has read the grant.
        """
        headers = Headers(scope=scope)
        try:
            principal = await tokens.authenticate(
                self._deployment, headers, method=scope["method"], path=sent_path(scope), grant_later=grant_later
            )
        except (tokens.TokenRefused, VaultError) as refused:
            await self._refuse(scope, send, refused)
            return None
        if NEEDED not in principal.scopes:
            await self._challenge(send, 403, error="insufficient_scope", is_dpop=_is_dpop(scope))
            return None
        return principal

    async def confirm(self, principal: Principal, scope: Scope, send: Send) -> bool:
        """Whether the grant behind the principal lives; if not, a challenge was sent."""
        try:
            await tokens.check_grant(self._deployment, principal)
        except (tokens.TokenRefused, VaultError) as refused:
            await self._refuse(scope, send, refused)
            return False
        return True

    async def _refuse(self, scope: Scope, send: Send, refused: tokens.TokenRefused | VaultError) -> None:
        if isinstance(refused, tokens.TokenRefused):
            logger.debug("token refused", extra={"detail": refused.detail})
            await self._challenge(send, refused.status, error=refused.code, is_dpop=_is_dpop(scope))
            return
        logger.error("token cannot be checked", extra={"code": refused.code}, exc_info=refused)
        wait = retry_after(refused)
        if wait is None:
            await _answer(send, answer_for(refused).status, {"error": answer_for(refused).oauth_error}, [])
            return
        content = responses.body(tool_text(refused), wait)
        await _answer(send, answer_for(refused).status, content, [(b"retry-after", str(wait).encode())])

    async def _challenge(self, send: Send, status: int, *, error: str, is_dpop: bool) -> None:
        parts = [f'resource_metadata="{self._metadata}"', f'scope="{format_scope(ORDINARY_SCOPES)}"']
        if error:  # RFC 6750 §3.1: no error code where no token was sent
            parts.insert(0, f'error="{error}"')
        if is_dpop:
            parts.append(f'algs="{" ".join(sorted(FOREIGN_ALGORITHMS))}"')  # RFC 9449 §7.1
        challenge = f"{'DPoP' if is_dpop else 'Bearer'} {', '.join(parts)}"
        content = (
            {"error": error, "error_description": _MENDS.get(error, error)} if error else {"message": self._signpost}
        )
        await _answer(send, status, content, [(b"www-authenticate", challenge.encode())])


def _is_dpop(scope: Scope) -> bool:
    return Headers(scope=scope).get("authorization", "").lower().startswith("dpop")


async def _answer(send: Send, status: int, content: Mapping[str, object], more: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
