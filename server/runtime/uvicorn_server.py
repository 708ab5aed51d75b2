"""Runs an ASGI application on a listening socket until it gets a stop signal. The only module that knows uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import socket
from collections.abc import Generator, Sequence
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from server.http.connections import BoundedConfig, BoundedProtocol, ConnectionLimits, Connections

SHUTDOWN_TIMEOUT: Final = 30  # seconds for open requests; streams end earlier (`server.http.draining`)
_POLL: Final = 0.02
logger = logging.getLogger("token_vault.serving")


class _Server(uvicorn.Server):
    """Leaves signals to the program: this server may be part of a stdio process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def server_config(
    app: ASGIApp, bounds: ConnectionLimits | None = None, *, patience: int = SHUTDOWN_TIMEOUT
) -> uvicorn.Config:
    """How an application is served; `patience` is for open requests at the end, in seconds."""
    config = BoundedConfig(
        app,
        interface="asgi3",  # an application may be a plain function that returns an awaitable
        http=BoundedProtocol,
        ws="none",  # nothing here uses it
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `server.http.addresses` reads them, if the settings name a proxy
        timeout_graceful_shutdown=patience,
    )
    config.open_connections = Connections(bounds or ConnectionLimits())
    return config


class Listener:
    """A web server on one or more sockets; `run` returns when it was stopped or cancelled."""

    def __init__(
        self, app: ASGIApp, listening: Sequence[socket.socket], bounds: ConnectionLimits | None = None
    ) -> None:
        self._listening = list(listening)
        self._server = _Server(server_config(app, bounds))
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Serve. A cancelled run still closes its connections, within a bounded time."""
        serving = asyncio.create_task(self._server.serve(sockets=self._listening))
        try:
            await self._wait_until_started(serving)
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.stop()
            async with asyncio.timeout(SHUTDOWN_TIMEOUT + 2):
                await serving
            raise

    def stop(self) -> None:
        """Ask it to end: accepts nothing new, and open requests get their time."""
        self._server.should_exit = True

    async def _wait_until_started(self, serving: asyncio.Task[None]) -> None:
        while not self._server.started and not serving.done():  # noqa: ASYNC110 -- uvicorn has no event for it
            await asyncio.sleep(_POLL)
        self.started.set()


def warn_if_slow() -> None:
    """Warn when uvicorn silently falls back to a slower loop."""
    if importlib.util.find_spec("uvloop") is None:
        logger.warning("uvloop isn't installed: calls use more processor time")
