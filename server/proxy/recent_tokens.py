"""What an exchange opened for a handle a moment ago, so that the next call need not open it again.

Used only while everything stored that the exchange depended on reads the same as before it, which each call looks up:
a revocation, a disconnected account or a smaller permission ends it at once. Kept for seconds, in this process only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.api.masking import needles
from vault.exchange.exchange import UpstreamToken
from vault.handles import Standing

KEPT: Final = 10  # seconds
_AGEING: Final = 120  # seconds before its end from which a token is exchanged each time, so that it is renewed in time
_MOST: Final = 1024


@dataclass(frozen=True, slots=True)
class Opening:
    """A token, and what hides it in an answer."""

    token: UpstreamToken
    needles: Sequence[bytes] = field(repr=False)
    until: int


class Openings:
    """The openings of one process. `standings` are what they were decided on, by the handle's digest."""

    def __init__(self) -> None:
        self.standings: dict[bytes, Standing] = {}
        self._openings: dict[bytes, Opening] = {}
        self._timer: asyncio.TimerHandle | None = None

    def find(self, standing: Standing, *, now: int) -> Opening | None:
        """What was opened for this handle, if nothing changed since."""
        digest = standing.handle.digest
        if self.standings.get(digest) is not standing:
            return None
        opening = self._openings[digest]
        return opening if now < opening.until else None

    def keep(self, standing: Standing, token: UpstreamToken, *, now: int) -> Opening:
        """Keep what an exchange opened; `standing` was read before it."""
        ends = [now + KEPT, standing.handle.expires_at]
        if standing.until is not None:
            ends.append(standing.until)
        if token.expires_at is not None:
            ends.append(token.expires_at - _AGEING)
        opening = Opening(token, needles(token.value), min(ends))
        if now < opening.until and len(self.standings) < _MOST:
            digest = standing.handle.digest
            self.standings[digest], self._openings[digest] = standing, opening
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(KEPT, self._sweep)
        return opening

    def drop(self, standing: Standing) -> None:
        """The provider refused it."""
        self.standings.pop(standing.handle.digest, None)
        self._openings.pop(standing.handle.digest, None)

    def _sweep(self) -> None:
        """Forget all that was kept: in use, it is opened again; not in use, it has no business here."""
        self.standings.clear()
        self._openings.clear()
        self._timer = None
