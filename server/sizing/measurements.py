"""The figures of one machine: storage, keys, tool calls, and exchanges; each for a bounded time.

The load and the provider share the machine with the vault, so requests per second are a lower bound. Requests per core
come from the processor time of the vault's own process, which Linux reports.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from server.app import open_deployment
from server.deployment import Deployment
from server.sizing.load import answering_provider, drive
from server.sizing.place import BenchPlace, bench_place, seed, serve_place
from vault.keys.key_ring import ConnectionKey
from vault.records import TENANT, Tell
from vault.storage.database import sqlite_path
from vault.upkeep.health import check_writable

STEPS: Final = 6
_WARM_UP: Final = 0.5  # seconds
_TOKEN: Final = "x" * 600  # characters, as providers' tokens have
_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests of one kind.

    `cpu_us` and `per_core` (and second): of the vault's process; None if the system doesn't report it.
    """

    per_second: float
    cpu_us: float | None
    per_core: float | None
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All of one run."""

    python: str
    system: str
    cores: int
    database: str
    read: Latency
    commit: Latency
    seals_per_second: float
    opens_per_second: float
    calls: Rate
    exchanges: Rate
    handles: Rate
    memory_mb: float | None

    def content(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


async def measure(*, seconds: float, server_url: str | None, program: Sequence[str], tell: Tell) -> Figures:
    """Take all figures, each for `seconds`. Raises LoadFailed, SettingsRefused, or VaultError."""
    async with answering_provider() as provider, bench_place(provider, server_url=server_url) as place:
        async with open_deployment(place.settings, data=place.data) as deployment:
            requests = await seed(deployment, place.port)
            tell("reads", 0, STEPS)
            read = await _time(lambda: _read(deployment), seconds=seconds / 2)
            commit = await _time(lambda: check_writable(deployment.database), seconds=seconds / 2)
            tell("keys", 1, STEPS)
            seals, opens = _time_keys(seconds=seconds / 2)
        tell("start", 2, STEPS)
        async with serve_place(place, program) as process:
            for request in (requests.exchange, requests.call):  # the process loads some modules during its first ones
                await drive(place.port, request, seconds=_WARM_UP, wanted=b"")
            tell("tool calls", 3, STEPS)
            calls = await _rate(place, process, requests.call, seconds=seconds, wanted=b"1764000000.000100")
            tell("exchanges", 4, STEPS)
            exchanges = await _rate(place, process, requests.exchange, seconds=seconds, wanted=b'"access_token":"')
            tell("handles", 5, STEPS)
            handles = await _rate(place, process, requests.handle, seconds=seconds, wanted=b'"access_token":"')
            memory = _memory_mb(process)
        tell("done", STEPS, STEPS)
    return Figures(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        cores=_cores(),
        database="SQLite" if sqlite_path(place.database, data=place.data) is not None else "PostgreSQL",
        read=read,
        commit=commit,
        seals_per_second=seals,
        opens_per_second=opens,
        calls=calls,
        exchanges=exchanges,
        handles=handles,
        memory_mb=memory,
    )


async def _read(deployment: Deployment) -> None:
    await deployment.database.fetch_one("select height from event_heads where tenant = :tenant", {"tenant": TENANT})


async def _time(work: Callable[[], Awaitable[None]], *, seconds: float) -> Latency:
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until or len(took) < 2:
        await work()
        took.append(time.perf_counter() - began)
    return Latency(*_percentiles(took))


def _time_keys(*, seconds: float) -> tuple[float, float]:
    """Values sealed and opened per second, on one core."""
    key = ConnectionKey(bytes(32), salt=bytes(32), user_id="bench", connection_id="bench")

    def seal() -> bytes:
        return key.seal(_TOKEN, purpose="bench", provider="slack", account="bench", generation=1)

    sealed = seal()

    def unseal() -> str:
        return key.open(sealed, purpose="bench", provider="slack", account="bench", generation=1)

    return _per_second(seal, seconds=seconds / 2), _per_second(unseal, seconds=seconds / 2)


def _per_second(work: Callable[[], object], *, seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or not done:
        for _ in range(_BATCH):
            work()
        done += _BATCH
    return round(done / passed) if passed else 0.0


async def _rate(place: BenchPlace, process: int, request: bytes, *, seconds: float, wanted: bytes) -> Rate:
    await drive(place.port, request, seconds=min(_WARM_UP, seconds), wanted=wanted)
    before = _cpu_seconds(process)
    run = await drive(place.port, request, seconds=seconds, wanted=wanted)
    after = _cpu_seconds(process)
    done = len(run.latencies)
    used = None if before is None or after is None else (after - before) / done * 1e6
    return Rate(
        round(done / run.seconds, 1),
        None if used is None else round(used),
        None if not used else round(1e6 / used),
        *_percentiles(run.latencies),
    )


def _percentiles(took: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(took)
    last = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return round(statistics.median(ordered) * 1000, 2), round(last * 1000, 2)


def _cpu_seconds(process: int) -> float | None:
    """Processor time of all its threads so far, from the kernel's `schedstat`; None elsewhere than on Linux."""
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in _tasks(process)) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def _tasks(process: int) -> Sequence[Path]:
    return list(Path(f"/proc/{process}/task").iterdir())


def _memory_mb(process: int) -> float | None:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    except (OSError, StopIteration, ValueError):
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
