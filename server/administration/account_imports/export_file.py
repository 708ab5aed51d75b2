"""Accounts from the file that `token-vault export` wrote: JSON, encrypted to an age key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from providers.definitions.file_errors import reason_of
from providers.outbound.json_values import integer_at, is_object
from server.administration.account_imports.accounts import (
    NO_REFRESH_TOKEN,
    ImportedAccount,
    names_of,
    object_of,
    objects_of,
    parse_json,
    text_of,
    unreadable,
)
from server.administration.sealed_files import FORMAT, SealRefused, open_sealed

_LATEST: Final = 253_402_300_799  # the end of the year 9999, which every database can store


def read(file: Path, *, identity: Path) -> tuple[ImportedAccount, ...]:
    """One account for each exported one. `identity` is the file with the age key. Raises ChangeRefused."""
    try:
        content = parse_json(file, open_sealed(file.read_bytes(), identity=identity).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, reason_of(error)) from error
    except SealRefused as error:
        raise unreadable(file, str(error)) from error
    if not is_object(content) or content.get("format") != FORMAT or content.get("version") != 1:
        raise unreadable(file, "it isn't an export of this version")
    return tuple(_account(line, one) for line, one in enumerate(objects_of(content, "accounts"), start=1))


def _account(line: int, one: Mapping[str, object]) -> ImportedAccount:
    refresh_token, access_token = text_of(one, "refresh_token"), text_of(one, "access_token")
    ends_at = integer_at(one, "grant_expires_at")
    metadata = {name: value for name, value in object_of(one, "metadata").items() if isinstance(value, str)}
    return ImportedAccount(
        line,
        names_of(text_of(one, "user")),
        text_of(one, "provider"),
        account=text_of(one, "account"),
        label=text_of(one, "label"),
        nickname=text_of(one, "nickname"),
        scopes=one.get("scopes"),
        refresh_token=refresh_token,
        access_token="" if refresh_token else access_token,
        metadata=metadata,
        grant_expires_at=None if ends_at is None else min(ends_at, _LATEST),
        client_id=text_of(one, "client_id"),
        obstacle="" if refresh_token or access_token else NO_REFRESH_TOKEN,
        account_is_ours=True,
        access_is_lasting=not refresh_token,
    )
