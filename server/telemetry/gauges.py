"""The vault's state, read periodically and reported until the next reading.

Counts of rows are the whole vault's, and every replica reports the same: take their maximum. Breakers, journal and
upkeep belong to the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from server.deployment import Deployment
from vault.refusals import VaultError
from vault.spans import KEY_USES
from vault.upkeep.census import Census, Pulse, journal_size, take_census, take_pulse

PULSE_EVERY: Final = 5.0  # seconds
CENSUS_SHARE: Final = 100  # a census, which takes longer in a larger vault, may use one part in this many of the time
logger = logging.getLogger("token_vault.telemetry")
_Read = Callable[[], Iterable[Observation]]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure that is read; `unit` as OpenTelemetry writes it."""

    name: str
    text: str
    unit: str = ""


GAUGES: Final = (
    Gauge("token_vault.approvals.waiting", "Approvals that wait for a person, in the whole vault"),
    Gauge("token_vault.connections", "Accounts by provider and state, in the whole vault"),
    Gauge("token_vault.grants.ending", "Grants that end within so many days (1, 7, 30) unless renewed"),
    Gauge("token_vault.activity.newest", "Time of the newest event", "s"),
    Gauge("token_vault.activity.sealed", "Time of the newest event that is verified and sealed", "s"),
    Gauge("token_vault.activity.unsealed", "Time of the oldest event that isn't sealed yet", "s"),
    Gauge("token_vault.breakers.open", "By provider, 1 while it gets no refreshes from this process"),
    Gauge("token_vault.journal.size", "Size of the answer journal of this host", "By"),
    Gauge("token_vault.upkeep.failing", "Upkeep steps that failed at their last turn, of this process"),
)
READ_COUNTS: Final[Mapping[str, str]] = {
    "token_vault.key.uses": (
        "Uses of keys by key and operation (wrap, unwrap, seal, open, sign); key-encryption and signing keys by ID, "
        "others by purpose"
    ),
    "token_vault.policy.disagreements": (
        "Uses of accounts that the rules in policy.shadow_folder would have decided otherwise, by decided and would"
    ),
}


class Gauges:
    """The latest reading. A failed reading is logged, and its gauges aren't reported until one succeeds."""

    def __init__(self, meter: Meter, deployment: Deployment) -> None:
        self._deployment = deployment
        self._pulse: Pulse | None = None
        self._census: Census | None = None
        self._journal = 0
        add = meter.create_observable_gauge
        readers = (
            self._count_waiting,
            self._count_connections,
            self._count_ending,
            self._read_newest,
            self._read_sealed,
            self._read_unsealed,
            self._breakers,
            self._journal_size,
            self._upkeep,
        )
        for made, read in zip(GAUGES, readers, strict=True):
            add(made.name, callbacks=[_callback(read)], unit=made.unit, description=made.text)
        for (name, text), count in zip(READ_COUNTS.items(), (_count_key_uses, self._count_disagreements), strict=True):
            meter.create_observable_counter(name, [_callback(count)], description=text)

    async def run(self) -> None:
        """Read until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                self._journal = await asyncio.to_thread(journal_size, self._deployment.data)
                self._pulse = await take_pulse(self._deployment.database)
                if (began := loop.time()) >= due:
                    self._census = await take_census(self._deployment.database)
                    due = loop.time() + CENSUS_SHARE * (loop.time() - began)
            except VaultError as error:
                self._pulse = self._census = None
                due = loop.time()
                logger.warning("gauges not read", extra={"code": error.code, "detail": error.detail})
            await asyncio.sleep(PULSE_EVERY)

    def _count_waiting(self) -> Iterable[Observation]:
        if self._pulse is not None:
            yield Observation(self._pulse.approvals_waiting)

    def _read_newest(self) -> Iterable[Observation]:
        if self._pulse is not None and self._pulse.newest_event_at is not None:
            yield Observation(self._pulse.newest_event_at)

    def _read_sealed(self) -> Iterable[Observation]:
        if self._pulse is not None and self._pulse.sealed_until is not None:
            yield Observation(self._pulse.sealed_until)

    def _read_unsealed(self) -> Iterable[Observation]:
        if self._pulse is not None and self._pulse.unsealed_since is not None:
            yield Observation(self._pulse.unsealed_since)

    def _count_connections(self) -> Iterable[Observation]:
        counted: Mapping[tuple[str, str], int] = {} if self._census is None else self._census.connections
        for (provider, state), number in counted.items():
            yield Observation(number, {"provider": provider, "state": state})

    def _count_ending(self) -> Iterable[Observation]:
        ending: Mapping[int, int] = {} if self._census is None else self._census.ending
        for days, number in ending.items():
            yield Observation(number, {"days": days})

    def _breakers(self) -> Iterable[Observation]:
        broken = self._deployment.vault.tasks.breakers.list_open()
        for provider in self._deployment.vault.policies:
            yield Observation(int(provider in broken), {"provider": provider})

    def _upkeep(self) -> Iterable[Observation]:
        failing = self._deployment.failing_upkeep
        yield Observation(len(failing))

    def _count_disagreements(self) -> Iterable[Observation]:
        policy = self._deployment.policy
        for (decided, would), uses in list(policy.disagreements.items()) if policy is not None else ():
            yield Observation(uses, {"decided": decided, "would": would})

    def _journal_size(self) -> Iterable[Observation]:
        yield Observation(self._journal)


def _count_key_uses() -> Iterable[Observation]:
    for (key, operation), uses in list(KEY_USES.items()):
        yield Observation(uses, {"key": key, "operation": operation})


def _callback(read: _Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: list(read())
