"""Who serves a data directory's pages: `/healthz`, and the loopback companion that stdio processes share.

Every stdio process of one data directory gives out links to one fixed address. The first to bind it serves everybody's
pages; the others see by its vault id that the holder is one of theirs, and take over when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from server.connections import Bounds, capacity
from server.deployment import Deployment
from server.serving import Listener

RETRY: Final = 2.0  # seconds between two attempts to take the address over
_LOOK_TIMEOUT: Final = 2.0  # seconds
logger = logging.getLogger("token_vault.companion")


def health_route(deployment: Deployment) -> Route:
    """`/healthz`: alive, and which vault this is. The id is derived from its keys and is not secret."""
    body = {"status": "ok", "vault": deployment.vault_id}

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse(body, headers={"cache-control": "no-store"})

    return Route("/healthz", healthz, methods=["GET"])


class Holder(StrEnum):
    """Who holds the companion's address."""

    US = "us"
    OURS = "ours"  # another process of the same vault
    FOREIGN = "foreign"  # another vault, or another program
    NOBODY = "nobody"


def bind(host: str, port: int) -> socket.socket | None:
    """The listening socket, or None when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: else asyncio leaves Nagle on
    try:
        # No SO_REUSEPORT: two holders would split the requests. REUSEADDR only skips TIME_WAIT on POSIX.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and the id by which processes that may share the address know each other.

    `name`: the one Host that a process of this vault answers to; behind a proxy that is not the address itself.
    """

    host: str
    port: int
    vault_id: str
    name: str | None = None
    bounds: Bounds = field(default_factory=Bounds)


def address_of(deployment: Deployment) -> Address:
    """The address of a vault's pages."""
    server = deployment.settings.server
    bounds = Bounds(server.connections or capacity(), server.connections_per_address, proxies=server.trusted_proxies)
    name = urlsplit(deployment.public_url).netloc
    return Address(server.host, server.port, deployment.vault_id, name=name, bounds=bounds)


def look(address: Address) -> Holder:
    """Ask who answers at the address. Blocking; bounded."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_LOOK_TIMEOUT)
    try:
        connection.request("GET", "/healthz", headers={} if address.name is None else {"Host": address.name})
        answer = connection.getresponse()
        content: object = json.loads(answer.read(4096))
    except ConnectionRefusedError:
        return Holder.NOBODY
    except (OSError, http.client.HTTPException, ValueError):
        return Holder.FOREIGN
    finally:
        connection.close()
    return Holder.OURS if isinstance(content, dict) and content.get("vault") == address.vault_id else Holder.FOREIGN  # pyright: ignore[reportUnknownMemberType] -- JSON of a stranger


class Companion:
    """Serves an application at a fixed address whenever no other process of the same vault does."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app = app
        self._address = address
        self._holder = Holder.NOBODY
        self._decided = asyncio.Event()

    @property
    def holder(self) -> Holder:
        """Who held the address at the last look."""
        return self._holder

    async def first_look(self) -> Holder:
        """Wait until it is known for the first time who serves the pages."""
        await self._decided.wait()
        return self._holder

    async def run(self) -> None:
        """Hold the address, or watch it and take it over; runs until it is cancelled."""
        while True:
            listening = bind(self._address.host, self._address.port)
            if listening is not None:
                await self._hold(listening)
            else:
                self._note(await asyncio.to_thread(look, self._address))
            await asyncio.sleep(RETRY)

    async def _hold(self, listening: socket.socket) -> None:
        listener = Listener(self._app, listening, self._address.bounds)
        with contextlib.closing(listening):
            serving = asyncio.create_task(listener.run())
            try:
                await listener.started.wait()
                self._note(Holder.US)
                await asyncio.shield(serving)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    def _note(self, holder: Holder) -> None:
        if holder is not self._holder or not self._decided.is_set():
            level = logging.WARNING if holder is Holder.FOREIGN else logging.DEBUG
            logger.log(level, "companion address", extra={"holder": holder.value})
        self._holder = holder
        self._decided.set()
