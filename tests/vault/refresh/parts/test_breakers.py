"""The circuit breaker of a provider: when it opens, whom it lets through meanwhile, and what closes it."""

from __future__ import annotations

from vault.refresh.breakers import (
    NEXT_PROBE,
    PAUSE,
    PROBE,
    RECENT,
    REGISTRATION_PAUSE,
    SILENCES,
    Breakers,
    Trouble,
)

NOW = 1000


def waits(seen: Breakers, connection_id: str, *, now: int, generation: int = 1, answered_at: int | None = None) -> int:
    return seen.waits("slack", connection_id, now=now, generation=generation, answered_at=answered_at)


def silent_provider(*, now: int = NOW) -> Breakers:
    """A breaker that just opened, because of one connection."""
    seen = Breakers()
    opened = [seen.note_silence("slack", "silent", now=now) for _ in range(SILENCES)]
    assert opened == [*[False] * (SILENCES - 1), True]
    return seen


def test_a_recent_answer_keeps_it_closed() -> None:
    for passed, is_open in ((RECENT - 1, False), (RECENT, True)):
        seen = Breakers()
        seen.note_answer("slack", now=NOW)
        for _ in range(SILENCES):
            seen.note_silence("slack", "c", now=NOW + passed)
        assert (seen.list_open() == ("slack",)) is is_open
        assert (waits(seen, "other", now=NOW + passed) > 0) is is_open


def test_one_probe_at_a_time_soon_for_others_and_after_the_pause_for_the_silent_one() -> None:
    seen = silent_provider()
    assert waits(seen, "silent", now=NOW) == PAUSE
    assert waits(seen, "other", now=NOW) == NEXT_PROBE
    assert waits(seen, "other", now=NOW + NEXT_PROBE - 1) == 1
    probes = NOW + NEXT_PROBE
    assert waits(seen, "other", now=probes) == 0
    assert waits(seen, "other", now=probes + PROBE - 1) == 0  # the same probe
    assert waits(seen, "third", now=probes) == PROBE
    assert waits(seen, "third", now=probes + PROBE - 1) == 1
    assert waits(seen, "silent", now=probes + PROBE) == PAUSE - NEXT_PROBE - PROBE
    assert waits(seen, "third", now=probes + PROBE) == 0  # its turn, as the first probe took too long
    assert waits(seen, "other", now=probes + PROBE) == PROBE
    assert waits(silent_provider(), "silent", now=NOW + PAUSE) == 0
    seen = silent_provider()
    assert waits(seen, "other", now=probes) == waits(seen, "other", now=probes + PROBE) == 0  # it probes once more
    assert waits(seen, "third", now=probes + PROBE) == PROBE


def test_a_probe_without_an_answer_starts_the_waits_again_and_keeps_when_it_opened() -> None:
    seen = silent_provider()
    assert waits(seen, "other", now=NOW + NEXT_PROBE) == 0
    assert seen.note_silence("slack", "other", now=NOW + 10)
    assert waits(seen, "other", now=NOW + 10) == PAUSE
    assert waits(seen, "third", now=NOW + 10) == NEXT_PROBE
    assert seen.trouble("slack") == Trouble("silent", NOW)


def test_an_answer_closes_it_also_one_that_another_process_got() -> None:
    for answered_at, is_closed in ((None, False), (NOW, False), (NOW + 1, True)):
        seen = silent_provider()
        assert (waits(seen, "silent", now=NOW + 2, answered_at=answered_at) == 0) is is_closed
        assert (seen.list_open() == ()) is is_closed
    seen = silent_provider()
    seen.note_answer("slack", now=NOW + 1)
    assert waits(seen, "silent", now=NOW + 1) == 0
    assert not seen.note_silence("slack", "silent", now=NOW + 1 + RECENT)  # it counts from the beginning


def test_a_refusal_of_the_registration_lasts_until_a_newer_token_of_that_connection() -> None:
    seen = Breakers()
    seen.note_refusal_of_us("slack", "refused", generation=3, now=NOW)
    for one in ("refused", "other"):
        assert waits(seen, one, now=NOW, generation=3) == REGISTRATION_PAUSE
    assert waits(seen, "other", now=NOW, generation=4) == REGISTRATION_PAUSE
    assert seen.troubles() == {"slack": Trouble("refused", NOW)}
    assert waits(seen, "refused", now=NOW, generation=4) == 0
    assert seen.troubles() == {}
    seen.note_refusal_of_us("slack", "refused", generation=0, now=NOW)
    assert seen.trouble("slack") == Trouble("refused", NOW)


def test_each_provider_in_trouble_is_listed_once() -> None:
    seen = silent_provider()
    seen.note_refusal_of_us("google", "c", generation=1, now=NOW + 1)
    seen.note_answer("github", now=NOW)
    seen.note_silence("notion", "c", now=NOW)
    assert seen.list_open() == ("google", "slack")
    assert seen.troubles() == {"slack": Trouble("silent", NOW), "google": Trouble("refused", NOW + 1)}
    assert seen.trouble("github") is seen.trouble("notion") is seen.trouble("unknown") is None
