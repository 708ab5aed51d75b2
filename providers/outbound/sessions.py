"""The HTTP library of outbound calls, aiohttp: its sessions, checked addresses, and its failures as our exceptions.
This is the only module that uses it. `providers.outbound.client` loads it at the first call.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.hdrs import CONTENT_ENCODING
from yarl import URL

from providers.outbound.addresses import AddressPolicy, address_problem, is_loopback_host
from providers.outbound.lookups import ON_BEHALF_OF, Lookup
from providers.outbound.messages import (
    AddressRefused,
    ClientIdentity,
    NoAnswer,
    NotReached,
    OutboundRequest,
    OutboundResponse,
    TooLarge,
)

_SHOWN: Final = 30.0  # seconds for which a certificate's key is kept
_MOST_SHOWN: Final = 32
_CERTIFICATE_ALERT: Final = re.compile(r"\[SSL: (TLSV1|TLSV13|SSLV3)_ALERT_(UNKNOWN_CA|\w*CERTIFICATE\w*)\]")


async def translate(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turn connection errors into ours at the innermost place.

    aiohttp repeats GET, PUT and DELETE when it sees its own disconnect errors. It doesn't know ours, so a request
    reaches a server at most once.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise NotReached("TLS failed") from error
    except aiohttp.ClientHttpProxyError as error:  # its answer to CONNECT; the request itself wasn't sent
        raise NotReached("the outbound proxy refused") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise NotReached("name not found") from error
    except aiohttp.ClientConnectorError as error:
        raise NotReached("couldn't connect") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise NotReached("connecting took too long") from error
    except TimeoutError as error:  # an OSError too
        raise NoAnswer("no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        if _refuses_certificate(error):
            raise NotReached("our client certificate was refused") from error
        raise NoAnswer("connection broke") from error


def _refuses_certificate(error: BaseException) -> bool:
    """Whether the peer ended the handshake because of our certificate, so that it read no request (RFC 8446
    §4.4.2.4)."""
    return any(isinstance(part, str) and _CERTIFICATE_ALERT.search(part) for part in error.args)


class _ReadErrors:
    """Translates aiohttp's errors while an answer is awaited or read. It is a class because a generator would add cost
    to each call."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise NoAnswer("no answer in time") from error
        if isinstance(error, aiohttp.ClientError | OSError):
            raise NoAnswer("answer was cut") from error


READING: Final = _ReadErrors()
_WRITTEN_AT_ONCE: Final = 2**20  # bytes of a body; a longer one is written in pieces, so that others are served between


class StreamedAnswer:
    """An answer whose body is still arriving, decoded if its encoding is known. `headers` as received."""

    __slots__ = ("_answer", "_begun", "_limit", "headers", "status")

    def __init__(self, answer: aiohttp.ClientResponse, limit: int) -> None:
        self._answer = answer
        self._begun: list[bytes] = []  # what `read_at_most` read and `chunks` hasn't returned
        self._limit = limit
        self.status = answer.status
        self.headers: Sequence[tuple[str, str]] = tuple(answer.headers.items())

    async def read(self) -> bytes:
        """The whole body. Raises NoAnswer or TooLarge."""
        with READING:
            return await _read(self._answer, self._limit)

    async def read_at_most(self, most: int) -> bytes | None:
        """The whole body if it has at most this many bytes, decoded; otherwise None, and `chunks` returns it.

        Raises NoAnswer.
        """
        size = 0
        with READING:
            async for chunk in self._answer.content.iter_any():
                self._begun.append(chunk)
                size += len(chunk)
                if size > most:
                    return None
        return b"".join(self._begun)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body piece by piece. Raises NoAnswer or TooLarge if it doesn't end as it should."""
        size = 0
        with READING:
            async for chunk in self._pieces():
                size += len(chunk)
                if size > self._limit:
                    self._answer.close()
                    raise TooLarge("answer too large")
                yield chunk

    async def _pieces(self) -> AsyncGenerator[bytes]:
        while self._begun:
            yield self._begun.pop(0)
        async for chunk in self._answer.content.iter_any():
            yield chunk


