"""A replica that is stopped while it holds what all others need; `make chaos` does the same at forty random moments."""

from __future__ import annotations

import pytest

from tests.chaos.stalls import LOCKS, MOST, forced, is_whole
from tests.conftest import Store


@pytest.mark.parametrize("what", LOCKS)
async def test_a_stopped_replica_holds_the_others_up_for_seconds_and_refuses_nobody(
    postgres_store: Store, what: str
) -> None:
    kind, lock = LOCKS[what]
    said, own = await forced(postgres_store, kind, lock)
    assert said.slowest <= MOST, said
    assert not said.refused, said
    assert own.ok, own  # it works again when it goes on
    assert await is_whole(postgres_store)
