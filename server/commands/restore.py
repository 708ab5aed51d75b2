"""`restore`: replace the stopped vault with a backup."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from server.commands.backup import FileArgument, PassphraseOption, sealing_key
from server.event_texts import when
from server.terminal.context import Setup, fail, note

if TYPE_CHECKING:
    from server.settings import Settings
    from vault.backup.quarantine import RestoredConnection
    from vault.storage.database import Database

FIRST: Final = 10  # accounts that are listed without --verbose
VerboseOption = Annotated[bool, typer.Option("--verbose", help="List every account, not only the first ones.")]
RunningOption = Annotated[
    bool,
    typer.Option(
        "--ignore-running",
        help="Continue even if processes seem to use the vault. Use this only if none do.",
    ),
]


def restore(
    setup: Setup,
    file: FileArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the existing vault and everything in it.")] = False,
    ignore_running: RunningOption = False,
    passphrase_file: PassphraseOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Restore a backup into a stopped vault, and list the accounts to reconnect."""
    how = _How(force=force, ignores_running=ignore_running, passphrase_file=passphrase_file)
    judged = setup.run(_restore(setup, file.expanduser().absolute(), how))
    report(setup, judged, done=f"Restored into {setup.directory()}:", is_whole=verbose)


@dataclass(frozen=True, slots=True)
class _How:
    force: bool
    ignores_running: bool
    passphrase_file: Path | None


async def _restore(setup: Setup, file: Path, how: _How) -> tuple[RestoredConnection, ...]:
    from server.app import open_policies
    from server.runtime.data_directory import prepare_data_directory
    from server.terminal.progress import show_progress
    from vault.backup import backups
    from vault.keys.sources import key_source
    from vault.refresh import sightings

    settings = setup.settings()
    data = prepare_data_directory(setup.directory())
    policies = await open_policies(settings, data=data)  # an app without a secret may get different refresh tokens
    opened = await backups.Backup.open(file, sealing_key(settings, data, how.passphrase_file))
    async with alone_with(settings, data, vault=opened.header.vault, ignores_running=how.ignores_running) as database:
        with show_progress() as tell:
            judged = await backups.restore(
                opened,
                database,
                source=key_source(settings.keys, data=data),
                policies=policies,
                force=how.force,
                tell=tell,
            )
        sightings.forget(data)
        return judged


@asynccontextmanager
async def alone_with(
    settings: Settings, data: Path, *, vault: str | None, ignores_running: bool
) -> AsyncGenerator[Database]:
    """The database, while no other process uses it: such a process would mix its cached state with the restored
    data."""
    from vault.storage.database_url import open_database
    from vault.storage.presence import Presence

    presence = Presence(settings.database_url(), data=data)
    try:
        if not presence.take_alone() and not ignores_running:
            fail(
                "this vault is in use on this host. Stop all its processes first: serve, and each MCP "
                "client that started a stdio process. To continue anyway, use --ignore-running"
            )
        if vault is not None and not ignores_running:
            refuse_serving(settings, vault)
        database = await open_database(settings.database_url(), data=data)
        try:
            others = await database.count_others()
            if others and not ignores_running:
                fail(
                    f"other processes of this vault have {others} database sessions. Stop the replicas on "
                    "all hosts and wait 20 seconds. To continue anyway, use --ignore-running"
                )
            yield database
        finally:
            await database.close()
    finally:
        presence.close()


def refuse_serving(settings: Settings, vault: str) -> None:
    """Refuse while a process of this vault answers at its address, on any host."""
    from server.lifecycle.loopback import Address, look

    name = urlsplit(settings.public_url).netloc
    address = Address(settings.server.host, settings.server.port, vault, name=name)
    if look(address).is_served:
        fail(f"this vault is running at {settings.public_url}. Stop all its processes first")


def report(setup: Setup, judged: tuple[RestoredConnection, ...], *, done: str, is_whole: bool) -> None:
    """Print the result for each account, or for the first ones; `done` is the start of the sentence that counts
    them."""
    from vault.backup.quarantine import RestoreVerdict, sort_for_people

    rows = [
        {
            "user": one.user,
            "provider": one.provider,
            "account": one.label,
            "verdict": one.verdict.value,
            "until": when(one.until),
            "id": one.connection_id,
        }
        for one in sort_for_people(judged)
    ]
    if not setup.as_json:
        counted = Counter(one.verdict.value for one in judged)
        parts = "; ".join(f"{count:,} {verdict}" for verdict, count in counted.items())
        note(f"{done} {len(judged):,} connections" + (f": {parts}." if parts else "."))
        note(
            "Everyone must sign in again, and allow each agent again. Users and agents disabled after this backup are "
            "active again, with the passwords and secrets of that time: review them."
        )
        rows = [row for row in rows if row["verdict"] != RestoreVerdict.UNAFFECTED.value]
        if len(rows) > FIRST and not is_whole:
            note(f"The first {FIRST} of {len(rows):,} accounts; use --verbose or --json for all:")
            rows = rows[:FIRST]
    setup.show(
        rows,
        columns=("user", "provider", "account", "verdict", "until"),
        empty="No account needs to be reconnected.",
    )
