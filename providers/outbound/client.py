"""Outbound HTTP: one guarded client for everything that a request, client, person or provider file can influence.

Decides address, deadline, size and number of calls in flight, and says for every failure whether anything was sent.
Follows no redirect, keeps no cookie, reads no proxy from the environment, repeats nothing: callers know what is safe to
repeat. `providers.oauth.client`, `providers.api.api` and the authorization server interpret the answers.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.hdrs import CONTENT_ENCODING
from yarl import URL

from providers.outbound.addresses import PUBLIC_ONLY, AddressPolicy, address_problem, url_problem
from providers.outbound.bulkheads import Bulkhead
from providers.outbound.json_values import parse_content, parse_object
from providers.outbound.lookups import ON_BEHALF_OF, BoundedLookup


class HttpError(Exception):
    """Base of the tree; never raised itself. `reason` is one of our own constants: no URL, no header, no body."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotReached(HttpError):
    """Nothing of the request was sent: repeating it is safe."""


class AddressRefused(NotReached):
    """The URL, or an address its host resolves to, is not one that we connect to."""


class Crowded(NotReached):
    """Too many of our own calls are in flight there: this says nothing about the peer."""


class NoAnswer(HttpError):
    """The request left and no usable answer came: it is unknown whether it was carried out."""


class TooLarge(NoAnswer):
    """The answer exceeds the limit; the rest was not read."""


