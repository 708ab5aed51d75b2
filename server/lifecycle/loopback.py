"""Serving a data directory's pages: `/healthz`, and the loopback companion that stdio processes share.

Every stdio process of one data directory gives out links to one fixed address. The first to bind it serves the pages
for all; the others check that the holder is one of theirs, and take over when it ends.

On loopback, "the address" is two sockets: a browser may resolve `localhost` to ::1 before 127.0.0.1, and a program that
binds the one that we left open would get passwords, codes, and tokens. We hold both or neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import hmac
import http.client
import json
import logging
import os
import re
import secrets
import socket
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from providers.outbound.addresses import is_loopback_host
from server.deployment import Deployment
from server.http.connections import ConnectionLimits, capacity
from server.runtime import peers
from server.runtime.uvicorn_server import Listener

RETRY: Final = 2.0  # seconds between attempts to take over the address
_LOOK_TIMEOUT: Final = 2.0  # seconds
_STEP: Final = 0.05  # seconds
_NONCE: Final = re.compile(r"[0-9a-f]{64}")
_LOOPBACK: Final = ("127.0.0.1", "::1")
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH})  # no IPv6 on this host
logger = logging.getLogger("token_vault.companion")


def health_route(deployment: Deployment) -> Route:
    """`/healthz`: alive, and which vault this is. The id is derived from its keys and is not secret.

    With `?nonce=` (64 hexadecimal digits) also `proof`: that this process holds the vault's keys.
    """
    body = {"status": "ok", "vault": deployment.vault_id}
    key = deployment.keys.subkey("holder")

    async def healthz(request: Request) -> JSONResponse:
        nonce, here = request.query_params.get("nonce", ""), request.scope.get("server")
        proved = {"proof": _proof(key, nonce, here)} if here is not None and _NONCE.fullmatch(nonce) else {}
        return JSONResponse(body | proved, headers={"cache-control": "no-store"})

    return Route("/healthz", healthz, methods=["GET"])


def _proof(key: bytes, nonce: str, here: tuple[str, int]) -> str:
    """A proof for the requested address only, so that a program at another address can't relay a proof fetched from
    us."""
    return hmac.new(key, f"{here[0]} {here[1]} {nonce}".encode(), hashlib.sha256).hexdigest()


class Holder(StrEnum):
    """Who holds the companion's address."""

    US = "us"
    OURS = "ours"  # another process of the same vault
    FOREIGN = "foreign"  # another vault, or another program
    NOBODY = "nobody"


def hosts_of(host: str) -> tuple[str, ...]:
    """All addresses to hold for a listener at `host`: on loopback, all that `localhost` can resolve to."""
    if not is_loopback_host(host.strip("[]")):
        return (host,)
    own = () if host.lower() == "localhost" else (host.strip("[]"),)
    return tuple(dict.fromkeys((*own, *_LOOPBACK)))


def bind(host: str, port: int) -> tuple[socket.socket, ...] | None:
    """The listening sockets, or None if one of the addresses is taken. Skips an address family that this host lacks.

    Raises OSError for any other reason, such as a port below 1024.
    """
    hosts, listening = hosts_of(host), list[socket.socket]()
    for one in hosts:
        try:
            listening.append(_bind_one(one, port))
        except OSError as error:
            if error.errno in _NOT_HERE and len(hosts) > 1:
                continue
            for held in listening:
                held.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise
    if not listening:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return tuple(listening)


def _bind_one(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: otherwise asyncio leaves Nagle on
    try:
        # No SO_REUSEPORT: two holders would split the requests. REUSEADDR only skips TIME_WAIT on POSIX.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and how processes that may share the address recognize each other.

    `name`: the Host that a process of this vault answers to; behind a proxy, it differs from the address. `key`: for
    the proof; without it, the vault's ID is compared, which another program can imitate.
    """

    host: str
    port: int
    vault_id: str
    name: str | None = None
    bounds: ConnectionLimits = field(default_factory=ConnectionLimits)
    key: bytes | None = field(default=None, repr=False)


def address_of(deployment: Deployment) -> Address:
    """The address of a vault's pages."""
    server = deployment.settings.server
    bounds = ConnectionLimits(
        server.connections or capacity(), server.connections_per_address, proxies=server.trusted_proxies
    )
    name, key = urlsplit(deployment.public_url).netloc, deployment.keys.subkey("holder")
    return Address(server.host, server.port, deployment.vault_id, name=name, bounds=bounds, key=key)


@dataclass(frozen=True, slots=True)
class Sight:
    """The result of checking the address.

    `stranger`: the host at which another program answers; `failure`: why no process can listen there;
    `is_served`: a process of this vault answers at one of the hosts, possibly in addition to them.
    """

    holder: Holder
    is_served: bool = False
    stranger: str = ""
    failure: str = ""


def look(address: Address) -> Sight:
    """Check who answers at each host of the address. Blocking, with a time limit."""
    found = {host: _look_at(host, address) for host in hosts_of(address.host)}
    stranger = next((host for host, holder in found.items() if holder is Holder.FOREIGN), "")
    is_served = Holder.OURS in found.values()
    if stranger:
        return Sight(Holder.FOREIGN, is_served, stranger)
    return Sight(Holder.OURS if is_served else Holder.NOBODY, is_served)


def _look_at(host: str, address: Address) -> Holder:
    nonce = secrets.token_hex(32)
    connection = http.client.HTTPConnection(host, address.port, timeout=_LOOK_TIMEOUT)
    try:
        connection.connect()
        there: tuple[str, int] = connection.sock.getpeername()[:2]
        headers = {} if address.name is None else {"Host": address.name}
        connection.request("GET", f"/healthz?nonce={nonce}", headers=headers)
        content: object = json.loads(connection.getresponse().read(4096))
    except ConnectionRefusedError:
        return Holder.NOBODY
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Holder.NOBODY if isinstance(error, OSError) and error.errno in _NOT_HERE else Holder.FOREIGN
    finally:
        connection.close()
    said: dict[object, object] = content if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownVariableType] -- JSON of a stranger
    is_ours = said.get("vault") == address.vault_id
    if address.key is not None:
        proof = said.get("proof")
        is_ours = isinstance(proof, str) and hmac.compare_digest(
            proof.encode("utf-8", "surrogatepass"), _proof(address.key, nonce, there).encode()
        )
    return Holder.OURS if is_ours else Holder.FOREIGN


