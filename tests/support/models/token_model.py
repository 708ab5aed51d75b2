"""Every interleaving of a client's processes, their crashes and a thief on one family of our own refresh tokens.

Two honest processes share a store, as the clients in the field do: each keeps its token in memory, and reads the store
when it starts. A use consists of the answer and storing it; a crash happens between the two, or afterward. The thief
copies the store once, and uses the copy from another network. Time passes in steps on either side of every limit. The
rules are the product's own, `vault.tokens.token_rules`; a test replaces them to check that the model notices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.models.exploration import without_collection
from vault.records import RefreshToken
from vault.tokens.token_rules import Family, RepeatVerdict, judge_use

GRACE = 600
HOME, AWAY = "198.51.0.0/16", "203.0.0.0/16"
STEPS = (20, 300, 3600, 86400)  # at once, within the grace, at the next refresh, the next day
Decide = Callable[..., RepeatVerdict]


class Generation(NamedTuple):
    """One token of the family; the newest one is not spent."""

    issued_to: str
    spent_at: int | None = None
    moved_at: int | None = None


class Budget(NamedTuple):
    """How many of each may still happen."""

    uses: int = 5
    steps: int = 2
    crashes: int = 2
    moves: int = 0  # of the client to another network, during a request
    thefts: int = 0


class State(NamedTuple):
    now: int
    family: tuple[Generation, ...]
    alive: bool
    memory: tuple[int | None, int | None]  # generation that each process holds; None: it does not run
    store: int
    thief: int | None  # the generation that the thief holds
    budget: Budget
    is_unseen: bool = False  # the thief got something, and no event shows it yet
    rallies: int = 0  # how often the thief got something after the client's latest use
    thief_was_last: bool = False
    lost_at: int | None = None  # when the client's last answer was lost by a change of its network


@dataclass
class Findings:
    """The shortest path to the first state of each kind."""

    states: int = 0
    signed_out: list[str] = field(default_factory=list[str])  # an honest use was refused
    ended: list[str] = field(default_factory=list[str])  # by a thief's use, or by the client's after it
    unseen: list[str] = field(default_factory=list[str])  # the client continued, and no event shows the thief
    # answered although the two uses were further apart than the grace
    late: list[str] = field(default_factory=list[str])
    rallies: int = 0
    way: list[str] = field(default_factory=list[str])  # to the most rallies


class Model:
    """The steps of one family. `theft_from` is the thief's network."""

    def __init__(self, *, theft_from: str = AWAY, decide: Decide = judge_use) -> None:
        self._came: dict[State, tuple[State, str]] = {}
        self._verdicts: dict[tuple[tuple[Generation, ...], int, str, int], RepeatVerdict] = {}
        self.theft_from = theft_from
        self.decide = decide

    @without_collection()
    def explore(self, budget: Budget) -> Findings:
        found = Findings()
        start = State(100_000, (Generation(HOME),), True, (0, 0), 0, None, budget)
        self._came: dict[State, tuple[State, str]] = {start: (start, "")}
        waiting = deque([start])
        while waiting:
            state = waiting.popleft()
            found.states += 1
            for what, after in self._steps(state, found):
                after = after._replace(memory=_sort_pair(after.memory))  # the processes are equivalent
                if after not in self._came:
                    self._came[after] = (state, what)
                    waiting.append(after)
                    if after.rallies > found.rallies:
                        found.rallies, found.way = after.rallies, self._way(after)
        return found

    def _way(self, state: State, *more: str) -> list[str]:
        way = list(more)
        while (what := self._came[state][1]) != "":
            way.insert(0, what)
            state = self._came[state][0]
        return way

    def _steps(self, s: State, found: Findings) -> Iterator[tuple[str, State]]:
        if not s.alive:
            return
        b = s.budget
        if b.steps:
            for seconds in STEPS:
                yield f"{seconds} s", s._replace(now=s.now + seconds, budget=b._replace(steps=b.steps - 1))
        if b.thefts:
            yield "theft", s._replace(thief=s.store, budget=b._replace(thefts=0))
        if s.thief is not None and b.uses:
            yield from self._thief(s, s.thief, found)
        for i in (0, 1) if s.memory[0] != s.memory[1] else (0,):
            held = s.memory[i]
            if held is None:
                yield f"start{i}", s._replace(memory=_put(s.memory, i, s.store))
                continue
            if b.crashes:
                crashed = b._replace(crashes=b.crashes - 1)
                yield f"crash{i}", s._replace(memory=_put(s.memory, i, None), budget=crashed)
            if b.uses:
                yield from self._honest(s, i, held, found)

    def _honest(self, s: State, i: int, held: int, found: Findings) -> Iterator[tuple[str, State]]:
        """A refresh by process i. If it slept for longer than the grace, it first reads the store."""
        if self._is_late(s, held):
            held = s.store
        retries = s.lost_at is not None and s.now - s.lost_at < 30  # on the network to which it changed
        verdict, after = self._use(s, held, AWAY if retries else HOME)
        step = f"use{i}"
        if verdict is not None and not verdict.is_answered:
            way_there = self._way(s, f"{step} {verdict.value}")
            if s.thief is None:
                found.signed_out = found.signed_out or way_there
            else:
                found.ended = found.ended or way_there
            yield step, after
            return
        if s.is_unseen and verdict is None:
            found.unseen = found.unseen or self._way(s, step)
        newest, b = len(after.family) - 1, after.budget
        after = after._replace(is_unseen=False, thief_was_last=False, lost_at=None)
        yield step, after._replace(memory=_put(s.memory, i, newest), store=newest)
        if b.crashes:
            yield (
                f"{step}, crash before it stored",
                after._replace(memory=_put(s.memory, i, None), budget=b._replace(crashes=b.crashes - 1)),
            )
        if b.moves:
            yield f"{step}, answer lost", after._replace(lost_at=s.now, budget=b._replace(moves=b.moves - 1))

    def _thief(self, s: State, held: int, found: Findings) -> Iterator[tuple[str, State]]:
        verdict, after = self._use(s, held, self.theft_from)
        step = "thief"
        if verdict is not None and not verdict.is_answered:
            found.ended = found.ended or self._way(s, f"{step} {verdict.value}")
            yield step, after
            return
        if verdict is not None and self._is_late(s, held):
            found.late = found.late or self._way(s, step)
        yield (
            step,
            after._replace(
                thief=len(after.family) - 1,
                is_unseen=verdict is None,
                rallies=s.rallies + (not s.thief_was_last),
                thief_was_last=True,
            ),
        )

    def _is_late(self, s: State, held: int) -> bool:
        spent_at = s.family[held].spent_at
        if spent_at is None or s.family[held + 1].spent_at is None:
            return False
        return s.now >= spent_at + GRACE

    def _use(self, s: State, held: int, network: str) -> tuple[RepeatVerdict | None, State]:
        """What the server does with it: None for an ordinary rotation."""
        s = s._replace(budget=s.budget._replace(uses=s.budget.uses - 1))
        mine = s.family[held]
        if mine.spent_at is None:
            spent = mine._replace(spent_at=s.now)
            return None, s._replace(family=(*s.family[:held], spent, Generation(network)))
        verdict = self._verdict(s.family, held, network, s.now)
        if not verdict.is_answered:
            return verdict, s._replace(alive=False)
        if verdict is RepeatVerdict.MOVED:
            s = s._replace(family=(*s.family[:held], mine._replace(moved_at=s.now), *s.family[held + 1 :]))
        return verdict, s

    def _verdict(self, family: tuple[Generation, ...], held: int, network: str, now: int) -> RepeatVerdict:
        """The rule's verdict; it depends on nothing else, so it is computed once."""
        asked = (family, held, network, now)
        verdict = self._verdicts.get(asked)
        if verdict is None:
            records = _records(family)
            verdict = self.decide(records[held], records, network=network, is_authenticated=False, now=now, grace=GRACE)
            self._verdicts[asked] = verdict
        return verdict


def _records(family: tuple[Generation, ...]) -> Family:
    return {
        n: RefreshToken(
            b"", "grant", "client", "family", n, frozenset(), "", 0, 10**9, 10**9, one.spent_at,
            issued_to=one.issued_to, moved_at=one.moved_at,
        )
        for n, one in enumerate(family)
    }  # fmt: skip


def _sort_pair(pair: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    first, second = pair
    return pair if (-1 if first is None else first) <= (-1 if second is None else second) else (second, first)


def _put(pair: tuple[int | None, int | None], i: int, value: int | None) -> tuple[int | None, int | None]:
    return (value, pair[1]) if i == 0 else (pair[0], value)
