"""Opening the database that a URL names; only the driver in use is loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vault.refusals import StorageUnavailable
from vault.storage.database import split_url, sqlite_path

if TYPE_CHECKING:
    from vault.storage.database import Database


LOG = logging.getLogger("token_vault.storage")
_PAUSE: Final = 0.5  # seconds between the first attempts to reach a server; twice as long after each
_LONGEST_PAUSE: Final = 5.0


async def open_database(url: str, *, data: Path, has_locks: bool = True, patience: float = 0.0) -> Database:
    """Open `sqlite:` (in the data directory), `sqlite:///path` or `postgresql://...` and upgrade its schema.

    `has_locks` False: no lock distinguishes live processes from dead ones, so none is ever treated as dead. `patience`:
    seconds to wait for a server that doesn't accept connections yet. Raises StorageUnavailable with one line that
    contains the fix.
    """
    path = sqlite_path(url, data=data)
    if path is not None:
        from vault.storage.sqlite import SqliteDatabase, SqliteFiles

        return await SqliteDatabase.open(SqliteFiles.beside(path), has_locks=has_locks)
    scheme = split_url(url).scheme
    if scheme in {"postgresql", "postgres"}:
        try:
            from vault.storage.postgres import PostgresDatabase, is_unreachable
        except ModuleNotFoundError as error:
            raise StorageUnavailable(
                "PostgreSQL needs the package asyncpg: pip install 'mcp-token-vault[postgres]'"
            ) from error

        async def open_it() -> Database:
            return await PostgresDatabase.open(url, data=data, has_locks=has_locks)

        return await _open_patiently(open_it, patience=patience, is_unreachable=is_unreachable)
    raise StorageUnavailable(
        f"database.url: unknown scheme {scheme or 'none'}; use sqlite:, sqlite:///path, or postgresql://"
    )


async def _open_patiently(
    open_it: Callable[[], Awaitable[Database]],
    *,
    patience: float,
    is_unreachable: Callable[[BaseException | None], bool],
) -> Database:
    clock = asyncio.get_running_loop().time
    until, pause = clock() + patience, _PAUSE
    while True:
        try:
            return await open_it()
        except StorageUnavailable as refused:
            left = until - clock()
            if left <= 0 or not is_unreachable(refused.__cause__):
                raise
            LOG.warning("waiting for the database", extra={"detail": refused.description, "seconds": round(left)})
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
