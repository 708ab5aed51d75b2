"""The straight way to the busiest endpoints: past the layers and routes of the web framework, 15 to 40 us a call.

Guards and counting stand before it. The framework keeps the same routes, for everything that is looked up by them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

PROXY: Final = "/proxy/"
_BUSY: Final = frozenset({"/mcp", "/mcp/", "/token", "/token/"})


def _straight(route: Route) -> ASGIApp:
    """The route's endpoint without what the framework puts around a function: handlers of exceptions, of which it has
    none here.
    """
    if not inspect.iscoroutinefunction(route.endpoint):
        return route.app
    handler: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await handler(Request(scope, receive, send))
        await answer(scope, receive, send)

    return app


class Direct:
    """ASGI: requests for one of the busy paths go to their endpoint, those below `/proxy/` to the proxy, all others
    into the framework.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route], *, proxy: ASGIApp) -> None:
        self._app = app
        self._proxy = proxy
        self._direct: Mapping[str, ASGIApp] = {route.path: _straight(route) for route in routes if route.path in _BUSY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            path: str = scope["path"]
            app = self._proxy if path.startswith(PROXY) else self._direct.get(path, app)
        await app(scope, receive, send)
