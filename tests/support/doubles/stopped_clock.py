"""A database clock that stands still, for what ends at an exact second."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from vault.storage.database import Database


class _StoppedAt(int):
    """An offset that makes the sum with any time this one."""

    def __radd__(self, other: int) -> int:
        return int(self)


@contextmanager
def stopped_clock(database: Database, *, at: int | None = None) -> Generator[int]:
    """Stop the clock at a second (the current one if none is named), which it yields. SQLite only."""
    before, now = database.clock_offset, database.now() if at is None else at
    database.clock_offset = _StoppedAt(now)
    try:
        yield now
    finally:
        database.clock_offset = before
