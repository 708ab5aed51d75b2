"""`backup` and `restore`: a sealed copy of the running vault, and putting it back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from server.commands.setup import Setup, command, fail, note, when

if TYPE_CHECKING:
    from providers.catalog import Catalog
    from server.settings import Settings
    from vault.backups import Backup, Summary
    from vault.database import Database
    from vault.keysources import KeySource
    from vault.quarantine import Restored

FileArgument = Annotated[Path, typer.Argument(help="The backup file.", show_default=False)]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="Use the passphrase in this file, not the vault's own key.",
        show_default=False,
    ),
]


def register(root: typer.Typer) -> None:
    """Add the commands to the program."""

    @command(root, "backup")
    def backup(
        setup: Setup,
        file: FileArgument,
        *,
        with_keys: Annotated[
            bool,
            typer.Option("--with-keys", help="Put the key store in too: what is deleted later stays readable in it."),
        ] = False,
        passphrase_file: PassphraseOption = None,
    ) -> None:
        """Write a sealed copy of the vault as it is now, while it runs."""
        file = file.expanduser().absolute()
        made = setup.run(_backup(setup, file, with_keys=with_keys, passphrase_file=passphrase_file))
        if not with_keys:
            note(
                "The key store is not in it: keep a copy of that apart, or use --with-keys. Without it no account in "
                "this backup can be opened; a key destroyed there later is gone from this backup too."
            )
        note("The vault's own key (keys.source) is in no backup: keep it apart.")
        row = {"file": str(file), "with_keys": with_keys, "rows": sum(made.rows.values()), "bytes": file.stat().st_size}
        setup.show_one(row, sentence=f"{file}: {row['rows']} rows, {row['bytes']} bytes, sealed.")

    @command(root, "restore")
    def restore(
        setup: Setup,
        file: FileArgument,
        *,
        force: Annotated[bool, typer.Option("--force", help="Replace the vault that is there.")] = False,
        passphrase_file: PassphraseOption = None,
    ) -> None:
        """Put a backup in the place of the stopped vault, and list the accounts that need their person again."""
        catalog = setup.catalog()  # as it is set up here: an app without a secret may get other refresh tokens
        judged = setup.run(
            _restore(setup, file.expanduser().absolute(), catalog, force=force, passphrase_file=passphrase_file)
        )
        _report(setup, judged)


def _source(settings: Settings, data: Path, passphrase_file: Path | None) -> KeySource:
    from vault.keysources import key_source
    from vault.keysources.passphrase import PassphraseKeySource

    if passphrase_file is not None:
        return PassphraseKeySource({}, file=passphrase_file)
    return key_source(settings.keys, data=data)


async def _backup(setup: Setup, file: Path, *, with_keys: bool, passphrase_file: Path | None) -> Summary:
    from vault import audit, backups, snapshots
    from vault.records import Event

    async with setup.open() as deployment:
        source = _source(deployment.settings, deployment.data, passphrase_file)
        url = deployment.settings.database_url()
        if passphrase_file is None:  # the same source opened the ring: its key is at hand
            note(f"Sealing it under the vault's key, {deployment.settings.keys.source}.")
        async with snapshots.snapshot(url, data=deployment.data) as seen:
            made = await backups.write_backup(
                file,
                seen,
                ring=deployment.keys,
                source=source,
                with_keys=with_keys,
                is_passphrase=passphrase_file is not None,
                now=deployment.now(),
            )
        async with deployment.transaction() as transaction:
            details: dict[str, object] = {"with_keys": with_keys, "rows": sum(made.rows.values())}
            await audit.append(transaction, Event("vault.backed_up", details=details), now=deployment.now())
        return made


async def _restore(
    setup: Setup, file: Path, catalog: Catalog, *, force: bool, passphrase_file: Path | None
) -> tuple[Restored, ...]:
    from server.app import policies_of
    from server.data_folder import prepare_data_directory
    from vault import backups
    from vault.database import open_database
    from vault.keysources import key_source

    settings = setup.settings()
    data = prepare_data_directory(setup.directory())
    opened = await backups.Backup.open(file, _source(settings, data, passphrase_file))
    _refuse_running(settings, opened)
    database: Database = await open_database(settings.database_url(), data=data)
    try:
        return await backups.restore(
            opened,
            database,
            source=key_source(settings.keys, data=data),
            policies=policies_of(catalog),
            force=force,
        )
    finally:
        await database.close()


def _refuse_running(settings: Settings, backup: Backup) -> None:
    """A process that goes on working would mix what it remembers with what is restored."""
    from server.companion import Address, Holder, look

    name = urlsplit(settings.public_url).netloc
    address = Address(settings.server.host, settings.server.port, backup.header.vault, name=name)
    if look(address) is Holder.OURS:
        fail(f"this vault is running at {settings.public_url}: stop all its processes first")


def _report(setup: Setup, judged: tuple[Restored, ...]) -> None:
    rows = [
        {
            "user": one.user,
            "provider": one.provider,
            "account": one.label,
            "verdict": one.verdict.value,
            "until": when(one.until),
            "id": one.connection_id,
        }
        for one in judged
    ]
    if not setup.as_json:
        counted = Counter(one.verdict.value for one in judged)
        note("Restored. " + ("; ".join(f"{count} {verdict}" for verdict, count in counted.items()) or "No accounts."))
        note("Everybody signs in again, agents too. Who was disabled or cut off since the backup is back: look.")
        rows = [row for row in rows if row["verdict"] != "goes on"]
    setup.show(
        rows,
        columns=("user", "provider", "account", "verdict", "until"),
        empty="No account needs its person again.",
    )
