"""Take over accounts that people connected elsewhere: their refresh tokens, from a CSV file.

The file is only read. An imported account has no access token yet, so its first use refreshes through the same journal
as every other one. A token must have one owner: the former one stops before the accounts are imported, since most
providers end a grant whose refresh token comes twice.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from providers.oauth.token_responses import account_named
from server.administration.actor import Actor, ChangeRefused
from vault import connections, users
from vault.audit import audit
from vault.records import parse_scope
from vault.upstream import Account, TokenAnswer

COLUMNS: Final = ("user", "provider", "account", "refresh_token", "scopes")
OPTIONAL: Final = ("label",)
_MOST: Final = 100_000  # rows
_LONGEST: Final = 16 * 1024  # characters of one value
NEW: Final = "new"
KNOWN: Final = "already connected"


@dataclass(frozen=True, slots=True)
class ImportedAccount:
    """One row: whose account at which provider. `account` is the provider's stable id of it."""

    line: int
    user: str
    provider: str
    account: str
    label: str
    scopes: frozenset[str]
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """What became of a row, or would: NEW, KNOWN, or why it cannot be taken over."""

    row: ImportedAccount
    outcome: str

    @property
    def is_refused(self) -> bool:
        return self.outcome not in {NEW, KNOWN}


def read_csv(file: Path) -> tuple[ImportedAccount, ...]:
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
        raise ChangeRefused("import_unreadable", f"can't read {file}: {error}") from error


def _rows(file: Path, reader: csv.DictReader[str]) -> Iterator[ImportedAccount]:
    for count, row in enumerate(reader, start=1):
        values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, *OPTIONAL)}
        empty = [name for name in COLUMNS if not values[name]]
        too_long = [name for name, value in values.items() if len(value) > _LONGEST]
        odd = [name for name in COLUMNS if not values[name].isprintable()]
        account = account_named(values["account"], values["label"])
        if account is None or empty or odd or too_long or None in row or count > _MOST:
            what = "too many or too long values"
            if empty or odd:
                what = f"{empty[0]} is empty" if empty else f"{odd[0]} has characters that can't be shown"
            raise ChangeRefused("import_unreadable", f"{file}, line {reader.line_num}: {what}")
        yield ImportedAccount(
            reader.line_num,
            values["user"],
            values["provider"],
            account.id,
            account.label,
            parse_scope(values["scopes"]),
            values["refresh_token"],
        )


async def judge(actor: Actor, rows: Sequence[ImportedAccount]) -> tuple[ImportOutcome, ...]:
    """What importing each row would do; nothing is stored."""
    found: list[ImportOutcome] = []
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        outcome = await _judge(actor, row)
        key = (row.user, row.provider, row.account)
        if outcome == NEW and key in seen:
            outcome = "the file has this account twice"
        seen.add(key)
        found.append(ImportOutcome(row, outcome))
    return tuple(found)


async def _judge(actor: Actor, row: ImportedAccount) -> str:
    deployment = actor.deployment
    provider = deployment.catalog.get(row.provider)
    if provider is None or provider.audience is not None:
        return "unknown provider"
    if not deployment.vault.upstreams[provider.name].is_configured:
        return f"{provider.name} isn't set up: enter the OAuth app that these tokens belong to"
    if unknown := row.scopes - provider.scopes.keys() - provider.always_granted:
        return f"{provider.name} doesn't have the scope {min(unknown)}"
    person = await users.find_user(deployment.database, row.user)
    if person is None or person.disabled_at is not None:
        return "no such user, or disabled"
    held = await connections.find(deployment.database, person.id, provider=provider.name)
    return KNOWN if any(one.account == row.account for one in held) else NEW


async def take_over(actor: Actor, row: ImportedAccount) -> str:
    """Store one account, in a transaction of its own; NEW, KNOWN, or why not. Running it again stores nothing twice."""
    outcome = await _judge(actor, row)
    if outcome != NEW:
        return outcome
    deployment = actor.deployment
    provider = deployment.catalog.provider(row.provider)
    person = await users.find_user(deployment.database, row.user)
    if person is None:
        return "no such user, or disabled"
    now = deployment.now()
    answer = TokenAnswer(
        "-",  # ended already, so it is never used
        refresh_token=row.refresh_token,
        scopes=row.scopes,
        expires_in=0,
        account=Account(row.account, row.label),
    )
    async with actor.change() as transaction:
        opened = await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=person.id,
            provider=provider.name,
            answer=answer,
            asked=row.scopes,
            policy=deployment.vault.policies[provider.name],
            now=now,
        )
        event = actor.event(
            "connection.opened",
            user_id=person.id,
            provider=provider.name,
            account=opened.label,
            scopes=sorted(opened.scopes),
            method="import",
        )
        await audit.append(transaction, event, now=now)
    return NEW
