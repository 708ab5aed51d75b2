"""The proxy for one program: CONNECT on loopback, with TLS terminated for the hosts that the vault handles.

Callers need the run's password, since other users of the machine can reach the port, too. Other hosts are refused or
tunneled without inspection, as chosen by the person who started the program. HTTP/1.1 only: no HTTP/2, WebSockets, or
gRPC.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, urlsplit

import h11

from providers.outbound.addresses import AddressPolicy
from providers.outbound.messages import HttpError
from providers.outbound.tunnels import open_tunnel
from server.errors import status_of
from server.programs.certificates import RunAuthority
from server.programs.wire import IDLE, PIECE, Exchange, Wire
from server.proxy.program_hosts import ApiAddress, HostMap

USER: Final = "run"
logger = logging.getLogger("token_vault.run")
_HANDSHAKE: Final = 30.0  # seconds for TLS
_PASSWORD: Final = 10.0  # seconds for a connection to send the password
_OURS: Final = frozenset({b"proxy-authorization", b"proxy-connection", b"connection", b"keep-alive"})


@dataclass(frozen=True, slots=True)
class ProgramCall:
    """One call by the program to a host that the vault handles."""

    method: str
    host: str
    port: int
    target: bytes = field(repr=False)  # path and query as sent
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)


Answerer = Callable[[ProgramCall, Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class OtherHosts:
    """How to treat hosts that belong to no account. `told` is called with the host and whether it was reached.

    `proxy`: the operator's proxy, if these hosts are reached through one. `are_ours`: whether an account belongs to
    one of a host's APIs. `is_named`: whether a host is allowed even if others aren't; `why_not`: what the program is
    told about refused hosts. `is_open`: whether any tunnel is allowed now, even to hosts that the vault handles.
    """

    are_allowed: bool
    policy: AddressPolicy
    told: Callable[[str, int, bool], None]
    are_ours: Callable[[Sequence[ApiAddress]], Awaitable[bool]]
    proxy: str | None = field(default=None, repr=False)
    is_named: Callable[[str, int], bool] = lambda host, port: False
    is_open: Callable[[], bool] = lambda: True
    why_not: str = "it belongs to no connected account. --allow-other-hosts allows it, without a credential"

    def lets_through(self, host: str, port: int) -> bool:
        return self.are_allowed or self.is_named(host, port)


class Front:
    """Listens for one program. `answer` carries out its calls to `hosts`; `most` limits concurrent connections."""

    def __init__(
        self,
        hosts: HostMap,
        authority: RunAuthority,
        answer: Answerer,
        others: OtherHosts,
        *,
        most: int | None = None,
    ) -> None:
        self._hosts = hosts
        self._authority = authority
        self._answer = answer
        self._others = others
        self._most = most
        self._password = secrets.token_urlsafe(24)
        basic = b64encode(f"{USER}:{self._password}".encode())
        self._expected = b"Basic " + basic
        self._shown = (self._password.encode(), basic)
        self._running = set[asyncio.Task[None]]()
        self.port = 0

    @property
    def url(self) -> str:
        """The proxy's address, with its user and password."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The proxy's address at this port, even before it listens."""
        return f"http://{USER}:{self._password}@127.0.0.1:{port}"

    def mask_password(self, written: bytes) -> bytes:
        """What the program wrote, with the password masked, both in plain text and in its encoded form."""
        for secret in self._shown:  # a pattern of both would take two hundred times as long
            written = written.replace(secret, b"***")
        return written

    @asynccontextmanager
    async def listen(self, listening: socket.socket | None = None) -> AsyncGenerator[None]:
        """Listen while the block runs, on a bound socket or a free port; then end all connections."""
        if listening is None:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        else:
            server = await asyncio.start_server(self._accept, sock=listening)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await self.end_connections()

    async def end_connections(self) -> None:
        """End every connection and its calls, and keep listening."""
        running = [*self._running]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._most is not None and len(self._running) >= self._most:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(Wire(reader, writer))
            writer.close()
            async with asyncio.timeout(IDLE):
                await writer.wait_closed()
        except (OSError, ssl.SSLError, EOFError, h11.ProtocolError, TimeoutError):
            pass  # the program closed, or uses another protocol
        except Exception:  # the outermost handler of a connection
            logger.exception("a call of the program failed")
        except asyncio.CancelledError:
            writer.transport.abort()  # a clean close would wait for the program
            raise
        finally:
            writer.close()

    async def _talk(self, wire: Wire) -> None:
        """One connection: a tunnel, or requests in absolute form (RFC 9112 §3.2.2)."""
        patience = _PASSWORD
        while (request := await wire.next_request(patience)) is not None:
            patience = IDLE
            if not self._is_ours(request):
                headers = [(b"proxy-authenticate", b'Basic realm="Token Vault"')]
                await wire.refuse(
                    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,  # a proxy's own, which no other edge answers
                    "This proxy serves one program only. The password is in that program's environment.",
                    headers,
                )
                return
            if request.method == b"CONNECT":
                await self._connect(wire, request)
                return
            if not await self._plain(wire, request):
                return

    def _is_ours(self, request: h11.Request) -> bool:
        given = [value for name, value in request.headers if name == b"proxy-authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)

    async def _connect(self, wire: Wire, request: h11.Request) -> None:
        host, port = _authority_of(request.target.decode("latin-1"))
        if not host:
            await wire.refuse(status_of("invalid_request"), "Name a host and a port.")
        elif not self._others.is_open():
            self._others.told(host, port, False)
            await wire.refuse(
                status_of("forbidden"), f"Token Vault doesn't allow calls to {host}: {self._others.why_not}."
            )
        elif await self._is_host_of_ours(host, port):
            if not self._authority.has_room_for(host):
                await wire.refuse(
                    status_of("forbidden"),
                    "This program has called too many hosts. It can still call the hosts that it called before.",
                )
                return
            await wire.accept_tunnel()
            async with asyncio.timeout(_HANDSHAKE):
                await wire.start_tls(self._authority.context(host))
            await self._converse(wire, host, port)
        elif (there := await self._reach(wire, host, port)) is not None:
            reader, writer = there
            await wire.accept_tunnel()
            await wire.pump(reader, writer)

    async def _is_host_of_ours(self, host: str, port: int) -> bool:
        """Whether the vault handles this host. With other hosts allowed, one that matches an API needs an account."""
        found = self._hosts.at(host, port)
        return bool(found) and (not self._others.are_allowed or await self._others.are_ours(found))

    async def _converse(self, wire: Wire, host: str, port: int) -> None:
        """Serve the requests inside a tunnel that ends here."""
        while (request := await wire.next_request()) is not None:
            if not await self._pass_on(wire, request, host=host, port=port, target=request.target):
                return

    async def _plain(self, wire: Wire, request: h11.Request) -> bool:
        """Answer a request without TLS. Returns whether another one may follow."""
        url = _url_of(request.target.decode("latin-1"))
        host, port = (url.hostname or "").lower(), _port_of(url.netloc, 80)
        if url.scheme != "http" or not host or not port:
            await wire.refuse(status_of("invalid_request"), "This is a proxy: send CONNECT or an absolute URL.")
            return False
        found = self._hosts.at(host, port)
        target = (url._replace(scheme="", netloc="").geturl() or "/").encode("latin-1")
        if any(one.scheme == "http" for one in found):
            return await self._pass_on(wire, request, host=host, port=port, target=target)
        if self._hosts.at(host, 443):
            await wire.refuse(
                status_of("forbidden"), f"Call {host} over https: the vault doesn't send credentials unencrypted."
            )
        elif (there := await self._reach(wire, host, port)) is not None:
            reader, writer = there
            headers = [(name, value) for name, value in request.headers if name not in _OURS]
            head = b"\r\n".join(
                (
                    request.method + b" " + target + b" HTTP/1.1",
                    *(name + b": " + value for name, value in headers),
                    b"connection: close",
                )
            )
            writer.write(head + b"\r\n\r\n")
            await wire.pump_request(reader, writer, is_chunked=(b"transfer-encoding", b"chunked") in headers)
        return False

    async def _pass_on(self, wire: Wire, request: h11.Request, *, host: str, port: int, target: bytes) -> bool:
        headers = tuple((name, value) for name, value in request.headers if name not in _OURS)
        call = ProgramCall(request.method.decode("latin-1"), host, port, target, headers)
        exchange = wire.exchange(request)
        await self._answer(call, exchange)
        return await wire.finish(exchange)

    async def _reach(
        self, wire: Wire, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to a host that belongs to no account; None once the program was told why not."""
        if not self._others.lets_through(host, port):
            self._others.told(host, port, False)
            await wire.refuse(
                status_of("forbidden"), f"Token Vault doesn't allow calls to {host}: {self._others.why_not}."
            )
            return None
        try:
            found = await open_tunnel(host, port, policy=self._others.policy, proxy=self._others.proxy)
        except HttpError as error:
            self._others.told(host, port, False)
            await wire.refuse(status_of("upstream_unavailable"), f"Couldn't reach {host}: {error.reason}.")
            return None
        self._others.told(host, port, True)
        return found


def _authority_of(target: str) -> tuple[str, int]:
    """The host, in lower case without brackets, and the port; an empty host if the target is malformed."""
    try:
        parts = urlsplit(f"//{target}")
        return (parts.hostname or "").lower(), parts.port or 0
    except ValueError:
        return "", 0


def _url_of(target: str) -> SplitResult:
    """The parsed address; an empty one if it is malformed, such as `http://[::1`."""
    try:
        return urlsplit(target)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _port_of(netloc: str, default: int) -> int:
    try:
        return urlsplit(f"//{netloc}").port or default
    except ValueError:
        return 0


__all__ = ["PIECE", "Answerer", "Front", "OtherHosts", "ProgramCall"]
