"""The model of refreshes, with a database that goes back in time while its host and the journal stay.

At some moment the row is copied; later it returns to that copy, like a restored volume or a lagging standby. Both
happen while no refresh is in progress: a lagging standby loses a claim that the new server never received, and no rule
of ours can restore that. The journal keeps the last answer of each process. Afterward, the person may connect the
account again, as after a refused refresh on another host: the provider forgets the old grant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.models.exploration import Findings, Way, without_collection
from tests.support.models.refresh_model import Answer, Budget, Model, Provider, Rules, State

_ROW = ("generation", "token", "active", "access", "lease", "intents", "waits", "outlasts")
OUTRUNS = 100  # generations: more than any history here reaches
RESTORED = 10 * OUTRUNS  # what a restore used to add, whenever it happened
_AT_REST = frozenset({"idle", "down"})


@dataclass(frozen=True)
class RollbackRules(Rules):
    """If `looks_always` is False, the journal is read only if the row shows a send, as in an earlier release."""

    looks_always: bool = True
    consents_outrun: bool = True  # False: a consent's generation is the next of its row
    restores: int = 0  # the most that there may be
    restores_outrun: bool = True  # False: a restore adds the same to a generation each time


class World(NamedTuple):
    """The state of one refresh, the copy of the row, and the host's journal of each process."""

    state: State
    copy: tuple[object, ...] | None
    has_gone_back: bool
    kept: tuple[Answer | None, Answer | None]
    has_consented: bool = False
    restores: int = 0
    moments: int = 1  # the clock: the number of consents and restores so far


class RollbackModel(Model):
    """The steps of the refresh, and of the database."""

    def __init__(self, provider: Provider, rules: RollbackRules) -> None:
        super().__init__(provider, rules)
        self._looks_always = rules.looks_always
        self._consents_outrun, self._restores_outrun = rules.consents_outrun, rules.restores_outrun
        self._restores = rules.restores

    def world_steps(self, world: World) -> Iterator[tuple[str, World]]:
        s = world.state
        for name, after in self.steps(s):
            kept = world.kept
            if name.startswith("journal"):
                i = int(name[-1])
                kept = (after.journal[0], kept[1]) if i == 0 else (kept[0], after.journal[1])
            yield name, world._replace(state=after, kept=kept)
        is_busy = any(process.doing not in _AT_REST for process in s.processes) or s.late != (None, None)
        if is_busy or s.stray is not None:
            return
        now = world.moments + 1
        if world.has_gone_back and not world.has_consented:
            yield "consent", world._replace(state=self._consent(s, now), has_consented=True, moments=now)
            return
        if world.restores < self._restores and world.copy is not None and s.journal == (None, None):
            yield "restore", self._restore(world, now)
        if world.has_gone_back:
            return
        if world.copy is None and not self._shows_send(s):
            yield "copy", world._replace(copy=tuple(getattr(s, name) for name in _ROW))
        elif world.copy is not None and s.journal == (None, None):
            row = dict(zip(_ROW, world.copy, strict=True))
            gap = s.gap or s.unheard  # the row doesn't show the send whose answer is still to be had
            back = s._replace(**row, journal=world.kept, gap=gap)
            yield "back", world._replace(state=back, has_gone_back=True)

    def _restore(self, world: World, now: int) -> World:
        """The backup's row without its refresh token; losing the account until the next consent is correct."""
        s = world.state._replace(**dict(zip(_ROW, world.copy or (), strict=True)))
        outrun = max(s.generation + 1, now * OUTRUNS)
        s = s._replace(
            generation=outrun if self._restores_outrun else s.generation + RESTORED,
            token=-1,
            active=False,
            access=False,
            lease=None,
            intents=(None, None),
            waits=False,
            outlasts=False,
            gap=True,
            journal=world.kept,
        )
        return world._replace(
            state=s, has_gone_back=True, has_consented=False, restores=world.restores + 1, moments=now
        )

    def _consent(self, s: State, now: int) -> State:
        """A new grant in the row; the journal still has answers of the old one."""
        following = s.generation + 1
        return s._replace(
            live=s.fresh,
            token=s.fresh,
            fresh=s.fresh + 1,
            family=True,
            grace=False,
            generation=max(following, now * OUTRUNS) if self._consents_outrun else following,
            active=True,
            access=True,
            lease=None,
            intents=(None, None),
            waits=False,
            outlasts=False,
            unheard=False,
            gap=False,
        )

    @staticmethod
    def _shows_send(s: State) -> bool:
        of_row = [one for one in s.intents if one is not None and one.generation == s.generation]
        return s.lease is not None or bool(of_row)

    def _look(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        """The newest answer on the host first, regardless of its writer."""
        if self._looks_always or self._shows_send(s):
            lying = [(one.spent, one.fence, j) for j in (0, 1) if (one := s.journal[j]) is not None]
            for _, _, j in sorted(lying, reverse=True):
                answer = s.journal[j]
                if answer is not None and self._replaces(s, j, answer):
                    yield f"adopt{i}", self._commit(s, j, answer)
                    return
        for name, after in super()._look(s._replace(journal=(None, None)), i):
            yield name, after._replace(journal=s.journal)


@without_collection()
def explore(provider: Provider, *, rules: RollbackRules, budget: Budget, until_harm: bool = False) -> Findings:
    """Visit every reachable world, or all up to the first harmful one; breadth first."""
    model, out = RollbackModel(provider, rules), Findings()
    start = World(model.start(budget), None, has_gone_back=False, kept=(None, None))
    queue, seen = deque[tuple[World, Way | None]]([(start, None)]), {start}
    while queue and not (until_harm and (out.lost or out.doubled)):
        world, way = queue.popleft()
        s = world.state
        out.states += 1
        if model.is_doubled(s):
            out.doubled_sends += 1
            out.doubled = out.doubled or ([] if way is None else way.steps())
        if model.is_lost(s) and not s.gap:
            out.lost_needlessly += 1
            out.lost = out.lost or ([] if way is None else way.steps())
        for name, after in model.world_steps(world):
            if after not in seen:
                seen.add(after)
                queue.append((after, Way(name, way)))
    return out
