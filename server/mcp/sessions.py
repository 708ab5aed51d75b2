"""Limits on open sessions of the handshake era: for one agent of a person, for a person, and in this process.

A session stays in memory until its client ends it or it has been idle for half an hour. To keep an agent that forgets
its sessions from using up everyone's limit, its own oldest session is ended first, preferring idle ones. The SDK runs
the sessions.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    INTERNAL_ERROR,
    ClientCapabilities,
    InitializeRequestParams,
    JSONRPCNotification,
    JSONRPCRequest,
    RequestId,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic_core import from_json
from starlette.types import Message, Receive, Scope, Send

from server.errors import status_of
from server.http.answers import WholeAnswer, is_start, message_error
from server.mcp.mcp_bodies import header
from server.mcp.plain_answers import PlainAnswer, Stop

PER_CLIENT: Final = 32
PER_PERSON: Final = 128
TOTAL: Final = 4000  # about 40 KB each
_RETRY: Final = 5  # seconds
_TOO_MANY: Final = "This agent has too many active sessions: end one, or wait until one of their calls finishes"

_KEEP: Final = 60.0  # seconds; the SDK ends a session that had no request for 30 minutes
_NOTHING: Final = b'{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}'  # a stream that nobody reads here
_OURS: Final = ((b"accept", b"application/json"), (b"content-type", b"application/json"))

Owner = tuple[str, str]  # person, client
Item = TypeVar("Item")


def owner_of(scope: Scope) -> Owner:
    """The owner of the request; `server.mcp.transports` has checked the token."""
    user: AuthenticatedUser = scope["user"]
    return user.access_token.subject or "", user.access_token.client_id


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many may be open at once."""

    per_client: int = PER_CLIENT
    per_person: int = PER_PERSON
    total: int = TOTAL


class Roster(Generic[Item]):
    """Open sessions by owner, each owner's least recently used first."""

    def __init__(self, bounds: SessionLimits) -> None:
        self._bounds = bounds
        self._of: dict[Owner, OrderedDict[str, Item]] = {}
        self._per_person: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def find(self, owner: Owner, key: str) -> Item | None:
        """The owner's session of this id."""
        held = self._of.get(owner)
        return None if held is None else held.get(key)

    def add(self, owner: Owner, key: str, item: Item) -> None:
        """Add a session, marked as just used."""
        self._of.setdefault(owner, OrderedDict())[key] = item
        self._per_person[owner[0]] += 1
        self._total += 1

    def use(self, owner: Owner, key: str) -> None:
        """Mark it as the most recently used."""
        self._of[owner].move_to_end(key)

    def remove(self, owner: Owner, key: str) -> None:
        """Remove an ended session; an unknown one is ignored."""
        held = self._of.get(owner)
        if held is None or held.pop(key, None) is None:
            return
        if not held:
            del self._of[owner]
        self._per_person[owner[0]] -= 1
        if not self._per_person[owner[0]]:
            del self._per_person[owner[0]]
        self._total -= 1

    def crowd(self, owner: Owner) -> tuple[Owner, Iterable[tuple[str, Item]]] | None:
        """The owner who must lose a session before this owner can open another; None if there is room."""
        own = self._of.get(owner, OrderedDict[str, Item]())
        if len(own) >= self._bounds.per_client:
            return owner, own.items()
        if self._per_person[owner[0]] >= self._bounds.per_person:
            return self._largest(one for one in self._of if one[0] == owner[0])
        if self._total >= self._bounds.total:
            return self._largest(self._of)
        return None

    def _largest(self, owners: Iterable[Owner]) -> tuple[Owner, Iterable[tuple[str, Item]]]:
        largest = max(owners, key=lambda one: len(self._of[one]))
        return largest, self._of[largest].items()


@dataclass(slots=True)
class McpSession:
    """One that is open. The capabilities are those of an accepted `initialize`."""

    user: AuthenticatedUser
    capabilities: ClientCapabilities | None = None
    plain: dict[RequestId, PlainAnswer] = field(default_factory=dict[RequestId, PlainAnswer])
    kept_at: float = field(default_factory=time.monotonic)  # when the SDK last served it
    calls: int = 0  # requests being answered now
    streams: int = 0  # GET streams that are open


