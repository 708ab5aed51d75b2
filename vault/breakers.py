"""A breaker per provider: after repeated silence, or when our registration is refused, nobody waits for it in vain.

What counts as silence is said by `vault.spending`; each process has its own. After the pause the next refresh is the
probe: one more failure opens it again, an answer closes it.
"""

from __future__ import annotations

from dataclasses import dataclass

SILENCES = 5  # in a row
PAUSE = 30  # seconds
REGISTRATION_PAUSE = 60  # seconds after our registration was refused


@dataclass(slots=True)
class _State:
    silences: int = 0
    open_until: int = 0


class Breakers:
    """The breakers of one process."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def waits(self, provider: str, *, now: int) -> int:
        """Seconds until the provider may be asked again; 0 when it may."""
        state = self._states.get(provider)
        return 0 if state is None else max(0, state.open_until - now)

    def note_silence(self, provider: str, *, now: int) -> bool:
        """A request without a usable answer; whether this opened the breaker."""
        state = self._states.setdefault(provider, _State())
        state.silences += 1
        if state.silences < SILENCES:
            return False
        state.open_until = now + PAUSE
        return True

    def note_refusal_of_us(self, provider: str, *, now: int) -> None:
        """The provider does not know our client: no connection can be refreshed until the operator mends that."""
        self._states[provider] = _State(silences=SILENCES, open_until=now + REGISTRATION_PAUSE)

    def note_answer(self, provider: str) -> None:
        """The provider works."""
        self._states.pop(provider, None)
