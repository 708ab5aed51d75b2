"""Accounts from a CSV file: the format for any source without its own reader here."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from providers.definitions.file_errors import reason_of
from providers.oauth.token_responses import account_named
from server.administration.account_imports.accounts import LONGEST, MOST, ImportedAccount, unreadable
from server.administration.actor import ChangeRefused

COLUMNS: Final = ("user", "provider", "account", "refresh_token", "scopes")
OPTIONAL: Final = ("label",)


def read(file: Path) -> tuple[ImportedAccount, ...]:
    """The rows of the file. Raises ChangeRefused with the line that can't be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            names = reader.fieldnames or ()
            missing = [name for name in COLUMNS if name not in names]
            unknown = [name for name in names if name not in {*COLUMNS, *OPTIONAL}]
            if missing or unknown:
                raise ChangeRefused(
                    "import_unreadable",
                    f"{file}: the first line must name the columns {', '.join(COLUMNS)}, and can name "
                    f"{', '.join(OPTIONAL)}",
                )
            return tuple(_rows(file, reader))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(file, str(error) if isinstance(error, csv.Error) else reason_of(error)) from error


def _rows(file: Path, reader: csv.DictReader[str]) -> Iterator[ImportedAccount]:
    for count, row in enumerate(reader, start=1):
        values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, *OPTIONAL)}
        empty = [name for name in COLUMNS if not values[name]]
        too_long = [name for name, value in values.items() if len(value) > LONGEST]
        odd = [name for name in COLUMNS if not values[name].isprintable()]
        account = account_named(values["account"], values["label"])
        if account is None or empty or odd or too_long or None in row or count > MOST:
            what = "too many or too long values"
            if empty or odd:
                what = f"{empty[0]} is empty" if empty else f"{odd[0]} has unprintable characters"
            raise ChangeRefused("import_unreadable", f"{file}, line {reader.line_num}: {what}")
        yield ImportedAccount(
            reader.line_num,
            (values["user"],),
            values["provider"],
            account=account.id,
            label=account.label,
            scopes=values["scopes"],
            refresh_token=values["refresh_token"],
            account_is_ours=True,
        )
