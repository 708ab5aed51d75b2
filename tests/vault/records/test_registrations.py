"""When a client's secret that expires is renewed."""

from __future__ import annotations

import pytest

from vault.registrations import StoredRegistration

DAY = 86400


@pytest.mark.parametrize(
    ("life", "renewed", "announced"),
    [
        (90 * DAY, 83 * DAY, 83 * DAY + 7 * DAY // 4),
        (21 * DAY, 14 * DAY, 14 * DAY + 7 * DAY // 4),
        (9 * DAY, 6 * DAY, 6 * DAY + 3 * DAY // 4),
    ],
)
def test_a_secret_is_renewed_after_two_thirds_of_its_life_or_a_week_before_its_end(
    life: int, renewed: int, announced: int
) -> None:
    stored = StoredRegistration("notes", "1", "client", {}, False, 1000, "", None, secret_ends_at=1000 + life)
    assert stored.renew_at == 1000 + renewed
    assert [stored.is_ending(1000 + announced + late) for late in (-1, 0)] == [False, True]
