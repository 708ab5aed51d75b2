"""Random exchanges and calls of many agents: a small version of what `make chaos` does with 10,000."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.crossings import crossings


@pytest.mark.requirement("S-112", "S-116", "S-161")
async def test_no_random_exchange_or_call_reaches_another_account_or_scope(tmp_path: Path) -> None:
    found = await crossings(tmp_path / "data", calls=500, seed=7)
    assert found.wrong == []
    assert found.tally["exchanges"] == 500
    for kind in ("refused", "served", "turned away", "through the vault", "with a narrow token"):
        assert found.tally[kind] > 20, found.tally
