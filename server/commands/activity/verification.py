"""`activity verify`: verify that the activity is complete, here and at the destinations of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.context import Setup, fail, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.checkpoints.comparison import Comparison, ConfirmedCheckpoint
    from server.deployment import Deployment
    from vault.audit.log import Log
    from vault.audit.proof import ChainBroken, Checkpoint, Report
    from vault.audit.tree import LeafRun
    from vault.records import Tell
    from vault.refresh.sightings import Rollback


def verify(
    setup: Setup,
    *,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Trust the sealed record before this UTC date, or date and time."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="Also compare with this signed checkpoint. Repeat it.", show_default=False),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Don't ask the destinations of checkpoints.")] = False,
    allow_unkeyed: Annotated[
        bool,
        typer.Option("--allow-unkeyed", help="Accept events of an earlier release that ran alongside this one."),
    ] = False,
    allow_restored: Annotated[
        bool,
        typer.Option("--allow-restored", help="Accept checkpoints of events that a restore removed."),
    ] = False,
) -> None:
    """Verify that no event was changed, removed, or inserted, also with the checkpoints outside this host."""
    files = checkpoint or []
    for path in files:
        if not path.is_file():
            fail(f"--checkpoint: there is no file {path}")
    if not setup.run(
        _verify(
            setup,
            since=since,
            files=files,
            is_local=local,
            allow_unkeyed=allow_unkeyed,
            allow_restored=allow_restored,
        )
    ):
        raise typer.Exit(1)


async def _verify(
    setup: Setup,
    *,
    since: str | None,
    files: Sequence[Path],
    is_local: bool,
    allow_unkeyed: bool,
    allow_restored: bool,
) -> bool:
    from server.terminal.progress import show_progress
    from vault.audit.log import load_logs
    from vault.audit.proof import ChainBroken, last_checkpoint
    from vault.audit.segments import seal
    from vault.audit.tree import narrow
    from vault.refresh import sightings

    before = None if since is None else _instant(since)
    async with setup.open() as deployment:
        database, logs = deployment.database, ()
        key = database.event_key
        try:
            sealed = None if before is None or key is None else await last_checkpoint(database, key, before=before)
            logs = () if key is None else await load_logs(database, key)
            with show_progress() as tell:
                report, run = await _walk(deployment, logs, since=sealed, tell=tell)
            _check_missed(await sightings.look(database, deployment.data), report)
            comparison = await _compare(deployment, logs, run, files=files, is_local=is_local)
            # so that doctor doesn't have to start at the first event
            await seal(database, now=deployment.now(), limit=None)
        except ChainBroken as found:
            broken = found
            if logs and key is not None:
                broken = await narrow(database, key, found, base=logs[-1].base)
            setup.show_one(
                {"whole": False, "sequence": broken.sequence, "after": broken.after, "sentence": broken.description},
                sentence=f"{broken.description}. {_confirmation(broken)}",
            )
            return False
    is_whole = (
        (allow_unkeyed or not report.unkeyed)
        and (allow_restored or not comparison.before_restore)
        and not comparison.problems
    )
    if setup.as_json:
        setup.show_json({"whole": is_whole, **_as_json(report), **_compared_as_json(comparison)})
    else:
        say("\n".join([*_sentences(report), *_sentences_of(comparison)]))
    return is_whole


def _confirmation(broken: ChainBroken) -> str:
    if not broken.after:
        return "No sealed checkpoint confirms any event before it."
    return f"Sealed checkpoints confirm the events up to {broken.after}."


async def _walk(
    deployment: Deployment, logs: Sequence[Log], *, since: Checkpoint | None, tell: Tell
) -> tuple[Report, LeafRun | None]:
    """Recompute the chain, and compare each event with its hash in the tree."""
    from vault.audit.proof import prove
    from vault.audit.tree import LeafRun, count_leaves

    database, key = deployment.database, deployment.database.event_key
    if key is None or not logs:
        return await prove(database, since=since, tell=tell), None
    stored, runs = await count_leaves(database), list[LeafRun]()

    def follow() -> LeafRun:
        runs.append(LeafRun(database, key, base=logs[-1].base, stored=stored))
        return runs[-1]

    return await prove(database, since=since, tell=tell, follow=follow), runs[-1]


async def _compare(
    deployment: Deployment, logs: Sequence[Log], run: LeafRun | None, *, files: Sequence[Path], is_local: bool
) -> Comparison:
    from server.checkpoints.comparison import Comparison, compare
    from server.checkpoints.publication import Destinations, destinations_of
    from vault.audit.deliveries import list_deliveries
    from vault.audit.log import extend
    from vault.audit.tree import Tree

    to = destinations_of(deployment)
    if run is None:
        is_expected = bool(files or (to.names and not is_local))
        return Comparison(
            problems=["there is no log to compare the checkpoints with: run token-vault activity checkpoint"]
            if is_expected
            else []
        )
    tree = Tree(deployment.database, logs[-1].base, run.stored, bytes(run.fresh))
    return await compare(
        tree,
        logs,
        Destinations(None, to.authority, ()) if is_local else to,
        grow=lambda: extend(deployment.database, logs[-1]),
        files=files,
        delivered=await list_deliveries(deployment.database),
        now=deployment.now(),
    )


def _check_missed(missed: Rollback | None, report: Report) -> None:
    """Raise ChainBroken if events that this host saw are gone: an emptied database is consistent in itself."""
    from vault.audit.proof import ChainBroken

    if missed is None:
        return
    why = (
        f"this host saw {missed.lost_events} more"
        if missed.lost_events
        else "this host saw different events, or a different start of the vault's key, in their place"
    )
    raise ChainBroken(report.last + 1, f"{why}; token-vault doctor explains what to do", after=report.trusted)


def _instant(text: str) -> int:
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since {text}: use a date such as 2026-11-30, or 2026-11-30T18:00")
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _as_json(report: Report) -> dict[str, object]:
    return {
        "first": report.first,
        "last": report.last,
        "trusted": report.trusted,
        "keyed_from": report.keyed_from,
        "unkeyed": {"count": report.unkeyed_count, "spans": [list(span) for span in report.unkeyed]},
        "pruned": [
            {
                "first": one.first,
                "last": one.last,
                "first_at": when(one.first_at),
                "last_at": when(one.last_at),
                "pruned_at": when(one.at),
                "retention_days": one.retention_days,
            }
            for one in report.pruned
        ],
    }


def _sentences(report: Report) -> list[str]:
    """The events that were verified, those verified earlier, and those that can't be verified."""
    found = [
        f"Events {one.first} to {one.last} ({when(one.first_at)} to {when(one.last_at)}) were pruned after "
        f"a retention of {one.retention_days} days, the last of them at {when(one.at)}."
        for one in report.pruned
    ]
    if report.trusted:
        found.append(f"Events up to {report.trusted} were verified when they were sealed, so they weren't read again.")
    if report.first > report.last:
        found.append("There are no other events.")
        return found
    found.append(f"Events {report.first} to {report.last} are intact: none were changed, removed, or inserted.")
    if report.keyed_from is not None and report.first < report.keyed_from:
        end = min(report.keyed_from - 1, report.last)
        found.append(f"Events up to {end} are older than the activity key, so only the hash chain protects them.")
    if report.unkeyed_count:
        spans = ", ".join(f"{first} to {last}" for first, last in report.unkeyed)
        found.append(
            f"{report.unkeyed_count} events were written without the vault's key{f' ({spans})' if spans else ''}, "
            "either by an earlier release running alongside this one or by someone with database access. "
            "If an earlier release ran then, use --allow-unkeyed; otherwise find out who wrote them."
        )
    return found


