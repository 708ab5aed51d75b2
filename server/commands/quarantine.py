"""`quarantine`: make a database safe after it went back in time without `restore`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.restore import RunningOption, VerboseOption, alone_with, refuse_serving, report
from server.terminal.context import Setup, fail

if TYPE_CHECKING:
    from vault.backup.quarantine import RestoredConnection


def quarantine(
    setup: Setup,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen, without changing anything.")
    ] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Accept the database in its current state.")] = False,
    recovered_to: Annotated[
        int | None,
        typer.Option(
            "--recovered-to",
            min=0,
            help="Number of the last event from before, if the vault has run since. Default: the last one.",
            show_default=False,
        ),
    ] = None,
    ignore_running: RunningOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a database safe after it went back in time without `restore`."""
    if dry_run and accept:
        fail("use either --dry-run or --accept")
    judged = setup.run(
        _quarantine(setup, is_dry=dry_run, accepts=accept, known=recovered_to, ignores_running=ignore_running)
    )
    if judged is None:
        sentence = "Accepted the database in its current state. Changes on this host are tracked from here on."
        setup.show_one({"accepted": True}, sentence=sentence)
    else:
        done = "Dry run, nothing was changed:" if dry_run else "Checked"
        report(setup, judged, done=done, is_whole=verbose)


async def _quarantine(
    setup: Setup, *, is_dry: bool, accepts: bool, known: int | None, ignores_running: bool
) -> tuple[RestoredConnection, ...] | None:
    from server.app import open_policies
    from server.runtime.data_directory import prepare_data_directory
    from server.terminal.progress import show_progress
    from vault.audit.audit import append, head
    from vault.backup import quarantine
    from vault.keys.key_ring import KeyRing, vault_id
    from vault.keys.sources import key_source
    from vault.records import Event
    from vault.refresh import sightings

    settings = setup.settings()
    setup.check_vault(settings)
    data = prepare_data_directory(setup.directory())
    read_policies = await open_policies(settings, data=data)
    async with alone_with(settings, data, vault=None, ignores_running=ignores_running or is_dry) as database:
        keys = await KeyRing.open(database, key_source(settings.keys, data=data), creates=False)
        if not (ignores_running or is_dry):
            refuse_serving(settings, vault_id(keys))
        now, policies = database.now(), await read_policies(database)
        if is_dry:
            return await quarantine.preview(database, policies, now=now)
        judged, last = None, (await head(database)).sequence
        if known is not None and known > last:
            fail(f"--recovered-to {known}: the last event is {last}")
        known = last if known is None else known
        with show_progress() as tell:
            async with database.transaction(patient=True, alone=True) as transaction:
                if accepts:
                    facts = {"known": known, "restart": secrets.token_hex(8)}
                    await append(transaction, Event("vault.rollback_accepted", details=facts), now=now)
                else:
                    judged = await quarantine.quarantine(transaction, policies, now=now, tell=tell)
                    await quarantine.record(transaction, judged, Event("vault.quarantined"), now=now, known=known)
        sightings.forget(data)
        return judged