async def translate(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turn connection errors into ours at the innermost place.

    aiohttp repeats GET, PUT and DELETE when its own disconnect errors come out of here. It does not know ours, so a
    request reaches a server at most once.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise NotReached("TLS failed") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise NotReached("name not found") from error
    except aiohttp.ClientConnectorError as error:
        raise NotReached("couldn't connect") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise NotReached("connecting took too long") from error
    except TimeoutError as error:  # an OSError too
        raise NoAnswer("no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer("connection broke") from error


class _Reading:
    """Translates what aiohttp raises while an answer is awaited or read; a generator would cost each call more."""

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


READING: Final = _Reading()


__all__ = [
    "AddressRefused",
    "Crowded",
    "HttpError",
    "NoAnswer",
    "NotReached",
    "Outbound",
    "OutboundRequest",
    "OutboundResponse",
    "StreamedAnswer",
    "TooLarge",
]

CONNECT_TIMEOUT: Final = 3.0
TOTAL_TIMEOUT: Final = 10.0
ANSWER_LIMIT: Final = 1_000_000  # bytes
CALLS_PER_PEER: Final = 200
CALLS_PER_ACCOUNT: Final = 8  # at one peer
OVERSLEPT: Final = 0.25  # seconds past the deadline after which we conclude that this process was suspended
FOREIGN_LOOKUPS: Final = 32  # threads that look up names for strangers
FOREIGN_SHARE: Final = 4  # of these for one stranger
LAST_LOOK: Final = 1.0  # seconds for reading what arrived in the meantime
_LINE_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host name; raises OSError when there are none."""


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """One request, sent once. `peer` names the bulkhead: calls to one peer cannot use up another's connections."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    timeout: float = TOTAL_TIMEOUT  # seconds for everything, connecting to last byte
    max_bytes: int = ANSWER_LIMIT
    policy: AddressPolicy | None = None  # None: the policy of the client
    peer: str = ""
    account: str = ""  # the account of the call: one account cannot use up the slots of the others
    reuse: bool = True  # False: a separate connection, for requests whose loss costs a grant
    is_foreign: bool = False  # a stranger chose the address: its name is looked up separately, on behalf of `account`
    share: int | None = None  # calls of one account that may be in flight at this peer; None: the client's limit


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """A whole answer. `headers` has lower-case names and the last value of a repeated header."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json_object(self) -> Mapping[str, object] | None:
        """The body as a JSON object; None when it is anything else."""
        return parse_object(self.body)

    def json_content(self) -> Mapping[str, object] | None:
        """The body as an object: a list becomes its `items`, no body is empty; None when it is anything else."""
        return {} if not self.body and self.status < 300 else parse_content(self.body)

    @property
    def retry_after(self) -> int | None:
        """Seconds of Retry-After (RFC 9110 §10.2.3), at most a day; a date is compared with the answer's own Date."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return min(int(value[:9]), 86400)
        try:
            wait = parsedate_to_datetime(value) - parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, TypeError):
            return None
        return min(max(int(wait.total_seconds()), 0), 86400)


class StreamedAnswer:
    """An answer whose body is still arriving, decoded if its encoding is known. `headers` as received."""

    __slots__ = ("_answer", "_limit", "headers", "status")

    def __init__(self, answer: aiohttp.ClientResponse, limit: int) -> None:
        self._answer = answer
        self._limit = limit
        self.status = answer.status
        self.headers: Sequence[tuple[str, str]] = tuple(answer.headers.items())

    async def read(self) -> bytes:
        """The whole body. Raises NoAnswer or TooLarge."""
        with READING:
            return await _read(self._answer, self._limit)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body piece by piece. Raises NoAnswer or TooLarge when it ends otherwise than it should."""
        size = 0
        with READING:
            async for chunk in self._answer.content.iter_any():
                size += len(chunk)
                if size > self._limit:
                    self._answer.close()
                    raise TooLarge("answer too large")
                yield chunk


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
        """Nothing to close."""


class Outbound:
    """The process's HTTP client. `async with Outbound(policy) as http:`; sessions open on first use.

    Connections are pooled per address policy, so that one opened under a looser policy serves no stricter request;
    requests with `reuse=False` never meet a pooled connection that the server may just be closing.
    """

    def __init__(
        self,
        policy: AddressPolicy = PUBLIC_ONLY,
        *,
        lookup: Lookup | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        calls_per_peer: int = CALLS_PER_PEER,
        calls_per_account: int = CALLS_PER_ACCOUNT,
    ) -> None:
        self.policy = policy
        self._lookup: Lookup = lookup or BoundedLookup()
        self._foreign_lookup: Lookup = lookup or BoundedLookup(
            threads=FOREIGN_LOOKUPS, share=FOREIGN_SHARE, by_caller=True
        )
        self._connect_timeout = connect_timeout
        self._calls_per_peer = calls_per_peer
        self._calls_per_account = calls_per_account
        self._sessions: dict[tuple[AddressPolicy, bool, bool], aiohttp.ClientSession] = {}
        self._bulkheads: dict[str, Bulkhead] = {}

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
        bulkhead, left = await self._enter(request)
        try:
            if not request.reuse:
                return await _in_time(asyncio.create_task(self._send_alone(request, seconds=left)), seconds=left)
            with READING:
                async with self._open(request, seconds=left) as answer:
                    return await _whole(answer, request.max_bytes)
        finally:
            bulkhead.leave(request.account)

    async def _send_alone(self, request: OutboundRequest, *, seconds: float) -> OutboundResponse:
        """On a connection of its own, without a timer: whoever waits for the task has it."""
        with READING:
            async with self._open(request, seconds=seconds, has_timer=False) as answer:
                return await _whole(answer, request.max_bytes)

    @asynccontextmanager
    async def open(self, request: OutboundRequest) -> AsyncGenerator[StreamedAnswer]:
        """Send once and hand out the answer while its body is arriving. Raises like `send`.

        The slot at the peer and the deadline last until the block ends.
        """
        bulkhead, left = await self._enter(request)
        try:
            with READING:
                sending = self._open(request, seconds=left)
                answer = await sending.__aenter__()
            try:
                if (answer.content_length or 0) > request.max_bytes:
                    raise TooLarge("answer too large")
                yield StreamedAnswer(answer, request.max_bytes)
            finally:
                answer.close()
        finally:
            bulkhead.leave(request.account)

    async def _enter(self, request: OutboundRequest) -> tuple[Bulkhead, float]:
        """A slot at the peer, and the seconds left; raises NotReached when the request must not be sent."""
        problem = url_problem(request.url, request.policy or self.policy)
        if problem is not None:
            raise AddressRefused(problem)
        if not request.method.isalpha():
            raise NotReached("method not allowed")
        if _LINE_BREAK.search("".join((*request.headers, *request.headers.values()))):
            raise NotReached("header not allowed")
        bulkhead = self._bulkhead(request)
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await bulkhead.enter(request.account, patience=min(self._connect_timeout, request.timeout))
        except TimeoutError as error:
            raise Crowded("too many calls in flight") from error
        return bulkhead, request.timeout - (loop.time() - started)

    def _bulkhead(self, request: OutboundRequest) -> Bulkhead:
        bulkhead = self._bulkheads.get(request.peer)
        if bulkhead is None:
            share = request.share or self._calls_per_account
            bulkhead = self._bulkheads[request.peer] = Bulkhead(self._calls_per_peer, share=share)
        return bulkhead

    def _session(self, policy: AddressPolicy, *, reuse: bool, is_foreign: bool) -> aiohttp.ClientSession:
        session = self._sessions.get((policy, reuse, is_foreign))
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=_GuardedResolver(policy, self._foreign_lookup if is_foreign else self._lookup),
                use_dns_cache=not is_foreign,  # a stranger could fill it
                limit=0,  # the bulkheads limit
                force_close=not reuse,
                keepalive_timeout=None if not reuse else 15,
            )
            session = self._sessions[policy, reuse, is_foreign] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(translate,),
                headers={"User-Agent": "token-vault", "Accept-Encoding": "identity"},
                trust_env=False,
                raise_for_status=False,
            )
        return session

    def _open(
        self, request: OutboundRequest, *, seconds: float, has_timer: bool = True
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        # Connecting always times out before the total does, so a total timeout means that bytes may have left.
        limits = aiohttp.ClientTimeout(
            total=max(seconds, 0.01) if has_timer else None,
            connect=max(min(self._connect_timeout, seconds * 0.8), 0.005),
            ceil_threshold=60,
        )
        session = self._session(request.policy or self.policy, reuse=request.reuse, is_foreign=request.is_foreign)
        if request.is_foreign:
            ON_BEHALF_OF.set(request.account)
        return session.request(
            request.method,
            URL(request.url, encoded=True),
            headers=request.headers,
            data=request.body,
            timeout=limits,
            allow_redirects=False,
        )

    async def fetch_document(
        self,
        url: str,
        *,
        policy: AddressPolicy,
        on_behalf_of: str | None,
        max_bytes: int = 5120,
        timeout: float = 3.0,  # noqa: ASYNC109 -- part of the request; `send` enforces it
    ) -> OutboundResponse:
        """GET a small document (client metadata, keys). Raises HttpError.

        `on_behalf_of`: whose share counts, if a stranger chose the address; None if the operator did. The error's
        `reason` is for the log. Tell the stranger one constant text only: anything else tells an open port from a
        closed one.
        """
        return await self.send(
            OutboundRequest(
                "GET",
                url,
                headers={"Accept": "application/json"},
                timeout=timeout,
                max_bytes=max_bytes,
                policy=policy,
                peer="own documents" if on_behalf_of is None else "documents",
                account=on_behalf_of or "",
                is_foreign=on_behalf_of is not None,
                reuse=False,
            )
        )


async def _in_time(exchanging: asyncio.Task[OutboundResponse], *, seconds: float) -> OutboundResponse:
    """The answer within the deadline, for requests whose loss costs a grant.

    A timer that fires when a suspended process resumes would end the request although its answer is in the socket: so
    after a suspension we look once more.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        await asyncio.wait({exchanging}, timeout=seconds)
        if not exchanging.done() and loop.time() - deadline > OVERSLEPT:
            await asyncio.wait({exchanging}, timeout=LAST_LOOK)
        if not exchanging.done():
            raise NoAnswer("no answer in time")
        return exchanging.result()
    finally:
        if exchanging.cancel():
            await asyncio.wait({exchanging})


async def _whole(answer: aiohttp.ClientResponse, limit: int) -> OutboundResponse:
    body = await _read(answer, limit)
    return OutboundResponse(answer.status, {name.lower(): value for name, value in answer.headers.items()}, body)


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
