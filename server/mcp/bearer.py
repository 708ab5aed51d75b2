"""The bearer check of the MCP endpoints (RFC 6750, RFC 9449, RFC 9728): headers in, principal or challenge out.

It reads headers only, so the body of a caller without a token is never parsed. `server.oauth.tokens` validates tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server.connecting.agent_refusals import plain
from server.deployment import Deployment
from server.errors import KINDS, RefusalKind
from server.http.answers import JSON, UNSTORED, WholeAnswer, message_error, raw
from server.http.answers import Headers as RawHeaders
from server.http.request_ids import request_member
from server.mcp.retry_later import STORAGE_AWAY
from server.oauth import tokens
from server.oauth.clients.commands import sign_in_words
from server.oauth.dpop import sent_path
from server.oauth.rules import ORDINARY_SCOPES
from server.signatures.jose import FOREIGN_ALGORITHMS
from vault.records import Principal, format_scope
from vault.refusals import VaultError

NEEDED: Final = "tools"  # the fine-grained permission is the delegation, which grows without a new token
SIGN_IN_ENDED: Final = -32054  # of the codes that JSON-RPC 2.0 §5.1 leaves to servers
_DESCRIPTIONS: Final = {
    "invalid_token": "The token is unknown, expired or revoked: refresh it, or sign in again.",
    "insufficient_scope": f"The token lacks the scope {NEEDED}: sign in again and request it.",
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
            f"This is an MCP endpoint. Add {deployment.url(path)} to an MCP client, which signs in "
            f"automatically. To manage your accounts, go to {deployment.url('/connections')}."
        )

    async def check(self, scope: Scope, *, grant_later: bool = False) -> Principal | WholeAnswer:
        """The principal, or the challenge to send.

        With `grant_later`, call `confirm` before answering, unless other code has read the grant.
        """
        headers = Headers(scope=scope)
        try:
            principal = await tokens.authenticate(
                self._deployment, headers, method=scope["method"], path=sent_path(scope), grant_later=grant_later
            )
        except (tokens.TokenRefused, VaultError) as refused:
            return self._refusal(scope, refused)
        return principal if NEEDED in principal.scopes else self._challenge(scope, KINDS["insufficient_scope"])

    async def confirm(self, principal: Principal, scope: Scope) -> WholeAnswer | None:
        """The challenge to send if the grant behind the principal has ended."""
        try:
            await tokens.check_grant(self._deployment, principal)
        except (tokens.TokenRefused, VaultError) as refused:
            return self._refusal(scope, refused)
        return None

    def _refusal(self, scope: Scope, refused: tokens.TokenRefused | VaultError) -> WholeAnswer:
        if isinstance(refused, tokens.TokenRefused):
            logger.debug("token refused", extra={"detail": refused.detail})
            return self._challenge(scope, RefusalKind(refused.status, refused.code))
        logger.error("token can't be checked", extra={"code": refused.code}, exc_info=refused)
        told = plain(refused)
        if told.retry_after is None:
            return _answer(told.answer.status, {"error": told.answer.oauth_error, **request_member()})
        later = [UNSTORED, *raw(told.headers)]
        data = {"retry_after": told.retry_after}
        return message_error(told.answer.status, STORAGE_AWAY, told.text, data=data, headers=later)

    def _challenge(self, scope: Scope, kind: RefusalKind) -> WholeAnswer:
        error, is_dpop = kind.oauth_error, _is_dpop(scope)
        parts = [f'resource_metadata="{self._metadata}"', f'scope="{format_scope(ORDINARY_SCOPES)}"']
        if error:  # RFC 6750 §3.1: no error code where no token was sent
            parts.insert(0, f'error="{error}"')
        if is_dpop:
            parts.append(f'algs="{" ".join(sorted(FOREIGN_ALGORITHMS))}"')  # RFC 9449 §7.1
        challenge = f"{'DPoP' if is_dpop else 'Bearer'} {', '.join(parts)}"
        named = [(b"www-authenticate", challenge.encode())]
        if not error:
            return _answer(kind.status, {"message": self._signpost, **request_member()}, named)
        told: dict[str, object] = {"error": error, "error_description": _DESCRIPTIONS.get(error, error)}
        message = _DESCRIPTIONS.get(error, error)
        if error == "invalid_token":
            told["sign_in"] = sign_in_words(Headers(scope=scope).get("user-agent", ""))
            message = f"Your sign-in has ended. {told['sign_in']}"
        # as a JSON-RPC error: clients that can't sign in show its message in place of the tool's result
        return message_error(kind.status, SIGN_IN_ENDED, message, data=told, headers=[UNSTORED, *named])


def signposts(deployment: Deployment) -> list[Route]:
    """Routes of the MCP endpoints for requests without a token: their clients don't wait for the rest to load."""
    paths = ("/mcp", "/sse") if deployment.settings.transports.sse else ("/mcp",)
    return [Route(path + end, _Signpost(Bearer(deployment, path=path))) for path in paths for end in ("", "/")]


class _Signpost:
    """ASGI app that tells callers without a token where to sign in."""

    def __init__(self, bearer: Bearer) -> None:
        self._bearer = bearer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = await self._bearer.check(scope)
        if isinstance(found, Principal):
            raise TypeError("a request with a token was sent to the signpost")
        await found.write(send)


def _is_dpop(scope: Scope) -> bool:
    return Headers(scope=scope).get("authorization", "").lower().startswith("dpop")


def _answer(status: int, content: Mapping[str, object], headers: RawHeaders = ()) -> WholeAnswer:
    return WholeAnswer(status, [JSON, UNSTORED, *headers], to_json(content))
