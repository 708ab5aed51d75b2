"""A circuit breaker per provider: after repeated silence, or a refusal of our registration, requests fail fast.

`vault.refresh.refresh_request` defines what counts as silence; each process has its own breakers. A provider that hangs
for some accounts and answers for others is not down: a recent answer keeps the breaker closed. While it is open, one
refresh at a time probes: soon for a connection that got answers before, after the whole pause for the others. An answer
closes it, including one that another process or a person's consent received.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vault.classes.immutable import immutable

SILENCES = 5  # in a row
RECENT = 15  # seconds: longer than one request may take
PAUSE = 30  # seconds
NEXT_PROBE = 5  # seconds, for a connection that wasn't silent itself
PROBE = 12  # seconds that one probe may take
REGISTRATION_PAUSE = 60  # seconds after our registration was refused


@dataclass(slots=True)
class _Breaker:
    answered_at: int | None = None
    silences: int = 0
    is_open: bool = False
    opened_at: int = 0
    refused: tuple[str, int] = ("", 0)  # the connection for which we were refused, and its generation at that time
    silent: set[str] = field(default_factory=set[str])  # connections that got no answer
    patient_until: int = 0
    next_at: int = 0
    prober: str | None = None
    probe_ends: int = 0


@immutable
class Trouble:
    """A provider that doesn't answer, or refused our registration, and since when."""

    kind: Literal["silent", "refused"]
    since: int


class Breakers:
    """The breakers of one process."""

    def __init__(self) -> None:
        self._states: dict[str, _Breaker] = {}

    def waits(self, provider: str, connection_id: str, *, now: int, generation: int, answered_at: int | None) -> int:
        """Seconds until the provider may be asked for this connection; 0 when it may be now, possibly as the only
        probe.

        `generation` and `answered_at` are those of the connection's newest token: the provider answered a process then.
        """
        state = self._states.get(provider)
        if state is not None and state.is_open and _has_answered(state, connection_id, generation, answered_at):
            self.note_answer(provider, now=now)
            return 0
        if state is None or not state.is_open or (state.prober == connection_id and now < state.probe_ends):
            return 0
        due = state.patient_until if connection_id in state.silent else state.next_at
        if state.prober is not None:
            due = max(due, state.probe_ends)
        if now < due:
            return due - now
        state.prober, state.probe_ends = connection_id, now + PROBE
        return 0

    def list_open(self) -> tuple[str, ...]:
        """Providers whose breaker is open in this process."""
        return tuple(sorted(provider for provider, state in self._states.items() if state.is_open))

    def note_silence(self, provider: str, connection_id: str, *, now: int) -> bool:
        """Count a request without a usable answer; returns whether the breaker is open now."""
        state = self._states.setdefault(provider, _Breaker())
        state.silences += 1
        state.silent.add(connection_id)
        is_answering = state.answered_at is not None and now - state.answered_at < RECENT
        if not state.is_open and (state.silences < SILENCES or is_answering):
            return False
        state.opened_at = state.opened_at if state.is_open else now
        state.is_open, state.prober = True, None
        state.patient_until, state.next_at = now + PAUSE, now + NEXT_PROBE
        return True

    def note_refusal_of_us(self, provider: str, connection_id: str, *, generation: int, now: int) -> None:
        """The provider doesn't know our client: no connection can be refreshed until the operator fixes that."""
        until = now + REGISTRATION_PAUSE
        self._states[provider] = _Breaker(
            silences=SILENCES,
            is_open=True,
            opened_at=now,
            refused=(connection_id, generation),
            patient_until=until,
            next_at=until,
        )

    def troubles(self) -> dict[str, Trouble]:
        """What this process knows about all providers that it can't use now."""
        return {name: trouble for name in self._states if (trouble := self.trouble(name)) is not None}

    def trouble(self, provider: str) -> Trouble | None:
        """What this process knows about a provider that it can't use now."""
        state = self._states.get(provider)
        if state is None or not state.is_open:
            return None
        return Trouble("refused" if state.refused[0] else "silent", state.opened_at)

    def note_answer(self, provider: str, *, now: int) -> None:
        """Record that the provider works."""
        self._states[provider] = _Breaker(answered_at=now)


def _has_answered(state: _Breaker, connection_id: str, generation: int, answered_at: int | None) -> bool:
    """Whether a token issued after the breaker opened shows that the provider works, and accepts our client."""
    refused, before = state.refused
    if connection_id == refused and generation > before:
        return True
    return answered_at is not None and answered_at > state.opened_at
