"""Outbound HTTP: one guarded client for everything that a request, client, person or provider file can influence.

Limits address, deadline, size and number of calls in flight, and reports for every failure whether anything was sent.
Follows no redirect, keeps no cookie, repeats nothing: callers know what is safe to repeat. `providers.oauth.client`,
`providers.api.api` and the authorization server interpret the answers.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from providers.outbound.addresses import PUBLIC_ONLY, AddressPolicy, url_problem
from providers.outbound.bulkheads import Bulkhead
from providers.outbound.lookups import BoundedLookup, Lookup
from providers.outbound.messages import (
    AddressRefused,
    HttpError,
    NoAnswer,
    NotReached,
    OutboundRequest,
    OutboundResponse,
    PeerBusy,
    TooLarge,
)

if TYPE_CHECKING:
    from providers.outbound.sessions import HttpSessions, StreamedAnswer

__all__ = [
    "AddressRefused",
    "HttpError",
    "NoAnswer",
    "NotReached",
    "Outbound",
    "OutboundRequest",
    "OutboundResponse",
    "PeerBusy",
    "TooLarge",
]

CONNECT_TIMEOUT: Final = 3.0
CALLS_PER_PEER: Final = 200
CALLS_PER_ACCOUNT: Final = 8  # at one peer
OVERSLEPT: Final = 0.25  # seconds past the deadline after which we conclude that this process was suspended
FOREIGN_LOOKUPS: Final = 32  # threads that look up names chosen by third parties
FOREIGN_SHARE: Final = 4  # of these, for one third party
LAST_LOOK: Final = 1.0  # seconds for reading what arrived in the meantime
_LINE_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


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
        proxy: str | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        calls_per_peer: int = CALLS_PER_PEER,
        calls_per_account: int = CALLS_PER_ACCOUNT,
    ) -> None:
        self.policy = policy
        self._proxy = proxy
        self._lookup: Lookup = lookup or BoundedLookup()
        self._foreign_lookup: Lookup = lookup or BoundedLookup(
            threads=FOREIGN_LOOKUPS, share=FOREIGN_SHARE, by_caller=True
        )
        self._connect_timeout = connect_timeout
        self._calls_per_peer = calls_per_peer
        self._calls_per_account = calls_per_account
        self._sessions: HttpSessions | None = None
        self._bulkheads: dict[str, Bulkhead] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._sessions is not None:
            await self._sessions.close()

    async def load(self) -> HttpSessions:
        """Load the HTTP library, in a thread: it takes a tenth of a second, and not every process sends something."""
        if self._sessions is None:
            await asyncio.to_thread(importlib.import_module, "providers.outbound.sessions")
            from providers.outbound.sessions import HttpSessions

            if self._sessions is None:
                self._sessions = HttpSessions(
                    self._lookup, self._foreign_lookup, connect_timeout=self._connect_timeout, proxy=self._proxy
                )
        return self._sessions

    async def send(self, request: OutboundRequest) -> OutboundResponse:
        """Send once and read the whole answer, whatever its status. Raises NotReached, NoAnswer or TooLarge."""
        sessions = self._sessions or await self.load()
        bulkhead, left = await self._enter(request)
        try:
            if not request.reuse:
                alone = asyncio.create_task(self._send_alone(sessions, request, seconds=left))
                return await _in_time(alone, seconds=left)
            with sessions.reading:
                async with sessions.open(request, policy=request.policy or self.policy, seconds=left) as answer:
                    return await sessions.whole(answer, request.max_bytes)
        finally:
            bulkhead.leave(request.account)

    async def _send_alone(
        self, sessions: HttpSessions, request: OutboundRequest, *, seconds: float
    ) -> OutboundResponse:
        """Send on a separate connection, without a timer, because the waiting task has one."""
        policy = request.policy or self.policy
        with sessions.reading:
            async with sessions.open(request, policy=policy, seconds=seconds, has_timer=False) as answer:
                return await sessions.whole(answer, request.max_bytes)

    @asynccontextmanager
    async def open(self, request: OutboundRequest) -> AsyncGenerator[StreamedAnswer]:
        """Send once and return the answer while its body is arriving. Raises like `send`.

        The slot at the peer and the deadline last until the block ends.
        """
        sessions = self._sessions or await self.load()
        bulkhead, left = await self._enter(request)
        try:
            with sessions.reading:
                sending = sessions.open(request, policy=request.policy or self.policy, seconds=left)
                answer = await sending.__aenter__()
            try:
                if request.method != "HEAD" and (answer.content_length or 0) > request.max_bytes:
                    raise TooLarge("answer too large")
                yield sessions.as_stream(answer, request.max_bytes)
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
            raise PeerBusy("too many calls in flight") from error
        return bulkhead, request.timeout - (loop.time() - started)

    def _bulkhead(self, request: OutboundRequest) -> Bulkhead:
        bulkhead = self._bulkheads.get(request.peer)
        if bulkhead is None:
            share = request.share or self._calls_per_account
            bulkhead = self._bulkheads[request.peer] = Bulkhead(self._calls_per_peer, share=share)
        return bulkhead

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

        `on_behalf_of`: the third party that chose the address, whose share is used; None if the operator chose it. The
        error's `reason` is for the log. Return only one constant text to the third party: anything else reveals whether
        a port is open.
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

    A timer that fires when a suspended process resumes would end the request although its answer is in the socket, so
    after a suspension we check once more.
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
