"""`activity export`: events for another program, with the hashes that tie them to the signed log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from server.terminal.context import Setup, fail, note

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.records import Tell

_PAGE = 500  # events read at a time
_NAMES = 10_000  # names kept from page to page
_LOOK = 0.5  # seconds between reads with --follow
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until a page is sent again


def export(
    setup: Setup,
    *,
    format_: Annotated[
        Literal["jsonl", "syslog", "otlp", "ocsf"] | None,
        typer.Option(
            "--format",
            help="JSON lines, syslog (RFC 5424), OpenTelemetry logs, or OCSF 1.6.",
            show_default="jsonl, or that of --to",
        ),
    ] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Number of the last event that you have.")] = 0,
    until: Annotated[
        int | None, typer.Option("--until", min=1, help="Number of the last event to export.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to append to.", show_default="standard output")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Send to syslog at tcp://HOST:PORT or tls://HOST:PORT, or to a collector's http(s) address.",
            show_default=False,
        ),
    ] = None,
    position: Annotated[
        Path | None,
        typer.Option(
            "--position",
            help="File with the number of the last event sent; the export continues after it.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep exporting new events.")] = False,
) -> None:
    """Write or send events, each with its number and its hash in the signed log."""
    if to is not None:
        if output is not None:
            fail("use either --output or --to")
        span = EventRange(_start(position, after=after), until, is_endless=follow)
        last = setup.run(_send(setup, to, format_, span, position=position))
        setup.show_one({"to": to, "last": last}, sentence=f"{to}: {_in_words(span.after, last)}.")
        return
    if position is not None:
        fail("--position needs --to")
    last = setup.run(_export(setup, format_ or "jsonl", after=after, until=until, output=output, follow=follow))
    if output is not None:
        setup.show_one({"file": str(output), "last": last}, sentence=f"{output}: {_in_words(after, last)}.")


def _in_words(after: int, last: int) -> str:
    return f"events {after + 1} to {last}" if last > after else f"no event after {after}"


@dataclass(frozen=True, slots=True)
class EventRange:
    """The events to export: after a number, until another or the end, and with `is_endless` future ones, too."""

    after: int
    until: int | None
    is_endless: bool


async def _export(
    setup: Setup, format_: str, *, after: int, until: int | None, output: Path | None, follow: bool
) -> int:
    from server.terminal.progress import show_progress

    span = EventRange(after, until, follow)
    async with setup.open() as deployment:
        if output is None:
            return await _write(deployment, sys.stdout, format_, span)
        with output.open("a", encoding="utf-8") as file, show_progress() as tell:
            return await _write(deployment, file, format_, span, tell=tell)


async def _write(
    deployment: Deployment, file: TextIO, format_: str, span: EventRange, *, tell: Tell | None = None
) -> int:
    last = span.after
    async for end, lines in _pages(deployment, format_, span, tell=tell):
        file.writelines(line + "\n" for line in lines)
        file.flush()
        last = end
    return last


async def _send(setup: Setup, to: str, format_: str | None, span: EventRange, *, position: Path | None) -> int:
    """Send page by page. With `--follow`, a page that isn't received is sent again; otherwise it ends the command."""
    from server.commands.activity.receivers import FORMAT_OF, NotReceived, receiver_at
    from server.terminal.progress import show_progress

    async with setup.open() as deployment:
        try:
            receiver = receiver_at(to, deployment.http)
        except ValueError as error:
            fail(f"--to {to}: {error}")
        fitting = FORMAT_OF[to.partition(":")[0]]
        if format_ not in {None, fitting}:
            fail(f"--to {to} takes the format {fitting}")
        last = span.after
        try:
            with show_progress() as tell:
                async for last, lines in _pages(deployment, fitting, span, tell=tell):
                    pause = _FIRST_PAUSE
                    while True:
                        try:
                            if refused := await receiver.send(lines):
                                note(f"{to} refused {refused} of the events up to {last}")
                            break
                        except NotReceived as error:
                            if not span.is_endless:
                                fail(f"{error}; the last event that was sent is {last - len(lines)}")
                            note(f"{error}; trying again in {pause:.0f} s")
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE)
                    if position is not None:
                        _keep(position, last)
        finally:
            await receiver.close()
        return last


def _start(position: Path | None, *, after: int) -> int:
    """The number of the event to start after."""
    if position is None or not position.exists():
        return after
    known = position.read_text(encoding="ascii", errors="replace").strip()
    if not known.isdigit():
        fail(f"--position {position}: it should hold the number of an event")
    return max(after, int(known))


def _keep(position: Path, last: int) -> None:
    unseen = position.with_name(f".{position.name}.new")
    unseen.write_text(f"{last}\n", encoding="ascii")
    unseen.replace(position)


async def _pages(
    deployment: Deployment, format_: str, span: EventRange, *, tell: Tell | None = None
) -> AsyncGenerator[tuple[int, list[str]]]:
    """The events as lines, page by page, each page with the number of its last event."""
    import socket

    from server.event_formats import FORMATS, ExportedEvent
    from server.event_texts import names_of
    from vault.audit.audit import head
    from vault.audit.tree import list_leaves

    database, key, write = deployment.database, deployment.database.event_key, FORMATS[format_]
    if key is None:
        fail("the vault's key isn't open")
    last, host, until = span.after, socket.gethostname(), span.until
    end = (await head(database)).sequence
    names, asked = dict[str, str](), set[str | None]()
    while True:
        found = await list_leaves(database, key, after=last, limit=_PAGE)
        found = [(event, leaf) for event, leaf in found if until is None or event.sequence <= until]
        if found:
            if len(asked) > _NAMES:
                names.clear()
                asked.clear()
            new = [event for event, _ in found if not {event.user_id, event.client_id} <= asked]
            names |= await names_of(deployment, new)
            asked |= {one for event in new for one in (event.user_id, event.client_id)}
            last = found[-1][0].sequence
            yield last, [write(ExportedEvent(event, leaf, names, host)) for event, leaf in found]
            if tell is not None:
                tell("Exporting events", last, max(end, last))
        elif not span.is_endless or (until is not None and last >= until):
            return
        else:
            names.clear()  # names may change between reads
            asked.clear()
            await asyncio.sleep(_LOOK)
