"""Look up host names in separate threads, with a limit on how many at once.

The system's resolver can't be cancelled: a name whose server never answers holds its thread for half a minute, long
after the caller has given up. A lookup therefore counts until its thread returns, and lookups for addresses that third
parties choose share nothing with those for providers. `providers.outbound.addresses` decides which addresses are
allowed.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Final

THREADS: Final = 64
SHARE: Final = 8
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host name; raises OSError when there are none."""
ON_BEHALF_OF: ContextVar[str] = ContextVar("on_behalf_of", default="")  # the party behind the lookup, if it counts


class BoundedLookup:
    """`await lookup(host, port)`: its addresses. At most `threads` at once, and `share` of them for one name.

    `by_caller`: the share is that of the party in ON_BEHALF_OF, who could have any number of names.
    """

    def __init__(
        self,
        addresses: Callable[[str, int], Sequence[str]] | None = None,
        *,
        threads: int = THREADS,
        share: int = SHARE,
        by_caller: bool = False,
    ) -> None:
        self._addresses = addresses or _addresses
        self._threads = threads
        self._share = share
        self._by_caller = by_caller
        self._running = 0
        self._of: dict[str, int] = {}

    def __len__(self) -> int:
        """The number of threads that haven't returned."""
        return self._running

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Raises OSError when there is no address, or no room."""
        whose = ON_BEHALF_OF.get() if self._by_caller else host
        if self._running >= self._threads or self._of.get(whose, 0) >= self._share:
            raise OSError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def finish(outcome: Sequence[str] | OSError) -> None:
            self._leave(whose)
            if found.done():  # no caller is waiting anymore
                return
            if isinstance(outcome, OSError):
                found.set_exception(outcome)
            else:
                found.set_result(outcome)

        def look() -> None:
            try:
                outcome: Sequence[str] | OSError = self._addresses(host, port)
            except OSError as error:
                outcome = error
            except UnicodeError as error:  # a name that IDNA can't encode
                outcome = OSError(str(error))
            with suppress(RuntimeError):  # the loop has ended in the meantime
                loop.call_soon_threadsafe(finish, outcome)

        self._running += 1
        self._of[whose] = self._of.get(whose, 0) + 1
        try:
            threading.Thread(target=look, name="look-up", daemon=True).start()  # process shutdown doesn't wait for it
        except RuntimeError as error:
            self._leave(whose)
            raise OSError("no thread for a look-up") from error
        return await found

    def _leave(self, whose: str) -> None:
        self._running -= 1
        left = self._of[whose] - 1
        if left:
            self._of[whose] = left
        else:
            del self._of[whose]


def _addresses(host: str, port: int) -> Sequence[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
