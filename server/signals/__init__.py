"""Signals about people and grants: from transmitters of security events, identity providers, and providers."""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from server.deployment import Deployment


def routes(deployment: Deployment) -> list[Route]:
    """The routes of all signals."""
    from server.signals import global_revocation, provider_webhooks, push_delivery

    return [
        Route(f"{path}{slash}", partial(handler, deployment), methods=["POST"])
        for path, handler in (
            ("/signals/{name}", push_delivery.receive),
            (global_revocation.PATH, global_revocation.revoke),
            ("/webhooks/{name}", provider_webhooks.receive),
        )
        for slash in ("", "/")
    ]
