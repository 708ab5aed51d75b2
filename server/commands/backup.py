"""`backup`: a sealed copy of the running vault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, note

if TYPE_CHECKING:
    from server.settings import Settings
    from vault.backup.backups import Summary
    from vault.keys.sources import KeySource

FileArgument = Annotated[Path, typer.Argument(help="The backup file.", show_default=False)]

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="Use this file's passphrase instead of the vault's key.",
        show_default=False,
    ),
]


def backup(
    setup: Setup,
    file: FileArgument,
    *,
    with_keys: Annotated[
        bool,
        typer.Option("--with-keys", help="Include the key store. Data deleted later stays readable."),
    ] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Write an encrypted backup; works with a running vault."""
    file = file.expanduser().absolute()
    made = setup.run(_backup(setup, file, with_keys=with_keys, passphrase_file=passphrase_file))
    if not with_keys:
        note(
            "The backup doesn't include the key store: back it up separately, or use --with-keys. Without "
            "the key store, no account in this backup can be opened. Destroying a key in the key store "
            "makes its data in this backup unreadable too."
        )
    note("Backups don't include the vault's own key (keys.source): store it separately.")
    row = {"file": str(file), "with_keys": with_keys, "rows": sum(made.rows.values()), "bytes": file.stat().st_size}
    setup.show_one(row, sentence=f"{file}: {row['rows']:,} rows, {row['bytes']:,} bytes, encrypted.")


async def _backup(setup: Setup, file: Path, *, with_keys: bool, passphrase_file: Path | None) -> Summary:
    from server.terminal.progress import show_progress
    from vault.audit import audit
    from vault.backup import backups
    from vault.records import Event
    from vault.storage import snapshots

    async with setup.open() as deployment:
        url = deployment.settings.database_url()
        if passphrase_file is None:
            note(f"Encrypting the backup with the vault's key (source: {deployment.settings.keys.source}).")
        with show_progress() as tell:
            async with snapshots.snapshot(url, data=deployment.data) as seen:
                made = await backups.write_backup(
                    file,
                    seen,
                    ring=deployment.keys,
                    passphrase=passphrase_of(passphrase_file),
                    with_keys=with_keys,
                    now=deployment.now(),
                    tell=tell,
                )
        async with deployment.transaction() as transaction:
            details: dict[str, object] = {"with_keys": with_keys, "rows": sum(made.rows.values())}
            await audit.append(transaction, Event("vault.backed_up", details=details), now=deployment.now())
        return made


def sealing_key(settings: Settings, data: Path, passphrase_file: Path | None) -> KeySource:
    """The key that opens a backup: the vault's own keys, or a passphrase."""
    from vault.keys.sources import key_source

    return passphrase_of(passphrase_file) or key_source(settings.keys, data=data)


def passphrase_of(file: Path | None) -> KeySource | None:
    """The passphrase in a file, if one is named."""
    from vault.keys.sources.passphrase import PassphraseKeySource

    return None if file is None else PassphraseKeySource({}, file=file)
