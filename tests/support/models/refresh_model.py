"""Every interleaving of two processes that refresh one connection, explored with the rules of the product.

The state holds what the provider knows, the row, the lease, the intents, the host's answer journal, and what each
process is doing. A step is anything that can happen next: claim, the provider's processing, answer, journal, commit,
kill, restart, pause, a lost message, a failed commit, and the end of the lease, the access token, the provider's grace,
or the pause after a missing answer. A commit of an answer fails; a commit of a claim, of its undo, or of a missing
answer is reported as failed, whether or not it happened: the process completes it later, and may claim again before
that. The file that shows a process to be alive can be deleted. A connection is lost if no process can ever get a live
refresh token again. That is excused only by the gap: the provider rotated, the only copy was lost on its way, and if
there is a grace, it passed although no pause prevented a retry. A connection is stuck if its token is live, nothing is
in progress, and no process may ever send it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from vault.refresh import rules as rotation_rules
from vault.refresh.rules import SendDecision, UnresolvedSends
from vault.upstream import RotationMode, UpstreamPolicy

NOW = 100_000
GRACE = 60
YOUNG, THIN, OLD = NOW - 1, NOW - GRACE + 10, NOW - GRACE - 1  # time of the first unresolved send
REFUSED = -1
ASKED = 300  # seconds that a provider asks to wait
COMES = 20  # seconds within which a caller, or the upkeep, tries again
LONG = 3600.0  # seconds for which a paused process slept
T = TypeVar("T")
RUNNING = frozenset({"claimed", "wire", "got"})


@dataclass(frozen=True)
class Provider:
    """What the provider does with a used token, and what our provider file says about it."""

    name: str
    rotation: RotationMode
    resends: bool = False

    @property
    def policy(self) -> UpstreamPolicy:
        return UpstreamPolicy("model", rotation=self.rotation, grace=GRACE if self.has_grace else 0)

    @property
    def rotates(self) -> bool:
        return self.rotation is not RotationMode.NONE

    @property
    def has_grace(self) -> bool:
        return self.rotation is RotationMode.GRACE

    @property
    def reuse_kills(self) -> bool:
        return self.rotation in (RotationMode.GRACE, RotationMode.REVOKES)


PROVIDERS = (
    Provider("stays", RotationMode.NONE),
    Provider("grace, sent again", RotationMode.GRACE, resends=True),
    Provider("grace, a sibling", RotationMode.GRACE),
    Provider("re-use refused", RotationMode.STRICT),
    Provider("re-use revokes", RotationMode.REVOKES),
)


@dataclass(frozen=True)
class Rules:
    """The rules of the product; a test replaces one to check that the model notices."""

    may_send: Callable[..., SendDecision] = rotation_rules.may_send
    may_claim: Callable[..., bool] = rotation_rules.may_claim
    is_claim_void: Callable[[float], bool] = rotation_rules.is_claim_void
    is_newer: Callable[..., bool] = rotation_rules.is_newer
    may_give_up: Callable[[Collection[UnresolvedSends]], bool] = rotation_rules.may_give_up
    one_intent_only: bool = False
    lapsed_is_dead: bool = False
    any_death_frees: bool = False
    has_journal: bool = True
    keeps_late_answers: bool = True
    pause_after: Callable[..., int] = rotation_rules.pause_after
    seconds_of_grace: Callable[..., int] = rotation_rules.seconds_of_grace
    has_unique_fences: bool = True
    has_exact_intents: bool = True  # later cleanup affects only the intent of its own claim
    missing_is_dead: bool = False  # a missing owner file counts as a death


class Intent(NamedTuple):
    generation: int
    sent_at: int
    sends: int
    is_settled: bool
    order: int  # the number of its first claim: that of the first sender
    fence: int = 0  # of its last claim; 0 if that was undone


class Lease(NamedTuple):
    owner: int
    fence: int
    has_lapsed: bool
    is_ghost: bool  # the process that took it is gone, and its successor has a different name


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


class Late(NamedTuple):
    """What a process must still do after a commit was reported as failed: `undo` a claim, `settle` a missing answer."""

    what: str
    generation: int
    fence: int


class Budget(NamedTuple):
    """How many more times each may happen."""

    kills: int
    pauses: int
    losses: int
    failures: int  # commits of an answer
    claims: int
    unknown: int = 0  # commits that are reported as failed, whether or not they happened
    files: int = 0  # owner files deleted while their process lives
    asks: int = 0  # missing answers for which the provider asks to wait


class State(NamedTuple):
    live: int
    before: int  # the token that `live` replaced
    family: bool
    grace: bool
    rotator: int  # the process whose send returned `live`, which began the grace
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
    attempts: int = 0  # claims that were attempted, committed or not
    late: tuple[Late | None, Late | None] = (None, None)
    has_file: tuple[bool, bool] = (True, True)
    waits: bool = False  # the pause after a missing answer isn't over
    outlasts: bool = False  # the pause leaves too little of the grace for a retry
    unheard: bool = False  # the only copy of `live` was lost, but the provider still issues it again
    stray: int | None = None  # the token of a request that its sender abandoned and the provider hasn't processed yet


IDLE, DOWN = Process("idle"), Process("down")
SMALL = Budget(kills=1, pauses=1, losses=1, failures=1, claims=3)
FULL = Budget(kills=2, pauses=1, losses=1, failures=1, claims=4)
WIDE = Budget(kills=3, pauses=2, losses=2, failures=1, claims=6)
STORAGE = Budget(kills=1, pauses=1, losses=1, failures=1, claims=3, unknown=2)  # storage that fails in the middle
FILES = Budget(kills=1, pauses=1, losses=1, failures=0, claims=3, unknown=0, files=1)
HOUR = Budget(kills=1, pauses=0, losses=5, failures=0, claims=7, asks=2)  # an outage of the provider


def _put(pair: tuple[T, T], i: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if i == 0 else (pair[0], value)


class Model:
    """The steps for one provider and one set of rules."""

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
                # otherwise nothing distinguishes dead from live processes, and each new one is a different owner
                if s.has_file[i]:
                    yield f"restart{i}", self._restart(s, i)
            elif process.is_paused:
                yield f"wake{i}", self._wake(s, i, process)
            else:
                yield from self._faults(s, i, process)
                yield from self._work(s, i, process)
                yield from self._make_good(s, i)

    # Time

    def _time(self, s: State) -> Iterator[tuple[str, State]]:
        if s.stray is not None:
            answer, handled = self._handle(s._replace(stray=None), s.stray, by=None)
            yield "late request", handled._replace(gap=s.gap or (answer != REFUSED and self.provider.rotates))
        if s.access:
            yield "access token ends", s._replace(access=False)
        if s.waits and s.stray is None:  # no process works on one request for longer
            yield "pause ends", s._replace(waits=False, outlasts=False)
        hurries = any(p.doing == "claimed" and p.relies_on_grace and not p.is_paused for p in s.processes)
        for i in (0, 1):
            intent = s.intents[i]
            if intent is None or not self.provider.has_grace or intent.sent_at == OLD:
                continue
            other = s.intents[1 - i]
            if other is not None and other.order < intent.order and other.sent_at == intent.sent_at:
                continue  # what was sent earlier is older
            if intent.sent_at == YOUNG:
                if not s.waits or s.outlasts:  # else the pause ends first
                    thinner = intent._replace(sent_at=THIN)
                    missed = s.gap or (s.unheard and not s.waits)  # nothing but slowness prevented a retry
                    yield f"grace thins{i}", s._replace(intents=_put(s.intents, i, thinner), gap=missed)
            elif not hurries:
                yield f"intent ages{i}", s._replace(intents=_put(s.intents, i, intent._replace(sent_at=OLD)))
        began = s.intents[s.rotator]  # the grace isn't older than the send that rotated the token
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
            gone = gone or (s.stray is not None and not s.waits)  # its request was sent, and nobody waits for its end
            yield (
                f"kill{i}@{p.doing}",
                s._replace(
                    processes=_put(s.processes, i, DOWN),
                    late=_put(s.late, i, None),
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

        if s.budget.files and s.has_file[i]:
            gone = s._replace(budget=s.budget._replace(files=s.budget.files - 1))
            yield f"file goes{i}", gone._replace(has_file=_put(s.has_file, i, value=False))

    def _restart(self, s: State, i: int) -> State:
        """A new process with a new name: whatever the old one left belongs to a dead owner."""
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
            return self._undo(s._replace(processes=_put(s.processes, i, IDLE)), i, p.generation, p.fence)
        return s._replace(processes=_put(s.processes, i, p._replace(is_paused=False)))

    def _is_of(self, intent: Intent | None, generation: int, fence: int) -> bool:
        """Whether the owner's intent belongs to this claim."""
        if intent is None:
            return False
        return intent.fence == fence if self.rules.has_exact_intents else intent.generation == generation

    def _undo(self, s: State, i: int, generation: int, fence: int) -> State:
        """Nothing was sent under this claim; earlier sends of the same owner stay unresolved."""
        intent = s.intents[i]
        if intent is not None and self._is_of(intent, generation, fence):
            left = intent._replace(sends=intent.sends - 1, is_settled=True, fence=0) if intent.sends > 1 else None
            s = s._replace(intents=_put(s.intents, i, left))
        return self._release(s, i, fence)

    def _settle(self, s: State, i: int, generation: int, fence: int, *, asked: int = 0) -> State:
        """The provider didn't answer, and the answer can't arrive anymore."""
        intent = s.intents[i]
        if intent is not None and self._is_of(intent, generation, fence):
            s = s._replace(intents=_put(s.intents, i, intent._replace(is_settled=True)))
        sends = self._unresolved_sends(s, i)
        pause = self.rules.pause_after(self.policy, sends, now=NOW, is_over=False, asked=asked)
        left = self.rules.seconds_of_grace(self.policy, sends, now=NOW) if sends else 0
        waits = pause > 0 and generation == s.generation
        return self._release(s, i, fence)._replace(waits=waits, outlasts=waits and left - pause < COMES)

    def _reissues(self, s: State) -> bool:
        """Whether the vault may ask again for what was lost now."""
        sends = [intent for intent in s.intents if intent is not None and intent.generation == s.generation]
        return self.provider.has_grace and all(intent.sent_at == YOUNG for intent in sends)

    @staticmethod
    def _release(s: State, i: int, fence: int) -> State:
        """Release the lease if it still belongs to this claim."""
        is_ours = s.lease is not None and (s.lease.owner, s.lease.fence) == (i, fence)
        return s._replace(lease=None) if is_ours else s

    def _make_good(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        """Done in the background, whatever the process does meanwhile; it may be reported as failed once more."""
        late = s.late[i]
        if late is None:
            return
        work = self._undo if late.what == "undo" else self._settle
        done = work(s, i, late.generation, late.fence)
        yield f"{late.what} late{i}", done._replace(late=_put(s.late, i, None))
        if s.budget.unknown:
            less = s.budget._replace(unknown=s.budget.unknown - 1)
            yield f"{late.what} late, reported failed{i}", done._replace(budget=less)

    def _finish(self, s: State, i: int, p: Process, *, intent: Intent | None) -> State:
        """Nothing is in progress anymore; release the lease if it is still ours."""
        s = self._release(s, i, p.fence)
        return s._replace(processes=_put(s.processes, i, IDLE), intents=_put(s.intents, i, intent))

    # What a process does

    def _is_gone(self, s: State, owner: int) -> bool:
        return self.rules.lapsed_is_dead or self._has_ended(s, owner)

    def _has_ended(self, s: State, owner: int) -> bool:
        """What the process's lock indicates about it."""
        return s.processes[owner].doing == "down" if s.has_file[owner] else self.rules.missing_is_dead

    def _unresolved_sends(self, s: State, me: int, *, besides: int | None = None) -> list[UnresolvedSends]:
        """As one process sees them: it settles its own when its turn comes."""
        return [
            UnresolvedSends(str(j), intent.sent_at, intent.sends, intent.is_settled or j == me or self._is_gone(s, j))
            for j in (0, 1)
            if (intent := s.intents[j]) is not None and intent.generation == s.generation and j != besides
        ]

    def _work(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        match p.doing:
            case "idle":
                late = s.late[i]  # an undo is harmless at any time; a missing answer is recorded first
                if late is not None and late.what == "settle":
                    return
                if s.active and s.budget.claims and self._may_claim(s, i):
                    yield from self._look(s, i)
            case "claimed":
                yield from self._send(s, i, p)
            case "wire":
                yield f"answer{i}", self._at(s, i, p, "got")
                if s.budget.losses:
                    gone = self.provider.rotates and p.answer != REFUSED
                    lost = s._replace(budget=s.budget._replace(losses=s.budget.losses - 1))
                    if gone and p.generation == s.generation and self._reissues(s):
                        lost = lost._replace(unheard=True)
                    elif gone:
                        lost = lost._replace(gap=True)
                    yield f"lose answer{i}", self._at(lost, i, p._replace(answer=None), "silent")
            case "silent":
                idle = s._replace(processes=_put(s.processes, i, IDLE))
                settled = self._settle(idle, i, p.generation, p.fence)
                yield f"silence{i}", settled
                if s.budget.asks:
                    asking = idle._replace(budget=s.budget._replace(asks=s.budget.asks - 1))
                    yield f"silence that asks{i}", self._settle(asking, i, p.generation, p.fence, asked=ASKED)
                late = Late("settle", p.generation, p.fence)
                yield from self._reported_failed(f"silence{i}", idle, settled, late, i)
            case "got":
                yield self._take_answer(s, i, p)
            case _:
                yield from self._store(s, i, p)

    @staticmethod
    def _at(s: State, i: int, p: Process, doing: str) -> State:
        return s._replace(processes=_put(s.processes, i, p._replace(doing=doing)))

    @staticmethod
    def _reported_failed(name: str, undone: State, done: State, late: Late, i: int) -> Iterator[tuple[str, State]]:
        """A commit that is reported as failed, whether or not it happened: the process continues."""
        if undone.budget.unknown and undone.late[i] is None:
            less = undone.budget._replace(unknown=undone.budget.unknown - 1)
            for how, then in (("fails", undone), ("fails, committed", done)):
                yield f"{name} {how}", then._replace(budget=less, late=_put(then.late, i, late))

    def _may_claim(self, s: State, me: int) -> bool:
        if s.lease is None:
            return True
        gone = s.lease.is_ghost or (s.lease.owner != me and self._has_ended(s, s.lease.owner))
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
        """Adopt what is in the host's journal, then decide, then claim."""
        other = 1 - i
        found = s.journal[other]
        if found is not None and self._replaces(s, other, found):
            yield f"adopt{i}", self._commit(s, other, found)
            return
        if not self._may_send(s, i):
            return
        unresolved = self._unresolved_sends(s, i)
        attempt = s.attempts + 1
        fence = attempt if self.rules.has_unique_fences else s.fence + 1
        mine, sent_at, sends, order = s.intents[i], YOUNG, 1, attempt
        if mine is not None and mine.generation == s.generation:
            sent_at, sends, order = mine.sent_at, mine.sends + 1, mine.order
        intents = _put(s.intents, i, Intent(s.generation, sent_at, sends, is_settled=False, order=order, fence=fence))
        if self.rules.one_intent_only:
            intents = _put(intents, 1 - i, None)
        relies = any(one.sent_at == YOUNG for one in unresolved)
        claimed = Process("claimed", s.generation, s.token, None, fence, relies_on_grace=relies)
        tried = s._replace(
            budget=s.budget._replace(claims=s.budget.claims - 1),
            attempts=attempt,
            has_file=_put(s.has_file, i, value=True),  # created again before each claim
        )
        lease = Lease(i, fence, has_lapsed=False, is_ghost=False)
        done = tried._replace(lease=lease, fence=fence, intents=intents)
        name = f"steal{i}" if self._is_held(s) else f"claim{i}"
        yield name, done._replace(processes=_put(s.processes, i, claimed))
        yield from self._reported_failed(name, tried, done, Late("undo", s.generation, fence), i)

    def _may_send(self, s: State, i: int) -> bool:
        decided = self.rules.may_send(
            self.policy,
            self._unresolved_sends(s, i),
            now=NOW,
            access_expires_at=NOW + 600 if s.access else NOW - 1,
            retry_at=NOW + 30 if s.waits else None,
        )
        return decided is SendDecision.SEND

    def _send(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        if s.budget.losses:
            lost = s._replace(budget=s.budget._replace(losses=s.budget.losses - 1))
            yield f"lose request{i}", self._at(lost, i, p, "silent")
            if self.provider.reuse_kills and not self.provider.has_grace and s.stray is None:
                yield f"slow request{i}", self._at(lost._replace(stray=p.token), i, p, "silent")
        answer, handled = self._handle(s, p.token, by=i)
        yield f"send{i}", self._at(handled, i, p._replace(answer=answer), "wire")

    def _handle(self, s: State, token: int, *, by: int | None) -> tuple[int, State]:
        """What the provider answers to a refresh, and what it knows afterward."""
        if not s.family:
            return REFUSED, s
        if not self.provider.rotates:
            return token, s
        if token == s.live:
            rotated = s._replace(live=s.fresh, before=s.live, fresh=s.fresh + 1)
            rotator = s.rotator if by is None else by
            return s.fresh, rotated._replace(grace=self.provider.has_grace, rotator=rotator)
        if s.grace and token == s.before and self.provider.resends:
            return s.live, s
        if s.grace and token == s.before:
            return s.fresh, s._replace(live=s.fresh, fresh=s.fresh + 1)
        return REFUSED, s._replace(family=not self.provider.reuse_kills)

    def _take_answer(self, s: State, i: int, p: Process) -> tuple[str, State]:
        if p.answer != REFUSED:
            assert p.answer is not None
            journal = s.journal
            if self.rules.has_journal:
                journal = _put(journal, i, Answer(p.generation, p.answer, p.fence))
            return f"journal{i}", self._at(s._replace(journal=journal), i, p, "journalled")
        ended = self._finish(s, i, p, intent=None)
        if s.generation != p.generation or s.fence != p.fence:
            return f"refused, row moved{i}", ended
        if not self.rules.may_give_up(self._unresolved_sends(s, i, besides=i)):
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
        """What the commit of process i's answer does to the row, whoever makes it."""
        others = s.intents[1 - i]
        generation = max(s.generation, answer.spent) + 1
        if others is not None and others.generation < generation:
            others = None  # it stays in the database for a while, without effect
        intents = _put(_put(s.intents, 1 - i, others), i, None)
        return self._release(s, i, answer.fence)._replace(
            generation=generation,
            token=answer.token,
            active=True,
            access=True,
            waits=False,
            outlasts=False,
            unheard=False,
            gap=s.gap or (s.unheard and answer.token != s.live),  # what was lost replaced this one
            intents=intents,
            journal=_put(s.journal, i, None),
        )

    def _store(self, s: State, i: int, p: Process) -> Iterator[tuple[str, State]]:
        assert p.answer is not None
        answer = Answer(p.generation, p.answer, p.fence)
        if s.budget.failures:
            failed = s._replace(budget=s.budget._replace(failures=s.budget.failures - 1))
            if self.rules.has_journal:
                yield f"commit fails{i}", failed
            else:  # the exception discards the answer
                yield f"commit fails{i}", self._finish(failed, i, p, intent=s.intents[i])
        if self._replaces(s, i, answer):
            yield f"commit{i}", self._commit(s, i, answer)._replace(processes=_put(s.processes, i, IDLE))
        else:
            dropped = self._finish(s, i, p, intent=None)
            yield f"older{i}", dropped._replace(journal=_put(s.journal, i, None))

    # Verdicts

    def is_lost(self, s: State) -> bool:
        """No process can ever get a live refresh token again."""
        if not s.family:
            return True
        held = {s.token, *(answer.token for answer in s.journal if answer is not None)}
        held |= {p.answer for p in s.processes if p.answer is not None and p.doing != "down"}
        good = {s.live, s.before} if s.grace else {s.live}
        if not held & good:
            return True
        return not s.active and all(p.doing in ("idle", "down") for p in s.processes) and s.journal == (None, None)

    def is_stuck(self, s: State) -> bool:
        """Nothing is in progress, all times have run out, and no process may send the token although it is live."""
        idle = [i for i in (0, 1) if s.processes[i].doing == "idle" and not s.processes[i].is_paused]
        if len(idle) < 2 or s.late != (None, None) or s.journal != (None, None) or s.access or s.grace or s.waits:
            return False
        if s.lease is not None and not (s.lease.has_lapsed or s.lease.is_ghost):
            return False
        if not s.active or not s.family or s.token != s.live:
            return False
        return not any(self._may_claim(s, i) and self._may_send(s, i) for i in idle)

    def is_doubled(self, s: State) -> bool:
        """Two sends of one token at the same time, at a provider where that does harm."""
        if self.provider.rotation not in (RotationMode.STRICT, RotationMode.REVOKES):
            return False
        one, two = s.processes
        return one.doing == two.doing == "wire" and one.token == two.token
