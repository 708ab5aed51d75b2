"""Puts a database back to an earlier state while its processes and their host's journal stay; for both databases."""

from __future__ import annotations

from collections.abc import Sequence

from vault.storage.database import Database, Row
from vault.storage.snapshots import tables


class Past:
    """All rows of the main store at an earlier time."""

    def __init__(self, rows: dict[str, Sequence[Row]]) -> None:
        self._rows = rows

    @classmethod
    async def of(cls, database: Database) -> Past:
        names = [name for name in tables() if not name.startswith("keys.")]
        return cls({name: await database.fetch(f"select * from {name}") for name in names})

    async def come_back(self, database: Database) -> None:
        async with database.transaction() as transaction:
            for name, rows in self._rows.items():
                await transaction.execute(f"delete from {name}")
                for row in rows:
                    places = ", ".join(f":{column}" for column in row)
                    await transaction.execute(f"insert into {name} ({', '.join(row)}) values ({places})", row)
