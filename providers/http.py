"""Outbound HTTP: one guarded client for everything that a request, client, person or provider file can influence.

Decides address, deadline, size and number of calls in flight, and says of every failure whether anything was sent.
Follows no redirect, keeps no cookie, reads no proxy from the environment, repeats nothing: callers know what is safe
to repeat. What an answer means is left to `providers.oauth`, `providers.api` and the authorization server.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self

import aiohttp
import httpx2
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from providers.address import PUBLIC_ONLY, AddressPolicy, address_problem, url_problem
from providers.answers import parse_object

CONNECT_TIMEOUT: Final = 3.0
TOTAL_TIMEOUT: Final = 10.0
ANSWER_LIMIT: Final = 1_000_000  # bytes
CALLS_PER_PEER: Final = 20
_LINE_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host name; raises OSError when there are none."""


class HttpError(Exception):
    """Base of the tree; never raised itself. `reason` is one of our own constants: no URL, no header, no body."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotReached(HttpError):
    """Nothing of the request was sent: repeating it is safe."""


class AddressRefused(NotReached):
    """The URL, or an address its host resolves to, is not one that we connect to."""


class NoAnswer(HttpError):
    """The request left and no usable answer came: whether it was carried out is unknown."""


class TooLarge(NoAnswer):
    """The answer exceeds the limit; the rest was not read."""


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """One request, sent once. `peer` names the bulkhead: calls to one peer cannot use up another's connections."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | None = field(default=None, repr=False)
    timeout: float = TOTAL_TIMEOUT  # seconds for everything, connecting to last byte
    max_bytes: int = ANSWER_LIMIT
    policy: AddressPolicy | None = None  # None: the policy of the client
    peer: str = ""
    reuse: bool = True  # False: a connection of its own, for requests whose loss costs a grant


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """A whole answer. `headers` has lower-case names; of a repeated header the last one."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json_object(self) -> Mapping[str, object] | None:
        """The body as a JSON object; None when it is anything else."""
        return parse_object(self.body)

    @property
    def retry_after(self) -> int | None:
        """Seconds of Retry-After (RFC 9110 §10.2.3), at most a day; a date is read against the answer's own Date."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return min(int(value[:9]), 86400)
        try:
            wait = parsedate_to_datetime(value) - parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, TypeError):
            return None
        return min(max(int(wait.total_seconds()), 0), 86400)


