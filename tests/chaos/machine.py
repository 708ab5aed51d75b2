"""The vault driven at random for longer than the suite allows; see `tests/test_vault_machine.py`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.chaos.figures import Figure, Scale
from tests.conftest import Store, first_run
from tests.test_vault_machine import drive


async def figures(scale: Scale) -> list[Figure]:
    """Random sequences of connecting, calling, expiry, faults, a second process, backups and restores."""
    examples, steps = (200, 40) if scale is Scale.FULL else (10, 20)
    found = "0 spent tokens presented, 0 accounts lost outside the law of the gap"
    with tempfile.TemporaryDirectory(prefix="tvmachine") as folder:
        data = Path(folder)
        await first_run(Store("sqlite:", data))
        try:
            await asyncio.to_thread(drive, data, examples=examples, steps=steps, is_random=True)
        except AssertionError as error:
            found = f"a sequence that breaks it: {error}"
    return [
        Figure(
            f"{examples} random histories of {steps} steps against a strict provider, SQLite",
            found,
            "0 spent, 0 lost",
            found.startswith("0 spent"),
        )
    ]
