"""The model of ending a grant: two processes that can die revoke, probe, destroy the key, and issue one receipt.

The grant has a refresh token and an access token. The provider may lie: it accepts a revocation and does nothing, a few
times or forever. Or it refuses each revocation, and the access token ends for another reason. A probe uses the access
token, or a refresh, which returns a token that only that process knows. `Rules` are those of `vault.upkeep.revocations`
and `providers.oauth.probing`; each can be broken to see that the exploration notices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

DEAD, ALIVE, UNPROVEN, SILENT = "verified_dead", "still_alive", "unsupported", "unreachable"
ATTEMPTS = 3  # before giving up


@dataclass(frozen=True)
class Provider:
    """How the provider behaves. `lies`: the number of revocations that it accepts without effect."""

    ends_grant: bool = True  # revoking one token ends the whole grant
    ends_access_only: bool = False  # otherwise that of the refresh token, if the grant doesn't end as a whole
    rotates: bool = False  # a refresh uses up its token
    lies: int = 0
    refuses: bool = False  # it reports success, and does nothing


@dataclass(frozen=True)
class Rules:
    """Our rules. The kind of probe depends on the provider if `refresh_probe` is None."""

    refresh_probe: bool | None = None
    # a dead access token proves that the refresh token is dead; None: if the grant ends as a whole
    implies: bool | None = None
    cleans_up: bool = True  # tokens from a probe by refresh are revoked at once
    minted_is_alive: bool = True  # an attempt that got a token reports it, even if cleaning up fails
    is_fenced: bool = True  # only the newest attempt may finish
    is_one_commit: bool = True  # the receipt is stored with the end
    knows_age: bool = True  # an expired access token proves nothing about the rest
    heeds_refusal: bool = True  # after a refused revocation, the end of one token proves nothing about the other
    # no attempt while a refresh from before the disconnection may still return newer tokens
    awaits_refresh: bool = True


class Attempt(NamedTuple):
    """What one process has in memory."""

    doing: str = "idle"  # claimed, asked, minted, judged, owes (a receipt)
    number: int = 0
    verdict: str = ""


class State(NamedTuple):
    """The provider's tokens, the row, and two processes."""

    refresh: bool  # the row's refresh token is live
    access: bool
    is_aged: bool  # the access token expired
    newer: bool  # a refresh rotated, and its answer is in transit
    minted: bool  # a live token that a probe received
    lies: int
    attempts: int
    result: str  # of the row; empty: pending
    receipts: int
    processes: tuple[Attempt, Attempt]
    kills: int
    losses: int


@dataclass
class Findings:
    """The shortest paths to the first state that breaks each promise."""

    states: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    results: set[str] = field(default_factory=set[str])