def foreign_holder(address: Address, sight: Sight) -> str:
    """A sentence about the other program that holds the address, and what to do. Blocking."""
    host, port = sight.stranger or address.host, address.port
    if sight.failure:
        return (
            f"can't listen on port {port} of {host} ({sight.failure}): set another server.port (serve: --port) or "
            "server.host"
        )
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return (
        f"another program uses port {port}: {shown} is held by {peers.describe_listener(host, port)}. Stop "
        "it, or set another server.port (serve: --port)"
    )


class Companion:
    """Serves an application at a fixed address whenever no other process of the same vault does."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app = app
        self._address = address
        self._sight = Sight(Holder.NOBODY)
        self._decided = asyncio.Event()

    @property
    def holder(self) -> Holder:
        """Who held the address at the last check."""
        return self._sight.holder

    async def first_look(self) -> Holder:
        """Wait until the first check is done."""
        await self._decided.wait()
        return self.holder

    def who(self) -> str:
        """A sentence about the other program that holds the address. Blocking."""
        return foreign_holder(self._address, self._sight)

    async def trouble(self) -> str | None:
        """Why no link to our pages can be given out now; None if they lead to a process of this vault.

        Unless we hold the address ourselves, this checks again, since another program may have replaced the holder.
        Waits for the first check.
        """
        await self._decided.wait()
        if self._holds():
            return None
        sight = await asyncio.to_thread(look, self._address)
        if sight.holder is Holder.NOBODY and not self._sight.failure:  # for the moment: `run` takes it over
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY + 1):
                    while not self._holds():  # noqa: ASYNC110 -- another process may be the one that does
                        await asyncio.sleep(_STEP)
            sight = self._sight if self._holds() else await asyncio.to_thread(look, self._address)
        match sight.holder:
            case Holder.OURS | Holder.US:
                return None
            case Holder.NOBODY:
                return foreign_holder(self._address, replace(sight, failure=self._sight.failure or "nobody does"))
            case Holder.FOREIGN:
                return await asyncio.to_thread(foreign_holder, self._address, sight)

    def _holds(self) -> bool:
        return self.holder is Holder.US

    async def run(self) -> None:
        """Hold the address, or watch it and take it over; runs until cancelled."""
        while True:
            try:
                listening = bind(self._address.host, self._address.port)
            except OSError as error:
                self._note(Sight(Holder.FOREIGN, failure=error.strerror or type(error).__name__))
            else:
                if listening is not None:
                    await self._hold(listening)
                else:
                    self._note(await asyncio.to_thread(look, self._address))
            await asyncio.sleep(RETRY)

    async def _hold(self, listening: tuple[socket.socket, ...]) -> None:
        listener = Listener(self._app, listening, self._address.bounds)
        with contextlib.ExitStack() as stack:
            for one in listening:
                stack.enter_context(contextlib.closing(one))
            serving = asyncio.create_task(listener.run())
            try:
                await listener.started.wait()
                self._note(Sight(Holder.US))
                await asyncio.shield(serving)
            finally:
                self._sight = Sight(Holder.NOBODY)
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    def _note(self, sight: Sight) -> None:
        if sight.holder is not self.holder or not self._decided.is_set():
            level = logging.WARNING if sight.holder is Holder.FOREIGN else logging.DEBUG
            logger.log(level, "companion address", extra={"holder": sight.holder.value, "stranger": sight.stranger})
        self._sight = sight
        self._decided.set()
