"""The model of refreshing at full size: every interleaving of two kills, a pause, a lost message, a failing commit."""

from __future__ import annotations

import asyncio

from tests.chaos.figures import Figure, Scale
from tests.refresh_model import FULL, PROVIDERS, SMALL, explore


async def figures(scale: Scale) -> list[Figure]:
    """One line per class of provider; minutes at full size."""
    budget = FULL if scale is Scale.FULL else SMALL
    lines: list[Figure] = []
    for provider in PROVIDERS:
        found = await asyncio.to_thread(explore, provider, budget=budget)
        wrong = found.lost or found.doubled
        lines.append(
            Figure(
                f"every interleaving, provider: {provider.name}",
                " ".join(wrong) if wrong else f"{found.states:,} states, {found.lost_in_gap:,} lost in the gap",
                "0 lost outside the gap, 0 sent twice",
                holds=not wrong,
            )
        )
    return lines
