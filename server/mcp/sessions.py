"""How many sessions of the handshake era may be open: for one agent of a person, for a person, and in this process.

A session stays in memory until its client ends it or it has been idle for half an hour. So that an agent that forgets
its sessions does not use up everybody's, its own oldest session makes room, an idle one first. The SDK runs the
sessions.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INTERNAL_ERROR
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import Message, Receive, Scope, Send

from server.errors import status_of
from server.http.answers import WholeAnswer, is_start
from server.mcp.mcp_bodies import error_answer, header

PER_CLIENT: Final = 32
PER_PERSON: Final = 128
TOTAL: Final = 4000  # about 40 KB each
_RETRY: Final = 5  # seconds
_TOO_MANY: Final = "This agent has too many active sessions: end one, or wait until one of their calls finishes"

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
        """Add a session, used just now."""
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
        """The owner whose sessions have to make room before this owner opens another; None when there is room."""
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
class _Session:
    user: AuthenticatedUser
    calls: int = 0  # requests being answered now
    streams: int = 0  # GET streams that are open


class Sessions:
    """The SDK's session manager within these limits; takes requests in its place."""

    def __init__(self, manager: StreamableHTTPSessionManager, bounds: SessionLimits) -> None:
        self._manager = manager
        self._roster: Roster[_Session] = Roster(bounds)

    def __len__(self) -> int:
        return len(self._roster)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: a request of either era."""
        version = header(scope, b"mcp-protocol-version")
        if version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            await self._manager.handle_request(scope, receive, send)
            return
        session_id = header(scope, b"mcp-session-id")
        if session_id:
            await self._go_on(session_id, scope, receive, send)
        else:
            await self._open(scope, receive, send)

    async def _go_on(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        owner, is_stream = owner_of(scope), scope["method"] == "GET"
        session = self._roster.find(owner, session_id)
        if session is None:  # the SDK refuses it, unless it knows better
            await self._manager.handle_request(scope, receive, send)
            return
        self._roster.use(owner, session_id)
        session.calls += not is_stream
        session.streams += is_stream
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            session.calls -= not is_stream
            session.streams -= is_stream
            if scope["method"] == "DELETE":
                self._roster.remove(owner, session_id)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner, user = owner_of(scope), scope["user"]
        if not await self._make_room(owner, scope):
            await _too_many().write(send)
            return
        session = _Session(user, calls=1)
        opening = f"opening {id(session)}"  # counts from now on: many may be opened at once
        key = opening
        self._roster.add(owner, opening, session)

        async def watch(message: Message) -> None:
            nonlocal key
            if is_start(message) and message["status"] < 400:
                found = next((value for name, value in message["headers"] if name.lower() == b"mcp-session-id"), None)
                if found is not None:
                    self._roster.remove(owner, key)
                    key = found.decode("latin-1")
                    self._roster.add(owner, key, session)
            await send(message)

        try:
            await self._manager.handle_request(scope, receive, watch)
        finally:
            session.calls -= 1
            if key == opening:
                self._roster.remove(owner, opening)

    async def _make_room(self, owner: Owner, scope: Scope) -> bool:
        """End sessions until one more fits; False when all candidates are busy."""
        while (crowd := self._roster.crowd(owner)) is not None:
            whose, sessions = crowd
            idle = [(key, session) for key, session in sessions if not session.calls]
            if not idle:
                return False
            key, session = min(idle, key=lambda one: one[1].streams)  # the first of equals is the oldest
            self._roster.remove(whose, key)
            await self._end(key, session, scope)
        return True

    async def _end(self, key: str, session: _Session, scope: Scope) -> None:
        """End it as its client would: the SDK offers no other way from outside."""
        ending = {**scope, "method": "DELETE", "headers": [(b"mcp-session-id", key.encode())], "user": session.user}

        async def receive_nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send_nothing(message: Message) -> None:
            """The client finds out at its next request: 404, and it starts a new session."""

        await self._manager.handle_request(ending, receive_nothing, send_nothing)


def _too_many() -> WholeAnswer:
    later = [(b"retry-after", str(_RETRY).encode())]
    return error_answer(status_of("too_many_requests"), INTERNAL_ERROR, _TOO_MANY, headers=later)
