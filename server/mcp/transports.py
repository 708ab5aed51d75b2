"""The MCP SDK's transports around our tools: streamable HTTP of both protocol eras, HTTP+SSE, and the bearer check.

Here a request gets its principal, in a ContextVar, before its body is parsed. `server.mcp.tools` decides which
tool may do what; `server.http.guards` checks Host, Origin and body size.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import (
    INVALID_REQUEST,
    CallToolResult,
    JSONRPCNotification,
    JSONRPCRequest,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from providers.tools.spec import ToolSpec
from server.deployment import Deployment
from server.http.answers import WholeAnswer, with_headers
from server.http.bodies import read_body, replay
from server.http.draining import EndableStream, is_stream_request
from server.http.failures import MESSAGE
from server.http.guards import BODY_LIMIT
from server.lifecycle import health, loopback
from server.mcp import event_stream, fast_path, mcp_bodies, tools
from server.mcp.bearer import Bearer
from server.mcp.offer import discovery
from server.mcp.plain_answers import PlainAnswer
from server.mcp.retry_later import ON_AWAY, RetryLater
from server.mcp.sdk_calls import ON_LIVE, asking_of, build_server, current_principal, open_vault
from server.mcp.sdk_server import KNOWN, PRINCIPAL, Known
from server.mcp.sessions import McpSession, SessionLimits, Sessions
from server.mcp.stream_watch import StreamWatch
from vault.records import Principal

_STATE_KEY: Final = "mcp"
_BOUNDS: Final = SessionLimits()
_ALONE: Final = contextlib.nullcontext(enter_result=True)  # a call without a session
_UNCACHED: Final = ((b"cache-control", b"no-store, no-transform"),)


@dataclass(frozen=True, slots=True)
class _Managers:
    """The SDK's session managers: plain JSON answers, and event streams for calls that report progress."""

    answering: Sessions
    streaming: StreamableHTTPSessionManager
    stamp: Mapping[str, object]  # identifies the server in each result of 2026-07-28


def lifespan(
    deployment: Deployment, bounds: SessionLimits = _BOUNDS
) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, object]]]:
    """The lifespan of the application that serves `routes`: sessions live in it, requests find it in their state."""

    @contextlib.asynccontextmanager
    async def run(app: Starlette) -> AsyncGenerator[Mapping[str, object]]:
        server = build_server(deployment, transport="http")
        # Only the first has sessions; the code that opens them limits their number.
        answering = StreamableHTTPSessionManager(server, json_response=True, max_sessions=None)
        streaming = StreamableHTTPSessionManager(server, json_response=False)
        managers = _Managers(Sessions(answering, bounds), streaming, server.server_info_stamp)
        async with answering.run(), streaming.run():
            yield {_STATE_KEY: managers}

    return run


def routes(deployment: Deployment) -> list[BaseRoute]:
    """Routes of `/mcp`, of `/sse` with `/messages/` unless switched off, `/healthz` and `/readyz`.

    The transports' paths exist with and without a trailing slash, because several clients lose the bearer token on a
    redirected POST.
    """
    watch = StreamWatch(deployment)
    bearer, reading = Bearer(deployment, path="/mcp"), _ToolsThatRead(deployment)
    found: list[BaseRoute] = [
        *_both("/mcp", _WithPrincipal(_StreamableHTTP(deployment), bearer, watch=watch, reading=reading)),
        loopback.health_route(deployment),
        health.ready_route(deployment),
    ]
    if deployment.settings.transports.sse:
        transport = SseServerTransport("/messages/")
        server, vault = build_server(deployment, transport="sse"), open_vault(deployment, transport="sse")
        streams = event_stream.OpenStreams()
        stream = event_stream.EventStream(server, vault, transport, streams)
        bearer = Bearer(deployment, path="/sse")
        found += _both("/sse", _WithPrincipal(stream, bearer, watch=watch))
        messages = event_stream.Messages(transport.handle_post_message, streams, partial(_confirm, bearer))
        found += _both("/messages", _WithPrincipal(messages, bearer, watch=watch))
    return found


async def _confirm(bearer: Bearer, scope: Scope) -> WholeAnswer | None:
    """Read the caller's grant now, and not again for the answer."""
    challenge, allow = await bearer.confirm(current_principal(), scope), ON_LIVE.get()
    if challenge is None and allow is not None:
        allow()
    return challenge


def _both(path: str, endpoint: ASGIApp) -> list[BaseRoute]:
    return [Route(path, endpoint), Route(path + "/", endpoint)]


