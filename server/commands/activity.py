"""`activity` and `activity verify`: what happened, and the proof that its record is complete."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from server.event_texts import event_fields, in_a_line, names_of, when
from server.terminal.completion import complete_users
from server.terminal.context import Setup, command, fail, say, user_named

if TYPE_CHECKING:
    from vault.audit.proof import Report
    from vault.refresh.sightings import Rollback

_LOOK = 0.5  # seconds between reads with --follow


class _Activity(typer.core.TyperGroup):
    """`activity` without a subcommand lists."""

    default_command = "list"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride] -- the base names typer's private class of it
        if not args or args[0] not in self.commands:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Activity, help="Show who did what: agents, scopes, and outcomes.")


@command(app, "list")
def activity(
    setup: Setup,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing new events.")] = False,
    user: Annotated[
        str | None, typer.Option("--user", help="Only events of this user.", autocompletion=complete_users)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many recent events to show.")] = 50,
) -> None:
    """Show who did what: agents, scopes, and outcomes."""
    setup.run(_activity(setup, follow=follow, user=user, limit=limit))


@command(app, "verify")
def verify(
    setup: Setup,
    *,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Trust the sealed record before this UTC date, or date and time."),
    ] = None,
    allow_unkeyed: Annotated[
        bool,
        typer.Option("--allow-unkeyed", help="Accept events of an earlier release that ran beside this one."),
    ] = False,
) -> None:
    """Verify that no event was changed, removed, or inserted."""
    if not setup.run(_verify(setup, since=since, allow_unkeyed=allow_unkeyed)):
        raise typer.Exit(1)


async def _activity(setup: Setup, *, follow: bool, user: str | None, limit: int) -> None:
    from vault.audit import audit

    async with setup.open() as deployment:
        user_id = None if user is None else (await user_named(deployment.database, user)).id
        latest = await audit.list_events(deployment.database, user_id=user_id, limit=limit, newest_first=True)
        names = await names_of(deployment, latest)
        rows = [event_fields(event, names=names) for event in reversed(latest)]
        if setup.as_json and not follow:
            setup.show_json(rows)
            return
        last = latest[0].sequence if latest else 0
        _print(setup, rows)
        while follow:
            new = await audit.list_events(deployment.database, user_id=user_id, after=last, limit=limit)
            if new:
                names = await names_of(deployment, new)
                last = new[-1].sequence
                _print(setup, [event_fields(event, names=names) for event in new])
            else:
                await asyncio.sleep(_LOOK)


def _print(setup: Setup, rows: list[dict[str, object]]) -> None:
    for row in rows:
        say(json.dumps(row, ensure_ascii=False) if setup.as_json else in_a_line(row))


async def _verify(setup: Setup, *, since: str | None, allow_unkeyed: bool) -> bool:
    from server.terminal.progress import show_progress
    from vault.audit.proof import ChainBroken, last_checkpoint, prove
    from vault.audit.segments import seal
    from vault.refresh import sightings

    before = None if since is None else _instant(since)
    async with setup.open() as deployment:
        database = deployment.database
        try:
            key = database.event_key
            sealed = None if before is None or key is None else await last_checkpoint(database, key, before=before)
            with show_progress() as tell:
                report = await prove(database, since=sealed, tell=tell)
            _check_missed(await sightings.look(database, deployment.data), report)
            await seal(database, now=deployment.now(), limit=None)  # so that doctor need not start at the first event
        except ChainBroken as broken:
            setup.show_one(
                {"whole": False, "sequence": broken.sequence, "after": broken.after, "sentence": broken.description},
                sentence=f"{broken.description}. Sealed checkpoints confirm the events up to {broken.after}.",
            )
            return False
    is_whole = allow_unkeyed or not report.unkeyed
    if setup.as_json:
        setup.show_json({"whole": is_whole, **_as_json(report)})
    else:
        say("\n".join(_sentences(report)))
    return is_whole


def _check_missed(missed: Rollback | None, report: Report) -> None:
    """Raise ChainBroken for events that this host saw and that are gone: an emptied database is self-consistent."""
    from vault.audit.proof import ChainBroken

    if missed is None:
        return
    why = (
        f"this host saw {missed.lost_events} more"
        if missed.lost_events
        else "this host saw other events, or another start of the vault's key, in their place"
    )
    raise ChainBroken(report.last + 1, f"{why}; token-vault doctor says what to do", after=report.trusted)


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
    """What was proved, what was taken as proved before, and what cannot be proved."""
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
