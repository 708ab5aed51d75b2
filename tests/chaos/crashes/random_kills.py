"""SIGKILL at random moments of real processes that refresh accounts of every class of provider at once.

Then a fresh process, or one on standby, continues. A lost account is excused only if the provider's records show a
refresh whose only answer was on its way to the killed process.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.chaos.estate import Estate, HeldConnection, open_estate
from tests.chaos.figures import Figure, Scale, quantile
from tests.chaos.processes.nursery import Mortal, Nursery, open_nursery
from tests.chaos.world import Server, fresh_store, postgres_server
from vault.refresh.journal import Journal

KILLS = {Scale.FULL: 500, Scale.SMALL: 12}  # on each database
KNOWN = 1000.0  # milliseconds from the start of the next process within which a loss must be known
UNDECIDED = 20  # checks of an account whose state isn't final yet
TIME = 450.0  # seconds on one database; work not done by then counts as a missed figure
LIMIT = 2 * TIME + 120
BUSY = 0.08  # seconds: the longest delay that a provider is given


class Way(StrEnum):
    """Which process dies, and which one continues."""

    ALONE = "alone"
    STARTING = "and its successor while starting"
    TOGETHER = "two at once"
    BESIDE = "beside one that lives"


WAYS = {Way.ALONE: 0.25, Way.STARTING: 0.2, Way.TOGETHER: 0.35, Way.BESIDE: 0.2}


@dataclass
class Round:
    """One kill."""

    began: float  # seconds since the epoch
    killed: float = 0.0
    settled: float = 0.0
    way: Way = Way.ALONE
    outcomes: dict[str, str] = field(default_factory=dict[str, str])
    families: dict[str, str] = field(default_factory=dict[str, str])
    before: dict[str, int] = field(default_factory=dict[str, int])
    journalled: set[str] = field(default_factory=set[str])  # lost although an answer was in the journal
    known: dict[str, float] = field(default_factory=dict[str, float])  # ms from the next process's start to its answer


@dataclass
class Tally:
    """The result of all rounds."""

    kills: int = 0
    doubled: list[str] = field(default_factory=list[str])
    needless: list[str] = field(default_factory=list[str])
    undecided: list[str] = field(default_factory=list[str])
    in_the_gap: Counter[str] = field(default_factory=Counter[str])
    # accounts whose token was in transit when the process was killed
    hit: Counter[str] = field(default_factory=Counter[str])
    recovered: Counter[str] = field(default_factory=Counter[str])
    tries: int = 0  # of a token whose sender was killed
    known: list[float] = field(default_factory=list[float])
    ways: Counter[Way] = field(default_factory=Counter[Way])


class KilledVault:
    """One vault whose processes are killed."""

    def __init__(self, estate: Estate, nursery: Nursery, chance: random.Random) -> None:
        self.estate = estate
        self.nursery = nursery
        self.chance = chance
        self.rounds: list[Round] = []
        self.kills = 0
        self.burst = 0.2  # seconds that refreshing everything takes

    async def start(self) -> tuple[Mortal, float]:
        """A process that is starting, and when it began."""
        at = time.perf_counter()
        return await self.nursery.start(self.estate.order(takes_up=True)), at

    async def run(self, kills: int, *, seconds: float = TIME) -> None:
        """Run until this many processes were killed.

        A process left at the end of a round is the first of the next round.
        """
        living, _ = await self.start()
        await living.answer()
        until = time.monotonic() + seconds
        while self.kills < kills and time.monotonic() < until:
            living = await self.one(living)
        await living.kill()

    async def one(self, first: Mortal) -> Mortal:
        """Let all tokens expire, kill a process during the refreshes, and continue with other processes."""
        chance, estate = self.chance, self.estate
        this = Round(time.time(), families={held.name: held.families[-1] for held in estate.held.values()})
        this.before = await estate.generations()
        this.way = chance.choices(tuple(WAYS), tuple(WAYS.values()))[0]
        if chance.random() < 0.5:
            await self.delay()
        other = None
        if this.way in (Way.TOGETHER, Way.BESIDE):
            other, _ = await self.start()
            await other.answer()
        await estate.expire()
        dying = [self.kill_amid(first)]
        if other is not None and this.way is Way.TOGETHER:
            dying.append(self.kill_amid(other))
        await asyncio.gather(*dying)
        this.killed = time.time()
        if this.way is Way.STARTING:
            second, _ = await self.start()
            await asyncio.sleep(chance.uniform(0, self.burst))
            await second.kill()
            self.kills += 1
            this.killed = time.time()
        return await self.settle(this, other if this.way is Way.BESIDE else None)

    async def kill_amid(self, victim: Mortal) -> None:
        """Have it refresh everything, and kill it at a random moment meanwhile."""
        victim.tell(exchange=None, pace=self.chance.choice([0.0, self.burst / 2]))
        await asyncio.sleep(self.chance.uniform(0, 1.2 * self.burst))
        await victim.kill()
        self.kills += 1

    async def delay(self) -> None:
        """Make some providers delay their answers, before or after the request takes effect."""
        for simulator in self.estate.simulators.values():
            fault = {"kind": "slow", "when": self.chance.choice(["before", "after"]), "times": 2}
            seconds = self.chance.uniform(0, BUSY)
            await simulator.control("faults", endpoint="slack.token.refresh", seconds=seconds, **fault)

    async def settle(self, this: Round, heir: Mortal | None) -> Mortal:
        """Check what the next process does; lost accounts are connected again."""
        ready, decided = 0.0, set[str]()
        if heir is None:
            heir, started = await self.start()
            await heir.answer()
            ready = (time.perf_counter() - started) * 1000
            decided = {name for name, state in (await self.estate.states()).items() if state != "active"}
        calls: Mapping[str, Any] = (await heir.ask(exchange=None))["calls"]
        this.outcomes = {name: outcome for name, (outcome, _) in calls.items()}
        this.known = {
            name: ready if name in decided else ready + milliseconds for name, (_, milliseconds) in calls.items()
        }
        for _ in range(UNDECIDED):
            waiting = [name for name, outcome in this.outcomes.items() if outcome == "503"]
            if not waiting:
                break
            await asyncio.sleep(0.25)
            again = (await heir.ask(exchange=waiting))["calls"]
            this.outcomes |= {name: outcome for name, (outcome, _) in again.items()}
            this.known |= {name: 1000 * (time.time() - this.killed) for name in waiting}
        took = max(milliseconds for _, milliseconds in calls.values()) / 1000
        self.burst += 0.1 * (min(took, 0.5) - self.burst)
        this.settled = time.time()
        await self.reconnect(this)
        self.rounds.append(this)
        return heir

    async def reconnect(self, this: Round) -> None:
        lost = [name for name, outcome in this.outcomes.items() if outcome not in ("ok", "503")]
        for name in lost:
            held = self.estate.held[name]
            entries = await Journal(self.estate.store.data).find(held.connection_id)
            if any(entry.generation >= this.before[name] for entry in entries):
                this.journalled.add(name)
            await self.estate.connect(held)

    async def judge(self) -> Tally:
        """Compare with the provider's records."""
        books = await self.estate.refreshes()
        tally = Tally(kills=self.kills)
        for one in self.rounds:
            tally.ways[one.way] += 1
        for held in self.estate.held.values():
            for family in held.families:
                self._judge_family(tally, held, family, books.get((held.provider, family), []))
            self._judge_rounds(tally, held, books)
        return tally

    def _is_by_a_killed(self, entry: Mapping[str, Any], *, other: Mapping[str, Any]) -> bool:
        """Whether one of two presentations of a token came from a process that was killed in that same round."""
        first, second = sorted((entry["at"], other["at"]))
        return any(one.began <= first <= one.killed + BUSY and second <= one.settled + BUSY for one in self.rounds)

    def _judge_family(
        self, tally: Tally, held: HeldConnection, family: str, entries: Sequence[Mapping[str, Any]]
    ) -> None:
        if held.provider == "stays":
            return
        seen: dict[str, Mapping[str, Any]] = {}
        for entry in entries:
            first = seen.setdefault(entry["token_hash"], entry)
            if first is entry:
                continue
            if not self._is_by_a_killed(first, other=entry):
                tally.doubled.append(f"{held.name} {family}: a token came again without a death")
            elif held.provider_class.survives_the_gap and str(entry["outcome"]).startswith("refused"):
                tally.doubled.append(f"{held.name} {family}: a token came again after its grace")
            tally.tries += 1

    def _judge_rounds(
        self, tally: Tally, held: HeldConnection, books: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
    ) -> None:
        name, doomed = held.name, set[str]()  # token families that a killed process's request may still end
        for number, one in enumerate(self.rounds):
            family, outcome = one.families[name], one.outcomes[name]
            entries = books.get((held.provider, family), [])
            hit = [entry for entry in entries if one.began <= entry["at"] <= one.killed + BUSY]
            if hit:
                tally.hit[held.provider] += 1
                doomed.add(family)
            if outcome == "503":
                tally.undecided.append(f"{name} in round {number}")
            elif outcome == "ok":
                tally.recovered[held.provider] += bool(hit)
            else:
                tally.known.append(one.known[name])
                within = family in doomed and not held.provider_class.survives_the_gap and name not in one.journalled
                if within and outcome == "needs_reauth":
                    tally.in_the_gap[held.provider] += 1
                else:
                    tally.needless.append(f"{name} in round {number}: {outcome}")


