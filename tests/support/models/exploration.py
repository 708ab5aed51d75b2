"""Visit every state that the model of refreshes can reach, or all up to the first harmful one."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import ge
from typing import NamedTuple

from tests.support.models.refresh_model import OLD, REFUSED, SMALL, THIN, YOUNG, Budget, Model, Provider, Rules, State


@dataclass
class Findings:
    """The result of an exploration; `lost`, `doubled`, and `stuck` have the shortest path to the first such state."""

    states: int = 0
    lost_in_gap: int = 0
    lost_needlessly: int = 0
    doubled_sends: int = 0
    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    stuck: list[str] = field(default_factory=list[str])


@contextmanager
def without_collection() -> Generator[None]:
    """Disable garbage collection, which would examine all visited states repeatedly and free none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


DOINGS = {
    name: number for number, name in enumerate(("idle", "down", "claimed", "wire", "silent", "got", "journalled"))
}


AGES = {YOUNG: 1, THIN: 2, OLD: 3}


def key(s: State) -> int:
    """The same number for states that differ in nothing that matters, apart from what may still happen to them.

    The two processes are interchangeable. Fences and generations are compared with the current ones only, and both only
    grow. A token is the live one, its predecessor as long as the grace lasts, or dead; of two dead ones it matters only
    whether both processes are about to send the same.
    """
    live, before = s.live, s.before if s.grace else None

    def token(value: int) -> int:
        return 0 if value == live else 1 if value == before else 2

    sides: list[int] = []
    for process, intent, journal, late, number in zip(s.processes, s.intents, s.journal, s.late, (0, 1), strict=True):
        doing, side = process.doing, DOINGS[process.doing] << 1 | process.is_paused
        if doing not in ("idle", "down"):
            side = side << 1 | (process.fence == s.fence)
            side = side << 1 | (process.generation == s.generation)
            side = side << 3 | (token(process.token) << 1 | process.relies_on_grace if doing == "claimed" else 0)
            side = side << 3 | (
                0 if process.answer is None else 1 if process.answer == REFUSED else 2 + token(process.answer)
            )
        side = side << 1 | s.has_file[number]
        side <<= 7
        if late is not None:  # a fence that is about to be reused matters if fences can be reused
            side |= 64 | (late.what == "undo") << 5 | (late.generation == s.generation) << 4
            side |= (late.fence == s.fence) << 3 | (late.fence == s.fence + 1) << 2
            side |= (intent is not None and late.fence == intent.fence) << 1
            side |= late.fence == process.fence and process.doing not in ("idle", "down")
        side <<= 11
        if intent is not None:
            current = intent.generation == s.generation
            other = s.intents[1 - number]
            side |= (intent.fence == process.fence and process.doing not in ("idle", "down")) << 10
            side |= (intent.fence == s.fence) << 9
            side |= (other is not None and intent.order < other.order) << 8
            side |= min(intent.sends, 15) << 4 | AGES[intent.sent_at] << 2 | intent.is_settled << 1 | current
        side <<= 5
        if journal is not None:
            side |= 16 | token(journal.token) << 2 | (journal.spent == s.generation) << 1 | (journal.fence == s.fence)
        side = side << 1 | (s.grace and s.rotator == number)
        side <<= 3
        if s.lease is not None and s.lease.owner == number:
            side |= 4 | s.lease.has_lapsed << 1 | s.lease.is_ghost
        sides.append(side)
    one, two = s.processes
    same = one.token == two.token and one.doing in ("claimed", "wire") and two.doing in ("claimed", "wire")
    whole = token(s.token) << 2 | (3 if s.stray is None else token(s.stray))
    for flag in (s.family, s.grace, s.active, s.access, s.waits, s.outlasts, s.unheard, same):
        whole = whole << 1 | flag
    sides.sort()
    return (whole << 64 | sides[0]) << 64 | sides[1]


class VisitedClasses:
    """The visited classes, each with what could still happen then.

    A state of a visited class adds nothing if no more can happen to it: the visited one could also take each of its
    steps. A previous gap excuses losses, so a visited state without a gap is stricter.
    """

    def __init__(self) -> None:
        self._budgets: dict[int, list[tuple[int, ...]]] = {}

    @property
    def classes(self) -> Collection[int]:
        return self._budgets.keys()

    def add(self, s: State) -> bool:
        """Whether this state must be visited."""
        left = (*s.budget, not s.gap)
        known = self._budgets.setdefault(key(s), [])
        for other in known:
            if all(map(ge, other, left)):
                return False
        known.append(left)
        return True


class SeenWhole:
    """Treats every state as distinct; the reduction is compared with this."""

    def __init__(self) -> None:
        self._states = set[State]()

    @property
    def classes(self) -> Collection[int]:
        return set(map(key, self._states))

    def add(self, s: State) -> bool:
        """Whether this state has to be visited."""
        before = len(self._states)
        self._states.add(s)
        return len(self._states) > before


class Way(NamedTuple):
    """The last step to a state, and the path before it."""

    step: str
    before: Way | None

    def steps(self) -> list[str]:
        found, way = [self.step], self.before
        while way is not None:
            found.append(way.step)
            way = way.before
        return found[::-1]


@without_collection()
def explore(
    provider: Provider,
    *,
    rules: Rules | None = None,
    budget: Budget = SMALL,
    until_harm: bool = False,
    seen: VisitedClasses | SeenWhole | None = None,
) -> Findings:
    """Visit everything reachable, or all up to the first harm; breadth first, so that its path is a shortest one."""
    model, seen = Model(provider, rules or Rules()), seen or VisitedClasses()
    start = model.start(budget)
    seen.add(start)
    queue, out = deque[tuple[State, Way | None]]([(start, None)]), Findings()
    while queue and not (until_harm and (out.lost or out.doubled or out.stuck)):
        s, way = queue.popleft()
        out.states += 1
        if model.is_doubled(s):
            out.doubled_sends += 1
            out.doubled = out.doubled or _steps(way)
        if model.is_stuck(s):
            out.stuck = out.stuck or _steps(way)
        if model.is_lost(s):
            if s.gap:
                out.lost_in_gap += 1
            else:
                out.lost_needlessly += 1
                out.lost = out.lost or _steps(way)
        for label, after in model.steps(s):
            if label.startswith("steal"):
                out.doubled_sends += 1
                out.doubled = out.doubled or [*_steps(way), label]
            if seen.add(after):
                queue.append((after, Way(label, way)))
    return out


def _steps(way: Way | None) -> list[str]:
    return [] if way is None else way.steps()
