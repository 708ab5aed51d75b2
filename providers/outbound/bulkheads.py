"""Limits on the calls in flight at one peer, and on those for one account, so that a peer that hangs for some accounts
leaves slots for the others. `providers.outbound.client` sends.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Bulkhead:
    """The slots at one peer; each account has at most its share. The empty account has no share limit."""

    def __init__(self, places: int, *, share: int) -> None:
        self._places = places
        self._share = share
        self._taken = 0
        self._of: dict[str, int] = {}
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    async def enter(self, account: str, *, patience: float) -> None:
        """Take a slot, waiting at most this many seconds. Raises TimeoutError."""
        if self._fits(account):
            self._take(account)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (account, place)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(patience):
                await place
        except BaseException:
            if place.done() and not place.cancelled():
                self.leave(account)  # granted just as we left
            else:
                self._waiting.remove(waiter)
            raise

    def leave(self, account: str) -> None:
        """Release a slot to the first waiter that it fits."""
        self._taken -= 1
        if account:
            left = self._of[account] - 1
            if left:
                self._of[account] = left
            else:
                del self._of[account]
        for waiter in self._waiting:
            if not waiter[1].done() and self._fits(waiter[0]):
                self._waiting.remove(waiter)
                self._take(waiter[0])
                waiter[1].set_result(None)
                return

    def _fits(self, account: str) -> bool:
        return self._taken < self._places and (not account or self._of.get(account, 0) < self._share)

    def _take(self, account: str) -> None:
        self._taken += 1
        if account:
            self._of[account] = self._of.get(account, 0) + 1
