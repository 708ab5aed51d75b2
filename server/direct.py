"""The straight way to the busiest endpoints: past the layers and routes of the web framework, 15 us for each call.

Guards and counting stand before it. The framework keeps the same routes, for everything that is looked up by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

_BUSY: Final = frozenset({"/mcp", "/mcp/"})


class Direct:
    """ASGI: requests for one of the busy paths go to their endpoint, all others into the framework."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._direct: Mapping[str, ASGIApp] = {route.path: route.app for route in routes if route.path in _BUSY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._direct.get(scope["path"], self._app) if scope["type"] == "http" else self._app
        await app(scope, receive, send)