def _results(host: str, port: int, addresses: Sequence[str]) -> list[ResolveResult]:
    return [
        ResolveResult(
            hostname=host,
            host=address,
            port=port,
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        for address in dict.fromkeys(addresses)
    ]


class _GuardedResolver(AbstractResolver):
    """Resolves once and returns the checked addresses, so that the connection goes to a checked address."""

    def __init__(self, policy: AddressPolicy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host, port)
        if not addresses:
            raise OSError("no address")
        for address in addresses:  # one bad address disqualifies the name: a rebinding answer mixes good and bad
            if address_problem(address, self._policy, host=host) is not None:
                raise AddressRefused("address not allowed")
        return _results(host, port, addresses)

    async def close(self) -> None:
        """Nothing to close."""


class _ProxyResolver(AbstractResolver):
    """Resolves only the operator's proxy: all requests through it name checked addresses."""

    def __init__(self, proxy: URL, lookup: Lookup) -> None:
        self._host = proxy.raw_host
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host != self._host:
            raise AddressRefused("address not allowed")
        return _results(host, port, await self._lookup(host, port))

    async def close(self) -> None:
        """Nothing to close."""


class _ThroughProxy:
    """One request through the proxy: its host is looked up and checked here, like every other one, and then named by
    address. If the proxy looked up the name itself, it could reach an address other than the checked one. TLS still
    verifies the name.
    """

    def __init__(
        self, session: aiohttp.ClientSession, resolver: _GuardedResolver, proxy: URL, trust: ssl.SSLContext | bool
    ) -> None:
        self._trust = trust
        self._session = session
        self._resolver = resolver
        self._proxy = proxy
        self._inner: AbstractAsyncContextManager[aiohttp.ClientResponse] | None = None
        self._request: tuple[OutboundRequest, aiohttp.ClientTimeout] | None = None

    def of(self, request: OutboundRequest, limits: aiohttp.ClientTimeout) -> Self:
        self._request = (request, limits)
        return self

    async def __aenter__(self) -> aiohttp.ClientResponse:
        if self._request is None:
            raise RuntimeError("no request")
        request, limits = self._request
        url = URL(request.url, encoded=True)
        host = url.raw_host or ""
        try:
            async with asyncio.timeout(limits.connect):
                [first, *_] = await self._resolver.resolve(host, url.port or 443)
        except TimeoutError as error:
            raise NotReached("connecting took too long") from error
        except OSError as error:
            raise NotReached("name not found") from error
        self._inner = self._session.request(
            request.method,
            url.with_host(first["host"]),
            headers={"Host": url.raw_authority, **request.headers},
            data=_body_of(request),
            timeout=limits,
            allow_redirects=False,
            proxy=self._proxy,
            ssl=self._trust,
            server_hostname=host,
        )
        return await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._inner is not None:
            await self._inner.__aexit__(kind, error, traceback)


class HttpSessions:
    """One pool of connections for each way to connect; opened on first use."""

    reading: Final = READING

    def __init__(
        self, lookup: Lookup, foreign_lookup: Lookup, *, connect_timeout: float, proxy: str | None = None
    ) -> None:
        self._proxy = None if proxy is None else URL(proxy)
        self._lookup = lookup
        self._foreign_lookup = foreign_lookup
        self._connect_timeout = connect_timeout
        self._opened: dict[tuple[AddressPolicy, bool, bool, bool], aiohttp.ClientSession] = {}
        self._shown = _ShownCertificates()

    async def close(self) -> None:
        """Close every connection."""
        self._shown = _ShownCertificates()
        sessions = list(self._opened.values())
        self._opened.clear()
        for session in sessions:
            await session.close()

    def open(
        self, request: OutboundRequest, *, policy: AddressPolicy, seconds: float, has_timer: bool = True
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send the request; the block has the answer whose body is still arriving."""
        # Connecting always times out before the total does, so a total timeout means that bytes may have been sent.
        limits = aiohttp.ClientTimeout(
            total=max(seconds, 0.01) if has_timer else None,
            connect=max(min(self._connect_timeout, seconds * 0.8), 0.005),
            ceil_threshold=60,
        )
        trust: ssl.SSLContext | bool = True  # the connector's
        proxy = None if self._proxy is None or is_direct(request.url, policy) else self._proxy
        if request.identity is not None:
            # aiohttp also shows a certificate to an https proxy
            if URL(request.url, encoded=True).scheme != "https" or (proxy is not None and proxy.scheme != "http"):
                raise NotReached("no TLS connection to show a certificate in")
            trust = self._shown.context(policy.ca_file, request.identity)
        reuse = request.reuse and request.identity is None
        session = self._session(policy, reuse=reuse, is_foreign=request.is_foreign)
        if request.is_foreign:
            ON_BEHALF_OF.set(request.account)
        if proxy is not None:
            resolver = _GuardedResolver(policy, self._foreign_lookup if request.is_foreign else self._lookup)
            through = self._session(policy, reuse=reuse, is_foreign=request.is_foreign, proxy=proxy)
            return _ThroughProxy(through, resolver, proxy, trust).of(request, limits)
        return session.request(
            request.method,
            URL(request.url, encoded=True),
            headers=request.headers,
            data=_body_of(request),
            timeout=limits,
            allow_redirects=False,
            ssl=trust,
        )

    def as_stream(self, answer: aiohttp.ClientResponse, limit: int) -> StreamedAnswer:
        """The answer, piece by piece."""
        return StreamedAnswer(answer, limit)

    async def whole(self, answer: aiohttp.ClientResponse, limit: int) -> OutboundResponse:
        """The whole answer. Raises TooLarge."""
        body = await _read(answer, limit)
        return OutboundResponse(answer.status, {name.lower(): value for name, value in answer.headers.items()}, body)

    def _session(
        self, policy: AddressPolicy, *, reuse: bool, is_foreign: bool, proxy: URL | None = None
    ) -> aiohttp.ClientSession:
        key = (policy, reuse, is_foreign, proxy is not None)
        session = self._opened.get(key)
        if session is None:
            lookup = self._foreign_lookup if is_foreign else self._lookup
            connector = aiohttp.TCPConnector(
                resolver=_GuardedResolver(policy, lookup) if proxy is None else _ProxyResolver(proxy, self._lookup),
                ssl=_trust(policy.ca_file),
                use_dns_cache=not is_foreign,  # a third party could fill it
                limit=0,  # the bulkheads limit
                force_close=not reuse,
                keepalive_timeout=None if not reuse else 15,
            )
            session = self._opened[key] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(translate,),
                headers={"User-Agent": "token-vault", "Accept-Encoding": "identity"},
                trust_env=False,
                raise_for_status=False,
            )
        return session


def is_direct(url: str, policy: AddressPolicy) -> bool:
    """Whether a request bypasses the proxy: to this machine, and to hosts that the operator listed as private."""
    host = (URL(url, encoded=True).raw_host or "").lower()
    if is_loopback_host(host) or host in policy.private_hosts:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in policy.private_networks)


def _trust(ca_file: str | None) -> ssl.SSLContext | bool:
    """The authorities trusted for server certificates: the system's, and this one."""
    if ca_file is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return context


class _ShownCertificates:
    """Contexts that show a certificate. They are created once for consecutive calls, because reading the system's
    authorities takes long, and are dropped soon, together with the key.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str | None, bytes], ssl.SSLContext] = {}

    def context(self, ca_file: str | None, identity: ClientIdentity) -> ssl.SSLContext:
        """The context for these authorities and this certificate. Raises NotReached."""
        key = ca_file, hashlib.sha256(identity.pem).digest()
        if key not in self._made:
            while len(self._made) >= _MOST_SHOWN:
                del self._made[next(iter(self._made))]
            self._made[key] = show_certificate(_trust(ca_file), identity)
            asyncio.get_running_loop().call_later(_SHOWN, self._made.pop, key, None)
        return self._made[key]


def show_certificate(trust: ssl.SSLContext | bool, identity: ClientIdentity) -> ssl.SSLContext:
    """The same trust with this certificate.

    OpenSSL's function takes a file name. On Linux the file is only in memory; elsewhere only this user can read it, and
    it's removed at once.
    """
    context = trust if isinstance(trust, ssl.SSLContext) else ssl.create_default_context()
    try:
        if hasattr(os, "memfd_create"):
            with os.fdopen(os.memfd_create("certificate"), "wb") as file:
                file.write(identity.pem)
                file.flush()
                context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "certificate")
                path.touch(mode=0o600)
                path.write_bytes(identity.pem)
                context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        raise NotReached("the certificate can't be used") from error
    return context


def _body_of(request: OutboundRequest) -> object:
    body = request.body
    return BytesIO(body) if isinstance(body, bytes) and len(body) > _WRITTEN_AT_ONCE else body


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    if (answer.content_length or 0) > limit:
        answer.close()
        raise TooLarge("answer too large")
    if answer.content_length is not None and CONTENT_ENCODING not in answer.headers:
        return await answer.read()  # the parser holds it to its length
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > limit:
            answer.close()
            raise TooLarge("answer too large")
        chunks.append(chunk)
    return b"".join(chunks)
