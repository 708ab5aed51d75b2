"""Opening the database that a URL names; only the driver in use is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vault.refusals import StorageUnavailable
from vault.storage.database import split_url, sqlite_path

if TYPE_CHECKING:
    from vault.storage.database import Database


async def open_database(url: str, *, data: Path, has_locks: bool = True) -> Database:
    """Open `sqlite:` (in the data directory), `sqlite:///path` or `postgresql://...` and upgrade its schema.

    `has_locks` False: no lock distinguishes live processes from dead ones, so none is ever treated as dead. Raises
    StorageUnavailable with one line that contains the fix.
    """
    path = sqlite_path(url, data=data)
    if path is not None:
        from vault.storage.sqlite import SqliteDatabase, SqliteFiles

        return await SqliteDatabase.open(SqliteFiles.beside(path), has_locks=has_locks)
    scheme = split_url(url).scheme
    if scheme in {"postgresql", "postgres"}:
        try:
            from vault.storage.postgres import PostgresDatabase
        except ModuleNotFoundError as error:
            raise StorageUnavailable(
                "PostgreSQL needs the package asyncpg: pip install 'mcp-token-vault[postgres]'"
            ) from error
        return await PostgresDatabase.open(url, data=data, has_locks=has_locks)
    raise StorageUnavailable(
        f"database.url: unknown scheme {scheme or 'none'}; use sqlite:, sqlite:///path, or postgresql://"
    )