async def kill_rounds(place: Server | None, nursery: Nursery, *, kills: int, seed: int) -> Tally:
    """Run all rounds on one database."""
    async with fresh_store(place) as store, open_estate(store) as estate:
        killing = KilledVault(estate, nursery, random.Random(seed))
        await killing.run(kills)
        return await killing.judge()


def figures_of(where: str, tally: Tally, *, kills: int) -> list[Figure]:
    """The figures of one database."""
    wrong = [*tally.doubled, *tally.needless, *tally.undecided]
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    recovering = ("stays", "resends", "sibling")
    shares = ", ".join(f"{name} {tally.recovered[name]} of {tally.hit[name]}" for name in recovering)
    gaps = ", ".join(f"{name} {tally.in_the_gap[name]} of {tally.hit[name]}" for name in ("strict", "revokes"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.ways.items()))
    all_recovered = all(tally.recovered[name] == tally.hit[name] > 0 for name in recovering)
    slowest = max(tally.known, default=0.0)
    return [
        Figure(
            f"{tally.kills} SIGKILL at random ({kinds}), 10 accounts at once, {where}",
            f"{len(tally.doubled)} double redemptions, {len(tally.needless)} lost outside the gap, "
            f"{len(tally.undecided)} undecided; lost in the gap: {gaps}",
            f"{kills} kills, 0 double, 0 lost outside the gap",
            not wrong and tally.kills >= kills,
        ),
        Figure(
            f"recovered by themselves where the provider lets one, {where}",
            shares,
            "all",
            all_recovered,
        ),
        Figure(
            f"from the start of the next process until a lost account needs its person, {where}",
            f"p50 {quantile(tally.known, 0.5):.0f} ms, slowest {slowest:.0f} ms of {len(tally.known)}",
            f"at most {KNOWN:.0f} ms",
            bool(tally.known) and slowest <= KNOWN,
        ),
    ]


async def figures(scale: Scale) -> list[Figure]:
    """One database after the other.

    CHAOS_SEED repeats the choices, not the machine's timing; CHAOS_KILLS is the number on each database.
    """
    kills = int(os.environ.get("CHAOS_KILLS") or KILLS[scale])
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"CHAOS_SEED={seed}", file=sys.stderr)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres_server())
        nursery = await stack.enter_async_context(open_nursery())
        lanes = {"SQLite": None, "PostgreSQL": server}
        tallies = [
            await kill_rounds(place, nursery, kills=kills, seed=seed + number)
            for number, place in enumerate(lanes.values())
        ]
    return [
        figure for where, tally in zip(lanes, tallies, strict=True) for figure in figures_of(where, tally, kills=kills)
    ]
