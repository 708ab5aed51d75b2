"""The bearer check of the MCP endpoints (RFC 6750, RFC 9449, RFC 9728): header in, principal or challenge out.

It reads headers only, so nobody without a token gets a body parsed. What makes a token valid is `server.oauth.tokens`.
"""

from __future__ import annotations

import json
from typing import Final

from starlette.requests import Request
from starlette.types import Scope, Send

from server.deployment import Deployment
from server.oauth import tokens
from vault.records import Principal

SCOPE: Final = "tools"  # what ordinary use needs; the fine permission is the delegation
_TOKEN_LIMIT: Final = 8192  # characters


class Bearer:
    """Checks the Authorization header of one protected resource, `/mcp` or `/sse`."""

    def __init__(self, deployment: Deployment, *, path: str) -> None:
        self._deployment = deployment
        self._metadata = deployment.url(f"/.well-known/oauth-protected-resource{path}")
        public = deployment.public_url
        # clients in the field ask for the endpoint, the origin, or the origin with a slash
        self._audiences = frozenset({public, public + "/", public + "/mcp", public + "/sse"})

    async def check(self, scope: Scope, send: Send) -> Principal | None:
        """The principal; None when a challenge was sent instead."""
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if not values:
            await self._challenge(send, 401)  # RFC 6750 §3.1: no error code where no token was sent
            return None
        if len(values) > 1:
            await self._challenge(send, 400, error="invalid_request")
            return None
        kind, _, token = values[0].decode("latin-1").partition(" ")
        kind = kind.lower()
        if kind not in ("bearer", "dpop"):
            await self._challenge(send, 401)
            return None
        principal = await self._verify(Request(scope), kind, token.strip())
        if principal is None or principal.audience not in self._audiences:
            await self._challenge(send, 401, error="invalid_token", is_dpop=kind == "dpop")
            return None
        if SCOPE not in principal.scopes:
            await self._challenge(send, 403, error="insufficient_scope", is_dpop=kind == "dpop")
            return None
        return principal

    async def _verify(self, request: Request, kind: str, token: str) -> Principal | None:
        if not token or len(token) > _TOKEN_LIMIT:
            return None
        try:
            return await tokens.verify(self._deployment, token)
        except tokens.TokenRefused:
            return None

    async def _challenge(self, send: Send, status: int, *, error: str | None = None, is_dpop: bool = False) -> None:
        parts = [f'resource_metadata="{self._metadata}"', f'scope="{SCOPE}"']
        if error is not None:
            parts.insert(0, f'error="{error}"')
        body = json.dumps({"error": error or "unauthorized"}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"www-authenticate", f"{'DPoP' if is_dpop else 'Bearer'} {', '.join(parts)}".encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
