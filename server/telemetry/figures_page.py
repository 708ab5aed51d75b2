"""The page for Prometheus: `/metrics` on a separate listener, with the deadlines and limits of all our listeners.

It needs no token and shares open files and threads with everything else, so idle connections must not occupy many of
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.http.connections import ConnectionLimits
from server.provider_settings import SettingsRefused
from server.runtime.uvicorn_server import Listener

CONNECTIONS: Final = 64  # open connections; the longest-waiting one is closed to make room


@asynccontextmanager
async def figures_page(address: str, registry: CollectorRegistry) -> AsyncGenerator[None]:
    """Serve the figures at HOST:PORT while the block runs. Raises SettingsRefused."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise SettingsRefused(
            f"telemetry.prometheus: can't listen on {address} ({error.strerror}); "
            "choose another port, or stop the program that has it"
        ) from error
    listening.setblocking(False)
    with contextlib.closing(listening):
        listener = Listener(_app(registry), (listening,), ConnectionLimits(CONNECTIONS, CONNECTIONS // 2))
        serving = asyncio.create_task(listener.run(), name="figures")
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def _app(registry: CollectorRegistry) -> Starlette:
    async def figures(request: Request) -> Response:
        body = await asyncio.to_thread(generate_latest, registry)
        return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers={"cache-control": "no-store"})

    return Starlette(routes=[Route("/metrics", figures, methods=["GET"])])
