"""Whether and when to repeat a call that a provider didn't serve. Pure; `providers.api.api` sends.

A read may always be repeated while there is time. A write is repeated only if the provider reported that it didn't
process it and when to retry; a write that may have been carried out is never sent again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from providers.outbound.messages import OutboundResponse

BACKOFF: Final = 0.5  # seconds before a retry when the provider names no time; doubled each time
LONG_WAIT: Final = 60  # seconds to wait when only GitHub's message mentions a rate limit
LONGEST: Final = 86400  # seconds
_LIMITED: Final = re.compile(r"\brate limit", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A call may be sent `tries` times in all, and not before `after` seconds if the provider named a time."""

    tries: int
    after: int = 0

    def pause(self, *, attempt: int, spread: float) -> float | None:
        """Seconds to wait after this many attempts, spread so that callers do not return together; None: stop."""
        return None if attempt >= self.tries else self.after + BACKOFF * 2 ** (attempt - 1) * spread


UNANSWERED: Final = Repeat(tries=2)


@dataclass(frozen=True, slots=True)
class Wait:
    """The wait that a busy provider asks for. `is_told`: it named the time."""

    seconds: int
    is_told: bool

    def repeat(self, *, is_write: bool) -> Repeat | None:
        """The retry that this allows; after a 503 only of a read, because it may have been processed."""
        if is_write and not self.is_told:
            return None
        return Repeat(tries=3, after=self.seconds if self.is_told or self.seconds > 1 else 0)


def asks_to_wait(answer: OutboundResponse, message: str) -> bool:
    """Whether the answer is a rate limit, or a 503 that names a time. GitHub also uses 403 for a rate limit, and
    indicates its secondary limits only in the message."""
    if answer.status == HTTPStatus.FORBIDDEN:
        is_spent = answer.headers.get("x-ratelimit-remaining") == "0"
        return is_spent or answer.retry_after is not None or _LIMITED.search(message) is not None
    return answer.is_turned_away


def wait_of(answer: OutboundResponse, message: str, *, now: int) -> Wait:
    """How long the provider asks to wait: Retry-After, the reset of an exhausted limit, or a default without either."""
    told = answer.retry_after if answer.retry_after is not None else _until_reset(answer, now=now)
    if told is not None:
        return Wait(max(told, 1), is_told=True)
    return Wait(LONG_WAIT if answer.status == HTTPStatus.FORBIDDEN and _LIMITED.search(message) else 1, is_told=False)


def _until_reset(answer: OutboundResponse, *, now: int) -> int | None:
    """Seconds until an exhausted limit resets, if the answer has it: GitHub names the instant."""
    reset = answer.headers.get("x-ratelimit-reset", "")
    if answer.headers.get("x-ratelimit-remaining") != "0" or not (reset.isascii() and reset.isdecimal()):
        return None
    return min(max(int(reset[:12]) - now, 1), LONGEST)
