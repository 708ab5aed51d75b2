"""Providers of every class take 2 to 30 s for a refresh while the storage fails for 1 to 60 s.

In each wave, every token expires and the storage fails once. Only if an answer took longer than the 10 s of a request
may its token be presented again, or its account be lost. Afterward, every remaining account is refreshed again.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from tests.chaos.crashes.kills import GRACE
from tests.chaos.estate import Estate, HeldConnection, open_estate
from tests.chaos.faults import freeze, lock_holder
from tests.chaos.figures import Figure, Scale
from tests.chaos.processes.nursery import Mortal, Nursery, open_nursery
from tests.chaos.world import Server, fresh_store, postgres_server
from vault.refusals import StorageUnavailable, TemporarilyUnavailable
from vault.upstream import SEND_DEADLINE

R = TypeVar("R")

PEOPLE = {Scale.FULL: 3, Scale.SMALL: 1}  # each with an account of every class
TIME = {Scale.FULL: 270.0, Scale.SMALL: 1.0}  # seconds on one database after which no new wave begins
ANSWERS = ((2.0, 8.0), (8.0, 30.0))  # seconds that a refresh takes; half of the refreshes use each range
FAULTS = (1.0, 60.0)  # seconds for which the storage fails
DECIDED = 240.0  # seconds within which every account of a wave works or asks for its person
LATE = SEND_DEADLINE - 1.5  # seconds after which an answer may come too late on a busy machine
OUT_OF_GRACE = GRACE - 3 * SEND_DEADLINE - 15  # seconds without storage after which another attempt may come too late
LIMIT = 2 * (TIME[Scale.FULL] + DECIDED + 120)


async def patiently(work: Callable[[], Awaitable[R]]) -> R:
    """Our own server, whose connections the failure also ends."""
    for _ in range(20):
        try:
            return await work()
        except (StorageUnavailable, TemporarilyUnavailable):
            await asyncio.sleep(0.5)
    return await work()


@dataclass
class Wave:
    """One wave, in which all tokens expire."""

    answers: Mapping[str, float]  # by account: seconds that its first refresh takes
    families: Mapping[str, str]
    fault: str
    seconds: float  # that the storage failed
    began: float = 0.0  # by the clock of the records
    ended: float = 0.0
    outcomes: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Tally:
    """The result of all waves."""

    waves: int = 0
    failed: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])  # how, and seconds
    late: int = 0  # refreshes whose answer came too late
    timely: int = 0
    retried: Counter[str] = field(default_factory=Counter[str])
    in_the_gap: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])


class Slow:
    """One vault under slow providers."""

    def __init__(self, estate: Estate, server: Server | None, chance: random.Random) -> None:
        self.estate, self.server, self.chance = estate, server, chance
        self.waves: list[Wave] = []

    async def wave(self, living: Sequence[Mortal], *, longest: float) -> None:
        """Expire everything, with slow answers and one storage failure; wait for each account's final state."""
        chance, estate = self.chance, self.estate
        names = list(estate.held)
        shortest = FAULTS[0]
        answers = {name: chance.uniform(*chance.choice(ANSWERS)) for name in names}
        seconds = longest if not self.waves else shortest * (longest / shortest) ** chance.random()
        kind = "locked" if self.server is None else ("read-only", "killed", "frozen")[len(self.waves) % 3]
        after = chance.uniform(0, 15)
        seconds = 0.0 if kind == "killed" else seconds
        said = f"{kind} after {after:.1f} s" + ("" if kind == "killed" else f" for {seconds:.0f} s")
        this = Wave(
            answers, {name: held.families[-1] for name, held in estate.held.items()}, said, seconds, began=time.time()
        )
        for name, held in estate.held.items():
            await estate.simulators[held.provider].control(
                "faults", endpoint="slack.token.refresh", kind="slow", when=chance.choice(["before", "after"]),
                seconds=answers[name], families=[held.families[-1]], persists=True,
            )  # fmt: skip
        ends = {name: chance.randint(-1, 8) for name in names}
        await patiently(lambda: self.expire(ends))
        failing = asyncio.create_task(self.fail(kind, after=after, seconds=seconds))
        undecided, until = set(names), time.monotonic() + DECIDED
        while undecided and time.monotonic() < until:
            asked = [one.ask(exchange=names, pace=1.0) for one in living]
            found = [answer["calls"] for answer in await asyncio.gather(*asked)]
            this.outcomes = {name: found[0][name][0] for name in names}
            if not failing.done():
                continue
            pending = await patiently(self.pending_accounts)
            undecided = {name for name in names if name in pending or this.outcomes[name] not in ("ok", "needs_reauth")}
        await failing
        await self.wait_for_providers(this)
        for name in undecided:
            this.outcomes[name] = f"undecided ({this.outcomes[name]})"
        for simulator in estate.simulators.values():
            await simulator.control("clear_faults")
        this.ended = time.time()
        self.waves.append(this)
        said = f"{said}: {dict(Counter(this.outcomes.values()))} {[n for n in names if this.outcomes[n] != 'ok']}"
        print(said, file=sys.stderr, flush=True)
        for name, outcome in this.outcomes.items():
            if outcome != "ok":
                held = estate.held[name]
                await patiently(lambda held=held: estate.connect(held))

    async def expire(self, after: Mapping[str, int]) -> None:
        """Set each account's access token to expire in this many seconds."""
        now = self.estate.database.now()
        async with self.estate.database.transaction() as transaction:
            for name, seconds in after.items():
                which = {"id": self.estate.held[name].connection_id, "at": now + seconds}
                await transaction.execute("update connections set access_expires_at = :at where id = :id", which)

    async def pending_accounts(self) -> set[str]:
        """The accounts whose refresh hasn't ended, or whose old token is still in use."""
        now = self.estate.database.now()
        rows = await self.estate.database.fetch(
            "select k.id from connections k where k.state = :active and (k.access_expires_at < :soon or exists "
            "(select 1 from intents i where i.connection_id = k.id and i.generation = k.generation))",
            {"soon": now + 30, "active": "active"},
        )
        ids = {row["id"] for row in rows}
        return {name for name, held in self.estate.held.items() if held.connection_id in ids}

    async def wait_for_providers(self, this: Wave) -> None:
        """Wait until the providers have processed every slow request, including those that nobody waits for."""
        until = time.monotonic() + ANSWERS[-1][1] + 5
        while time.monotonic() < until:
            books = await self.estate.refreshes()
            named = [(held.provider, this.families[name]) for name, held in self.estate.held.items()]
            if all(any(_is_slow(entry, this) for entry in books.get(one, [])) for one in named):
                return
            await asyncio.sleep(1)

    async def fail(self, kind: str, *, after: float, seconds: float) -> None:
        """The storage accepts no writes for some time."""
        await asyncio.sleep(after)
        store, server = self.estate.store, self.server
        if server is None:
            async with lock_holder(str(store.data / "vault.sqlite"), seconds) as process:
                await process.wait()
        elif kind == "frozen":
            await freeze(server, seconds)(None)  # it needs no world
        elif kind == "killed":
            await asyncio.to_thread(server.restart)
        else:
            aside = await asyncpg.connect(server.url, server_settings={"default_transaction_read_only": "off"})
            try:
                for value in ("on", "off"):
                    await aside.execute(f"alter system set default_transaction_read_only = {value}")
                    await aside.execute("select pg_reload_conf()")
                    await asyncio.sleep(seconds if value == "on" else 1)
            finally:
                await aside.close()

    async def judge(self) -> Tally:
        """Compare every account's state with the records."""
        tally, books = (
            Tally(len(self.waves), [(one.fault.partition(" ")[0], one.seconds) for one in self.waves]),
            await self.estate.refreshes(),
        )
        for number, this in enumerate(self.waves):
            for name, held in self.estate.held.items():
                entries = [
                    entry
                    for entry in books.get((held.provider, this.families[name]), [])
                    if this.began <= entry["at"] <= this.ended
                ]
                for problem in _problems_of(tally, held, entries, is_late=this.answers[name] >= LATE):
                    tally.wrong.append(
                        f"wave {number}, {this.fault}: {name} after {this.answers[name]:.1f} s: {problem}"
                    )
                outcome = this.outcomes[name]
                if outcome == "needs_reauth" and this.answers[name] >= LATE and _may_be_lost(held, this):
                    tally.in_the_gap[held.provider] += 1
                elif outcome != "ok":
                    tally.wrong.append(
                        f"wave {number}, {this.fault}: {name} after {this.answers[name]:.1f} s: {outcome}"
                    )
        return tally


