"""Accounts from ContextForge: its `oauth_tokens` with their gateways, from its SQLite file or as JSON.

Read 2026-11-27, not run: IBM/mcp-context-forge@ecba50e, 1.0.8 (mcpgateway/db.py `OAuthToken` and `Gateway`,
services/encryption_service.py, services/oauth_manager.py). Tokens are encrypted with Fernet, with a key that Argon2id
derives from AUTH_ENCRYPTION_SECRET. `user_id` is often the client ID, so the provider is asked with the access token
which account it is. The gateway's `oauth_config` names the OAuth app.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from argon2.exceptions import Argon2Error
from argon2.low_level import Type, hash_secret_raw
from cryptography.fernet import Fernet, InvalidToken

from providers.definitions.file_errors import reason_of
from providers.outbound.json_values import is_object
from server.administration.account_imports.accounts import (
    NO_REFRESH_TOKEN,
    ImportedAccount,
    names_of,
    object_of,
    read_records,
    text_of,
    unreadable,
)

LOCKED: Final = "its tokens are encrypted: pass the file with AUTH_ENCRYPTION_SECRET as --secret-file"
WRONG: Final = "its tokens can't be opened with this AUTH_ENCRYPTION_SECRET"
_SQLITE: Final = b"SQLite format 3\0"
_MARK: Final = "v2:"
_ROWS: Final = """
    select o.app_user_email, o.access_token, o.refresh_token, o.expires_at, o.scopes, g.name as gateway, g.oauth_config
    from oauth_tokens o join gateways g on g.id = o.gateway_id order by o.created_at, o.id
"""
_VIEWS: Final = "select 1 from sqlite_master where type <> 'table' and name in ('oauth_tokens', 'gateways')"


class _NotOpened(Exception):
    """A token that can't be read; the text is the reason."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """The maximum Argon2id costs that the file may demand: passes, KiB, and lanes."""

    passes: int = 16
    memory: int = 1024 * 1024
    lanes: int = 16


@dataclass(frozen=True, slots=True)
class Secret:
    """Decrypts the tokens with the text of AUTH_ENCRYPTION_SECRET, which is empty if it wasn't given."""

    text: str = field(default="", repr=False)


def read(file: Path, secret: Secret) -> tuple[ImportedAccount, ...]:
    """One account for each row of the SQLite file, or of JSON with the columns of the same query.

    Raises ChangeRefused.
    """
    rows = _sqlite_rows(file) if _is_sqlite(file) else read_records(file, "oauth_tokens")
    return tuple(_account(line, row, secret) for line, row in enumerate(rows, start=1))


def _is_sqlite(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise unreadable(file, reason_of(error)) from error


def _sqlite_rows(file: Path) -> Sequence[Mapping[str, object]]:
    """The rows of a file that nobody is writing; opened so that SQLite creates no files of its own next to it."""
    journal = file.with_name(f"{file.name}-wal")
    try:
        if journal.exists() and journal.stat().st_size:
            raise unreadable(
                file, f"ContextForge has it open: stop it, or copy it with sqlite3 {file.name} '.backup COPY'"
            )
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as opened:
            opened.row_factory = sqlite3.Row
            opened.execute("pragma trusted_schema = off")
            if opened.execute(_VIEWS).fetchone() is not None:  # a view could be anything, even endless
                raise unreadable(file, "oauth_tokens and gateways must be tables, as ContextForge creates them")
            return [dict(row) for row in opened.execute(_ROWS)]
    except OSError as error:
        raise unreadable(file, reason_of(error)) from error
    except sqlite3.Error as error:
        raise unreadable(file, str(error)) from error


def _account(line: int, row: Mapping[str, object], secret: Secret) -> ImportedAccount:
    config, scopes = _object(row.get("oauth_config")), _json(row.get("scopes"))
    obstacle, refresh_token, access_token = "", "", ""
    try:
        refresh_token = _open(text_of(row, "refresh_token"), secret)
        access_token = _open(text_of(row, "access_token"), secret)
    except _NotOpened as error:
        obstacle = str(error)
    is_lasting = not refresh_token and not row.get("expires_at")
    token = refresh_token or (access_token if is_lasting else "")
    return ImportedAccount(
        line,
        names_of(text_of(row, "app_user_email")),
        text_of(row, "gateway"),
        scopes=scopes or None,
        refresh_token=refresh_token,
        access_token=access_token,
        client_id=text_of(config, "client_id"),
        token_url=text_of(config, "token_url"),
        obstacle=obstacle or ("" if token else NO_REFRESH_TOKEN),
        access_is_lasting=is_lasting,
    )


def _json(value: object) -> object:
    """A JSON column, parsed if the driver left it as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _object(value: object) -> Mapping[str, object]:
    return object_of({"value": _json(value)}, "value")


def _open(stored: str, secret: Secret) -> str:
    """The token in a column. Raises _NotOpened."""
    bundle = _json(stored.removeprefix(_MARK))
    if not is_object(bundle) or not {"salt", "token", "t", "m", "p"} <= bundle.keys():
        if stored.startswith((_MARK, "gAAAA")):
            raise _NotOpened(WRONG)
        return stored
    if not secret.text:
        raise _NotOpened(LOCKED)
    try:
        key = _key(bundle, secret)
        return Fernet(key).decrypt(text_of(bundle, "token").encode()).decode()
    except (Argon2Error, InvalidToken, ValueError) as error:
        raise _NotOpened(WRONG) from error


def _key(bundle: Mapping[str, object], secret: Secret) -> bytes:
    """Raises ValueError for implausible costs."""
    costs = [value for name in ("t", "m", "p") if isinstance(value := bundle[name], int)]
    limits = _Limits()
    highest = (limits.passes, limits.memory, limits.lanes)
    if not all(0 < cost <= most for cost, most in zip(costs, highest, strict=True)):
        raise ValueError("the costs are out of range")
    made = hash_secret_raw(
        secret.text.encode(),
        base64.b64decode(text_of(bundle, "salt")),
        time_cost=costs[0],
        memory_cost=costs[1],
        parallelism=costs[2],
        hash_len=32,
        type=Type.ID,
    )
    return base64.urlsafe_b64encode(made)
