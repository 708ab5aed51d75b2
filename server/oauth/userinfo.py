"""The UserInfo endpoint (OpenID Connect Core §5.3): who the person behind an access token is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.oauth import dpop, tokens
from server.oauth.wire import json_answer
from vault import users


async def userinfo(deployment: Deployment, request: Request) -> Response:
    """GET or POST /userinfo with the token in the header, nowhere else."""
    try:
        principal = await tokens.authenticate(
            deployment, request.headers, method=request.method, path=dpop.sent_path(request.scope)
        )
    except tokens.TokenRefused as refusal:
        return _challenge(refusal.code, status=refusal.status)
    if "openid" not in principal.scopes:
        return _challenge("insufficient_scope", status=403)
    user = await users.get_user(deployment.database, principal.user_id)
    if user is None:
        return _challenge("invalid_token", status=401)
    return json_answer({"sub": user.id, "preferred_username": user.name})


def _challenge(code: str, *, status: int) -> Response:
    """RFC 6750 §3: no error code where no token was sent."""
    parts = [*([f'error="{code}"'] if code else []), 'scope="openid"']
    return json_answer(
        {"error": code or "unauthorized"}, status=status, headers={"WWW-Authenticate": f"Bearer {', '.join(parts)}"}
    )
