"""The people in a vault to measure: many exist as rows only, and some hundred make calls.

The rows are those of `tests.bench.million_rows`: a connection and two grants per person. The vault itself creates the
callers, so their tokens are valid.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from server.app import open_deployment
from server.deployment import Deployment
from server.settings import Settings
from tests.bench.million_rows import Size, SqlitePlace, tables
from vault import users

CALLERS: Final = 500
_FILLED: Final = {"users": 1, "clients": 1, "grants": 1, "connections": 5, "delegations": 5}  # keep every nth row


async def fill(settings: Settings, data: Path, people: int) -> None:
    """Make a vault on SQLite with this many people; opens and closes it."""
    async with open_deployment(settings, data=data) as deployment, deployment.transaction() as transaction:
        now = deployment.now()
        first, second = [await users.create_user(transaction, name, now=now) for name in ("alice", "bob")]
    size = Size(people * 5, 0, first.id, second.id, now)
    place = SqlitePlace(data)
    for table, columns, values in tables(size):
        if table in _FILLED:
            await place.copy((table, columns, islice(values, 0, None, _FILLED[table])))
    await place.finish()


async def callers(
    deployment: Deployment, people: int, *, seed: Callable[[Deployment, str], Awaitable[tuple[str, str]]]
) -> Sequence[str]:
    """Access tokens of the people who make calls, at most `CALLERS`."""
    return [(await seed(deployment, f"caller-{number}"))[0] for number in range(min(people, CALLERS))]