class Model:
    def __init__(self, provider: Provider, rules: Rules) -> None:
        self.provider, self.rules = provider, rules
        is_free = provider.ends_grant and not provider.rotates
        self.by_refresh = is_free if rules.refresh_probe is None else rules.refresh_probe
        self.implies = provider.ends_grant if rules.implies is None else rules.implies

    def start(self, *, newer: bool) -> State:
        return State(
            refresh=not newer,
            access=True,
            is_aged=False,
            newer=newer,
            minted=False,
            lies=self.provider.lies,
            attempts=0,
            result="",
            receipts=0,
            processes=(Attempt(), Attempt()),
            kills=2,
            losses=1,
        )

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.newer:  # the answer of the refresh has newer tokens, so attempts with the older ones don't count
            if not s.result:
                yield "renew", s._replace(newer=False, refresh=True, attempts=s.attempts + 1)
            if self.rules.awaits_refresh:
                return
        if self.provider.refuses and s.access:
            yield "cut", s._replace(access=False)
        if not s.is_aged:
            yield "age", s._replace(is_aged=True, access=False)
        for i, process in enumerate(s.processes):
            for name, after in self._process_steps(s, i, process):
                yield f"{name}{i}", after

    def _process_steps(self, s: State, i: int, process: Attempt) -> Iterator[tuple[str, State]]:
        if process.doing != "idle" and s.kills:
            yield "kill", self._with(s, i, Attempt())._replace(kills=s.kills - 1)
        match process.doing:
            case "idle":
                if not s.result and s.attempts < ATTEMPTS:
                    claimed = Attempt("claimed", s.attempts + 1)
                    yield "claim", self._with(s, i, claimed)._replace(attempts=s.attempts + 1)
            case "claimed":
                yield "revoke", self._with(self._revoke(s), i, process._replace(doing="asked"))
                if s.losses:  # the answer is lost, so it counts as unreachable, whatever the provider did
                    lost = process._replace(doing="judged", verdict=SILENT)
                    yield "lose", self._with(self._revoke(s), i, lost)._replace(losses=s.losses - 1)
            case "asked":
                yield "probe", self._probe(s, i, process)
            case "minted":
                after = self._revoke_minted(s) if self.rules.cleans_up else s
                verdict = ALIVE if self.rules.minted_is_alive else DEAD
                yield "clean", self._with(after, i, process._replace(doing="judged", verdict=verdict))
            case "judged":
                yield "finish", self._finish(s, i, process)
            case _:
                yield "receipt", self._with(s, i, Attempt())._replace(receipts=s.receipts + 1)

    def _revoke(self, s: State) -> State:
        if self.provider.refuses:
            return s
        if s.lies:
            return s._replace(lies=s.lies - 1)
        if self.provider.rotates and s.minted:  # the row's token was used, so revoking it ends nothing
            return s
        if self.provider.ends_grant:
            return s._replace(refresh=False, access=False, minted=False)
        return s._replace(access=False) if self.provider.ends_access_only else s._replace(refresh=False)

    def _revoke_minted(self, s: State) -> State:
        if self.provider.refuses:
            return s
        return s._replace(lies=s.lies - 1) if s.lies else s._replace(minted=False)

    def _probe(self, s: State, i: int, process: Attempt) -> State:
        if s.access:
            return self._with(s, i, process._replace(doing="judged", verdict=ALIVE))
        if self.by_refresh:
            if s.refresh:
                spent = s._replace(minted=True, refresh=not self.provider.rotates)
                return self._with(spent, i, process._replace(doing="minted"))
            return self._with(s, i, process._replace(doing="judged", verdict=DEAD))
        proves = self.implies and not (s.is_aged and self.rules.knows_age)
        if self.provider.refuses and self.rules.heeds_refusal:
            return self._with(s, i, process._replace(doing="judged", verdict=SILENT))
        return self._with(s, i, process._replace(doing="judged", verdict=DEAD if proves else UNPROVEN))

    def _finish(self, s: State, i: int, process: Attempt) -> State:
        """Dead and unproven are final; so is any result after the last attempt. Otherwise it is tried again."""
        s = self._with(s, i, Attempt())
        if self.rules.is_fenced and (s.result or s.attempts != process.number):
            return s
        if process.verdict in (ALIVE, SILENT) and process.number < ATTEMPTS:
            return s
        if not self.rules.is_one_commit:
            return self._with(s._replace(result=process.verdict), i, Attempt("owes", process.number))
        return s._replace(result=process.verdict, receipts=s.receipts + 1)

    @staticmethod
    def _with(s: State, i: int, process: Attempt) -> State:
        return s._replace(processes=(process, s.processes[1]) if i == 0 else (s.processes[0], process))

    def broken_promises(self, s: State) -> Iterator[str]:
        """The promises that this state breaks."""
        is_live = s.refresh or s.access or s.minted or s.newer
        if s.result == DEAD and is_live:
            yield "said dead, and lives"
        if s.minted and s.result not in ("", ALIVE, SILENT):
            yield "a probe left a token that no receipt tells of"
        if s.receipts > 1:
            yield "two receipts"
        if s.result and not s.receipts and all(one.doing != "owes" for one in s.processes):
            yield "no receipt"


def explore(provider: Provider, rules: Rules | None = None) -> Findings:
    """Visit every reachable state, breadth first, so that each path is a shortest one."""
    model, out = Model(provider, rules or Rules()), Findings()
    ways: dict[State, tuple[str, State | None]] = {model.start(newer=newer): ("", None) for newer in (False, True)}
    queue = deque(ways)
    while queue:
        s = queue.popleft()
        out.states += 1
        out.results.add(s.result)
        for promise in model.broken_promises(s):
            out.broken.setdefault(promise, _way(ways, s))
        for name, after in model.steps(s):
            if after not in ways:
                ways[after] = (name, s)
                queue.append(after)
    return out


def _way(ways: dict[State, tuple[str, State | None]], s: State) -> list[str]:
    steps: list[str] = []
    at: State | None = s
    while at is not None:
        name, at = ways[at]
        steps.append(name)
    return [name for name in reversed(steps) if name]
