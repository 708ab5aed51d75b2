"""The model of refreshes at full size: every interleaving of kills, pauses, lost messages, and failed commits.

Each class of provider has its own process. Each rule is also broken in turn, and the model must notice.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.chaos.figures import Figure, Scale
from tests.support.models.exploration import Findings, explore
from tests.support.models.refresh_model import (
    FILES,
    FULL,
    HOUR,
    PROVIDERS,
    SMALL,
    STORAGE,
    WIDE,
    Budget,
    Provider,
)
from tests.vault.refresh.test_refresh_model import BROKEN

SIBLING = PROVIDERS[2]


def budgets(provider: Provider, scale: Scale) -> tuple[Budget, ...]:
    """What may happen: FULL, more of everything, failing storage, a missing owner file, an outage of the provider.
    Here, the newest sibling token ends the others. Two processes that are stopped for longer than a lease, one after
    the other, each with an answer to the same token, can then lose the grant: no rule here prevents that.
    """
    if scale is Scale.SMALL:
        return (SMALL,)
    return FULL, WIDE._replace(pauses=1) if provider is SIBLING else WIDE, STORAGE, FILES, HOUR


def explore_provider(provider: Provider, budget: Budget) -> Findings:
    """Explore it in a separate process."""
    return explore(provider, budget=budget)


def is_noticed(number: int) -> bool:
    """Whether the model finds the harm of one broken rule."""
    return BROKEN[number].is_noticed()


def line(provider: Provider, budget: Budget, found: Findings) -> Figure:
    wrong = found.lost or found.doubled or found.stuck
    many = f"{budget.kills} kills, {budget.pauses} pauses, {budget.losses} lost messages, {budget.claims} sends"
    if budget.unknown or budget.files:
        many += f", {budget.unknown} commits of unknown end, {budget.files} missing owner files"
    return Figure(
        f"every interleaving of two processes, {many}; provider: {provider.name}",
        " ".join(wrong) if wrong else f"{found.states:,} states explored, {found.lost_in_gap:,} lost in the gap",
        "0 lost outside the gap, 0 sent twice, 0 stuck",
        holds=not wrong,
    )


async def figures(scale: Scale) -> list[Figure]:
    """A figure for each class of provider and size, and one for the broken rules."""
    loop = asyncio.get_running_loop()
    wanted = [(provider, budget) for provider in PROVIDERS for budget in budgets(provider, scale)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        exploring = [loop.run_in_executor(pool, explore_provider, *one) for one in wanted]
        noticing = [loop.run_in_executor(pool, is_noticed, number) for number in range(len(BROKEN))]
        found, noticed = await asyncio.gather(*exploring), await asyncio.gather(*noticing)
    missed = [broken.name for broken, seen in zip(BROKEN, noticed, strict=True) if not seen]
    return [
        *(line(*one, findings) for one, findings in zip(wanted, found, strict=True)),
        Figure(
            "each rule of refreshing changed in turn",
            f"{len(BROKEN) - len(missed)} of {len(BROKEN)} noticed" + (f", not: {', '.join(missed)}" if missed else ""),
            "all",
            holds=not missed,
        ),
    ]