class _ToolsThatRead:
    """The tools with an exchange that reads the grant, also as called by `call_tool`, for the current providers."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._of: Sequence[ToolSpec] = ()
        self._names = frozenset[bytes]()

    def has(self, name: bytes | None) -> bool:
        """Whether a header names one of them."""
        tools = self._deployment.tools
        if tools is not self._of:
            names = {discovery.CALL.name, *(spec.name for spec in tools if spec.provider is not None)}
            self._of, self._names = tools, frozenset(one.encode() for one in names)
        return name in self._names


class _WithPrincipal:
    """ASGI middleware that blocks callers without a valid token and sets the principal.

    A call of a tool in `reading` is admitted by the token's signature, since the exchange reads the grant anyway, in
    the statement that returns the upstream token. No answer is sent before that, or a read here, has found the grant
    alive; for other calls, it may have ended while the body arrived. A stream (GET, or a subscription of 2026-07-28)
    ends with the grant.
    """

    def __init__(
        self, app: ASGIApp, bearer: Bearer, *, watch: StreamWatch, reading: _ToolsThatRead | None = None
    ) -> None:
        self._app = app
        self._watch = watch
        self._bearer = bearer
        self._reading = reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant_later = self._reads_grant(scope)
        principal = await self._bearer.check(scope, grant_later=grant_later)
        if not isinstance(principal, Principal):
            await principal.write(send)
            return
        scope["user"] = _user(principal.user_id, principal.client_id, principal.scopes, principal.tenant)
        # A person's accounts do not belong in a cache (RFC 9111 §5.2.2.5), whatever the SDK says.
        send = with_headers(send, _UNCACHED, instead_of=(b"cache-control",))
        reset = PRINCIPAL.set(principal)
        try:
            if not grant_later and is_stream_request(scope):
                with self._watch.watch(principal) as over:
                    stream = EndableStream(receive, send, over)
                    await self._app(scope, stream.receive, stream.send)
                    await stream.finish()
            else:
                answer = _LiveAnswer(send, lambda: self._bearer.confirm(principal, scope))
                ON_LIVE.set(answer.allow)
                await self._app(scope, receive, answer.send)
        finally:
            PRINCIPAL.reset(reset)
            ON_LIVE.set(None)

    def _reads_grant(self, scope: Scope) -> bool:
        """Based on the headers that MCP 2026-07-28 requires with each body, and that the SDK compares with the body."""
        if self._reading is None:
            return False
        headers: dict[bytes, bytes] = dict(scope["headers"])
        version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
        return (
            headers.get(b"mcp-method") == b"tools/call"
            and self._reading.has(headers.get(b"mcp-name"))
            and version in MODERN_PROTOCOL_VERSIONS
        )


class _LiveAnswer:
    """Holds an answer back until the grant was seen alive; sends a challenge instead when it has ended."""

    def __init__(self, send: Send, confirm: Callable[[], Awaitable[WholeAnswer | None]]) -> None:
        self._send = send
        self._confirm = confirm
        self._is_live: bool | None = None

    def allow(self) -> None:
        """The grant was alive when the exchange read it."""
        self._is_live = True

    def send(self, message: Message) -> Awaitable[None]:
        return self._send(message) if self._is_live else self._send_if_live(message)

    async def _send_if_live(self, message: Message) -> None:
        if self._is_live is None:
            challenge = await self._confirm()
            self._is_live = challenge is None
            if challenge is not None:
                await challenge.write(self._send)
        if self._is_live:
            await self._send(message)


@lru_cache(maxsize=1024)
def _user(user_id: str, client_id: str, scopes: frozenset[str], tenant: str) -> AuthenticatedUser:
    """The user that the SDK binds its sessions to. Contains no token, since nothing after this needs one."""
    claims = {"iss": tenant}
    return AuthenticatedUser(
        AccessToken(token="", client_id=client_id, scopes=sorted(scopes), subject=user_id, claims=claims)
    )


class _StreamableHTTP:
    """ASGI app that answers plain calls of either era and passes every other message to the SDK; the answer is JSON, or
    an event stream if the client wants the progress of a plain call, or of any call of 2026-07-28.

    Checks bodies of the handshake era first: the SDK would answer a malformed one with its parser's message, and let
    two requests of one session share an ID, so that one of them never ends.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._in_flight: set[tuple[str, str]] = set()  # (session, request id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        managers: _Managers = scope["state"][_STATE_KEY]
        if scope["method"] != "POST":  # streams can't be resumed, so a new one starts; the SDK wouldn't answer
            fields = [one for one in scope["headers"] if one[0] != b"last-event-id"]
            await managers.answering.handle_request({**scope, "headers": fields}, receive, send)
            return
        scope[MESSAGE] = body = await read_body(receive, limit=BODY_LIMIT)
        if mcp_bodies.is_costly(body):
            await mcp_bodies.refuse_costly().write(send)
            return
        replayed = replay(body, receive)
        version = mcp_bodies.header(scope, b"mcp-protocol-version")
        is_handshake, session = not version or version in HANDSHAKE_PROTOCOL_VERSIONS, None
        if not is_handshake:
            call = fast_path.read(scope["headers"], body)
        elif (session := await managers.answering.find_initialized(scope)) is None or session.capabilities is None:
            call = None
        else:
            call = fast_path.read_in_session(scope["headers"], body, session.capabilities)
        if call is not None:
            answer = PlainAnswer(call, receive, send)
            known: Known = None
            with _ALONE if session is None else self._under_way(call, session, answer) as is_new:
                if not is_new:
                    await mcp_bodies.refuse_message(INVALID_REQUEST).write(send)
                    return
                with answer:
                    try:
                        known = await tools.call(self._deployment, _request(call, answer), progress=answer.progress)
                    except Exception as failure:  # noqa: BLE001 -- the SDK has the words and the log for it
                        known = failure
                await _finish(managers, scope, replayed, call, answer, known)
        elif is_handshake:
            await self._shake_hands(managers, scope, body, replayed, send)
        elif b'"progressToken"' in body:
            await managers.streaming.handle_request(scope, replayed, send)
        else:
            await _pass_on(managers, scope, replayed, send)

    @contextlib.contextmanager
    def _under_way(self, call: fast_path.PlainCall, session: McpSession, answer: PlainAnswer) -> Generator[bool]:
        """Whether the call may start, which needs an ID that is unique in its session. The session can cancel it."""
        key, number = (call.session or "", str(call.id)), coerce_request_id(call.id)
        if key in self._in_flight or number in session.plain:
            yield False
            return
        self._in_flight.add(key)
        session.plain[number] = answer
        session.calls += 1
        try:
            yield True
        finally:
            session.calls -= 1
            del session.plain[number]
            self._in_flight.discard(key)

    async def _shake_hands(self, managers: _Managers, scope: Scope, body: bytes, replayed: Receive, send: Send) -> None:
        """A message of a session."""
        message = mcp_bodies.parse(body)
        if isinstance(message, int):
            await mcp_bodies.refuse_message(message).write(send)
            return
        session = mcp_bodies.header(scope, b"mcp-session-id")
        known = message if isinstance(message, JSONRPCRequest | JSONRPCNotification) else None
        if not isinstance(message, JSONRPCRequest) or not session:
            await _pass_on(managers, scope, replayed, send, message=known)
            return
        key = (session, str(message.id))
        if key in self._in_flight:
            await mcp_bodies.refuse_message(INVALID_REQUEST).write(send)
            return
        self._in_flight.add(key)
        try:
            await _pass_on(managers, scope, replayed, send, message=known)
        finally:
            self._in_flight.discard(key)


