"""Limits the tokens that one agent may request per person: each answer is a durable event, so it is counted first."""

from __future__ import annotations

import time

from server.deployment import Deployment
from server.http.answers import too_often
from server.oauth.rules import OAuthError
from vault.records import Event


def spend_request(deployment: Deployment, *, user_id: str | None, client_id: str) -> None:
    """Count a token request that is about to be answered. Raises OAuthError, and then nothing was used up."""
    wait = deployment.token_requests.spend(user_id or "", client_id, now=time.monotonic())
    if not wait:
        return
    deployment.activity.note_refusal(
        Event(
            "token.refused", outcome="refused", user_id=user_id, client_id=client_id, details={"code": "rate_limited"}
        )
    )
    raise OAuthError(
        "too_many_requests",
        "this agent requested too many tokens: keep each token for its expires_in, and try again later",
        headers=too_often(wait, limit=deployment.token_requests.limit, now=deployment.now()),
    )