def _is_slow(entry: Mapping[str, Any], this: Wave) -> bool:
    return entry["at"] >= this.began and entry["fault"] == "slow"


def _may_be_lost(held: HeldConnection, this: Wave) -> bool:
    """If a provider repeats an answer within its grace period, only a simultaneous storage failure can lose it."""
    return not held.provider_class.survives_the_gap or (held.provider != "stays" and this.seconds > OUT_OF_GRACE)


def _problems_of(
    tally: Tally, held: HeldConnection, entries: Sequence[Mapping[str, Any]], *, is_late: bool
) -> list[str]:
    """What the provider's records of one account and wave show that the vault did wrong."""
    if not any(entry["fault"] == "slow" for entry in entries):
        return ["no slow refresh reached the provider"]
    tally.late += is_late
    tally.timely += not is_late
    by_token: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:  # in the order in which they took effect
        by_token.setdefault(entry["token_hash"], []).append(entry)
    wrong: list[str] = []
    for presented in by_token.values():
        if held.provider == "stays" or len(presented) == 1:
            continue
        tally.retried[held.provider] += 1
        if not is_late or all(entry["fault"] != "slow" for entry in presented):
            wrong.append("a token came again although its answer was in time")
        elif held.provider == "revokes" and presented[0]["fault"] != "slow":
            wrong.append("a token was sent again while its provider was busy with it")
    return wrong