def _request(call: fast_path.PlainCall, answer: PlainAnswer) -> tools.ToolRequest:
    return tools.ToolRequest(
        principal=current_principal(),
        name=call.name,
        arguments=call.arguments,
        asking=asking_of(call),
        transport="http",
        on_live=ON_LIVE.get(),
        on_away=answer.later.mark,
        trace=call.trace,
    )


async def _finish(
    managers: _Managers,
    scope: Scope,
    replayed: Receive,
    call: fast_path.PlainCall,
    answer: PlainAnswer,
    known: Known,
) -> None:
    """Send the outcome of a plain call; the SDK formats it if it isn't a plain result."""
    if answer.stopped is not None:
        await answer.write_stopped()
        return
    if isinstance(known, CallToolResult):
        whole = fast_path.answer(call, known, stamp=managers.stamp, is_event=answer.is_stream)
        if whole is not None:
            await answer.write(whole)
            return
    reset = KNOWN.set(known)
    try:
        await managers.answering.handle_request(scope, replayed, answer.pass_on)
    finally:
        KNOWN.reset(reset)


async def _pass_on(
    managers: _Managers,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    message: JSONRPCRequest | JSONRPCNotification | None = None,
) -> None:
    """Handle one request and one JSON answer with the SDK; the status can still become a 503."""
    later = RetryLater(send)
    reset = ON_AWAY.set(later.mark)
    try:
        await managers.answering.handle_request(scope, receive, later.send, message=message)
    finally:
        ON_AWAY.reset(reset)
