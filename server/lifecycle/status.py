"""The state of a vault in numbers: its processes, refreshes, waiting approvals, grants, journal, activity, storage.

Reads only what every process may read. `token-vault status` shows it; the metrics give the same to Prometheus.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.deployment import Deployment
from vault.records import TENANT
from vault.storage.database import Database
from vault.upkeep import replicas
from vault.upkeep.census import Census, Pulse, count_refreshes, journal_size, take_census, take_pulse
from vault.upkeep.health import check_writable
from vault.upkeep.replicas import Replica

HOUR: Final = 3600  # seconds of refreshes
_READS: Final = 5  # reads; their median is shown
_CENSUS_SHARE: Final = 20  # a census, which takes longer in a larger vault, may use one part in this many of the time


@dataclass(frozen=True, slots=True)
class Status:
    """The state at one moment. Times are in seconds, latencies in milliseconds."""

    at: int
    replicas: Sequence[Replica]
    refreshes: Mapping[str, int]  # in the last hour, by outcome
    pulse: Pulse
    census: Census
    journal_bytes: int
    read_ms: float
    commit_ms: float

    @property
    def breakers(self) -> Mapping[str, Mapping[str, str]]:
        """Reports by running processes about providers that they can't use: reasons by provider and host."""
        found: dict[str, dict[str, str]] = {}
        for one in self.replicas:
            if not self.is_late(one):
                for provider, why in one.providers.items():
                    found.setdefault(provider, {})[one.host] = why
        return found

    def is_late(self, replica: Replica) -> bool:
        """Whether the process has been silent for so long that it counts as missing."""
        return self.at - replica.seen_at > replicas.LATE

    @property
    def states(self) -> Mapping[str, int]:
        """Connections by state."""
        counted: dict[str, int] = {}
        for (_, state), number in self.census.connections.items():
            counted[state] = counted.get(state, 0) + number
        return counted

    def age(self, at: int | None) -> int | None:
        """How many seconds ago an instant was; None if there is none."""
        return None if at is None else max(0, self.at - at)

    def content(self) -> dict[str, object]:
        """The state as JSON."""
        return {
            "at": self.at,
            "replicas": [
                {
                    "id": one.id,
                    "host": one.host,
                    "role": one.role,
                    "version": one.version,
                    "up_seconds": self.age(one.started_at),
                    "seen_seconds": self.age(one.seen_at),
                    "is_late": self.is_late(one),
                    "failing": dict(one.failing),
                }
                for one in self.replicas
            ],
            "refreshes": dict(self.refreshes),
            "breakers": {provider: dict(hosts) for provider, hosts in self.breakers.items()},
            "approvals_waiting": self.pulse.approvals_waiting,
            "connections": dict(self.states),
            "ending_within_days": {str(days): number for days, number in self.census.ending.items()},
            "journal_bytes": self.journal_bytes,
            "activity": {
                "newest_seconds": self.age(self.pulse.newest_event_at),
                "sealed_seconds": self.age(self.pulse.sealed_until),
                "unsealed_seconds": self.age(self.pulse.unsealed_since),
            },
            "storage": {"read_ms": round(self.read_ms, 2), "commit_ms": round(self.commit_ms, 2)},
        }


class StatusReader:
    """Reads the state repeatedly; counts what grows with the vault only as often as that is cheap."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._census: Census | None = None
        self._due = 0.0

    async def read(self) -> Status:
        """Read the state once. Raises VaultError while the storage is unavailable."""
        database = self._deployment.database
        began = time.monotonic()
        if self._census is None or began >= self._due:
            self._census = await take_census(database)
            self._due = time.monotonic() + _CENSUS_SHARE * (time.monotonic() - began)
        now = database.now()
        return Status(
            at=now,
            replicas=await replicas.list_replicas(database),
            refreshes=await count_refreshes(database, since=now - HOUR),
            pulse=await take_pulse(database),
            census=self._census,
            journal_bytes=await asyncio.to_thread(journal_size, self._deployment.data),
            read_ms=statistics.median([await _time_read(database) for _ in range(_READS)]),
            commit_ms=await _time_commit(database),
        )


async def _time_read(database: Database) -> float:
    began = time.perf_counter()
    await database.fetch_one("select height from event_heads where tenant = :tenant", {"tenant": TENANT})
    return (time.perf_counter() - began) * 1000


async def _time_commit(database: Database) -> float:
    began = time.perf_counter()
    await check_writable(database)
    return (time.perf_counter() - began) * 1000