def _compared_as_json(comparison: Comparison) -> dict[str, object]:
    def row(one: ConfirmedCheckpoint) -> dict[str, object]:
        return {"where": one.where, "events": one.events, "stamped_at": when(one.stamped_at)}

    return {
        "checkpoints": [row(one) for one in comparison.confirmed],
        "checkpoints_before_restore": [
            row(one) | {"recovered_to": None if one.restart is None else one.restart.known}
            for one in comparison.before_restore
        ],
        "problems": comparison.problems,
    }


def _sentences_of(comparison: Comparison) -> list[str]:
    """The events that checkpoints outside this host confirm, and problems with these checkpoints."""
    found = [
        f"Events up to {one.events} match the checkpoint in {one.where}"
        f"{'' if one.stamped_at is None else f', which was stamped at {when(one.stamped_at)}'}."
        for one in comparison.confirmed
    ]
    found += [_recovery(one) for one in comparison.before_restore]
    if comparison.before_restore:
        found.append("If you restored the vault, use --allow-restored; otherwise find out who replaced its events.")
    return found + comparison.unstamped + [f"Problem: {one}." for one in comparison.problems]


def _recovery(one: ConfirmedCheckpoint) -> str:
    """The events covered by a checkpoint that a restore or a recovery removed."""
    restart = one.restart
    if restart is None or not restart.sequence:
        return (
            f"The checkpoint of {one.events} events in {one.where} is older than a restore, and those events are gone."
        )
    return (
        f"The vault was recovered from event {one.events} to event {restart.known}, says event {restart.sequence} of "
        f"{when(restart.at)}: the checkpoint of {one.events} events in {one.where} vouches for events that are gone."
    )