def _in_words(failed: Sequence[tuple[str, float]]) -> str:
    """`read-only for 3 and 60 s, killed 2 times`."""
    parts: list[str] = []
    for kind in dict.fromkeys(kind for kind, _ in failed):
        lasted = sorted(seconds for one, seconds in failed if one == kind)
        times = ", ".join(f"{seconds:.0f}" for seconds in lasted)
        parts.append(f"{kind} {len(lasted)} times" if kind == "killed" else f"{kind} for {times} s")
    return ", ".join(parts)


async def slowly(server: Server | None, nursery: Nursery, *, scale: Scale, seed: int) -> Tally:
    """Run all waves on one database."""
    async with fresh_store(server) as store, open_estate(store, users=PEOPLE[scale]) as estate:
        slow = Slow(estate, server, random.Random(seed))
        living = [await nursery.start(estate.order()) for _ in range(2)]
        for one in living:
            await one.answer()
        until = time.monotonic() + TIME[scale]
        while not slow.waves or time.monotonic() < until:
            await slow.wave(living, longest=FAULTS[scale is Scale.FULL])
        tally = await slow.judge()
        await patiently(estate.expire)
        calls = (await living[1].ask(exchange=None))["calls"]
        tally.wrong += [f"{name} at the end: {outcome}" for name, (outcome, _) in calls.items() if outcome != "ok"]
        for one in living:
            await one.kill()
        return tally


async def figures(scale: Scale) -> list[Figure]:
    """One database after the other. CHAOS_SEED repeats the choices, not the machine's timing; CHAOS_PLACES chooses."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 30))
    places = (os.environ.get("CHAOS_PLACES") or "SQLite,PostgreSQL").split(",")
    print(f"CHAOS_SEED={seed}", file=sys.stderr)
    found: list[Figure] = []
    for place in places:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(postgres_server()) if place == "PostgreSQL" else None
            nursery = await stack.enter_async_context(open_nursery())
            tally = await slowly(server, nursery, scale=scale, seed=seed)
        for line in tally.wrong[:20]:
            print(line, file=sys.stderr)
        gaps = ", ".join(f"{name} {count}" for name, count in sorted(tally.in_the_gap.items())) or "none"
        accounts = 5 * PEOPLE[scale]
        found.append(
            Figure(
                f"{tally.waves} waves of {accounts} accounts of every class, refreshes of 2 to 30 s, two processes, "
                f"{place} {_in_words(tally.failed)}",
                f"{tally.timely} answers in time, {tally.late} too late; {len(tally.wrong)} sent twice, lost or "
                f"undecided outside the gap; lost in the gap: {gaps}",
                "0 outside the gap; every account that is left is refreshed",
                not tally.wrong,
            )
        )
    return found