class Sessions:
    """The SDK's session manager within these limits; takes requests in its place."""

    def __init__(self, manager: StreamableHTTPSessionManager, bounds: SessionLimits) -> None:
        self._manager = manager
        self._roster: Roster[McpSession] = Roster(bounds)

    def __len__(self) -> int:
        return len(self._roster)

    async def handle_request(
        self, scope: Scope, receive: Receive, send: Send, *, message: JSONRPCRequest | JSONRPCNotification | None = None
    ) -> None:
        """ASGI: a request of either era. `message`: what its body holds, if it is of a handshake revision."""
        version = header(scope, b"mcp-protocol-version")
        if version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            await self._manager.handle_request(scope, receive, send)
            return
        session_id = header(scope, b"mcp-session-id")
        if session_id:
            await self._go_on(session_id, scope, receive, send, message)
        else:
            await self._open(scope, receive, send, message)

    async def find_initialized(self, scope: Scope) -> McpSession | None:
        """The session that the request names, if its principal has opened and initialized it.

        Since the SDK doesn't see plain calls, a session would time out there, so the SDK gets one of them per minute.
        """
        owner, session_id = owner_of(scope), header(scope, b"mcp-session-id")
        session = self._roster.find(owner, session_id)
        if session is None or session.capabilities is None or _issuer(session.user) != _issuer(scope["user"]):
            return None
        self._roster.use(owner, session_id)
        if time.monotonic() - session.kept_at > _KEEP:
            session.kept_at = time.monotonic()
            status = await self._tell(session_id, session, scope, "POST", _NOTHING)
            if status >= 400:  # it has ended there
                self._roster.remove(owner, session_id)
                return None
        return session

    async def _go_on(
        self,
        session_id: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        message: JSONRPCRequest | JSONRPCNotification | None,
    ) -> None:
        owner, is_stream = owner_of(scope), scope["method"] == "GET"
        session = self._roster.find(owner, session_id)
        if session is None:  # the SDK decides, and usually refuses it
            await self._manager.handle_request(scope, receive, send)
            return
        self._roster.use(owner, session_id)
        session.kept_at = time.monotonic()
        if message is not None and message.method == "initialize":
            session.capabilities = None  # repeated: from now on, only the SDK knows the capabilities
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._cancel(session, message)
        session.calls += not is_stream
        session.streams += is_stream
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            session.calls -= not is_stream
            session.streams -= is_stream
            if scope["method"] == "DELETE":
                self._roster.remove(owner, session_id)
                for answer in list(session.plain.values()):
                    answer.stop(Stop.ENDED)

    def _cancel(self, session: McpSession, message: JSONRPCNotification) -> None:
        """The SDK also gets the message, since it handles the calls that aren't plain."""
        wanted = cancelled_request_id_from_params(message.params)
        answer = None if wanted is None else session.plain.get(coerce_request_id(wanted))
        if answer is not None:
            answer.stop(Stop.CANCELED)

    async def _open(
        self, scope: Scope, receive: Receive, send: Send, message: JSONRPCRequest | JSONRPCNotification | None
    ) -> None:
        owner, user = owner_of(scope), scope["user"]
        if not await self._make_room(owner, scope):
            await _too_many().write(send)
            return
        session = McpSession(user, calls=1)
        opening = f"opening {id(session)}"  # counts from now on: many may be opened at once
        key = opening
        self._roster.add(owner, opening, session)

        async def watch(part: Message) -> None:
            nonlocal key
            if is_start(part) and part["status"] < 400:
                found = next((value for name, value in part["headers"] if name.lower() == b"mcp-session-id"), None)
                if found is not None:
                    self._roster.remove(owner, key)
                    key = found.decode("latin-1")
                    self._roster.add(owner, key, session)
            elif key != opening and message is not None:
                session.capabilities = _capabilities(message, part.get("body", b""))
            await send(part)

        try:
            await self._manager.handle_request(scope, receive, watch)
        finally:
            session.calls -= 1
            if key == opening:
                self._roster.remove(owner, opening)

    async def _make_room(self, owner: Owner, scope: Scope) -> bool:
        """End sessions until another one fits; False if all candidates are busy."""
        while (crowd := self._roster.crowd(owner)) is not None:
            whose, sessions = crowd
            idle = [(key, session) for key, session in sessions if not session.calls]
            if not idle:
                return False
            key, session = min(idle, key=lambda one: one[1].streams)  # the first of equals is the oldest
            self._roster.remove(whose, key)
            await self._end(key, session, scope)
        return True

    async def _end(self, key: str, session: McpSession, scope: Scope) -> None:
        """End a session as its client would. At its next request, the client gets 404 and starts a new session."""
        await self._tell(key, session, scope, "DELETE", b"")

    async def _tell(self, key: str, session: McpSession, scope: Scope, method: str, body: bytes) -> int:
        """The status of our own request in place of the client's, since the SDK has no other interface for this."""
        told = {**scope, "method": method, "headers": [*_OURS, (b"mcp-session-id", key.encode())], "user": session.user}
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message["status"] if is_start(message) else status

        await self._manager.handle_request(told, receive, send)
        return status


def is_same_user(one: AuthenticatedUser, other: AuthenticatedUser) -> bool:
    """Whether the SDK considers them the same."""
    tokens = one.access_token, other.access_token
    return len({(token.subject, token.client_id, (token.claims or {}).get("iss")) for token in tokens}) == 1


def _issuer(user: AuthenticatedUser) -> object:
    """With the owner of the roster, all that the SDK compares."""
    return (user.access_token.claims or {}).get("iss")


def _capabilities(message: JSONRPCRequest | JSONRPCNotification, answer: bytes) -> ClientCapabilities | None:
    """The capabilities in an `initialize` that the SDK accepted."""
    if message.method != "initialize":
        return None
    found: object = from_json(answer)
    if not (isinstance(found, dict) and "result" in found):
        return None
    return InitializeRequestParams.model_validate(message.params, by_name=False).capabilities


def _too_many() -> WholeAnswer:
    later = [(b"retry-after", str(_RETRY).encode())]
    return message_error(status_of("too_many_requests"), INTERNAL_ERROR, _TOO_MANY, headers=later)
