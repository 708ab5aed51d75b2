"""Two servers in turn, with the same calls to both in each round: the method of all tables that `make bench` prints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.tables import Row


@dataclass(frozen=True, slots=True)
class Way:
    """How calls reach one server, and how much CPU time it has used so far."""

    send: Callable[[int], Awaitable[Sequence[float]]]  # sends so many calls, eight in flight; the seconds of each
    cpu_seconds: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same calls to the other server and to ours, and the wanted ratio of their CPU time."""

    theirs: Way
    ours: Way
    wanted: float


async def compare(pairs: Mapping[str, Pair], *, rounds: int, calls: int, warm_up: int = 400) -> Mapping[str, Row]:
    """Measure CPU us per call and latencies. The order alternates between rounds; one round only warms up."""
    found = {name: Row(pair.wanted) for name, pair in pairs.items()}
    for number in range(-1, rounds):
        for name, pair in pairs.items():
            used = [0.0, 0.0]
            ways = list(enumerate((pair.theirs, pair.ours)))
            for place, way in ways if number % 2 else reversed(ways):
                before = way.cpu_seconds()
                took = await way.send(warm_up if number < 0 else calls)
                used[place] = (way.cpu_seconds() - before) / len(took) * 1e6
                if number >= 0:
                    found[name].seconds[place].extend(took)
            if number >= 0:
                found[name].rounds.append((used[0], used[1]))
    return found
