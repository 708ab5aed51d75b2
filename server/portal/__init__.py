"""Pages: first run, sign-in, consent, connect, connections, agents, activity. One stylesheet, one small script."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

    from server.deployment import Deployment


def routes(deployment: Deployment) -> list[Route]:
    """Every page's route."""
    # Here, not at the top: the authorization server shows its errors with `server.http.pages`, and pages call it.
    from server.portal.site import page_routes

    return page_routes(deployment)
