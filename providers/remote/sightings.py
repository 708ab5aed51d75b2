"""The tools that MCP servers offer, remembered by connection for a minute, so that each call is compared without
requesting the list."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final

from providers.api.api import ToolRefused, UpstreamAPI, UpstreamRefused
from providers.remote.tool_descriptions import ListRefused, canonical_tools

if TYPE_CHECKING:
    from providers.remote.session import RemoteSession, RemoteSessions

FRESH: Final = 60.0  # seconds
AGAIN: Final = 10.0  # seconds until a request that only looks makes the vault ask again
_MOST: Final = 1000  # lists kept
Offered = Mapping[str, str]  # the server's name of a tool -> its canonical form
Digests = Mapping[str, bytes]  # the same in stored form, hashed
OnSeen = Callable[[str, str, Offered], Awaitable[None]]  # server, connection


class ToolHeld(ToolRefused):
    """The server no longer offers this tool, or offers it in a different form than the operator accepted. Nothing was
    called."""

    code = "tool_held"


class Sightings:
    """The lists that this process saw. `on_seen` stores new ones; set it before the first call."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_seen: OnSeen | None = None
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Digests]] = {}

    @cached_property
    def client(self) -> RemoteSessions:
        """The session opener, loaded at the first call."""
        from providers.remote.session import RemoteSessions

        return RemoteSessions()

    def recent(self, server: str, connection_id: str, *, within: float = FRESH) -> Digests | None:
        """The tools that this connection was offered within the last minute."""
        at, offered = self._known.get((server, connection_id), (float("-inf"), {}))
        return offered if self._clock() - at < within else None

    def forget(self, server: str) -> None:
        """Make the next call request this server's list again."""
        for key in [one for one in self._known if one[0] == server]:
            del self._known[key]

    async def look(self, server: str, session: RemoteSession, api: UpstreamAPI) -> Digests:
        """Request the list, keep it, and have it stored. Raises UpstreamRefused for a list that can't be used."""
        try:
            offered = await asyncio.to_thread(canonical_tools, await session.list_tools())
        except ListRefused as refused:
            raise UpstreamRefused("list_refused", f"The tools of {api.title} can't be used: {refused}.") from refused
        now, key = self._clock(), (server, api.connection_id)
        self._known.pop(key, None)
        for old in [one for one, (at, _) in self._known.items() if now - at >= FRESH]:
            del self._known[old]
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = (now, digests := {name: digest_of(one) for name, one in offered.items()})
        if self.on_seen is not None:
            await self.on_seen(server, api.connection_id, offered)
        return digests


def digest_of(definition: str) -> bytes:
    """The kept hash of a tool's canonical form."""
    return hashlib.sha256(definition.encode()).digest()