async def _look_up(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class _GuardedResolver(AbstractResolver):
    """Resolves once and hands out the checked addresses, so that the connection goes to what was checked."""

    def __init__(self, policy: AddressPolicy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host, port)
        if not addresses:
            raise OSError("no address")
        for address in addresses:  # one bad address spoils the name: a rebinding answer mixes good and bad
            if address_problem(address, self._policy) is not None:
                raise AddressRefused("address not allowed")
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

    async def close(self) -> None:
        """Nothing is held."""


async def _translate(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turn connection errors into ours at the innermost place.

    aiohttp repeats GET, PUT and DELETE by itself when it sees its own disconnect errors come out of here; ours it
    does not know, so a request reaches a server at most once.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise NotReached("TLS failed") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise NotReached("name not found") from error
    except aiohttp.ClientConnectorError as error:
        raise NotReached("could not connect") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise NotReached("connecting took too long") from error
    except TimeoutError as error:  # an OSError too
        raise NoAnswer("no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer("connection broke") from error


class Outbound:
    """The process's HTTP client. `async with Outbound(policy) as http:`; sessions open when first used.

    Connections are pooled apart per address policy, so that one opened under a looser policy serves no stricter
    request; requests with `reuse=False` never meet a pooled connection that the server may just be closing.
    """

    def __init__(
        self,
        policy: AddressPolicy = PUBLIC_ONLY,
        *,
        lookup: Lookup = _look_up,
        connect_timeout: float = CONNECT_TIMEOUT,
        calls_per_peer: int = CALLS_PER_PEER,
    ) -> None:
        self.policy = policy
        self._lookup = lookup
        self._connect_timeout = connect_timeout
        self._calls_per_peer = calls_per_peer
        self._sessions: dict[tuple[AddressPolicy, bool], aiohttp.ClientSession] = {}
        self._bulkheads: dict[str, asyncio.Semaphore] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def send(self, request: OutboundRequest) -> OutboundResponse:
        """Send once and read the whole answer, whatever its status. Raises NotReached, NoAnswer or TooLarge."""
        policy = request.policy or self.policy
        problem = url_problem(request.url, policy)
        if problem is not None:
            raise AddressRefused(problem)
        if not request.method.isalpha():
            raise NotReached("method not allowed")
        if _LINE_BREAK.search("".join((*request.headers, *request.headers.values()))):
            raise NotReached("header not allowed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout
        bulkhead = self._bulkhead(request.peer)
        if bulkhead.locked():
            try:
                async with asyncio.timeout(min(self._connect_timeout, request.timeout)):
                    await bulkhead.acquire()
            except TimeoutError as error:
                raise NotReached("too many calls in flight") from error
        else:
            await bulkhead.acquire()
        try:
            return await self._exchange(request, policy, seconds=deadline - loop.time())
        finally:
            bulkhead.release()

    def _bulkhead(self, peer: str) -> asyncio.Semaphore:
        bulkhead = self._bulkheads.get(peer)
        if bulkhead is None:
            bulkhead = self._bulkheads[peer] = asyncio.Semaphore(self._calls_per_peer)
        return bulkhead

    def _session(self, policy: AddressPolicy, *, reuse: bool) -> aiohttp.ClientSession:
        session = self._sessions.get((policy, reuse))
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=_GuardedResolver(policy, self._lookup),
                limit=0,  # the bulkheads limit
                force_close=not reuse,
                keepalive_timeout=None if not reuse else 15,
            )
            session = self._sessions[policy, reuse] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(_translate,),
                headers={"User-Agent": "token-vault", "Accept-Encoding": "identity"},
                trust_env=False,
                raise_for_status=False,
            )
        return session

    async def _exchange(self, request: OutboundRequest, policy: AddressPolicy, *, seconds: float) -> OutboundResponse:
        # Connecting always gives up before the total does, so that a total timeout means that bytes may have left.
        limits = aiohttp.ClientTimeout(
            total=max(seconds, 0.01), connect=max(min(self._connect_timeout, seconds * 0.8), 0.005), ceil_threshold=60
        )
        try:
            async with self._session(policy, reuse=request.reuse).request(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                data=request.body,
                timeout=limits,
                allow_redirects=False,
            ) as answer:
                body = await _read(answer, request.max_bytes)
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return OutboundResponse(answer.status, headers, body)
        except HttpError:
            raise
        except TimeoutError as error:
            raise NoAnswer("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer("answer was cut") from error

    async def fetch_document(
        self,
        url: str,
        *,
        policy: AddressPolicy,
        max_bytes: int = 5120,
        timeout: float = 3.0,  # noqa: ASYNC109 -- part of the request; `send` enforces it
    ) -> OutboundResponse:
        """GET a small document (client metadata, keys) from an address that a stranger chose.

        Raises HttpError; its `reason` is for the log. What the stranger is told must be one constant text: anything
        else tells an open port from a closed one.
        """
        return await self.send(
            OutboundRequest(
                "GET",
                url,
                headers={"Accept": "application/json"},
                timeout=timeout,
                max_bytes=max_bytes,
                policy=policy,
                peer="documents",
                reuse=False,
            )
        )

    def httpx2_transport(
        self, *, policy: AddressPolicy | None = None, peer: str = "", timeout: float = TOTAL_TIMEOUT
    ) -> httpx2.AsyncBaseTransport:
        """A transport for libraries that speak `httpx2`, under the same rules; closing it closes nothing."""
        return _Httpx2Transport(self, OutboundRequest("GET", "", policy=policy, peer=peer, timeout=timeout))


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    if (answer.content_length or 0) > limit:
        answer.close()
        raise TooLarge("answer too large")
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > limit:
            answer.close()
            raise TooLarge("answer too large")
        chunks.append(chunk)
    return b"".join(chunks)


_HOP_BY_HOP = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "accept-encoding", "content-encoding"}
)


class _Httpx2Transport(httpx2.AsyncBaseTransport):
    def __init__(self, outbound: Outbound, template: OutboundRequest) -> None:
        self._outbound = outbound
        self._template = template

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        try:
            answer = await self._outbound.send(
                OutboundRequest(
                    method=request.method,
                    url=str(request.url),
                    headers={k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP},
                    body=body or None,
                    timeout=self._template.timeout,
                    policy=self._template.policy,
                    peer=self._template.peer,
                    reuse=False,
                )
            )
        except NotReached as error:
            raise httpx2.ConnectError(error.reason, request=request) from error
        except TooLarge as error:
            raise httpx2.RemoteProtocolError(error.reason, request=request) from error
        except NoAnswer as error:
            raise httpx2.ReadError(error.reason, request=request) from error
        headers = [(k, v) for k, v in answer.headers.items() if k not in _HOP_BY_HOP]
        return httpx2.Response(answer.status, headers=headers, content=answer.body, request=request)
