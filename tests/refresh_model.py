"""Every interleaving of two processes that refresh one connection, explored with the rules that the product uses.

The state holds what the provider knows, the row, the lease, the intents, the answer journal of the host and what each
process is doing. A step is anything that can happen next: claim, the provider's handling, answer, journal, commit,
kill, restart, pause, a message lost, a commit that fails, and time running out on the lease, the access token and the
provider's grace. A connection is lost when nobody can ever again come by a live refresh token; that is forgiven only
after the gap: the provider rotated and the only copy died on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from operator import ge
from typing import NamedTuple, TypeVar

from vault import rotation_rules
from vault.rotation_rules import Decision, Unresolved
from vault.upstream import Rotation, UpstreamPolicy

NOW = 100_000
GRACE = 60
YOUNG, THIN, OLD = NOW - 1, NOW - GRACE + 10, NOW - GRACE - 1  # when the first unresolved send was
REFUSED = -1
LONG = 3600.0  # seconds that a paused process slept
T = TypeVar("T")
RUNNING = frozenset({"claimed", "wire", "got"})


@dataclass(frozen=True)
class Provider:
    """What the provider does on use, and what our provider file says of it."""

    name: str
    rotation: Rotation
    resends: bool = False

    @property
    def policy(self) -> UpstreamPolicy:
        return UpstreamPolicy("model", rotation=self.rotation, grace=GRACE if self.has_grace else 0)

    @property
    def rotates(self) -> bool:
        return self.rotation is not Rotation.NONE

    @property
    def has_grace(self) -> bool:
        return self.rotation is Rotation.GRACE

    @property
    def reuse_kills(self) -> bool:
        return self.rotation in (Rotation.GRACE, Rotation.REVOKES)


PROVIDERS = (
    Provider("stays", Rotation.NONE),
    Provider("grace, sent again", Rotation.GRACE, resends=True),
    Provider("grace, a sibling", Rotation.GRACE),
    Provider("re-use refused", Rotation.STRICT),
    Provider("re-use revokes", Rotation.REVOKES),
)


@dataclass(frozen=True)
class Rules:
    """The rules as the product has them; a test replaces one to see that the model notices."""

    may_send: Callable[..., Decision] = rotation_rules.may_send
    may_claim: Callable[..., bool] = rotation_rules.may_claim
    is_claim_void: Callable[[float], bool] = rotation_rules.is_claim_void
    is_newer: Callable[..., bool] = rotation_rules.is_newer
    may_give_up: Callable[[Collection[Unresolved]], bool] = rotation_rules.may_give_up
    one_intent_only: bool = False
    lapsed_is_dead: bool = False
    any_death_frees: bool = False
    has_journal: bool = True
    keeps_late_answers: bool = True


class Intent(NamedTuple):
    generation: int
    sent_at: int
    sends: int
    is_settled: bool
    order: int  # the fence of its first claim: who sent earlier


class Lease(NamedTuple):
    owner: int
    fence: int
    has_lapsed: bool
    is_ghost: bool  # the process that took it is gone, its successor has another name


class Answer(NamedTuple):
    spent: int  # generation
    token: int
    fence: int


class Process(NamedTuple):
    doing: str
    generation: int = 0
    token: int = 0
    answer: int | None = None
    fence: int = 0
    relies_on_grace: bool = False
    is_paused: bool = False


class Budget(NamedTuple):
    """How many of each may still happen."""

    kills: int
    pauses: int
    losses: int
    failures: int
    claims: int


class State(NamedTuple):
    live: int
    before: int  # the token that `live` replaced
    family: bool
    grace: bool
    rotator: int  # the process whose send `live` came from; it began the grace
    fresh: int
    generation: int
    token: int
    active: bool
    access: bool
    fence: int
    lease: Lease | None
    intents: tuple[Intent | None, Intent | None]
    journal: tuple[Answer | None, Answer | None]
    processes: tuple[Process, Process]
    budget: Budget
    gap: bool


IDLE, DOWN = Process("idle"), Process("down")
SMALL = Budget(kills=1, pauses=1, losses=1, failures=1, claims=3)
FULL = Budget(kills=2, pauses=1, losses=1, failures=1, claims=4)
WIDE = Budget(kills=3, pauses=2, losses=2, failures=1, claims=6)


@dataclass
class Findings:
    """What an exploration saw; `lost` and `doubled` hold the shortest way to the first needless loss or double send."""

    states: int = 0
    lost_in_gap: int = 0
    lost_needlessly: int = 0
    doubled_sends: int = 0
    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])


def _put(pair: tuple[T, T], i: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if i == 0 else (pair[0], value)


class Model:
    """The steps of one provider under one set of rules."""

    def __init__(self, provider: Provider, rules: Rules) -> None:
        self.provider = provider
        self.policy = provider.policy
        self.rules = rules

    def start(self, budget: Budget) -> State:
        return State(
            0, -9, True, False, 0, 1, 1, 0, True, True, 0, None, (None, None), (None, None), (IDLE, IDLE), budget, False
        )

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        yield from self._time(s)
        for i in (0, 1):
            process = s.processes[i]
            if process.doing == "down":
                yield f"restart{i}", self._restart(s, i)
            elif process.is_paused:
                yield f"wake{i}", self._wake(s, i, process)
            else:
                yield from self._faults(s, i, process)
                yield from self._work(s, i, process)

    # Time

    def _time(self, s: State) -> Iterator[tuple[str, State]]:
        if s.access:
            yield "access token ends", s._replace(access=False)
        hurries = any(p.doing == "claimed" and p.relies_on_grace and not p.is_paused for p in s.processes)
        for i in (0, 1):
            intent = s.intents[i]
            if intent is None or not self.provider.has_grace or intent.sent_at == OLD:
                continue
            other = s.intents[1 - i]
            if other is not None and other.order < intent.order and other.sent_at == intent.sent_at:
                continue  # what was sent earlier is older
            if intent.sent_at == YOUNG:
                yield f"grace thins{i}", s._replace(intents=_put(s.intents, i, intent._replace(sent_at=THIN)))
            elif not hurries:
                yield f"intent ages{i}", s._replace(intents=_put(s.intents, i, intent._replace(sent_at=OLD)))
        began = s.intents[s.rotator]  # the grace is not older than the send that rotated
        if s.grace and not hurries and (began is None or began.sent_at == OLD):
            yield "grace closes", s._replace(grace=False)
        if s.lease is not None and not s.lease.has_lapsed:
            holder = s.processes[s.lease.owner]
            if s.lease.is_ghost or holder.is_paused or holder.doing not in RUNNING:
                yield "lease lapses", s._replace(lease=s.lease._replace(has_lapsed=True))

    # Faults

    def _faults(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        if s.budget.kills and p.doing != "idle":
            gone = self.provider.rotates and p.answer not in (None, REFUSED) and p.doing in ("wire", "got")
            yield (
                f"kill{i}@{p.doing}",
                s._replace(
                    processes=_put(s.processes, i, DOWN),
                    budget=s.budget._replace(kills=s.budget.kills - 1),
                    gap=s.gap or gone,
                ),
            )
        if s.budget.pauses and p.doing in RUNNING:
            yield (
                f"pause{i}@{p.doing}",
                s._replace(
                    processes=_put(s.processes, i, p._replace(is_paused=True)),
                    budget=s.budget._replace(pauses=s.budget.pauses - 1),
                ),
            )

    def _restart(self, s: State, i: int) -> State:
        """A new process with a new name: what the old one left is a dead owner's."""
        lease, intent, found = s.lease, s.intents[i], s.journal[i]
        if lease is not None and lease.owner == i:
            s = s._replace(lease=lease._replace(is_ghost=True))
        if intent is not None:
            s = s._replace(intents=_put(s.intents, i, intent._replace(is_settled=True)))
        again = IDLE
        if found is not None:
            again = Process("journalled", found.spent, 0, found.token, found.fence)
        return s._replace(processes=_put(s.processes, i, again))

    def _wake(self, s: State, i: int, p: Process) -> State:
        if p.doing == "claimed" and self.rules.is_claim_void(LONG):
            return self._unsend(s, i, p)
        return s._replace(processes=_put(s.processes, i, p._replace(is_paused=False)))

    def _unsend(self, s: State, i: int, p: Process) -> State:
        """Nothing was sent under this claim; earlier sends of the same owner stay unresolved."""
        intent = s.intents[i]
        left = None
        if intent is not None and intent.generation == p.generation and intent.sends > 1:
            left = intent._replace(sends=intent.sends - 1, is_settled=True)
        return self._finish(s, i, p, intent=left)

    def _finish(self, s: State, i: int, p: Process, *, intent: Intent | None) -> State:
        """Nothing under way any more; the lease goes if it is still ours."""
        lease = s.lease
        if lease is not None and lease.owner == i and lease.fence == p.fence:
            lease = None
        return s._replace(processes=_put(s.processes, i, IDLE), intents=_put(s.intents, i, intent), lease=lease)

    # What a process does

    def _is_gone(self, s: State, owner: int) -> bool:
        if self.rules.lapsed_is_dead:
            return True
        return s.processes[owner].doing == "down"

    def _unresolved(self, s: State, *, besides: int | None = None) -> list[Unresolved]:
        return [
            Unresolved(str(j), intent.sent_at, intent.sends, intent.is_settled or self._is_gone(s, j))
            for j in (0, 1)
            if (intent := s.intents[j]) is not None and intent.generation == s.generation and j != besides
        ]

    def _work(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        match p.doing:
            case "idle":
                if s.active and s.budget.claims and self._may_claim(s):
                    yield from self._look(s, i)
            case "claimed":
                yield from self._send(s, i, p)
            case "wire":
                yield f"answer{i}", self._at(s, i, p, "got")
                if s.budget.losses:
                    gone = self.provider.rotates and p.answer != REFUSED
                    lost = s._replace(budget=s.budget._replace(losses=s.budget.losses - 1), gap=s.gap or gone)
                    yield f"lose answer{i}", self._at(lost, i, p._replace(answer=None), "silent")
            case "silent":
                intent = s.intents[i]
                settled = None if intent is None else intent._replace(is_settled=True)
                yield f"silence{i}", self._finish(s, i, p, intent=settled)
            case "got":
                yield self._got(s, i, p)
            case _:
                yield from self._store(s, i, p)

    @staticmethod
    def _at(s: State, i: int, p: Process, doing: str) -> State:
        return s._replace(processes=_put(s.processes, i, p._replace(doing=doing)))

    def _may_claim(self, s: State) -> bool:
        if s.lease is None:
            return True
        gone = s.lease.is_ghost or s.processes[s.lease.owner].doing == "down"
        if self.rules.any_death_frees:
            gone = gone or any(
                intent is not None and (intent.is_settled or self._is_gone(s, j)) for j, intent in enumerate(s.intents)
            )
        until = NOW - 1 if s.lease.has_lapsed else NOW + 30
        return self.rules.may_claim(lease_until=until, now=NOW, holder_is_gone=gone)

    @staticmethod
    def _is_held(s: State) -> bool:
        """Whether a live process holds a live lease."""
        lease = s.lease
        if lease is None or lease.has_lapsed or lease.is_ghost:
            return False
        return s.processes[lease.owner].doing != "down"

    def _look(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        """Adopt what lies in the host's journal, decide, claim."""
        other = 1 - i
        found = s.journal[other]
        if found is not None and self._replaces(s, other, found):
            yield f"adopt{i}", self._commit(s, other, found)
            return
        unresolved = self._unresolved(s)
        expires_at = NOW + 600 if s.access else NOW - 1
        if self.rules.may_send(self.policy, unresolved, now=NOW, access_expires_at=expires_at) is not Decision.SEND:
            return
        fence = s.fence + 1
        mine, sent_at, sends, order = s.intents[i], YOUNG, 1, fence
        if mine is not None and mine.generation == s.generation:
            sent_at, sends, order = mine.sent_at, mine.sends + 1, mine.order
        intents = _put(s.intents, i, Intent(s.generation, sent_at, sends, is_settled=False, order=order))
        if self.rules.one_intent_only:
            intents = _put(intents, 1 - i, None)
        relies = any(one.sent_at == YOUNG for one in unresolved)
        claimed = Process("claimed", s.generation, s.token, None, fence, relies_on_grace=relies)
        yield (
            f"steal{i}" if self._is_held(s) else f"claim{i}",
            s._replace(
                processes=_put(s.processes, i, claimed),
                lease=Lease(i, fence, has_lapsed=False, is_ghost=False),
                fence=fence,
                intents=intents,
                budget=s.budget._replace(claims=s.budget.claims - 1),
            ),
        )

    def _send(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        if s.budget.losses:
            lost = s._replace(budget=s.budget._replace(losses=s.budget.losses - 1))
            yield f"lose request{i}", self._at(lost, i, p, "silent")
        answer, handled = REFUSED, s
        if not s.family:
            pass
        elif not self.provider.rotates:
            answer = p.token
        elif p.token == s.live:
            answer = s.fresh
            rotated = s._replace(live=s.fresh, before=s.live, fresh=s.fresh + 1)
            handled = rotated._replace(grace=self.provider.has_grace, rotator=i)
        elif s.grace and p.token == s.before and self.provider.resends:
            answer = s.live
        elif s.grace and p.token == s.before:
            answer = s.fresh
            handled = s._replace(live=s.fresh, fresh=s.fresh + 1)
        else:
            handled = s._replace(family=not self.provider.reuse_kills)
        yield f"send{i}", self._at(handled, i, p._replace(answer=answer), "wire")

    def _got(self, s: State, i: int, p: Process) -> tuple[str, State]:
        if p.answer != REFUSED:
            assert p.answer is not None
            journal = s.journal
            if self.rules.has_journal:
                journal = _put(journal, i, Answer(p.generation, p.answer, p.fence))
            return f"journal{i}", self._at(s._replace(journal=journal), i, p, "journalled")
        ended = self._finish(s, i, p, intent=None)
        if s.generation != p.generation or s.fence != p.fence:
            return f"refused, row moved{i}", ended
        if not self.rules.may_give_up(self._unresolved(s, besides=i)):
            return f"refused, others may know{i}", ended
        return f"give up{i}", ended._replace(active=False)

    # Storing

    def _replaces(self, s: State, i: int, answer: Answer) -> bool:
        holds = s.lease is not None and s.lease.owner == i and s.lease.fence == answer.fence
        if not self.rules.keeps_late_answers and not holds:
            return False
        return self.rules.is_newer(
            spent_generation=answer.spent, row_generation=s.generation, holds_lease=holds and s.fence == answer.fence
        )

    def _commit(self, s: State, i: int, answer: Answer) -> State:
        """What the commit of process i's answer does to the row, whoever does it."""
        others = s.intents[1 - i]
        generation = max(s.generation, answer.spent) + 1
        if others is not None and others.generation < generation:
            others = None  # it stays in the database a while, and counts for nothing
        intents = _put(_put(s.intents, 1 - i, others), i, None)
        lease = s.lease
        if lease is not None and lease.owner == i and lease.fence == answer.fence:
            lease = None
        return s._replace(
            generation=generation,
            token=answer.token,
            active=True,
            access=True,
            intents=intents,
            lease=lease,
            journal=_put(s.journal, i, None),
        )

    def _store(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        assert p.answer is not None
        answer = Answer(p.generation, p.answer, p.fence)
        if s.budget.failures:
            failed = s._replace(budget=s.budget._replace(failures=s.budget.failures - 1))
            if self.rules.has_journal:
                yield f"commit fails{i}", failed
            else:  # the exception throws the answer away
                yield f"commit fails{i}", self._finish(failed, i, p, intent=s.intents[i])
        if self._replaces(s, i, answer):
            yield f"commit{i}", self._commit(s, i, answer)._replace(processes=_put(s.processes, i, IDLE))
        else:
            dropped = self._finish(s, i, p, intent=None)
            yield f"older{i}", dropped._replace(journal=_put(s.journal, i, None))

    # Verdicts

    def is_lost(self, s: State) -> bool:
        """Nobody will ever again come by a live refresh token."""
        if not s.family:
            return True
        held = {s.token, *(answer.token for answer in s.journal if answer is not None)}
        held |= {p.answer for p in s.processes if p.answer is not None and p.doing != "down"}
        good = {s.live, s.before} if s.grace else {s.live}
        if not held & good:
            return True
        return not s.active and all(p.doing in ("idle", "down") for p in s.processes) and s.journal == (None, None)

    def is_doubled(self, s: State) -> bool:
        """Two sends of one token at once, where that is not harmless."""
        if self.provider.rotation not in (Rotation.STRICT, Rotation.REVOKES):
            return False
        one, two = s.processes
        return one.doing == two.doing == "wire" and one.token == two.token


DOINGS = {
    name: number for number, name in enumerate(("idle", "down", "claimed", "wire", "silent", "got", "journalled"))
}
AGES = {YOUNG: 1, THIN: 2, OLD: 3}


def key(s: State) -> int:
    """The same number for states that differ in nothing that can ever matter, but for what may still happen to them.

    The two processes may change places. Fences and generations are compared with the current ones only, and both only
    grow. A token is the live one, its predecessor as long as the grace lasts, or dead; of two dead ones it matters only
    whether both processes are about to send the same.
    """
    live, before = s.live, s.before if s.grace else None

    def token(value: int) -> int:
        return 0 if value == live else 1 if value == before else 2

    sides: list[int] = []
    for process, intent, journal, number in zip(s.processes, s.intents, s.journal, (0, 1), strict=True):
        doing, side = process.doing, DOINGS[process.doing] << 1 | process.is_paused
        if doing not in ("idle", "down"):
            side = side << 1 | (process.fence == s.fence)
            side = side << 1 | (process.generation == s.generation)
            side = side << 3 | (token(process.token) << 1 | process.relies_on_grace if doing == "claimed" else 0)
            side = side << 3 | (
                0 if process.answer is None else 1 if process.answer == REFUSED else 2 + token(process.answer)
            )
        side <<= 9
        if intent is not None:
            current = intent.generation == s.generation
            other = s.intents[1 - number]
            side |= (other is not None and intent.order < other.order) << 8
            side |= intent.sends << 4 | AGES[intent.sent_at] << 2 | intent.is_settled << 1 | current
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
    whole = token(s.token)
    for flag in (s.family, s.grace, s.active, s.access, same):
        whole = whole << 1 | flag
    sides.sort()
    return (whole << 40 | sides[0]) << 40 | sides[1]


class Seen:
    """The classes that were visited, each with what could still happen then.

    A state of a visited class adds nothing when no more of anything can happen to it: each step that it can take, the
    visited one could take too. A gap before it forgives losses, so that a visited one without a gap is the stricter.
    """

    def __init__(self) -> None:
        self._budgets: dict[int, list[tuple[int, ...]]] = {}

    @property
    def classes(self) -> Collection[int]:
        return self._budgets.keys()

    def add(self, s: State) -> bool:
        """Whether this state has to be visited."""
        left = (*s.budget, not s.gap)
        known = self._budgets.setdefault(key(s), [])
        for other in known:
            if all(map(ge, other, left)):
                return False
        known.append(left)
        return True


class SeenWhole:
    """Every state for itself: what the reduction is compared with."""

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
    """The last step to a state, and the way before it."""

    step: str
    before: Way | None

    def steps(self) -> list[str]:
        found, way = [self.step], self.before
        while way is not None:
            found.append(way.step)
            way = way.before
        return found[::-1]


def explore(
    provider: Provider,
    *,
    rules: Rules | None = None,
    budget: Budget = SMALL,
    until_harm: bool = False,
    seen: Seen | SeenWhole | None = None,
) -> Findings:
    """Visit all that is reachable, or all up to the first harm; breadth first, so that its way is a shortest one."""
    model, seen = Model(provider, rules or Rules()), seen or Seen()
    start = model.start(budget)
    seen.add(start)
    queue, out = deque[tuple[State, Way | None]]([(start, None)]), Findings()
    while queue and not (until_harm and (out.lost or out.doubled)):
        s, way = queue.popleft()
        out.states += 1
        if model.is_doubled(s):
            out.doubled_sends += 1
            out.doubled = out.doubled or _steps(way)
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
