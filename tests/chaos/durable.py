"""How long an answer exists only in memory: from the provider's last byte to the journal's sync."""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path

from tests.chaos.figures import Figure, Scale, quantile
from vault.refresh.journal import Journal, JournalEntry

SIZE = 1500  # bytes of a sealed answer


async def figures(scale: Scale) -> list[Figure]:
    """One figure: appends to a preallocated file, each followed by a sync."""
    count = 2000 if scale is Scale.FULL else 100
    with tempfile.TemporaryDirectory(prefix="tvchaos") as folder:
        journal = Journal(Path(folder))
        taken: list[float] = []
        for number in range(count):
            entry = JournalEntry(
                f"connection {number % 50}", number, "owner", fence=number, at=0, sealed=secrets.token_bytes(SIZE)
            )
            await journal.reserve(entry.connection_id, now=0)
            started = time.perf_counter()
            await journal.append(entry)
            taken.append((time.perf_counter() - started) * 1000)
        journal.close()
    last = quantile(taken, 0.99)
    return [
        Figure(
            "answer to durable",
            f"p50 {quantile(taken, 0.5):.2f} ms, p99 {last:.2f} ms of {count}",
            "p99 at most 5 ms",
            holds=last <= 5,
        )
    ]
