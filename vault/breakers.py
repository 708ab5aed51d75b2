"""A breaker per provider: after repeated silence, or when our registration is refused, nobody waits for it in vain.

What counts as silence is said by `vault.spending`; each process has its own. One that hangs for some accounts and
answers for others is not down: an answer a moment ago keeps the breaker closed. While it is open one refresh at a time
tries: a connection that was not silent itself soon, the others after the whole pause. An answer closes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SILENCES = 5  # in a row
RECENT = 15  # seconds: longer than one request may take
PAUSE = 30  # seconds
NEXT_PROBE = 5  # seconds, by a connection that was not silent itself
PROBE = 12  # seconds that one probe may take
REGISTRATION_PAUSE = 60  # seconds after our registration was refused


@dataclass(slots=True)
class _State:
    answered_at: int | None = None
    silences: int = 0
    is_open: bool = False
    silent: set[str] = field(default_factory=set[str])  # connections that waited in vain
    patient_until: int = 0
    next_at: int = 0
    prober: str | None = None
    probe_ends: int = 0


class Breakers:
    """The breakers of one process."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def waits(self, provider: str, connection_id: str, *, now: int) -> int:
        """Seconds until the provider may be asked for this connection; 0 when it may, perhaps as the one probe."""
        state = self._states.get(provider)
        if state is None or not state.is_open or (state.prober == connection_id and now < state.probe_ends):
            return 0
        due = state.patient_until if connection_id in state.silent else state.next_at
        if state.prober is not None:
            due = max(due, state.probe_ends)
        if now < due:
            return due - now
        state.prober, state.probe_ends = connection_id, now + PROBE
        return 0

    def note_silence(self, provider: str, connection_id: str, *, now: int) -> bool:
        """A request without a usable answer; whether the breaker is open now."""
        state = self._states.setdefault(provider, _State())
        state.silences += 1
        state.silent.add(connection_id)
        is_answering = state.answered_at is not None and now - state.answered_at < RECENT
        if not state.is_open and (state.silences < SILENCES or is_answering):
            return False
        state.is_open, state.prober = True, None
        state.patient_until, state.next_at = now + PAUSE, now + NEXT_PROBE
        return True

    def note_refusal_of_us(self, provider: str, *, now: int) -> None:
        """The provider does not know our client: no connection can be refreshed until the operator mends that."""
        until = now + REGISTRATION_PAUSE
        self._states[provider] = _State(silences=SILENCES, is_open=True, patient_until=until, next_at=until)

    def note_answer(self, provider: str, *, now: int) -> None:
        """The provider works."""
        self._states[provider] = _State(answered_at=now)
