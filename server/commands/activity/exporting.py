"""`activity export`: events for another program, with what ties them to the signed log."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from server.terminal.context import Setup, fail

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.records import Tell

_PAGE = 500  # events read at a time
_LOOK = 0.5  # seconds between reads with --follow


def export(
    setup: Setup,
    *,
    format_: Annotated[
        Literal["jsonl", "syslog", "otlp", "ocsf"],
        typer.Option("--format", help="JSON lines, syslog (RFC 5424), OpenTelemetry logs, or OCSF 1.6."),
    ] = "jsonl",
    after: Annotated[int, typer.Option("--after", min=0, help="Number of the last event that you have.")] = 0,
    until: Annotated[
        int | None, typer.Option("--until", min=1, help="Number of the last event to export.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to append to.", show_default="standard output")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep exporting new events.")] = False,
) -> None:
    """Write events as lines, each with its number and its hash in the signed log."""
    last = setup.run(_export(setup, format_, after=after, until=until, output=output, follow=follow))
    if output is not None:
        setup.show_one({"file": str(output), "last": last}, sentence=f"{output}: events {after + 1} to {last}.")


async def _export(
    setup: Setup, format_: str, *, after: int, until: int | None, output: Path | None, follow: bool
) -> int:
    from server.terminal.progress import show_progress

    async with setup.open() as deployment:
        if output is None:
            return await _write(deployment, sys.stdout, format_, after=after, until=until, follow=follow)
        with output.open("a", encoding="utf-8") as file, show_progress() as tell:
            return await _write(deployment, file, format_, after=after, until=until, follow=follow, tell=tell)


async def _write(
    deployment: Deployment,
    file: TextIO,
    format_: str,
    *,
    after: int,
    until: int | None,
    follow: bool,
    tell: Tell | None = None,
) -> int:
    import socket

    from server.event_formats import FORMATS, ExportedEvent
    from server.event_texts import names_of
    from vault.audit.audit import head
    from vault.audit.tree import list_leaves

    database, key, write = deployment.database, deployment.database.event_key, FORMATS[format_]
    if key is None:
        fail("the vault's key isn't open")
    last, host = after, socket.gethostname()
    end = (await head(database)).sequence
    while True:
        found = await list_leaves(database, key, after=last, limit=_PAGE)
        found = [(event, leaf) for event, leaf in found if until is None or event.sequence <= until]
        names = await names_of(deployment, [event for event, _ in found])
        file.writelines(write(ExportedEvent(event, leaf, names, host)) + "\n" for event, leaf in found)
        file.flush()
        if found:
            last = found[-1][0].sequence
            if tell is not None:
                tell("Exporting events", last, max(end, last))
        elif not follow or (until is not None and last >= until):
            return last
        else:
            await asyncio.sleep(_LOOK)
