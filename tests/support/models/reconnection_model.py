"""The model of an account that is connected again while its earlier grant is being ended at the provider.

The provider ends every grant of the account that it knows of, the new one included. The process that sends the
revocation can die before it learns the answer. `Rules` are those of `vault.upkeep.revocations` and
`vault.refresh.consents`; each can be broken to see that the exploration notices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NOTHING, AGREED, STORED = "nothing", "agreed", "stored"  # the new consent
IDLE, CLAIMED, ACTED = "idle", "claimed", "acted"  # the attempt to end the old grant
ATTEMPTS = 3


@dataclass(frozen=True)
class Rules:
    """Ours: when the new connection is checked."""

    after_attempt: bool = True  # it was stored before the attempt ended
    when_held: bool = True  # the revocation waits for its end, after an attempt of which the outcome is unknown
    when_stored: bool = True  # an attempt was made that may be newer than the person's consent


class State(NamedTuple):
    consent: str = NOTHING
    attempt: str = IDLE
    attempts: int = 0
    is_alive: bool = True  # the new grant, at the provider
    is_known: bool = False  # that it is dead
    is_due: bool = False  # a check of the new connection
    is_over: bool = False  # nothing more is sent: done, or held
    kills: int = 1


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Each can happen at any time between two others."""
    if s.consent == NOTHING:
        yield "agree", s._replace(consent=AGREED)
    elif s.consent == AGREED:
        is_due = s.is_due or (rules.when_stored and s.attempts > 0)
        yield "store", s._replace(consent=STORED, is_due=is_due)
    if s.is_due:
        yield "check", s._replace(is_due=False, is_known=not s.is_alive)
    if s.attempt == IDLE and not s.is_over:
        if s.consent == STORED:
            yield "hold", s._replace(is_over=True, is_due=s.is_due or (rules.when_held and s.attempts > 0))
        elif s.attempts < ATTEMPTS:
            yield "claim", s._replace(attempt=CLAIMED, attempts=s.attempts + 1)
    elif s.attempt == CLAIMED:
        yield "act", s._replace(attempt=ACTED, is_alive=s.is_alive and s.consent == NOTHING)
    elif s.attempt == ACTED:
        is_due = s.is_due or (rules.after_attempt and s.consent == STORED)
        yield "finish", s._replace(attempt=IDLE, is_over=True, is_due=is_due)
        yield "postpone", s._replace(attempt=IDLE, is_due=is_due)
    if s.attempt != IDLE and s.kills:
        yield "kill", s._replace(attempt=IDLE, kills=s.kills - 1)


def way_to_false_hope(rules: Rules) -> list[str]:
    """A shortest path to a dead connection that looks active, and that nothing will check; empty if there is none."""
    ways: dict[State, list[str]] = {State(): []}
    queue = deque(ways)
    while queue:
        s = queue.popleft()
        is_quiet = s.is_over and s.consent == STORED and not s.is_due
        if is_quiet and not s.is_alive and not s.is_known:
            return ways[s]
        for name, after in steps(s, rules):
            if after not in ways:
                ways[after] = [*ways[s], name]
                queue.append(after)
    return []
