"""`backup`, `restore` and `quarantine`: a sealed copy of the running vault, putting it back, and what is safe then."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from server.commands.context import Setup, command, fail, note
from server.event_texts import when

if TYPE_CHECKING:
    from providers.definitions.catalog import Catalog
    from server.settings import Settings
    from vault.backup.backups import Summary
    from vault.backup.quarantine import Restored
    from vault.keys.sources import KeySource
    from vault.storage.database import Database

FileArgument = Annotated[Path, typer.Argument(help="The backup file.", show_default=False)]
RunningOption = Annotated[
    bool,
    typer.Option("--ignore-running", help="Go on although processes seem to use the vault: you know that none does."),
]
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
        ignore_running: RunningOption = False,
        passphrase_file: PassphraseOption = None,
    ) -> None:
        """Put a backup in the place of the stopped vault, and list the accounts that need their person again."""
        catalog = setup.catalog()  # as it is set up here: an app without a secret may get other refresh tokens
        how = _How(force=force, ignores_running=ignore_running, passphrase_file=passphrase_file)
        judged = setup.run(_restore(setup, file.expanduser().absolute(), catalog, how))
        _report(setup, judged, done="Restored.")

    @command(root, "quarantine")
    def quarantine(
        setup: Setup,
        *,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would become of each account, and change nothing.")
        ] = False,
        accept: Annotated[
            bool, typer.Option("--accept", help="Leave everything as it is, and take the database as the newest.")
        ] = False,
        ignore_running: RunningOption = False,
    ) -> None:
        """Make a database safe that came back older by other means than restore: a copy, a volume, a fail-over."""
        if dry_run and accept:
            fail("--dry-run and --accept exclude each other")
        catalog = setup.catalog()
        judged = setup.run(_quarantine(setup, catalog, is_dry=dry_run, accepts=accept, ignores_running=ignore_running))
        if judged is None:
            sentence = "The database is taken as it is; what this host sees of it from now on counts."
            setup.show_one({"accepted": True}, sentence=sentence)
        else:
            _report(setup, judged, done="Nothing was changed. It would be:" if dry_run else "Quarantined.")


def _source(settings: Settings, data: Path, passphrase_file: Path | None) -> KeySource:
    from vault.keys.sources import key_source
    from vault.keys.sources.passphrase import PassphraseKeySource

    if passphrase_file is not None:
        return PassphraseKeySource({}, file=passphrase_file)
    return key_source(settings.keys, data=data)


async def _backup(setup: Setup, file: Path, *, with_keys: bool, passphrase_file: Path | None) -> Summary:
    from vault.audit import audit
    from vault.backup import backups
    from vault.records import Event
    from vault.storage import snapshots

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


@dataclass(frozen=True, slots=True)
class _How:
    force: bool
    ignores_running: bool
    passphrase_file: Path | None


async def _restore(setup: Setup, file: Path, catalog: Catalog, how: _How) -> tuple[Restored, ...]:
    from server.app import policies_of
    from server.runtime.data_directory import prepare_data_directory
    from vault.backup import backups
    from vault.keys.sources import key_source
    from vault.refresh import sightings

    settings = setup.settings()
    data = prepare_data_directory(setup.directory())
    opened = await backups.Backup.open(file, _source(settings, data, how.passphrase_file))
    async with _alone(settings, data, vault=opened.header.vault, ignores_running=how.ignores_running) as database:
        judged = await backups.restore(
            opened,
            database,
            source=key_source(settings.keys, data=data),
            policies=policies_of(catalog),
            force=how.force,
        )
        sightings.forget(data)
        return judged


async def _quarantine(
    setup: Setup, catalog: Catalog, *, is_dry: bool, accepts: bool, ignores_running: bool
) -> tuple[Restored, ...] | None:
    from server.app import policies_of
    from server.runtime.data_directory import prepare_data_directory
    from vault.audit.audit import append
    from vault.backup import quarantine
    from vault.keys.key_ring import KeyRing, vault_id
    from vault.keys.sources import key_source
    from vault.records import Event
    from vault.refresh import sightings

    settings, policies = setup.settings(), policies_of(catalog)
    data = prepare_data_directory(setup.directory())
    async with _alone(settings, data, vault=None, ignores_running=ignores_running or is_dry) as database:
        keys = await KeyRing.open(database, key_source(settings.keys, data=data))
        if not (ignores_running or is_dry):
            _refuse_serving(settings, vault_id(keys))
        now = database.now()
        if is_dry:
            return await quarantine.preview(database, policies, now=now)
        judged = None
        async with database.transaction(patient=True) as transaction:
            if accepts:
                events = [Event("vault.rollback_accepted")]
            else:
                judged = await quarantine.quarantine(transaction, policies, now=now)
                held = [one for one in judged if one.verdict is not quarantine.RestoreVerdict.GOES_ON]
                counts: dict[str, object] = {"connections": len(judged), "quarantined": len(held)}
                events = [*(one.event for one in held), Event("vault.quarantined", details=counts)]
            await append(transaction, *events, now=now)
        sightings.forget(data)
        return judged


@asynccontextmanager
async def _alone(
    settings: Settings, data: Path, *, vault: str | None, ignores_running: bool
) -> AsyncGenerator[Database]:
    """The database, with nobody else at it: who goes on working would mix what it remembers with what is restored."""
    from vault.storage.database import open_database
    from vault.storage.presence import Presence

    presence = Presence(settings.database_url(), data=data)
    try:
        if not presence.take_alone() and not ignores_running:
            fail(
                "this vault is in use on this host: stop all its processes first, serve and each MCP client that "
                "started a stdio one (--ignore-running goes on all the same)"
            )
        if vault is not None and not ignores_running:
            _refuse_serving(settings, vault)
        database = await open_database(settings.database_url(), data=data)
        try:
            others = await database.count_others()
            if others and not ignores_running:
                fail(
                    f"other processes of this vault have {others} sessions at the database: stop the replicas on all "
                    "hosts first, and wait 20 seconds (--ignore-running goes on all the same)"
                )
            yield database
        finally:
            await database.close()
    finally:
        presence.close()


def _refuse_serving(settings: Settings, vault: str) -> None:
    """Somebody of this vault answers at its address, on whatever host."""
    from server.lifecycle.loopback import Address, look

    name = urlsplit(settings.public_url).netloc
    address = Address(settings.server.host, settings.server.port, vault, name=name)
    if look(address).is_served:
        fail(f"this vault is running at {settings.public_url}: stop all its processes first")


def _report(setup: Setup, judged: tuple[Restored, ...], *, done: str) -> None:
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
        note(f"{done} " + ("; ".join(f"{count} {verdict}" for verdict, count in counted.items()) or "No accounts."))
        note("Everybody signs in again, agents too. Who was disabled or cut off since the backup is back: look.")
        rows = [row for row in rows if row["verdict"] != "goes on"]
    setup.show(
        rows,
        columns=("user", "provider", "account", "verdict", "until"),
        empty="No account needs its person again.",
    )
