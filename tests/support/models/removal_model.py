"""The model of something that begins while what it depends on is being ended.

Two transactions under read committed: each statement sees what is committed, and waits if another transaction holds the
row. The exchange saw the client alive before its own began. `Rules` are those of four pairs; each can be broken to see
that the exploration notices:

| what begins | the row | what ends it |
| --- | --- | --- |
| a derived grant (`vault.grants.derived_grant`) | its client | `vault.clients.remove_client` |
| a session (`server.sign_in.proofs`) | its person, with the password that was checked | `vault.users.set_password` |
| what a request makes (`server.sign_in.callers`) | the person of its session | `vault.users.end_user_sessions` |
| an agent's permission (`vault.refresh.consents`) | its client | `vault.clients.remove_client` |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

BEGUN, HELD, STORED, DONE, REFUSED = "begun", "held", "stored", "done", "refused"


@dataclass(frozen=True)
class Rules:
    """Ours."""

    holds: bool = True  # the exchange locks the row that it depends on
    checks: bool = True  # and is refused if that has ended
    ends_first: bool = True  # the removal ends the row before it ends the grants that it sees


class State(NamedTuple):
    has_ended: bool = False  # committed
    exchange: str = BEGUN
    removal: str = BEGUN
    is_live: bool = False  # the new grant, committed
    is_seen: bool = False  # by the removal, whose commit ends it


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    is_held = rules.holds and s.exchange in (HELD, STORED)
    is_ending = rules.ends_first and s.removal in (HELD, STORED)
    if s.exchange == BEGUN and not (rules.holds and is_ending):
        is_refused = rules.holds and rules.checks and s.has_ended
        yield "hold", s._replace(exchange=REFUSED if is_refused else HELD)
    elif s.exchange == HELD:
        yield "store", s._replace(exchange=STORED)
    elif s.exchange == STORED:
        yield "commit", s._replace(exchange=DONE, is_live=True)
    if s.removal == BEGUN and not (rules.ends_first and is_held):
        yield "end", s._replace(removal=HELD)
    elif s.removal == HELD:
        yield "look", s._replace(removal=STORED, is_seen=s.is_live)
    elif s.removal == STORED and (rules.ends_first or not is_held):
        yield "remove", s._replace(removal=DONE, has_ended=True, is_live=s.is_live and not s.is_seen)


def explore(rules: Rules) -> dict[State, list[str]]:
    """Every reachable state, with a shortest path to it."""
    ways: dict[State, list[str]] = {State(): []}
    queue = deque(ways)
    while queue:
        s = queue.popleft()
        for name, after in steps(s, rules):
            if after not in ways:
                ways[after] = [*ways[s], name]
                queue.append(after)
    return ways


def way_to_survivor(rules: Rules) -> list[str]:
    """A shortest path to a live grant of something that has ended; empty if there is none."""
    return next((way for s, way in explore(rules).items() if s.is_live and s.has_ended), [])
