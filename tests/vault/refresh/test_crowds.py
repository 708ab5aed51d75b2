"""Many accounts in one vault: an account with damaged ciphertext harms no other, whatever iterates over the rows."""

from __future__ import annotations

from tests.chaos.row import one_bad
from tests.chaos.world import strict_provider


async def test_one_undecryptable_row_affects_one_account() -> None:
    async with strict_provider() as provider:
        figure = await one_bad(provider, None, connections=12)
    assert figure.holds, figure.measured
