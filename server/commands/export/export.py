"""`export`: accounts with their tokens, encrypted to an age key, for another program."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.file_errors import reason_of
from server.terminal.completion import complete_providers, complete_users
from server.terminal.context import Setup, fail, note
from server.terminal.names import provider_called, user_called

if TYPE_CHECKING:
    from server.administration.account_export import ExportedAccount


def export(
    setup: Setup,
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    *,
    to: Annotated[
        list[str],
        typer.Option("--to", help="age recipient (age1...) or SSH public key. Repeat for several.", show_default=False),
    ],
    person: Annotated[
        str | None,
        typer.Option("--person", help="Only this person's.", show_default=False, autocompletion=complete_users),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider", help="Only at this provider.", show_default=False, autocompletion=complete_providers
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Write connected accounts with their refresh tokens to an encrypted file. Stop this vault before you import it."""
    file = file.expanduser().absolute()
    if file.exists():
        fail(f"{file} exists: name another file")
    if not file.parent.is_dir():
        fail(f"can't write {file}: {file.parent} isn't a folder")
    accounts = setup.run(_export(setup, file, tuple(to), person=person, provider=provider, asks=not yes))
    left_out = sum(bool(one.obstacle) for one in accounts)
    count = len(accounts) - left_out
    note("Stop this vault before another program uses these tokens: a token must have one owner.")
    row = {"file": str(file), "accounts": count, "left_out": left_out}
    setup.show_one(
        row, sentence=f"{file}: {count} accounts, encrypted to {len(to)} {'keys' if len(to) > 1 else 'key'}."
    )
    if left_out:
        raise typer.Exit(1)


async def _export(
    setup: Setup, file: Path, recipients: tuple[str, ...], *, person: str | None, provider: str | None, asks: bool
) -> tuple[ExportedAccount, ...]:
    from server.administration import account_export
    from server.administration.actor import Actor
    from server.administration.sealed_files import SealRefused, seal

    try:
        seal(b"", recipients=recipients)
    except SealRefused as refused:
        fail(str(refused))
    async with setup.open() as deployment:
        actor = Actor(deployment, None, "command_line")
        owner = None if person is None else await user_called(deployment.database, person)
        name = None if provider is None else provider_called(deployment.catalog, provider).name
        found = await account_export.collect(actor, person=owner, provider=name)
        for one in found:
            if one.obstacle:
                note(f"left out: {one.owner.name}, {one.connection.provider} {one.connection.label}: {one.obstacle}")
        usable = tuple(one for one in found if not one.obstacle)
        if not usable:
            fail("there is no account to export")
        if asks:
            _confirm(len(usable), file)
        sealed = await account_export.export(actor, usable, recipients=recipients)
        _write(file, sealed)
        return found


def _confirm(count: int, file: Path) -> None:
    """Ask for confirmation; ends the command without it."""
    if not sys.stdin.isatty():
        fail("confirm it with --yes: whoever opens the file can act as these people")
    if not typer.confirm(
        f"Write the tokens of {count} accounts to {file}? Whoever opens it can act as these people", err=True
    ):
        fail("you didn't confirm, so nothing was written")


def _write(file: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(file, flags, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        fail(f"can't write {file}: {reason_of(error)}")
