"""A temporary database on a PostgreSQL server, dropped at the end of a block; for measuring."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlunsplit

import asyncpg

from vault.refusals import StorageUnavailable
from vault.storage.database import split_url
from vault.storage.postgres_hosts import ERRORS, Servers, place_of, split_hosts


@asynccontextmanager
async def scratch_database(url: str) -> AsyncGenerator[str]:
    """The URL of an empty database on the server of `url`; its user needs CREATEDB. Raises StorageUnavailable."""
    name = f"token_vault_bench_{secrets.token_hex(4)}"
    try:
        connection = await Servers(split_hosts(url), {}).connect()
    except ERRORS as error:
        raise StorageUnavailable(f"can't reach PostgreSQL at {place_of(url)}", detail=type(error).__name__) from error
    try:
        try:
            await connection.execute(f"create database {name}")
        except asyncpg.InsufficientPrivilegeError as error:
            raise StorageUnavailable(
                "this database user can't create a throw-away database: grant CREATEDB, or name another user"
            ) from error
        try:
            yield urlunsplit(split_url(url)._replace(path=f"/{name}"))
        finally:
            await connection.execute(f"drop database if exists {name} with (force)")
    finally:
        await connection.close()
