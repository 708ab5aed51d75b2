"""Draws the state of a vault on a terminal: a line per subject, colored if it needs attention, and its processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.lifecycle.status import Status
from server.runtime.printable import printable

_GOOD: Final = "green"
_LOOK: Final = "yellow"
_BAD: Final = "red"
_SLOW_COMMIT: Final = 100.0  # milliseconds
_UNSEALED: Final = 7200  # seconds: a segment is sealed when its first event is an hour old


def draw(status: Status, url: str, *, problem: str = "") -> RenderableType:
    """The whole screen; `problem` is why it couldn't be refreshed."""
    at = datetime.fromtimestamp(status.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts: list[RenderableType] = [Text.assemble(("Token Vault ", "bold"), printable(url), "   ", (at, "dim"))]
    if problem:
        parts.append(Text(f"Not refreshed since: {printable(problem)}", style=_BAD))
    return Group(*parts, Text(), _subjects(status), Text(), _processes(status))


def _subjects(status: Status) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for subject, text, style in _lines(status):
        table.add_row(subject, Text(printable(text), style=style))
    return table


def _lines(status: Status) -> Iterable[tuple[str, str, str]]:
    """Each line's subject, text, and color."""
    unanswered, dead = status.refreshes.get("unanswered", 0), status.refreshes.get("needs_reauth", 0)
    told = f"{status.refreshes.get('ok', 0):,} ok, {unanswered:,} unanswered, {dead:,} need a reconnect"
    yield "Refreshes, last hour", told, _GOOD if not unanswered + dead else _LOOK
    told = "; ".join(f"{provider}: {_in_words(hosts)}" for provider, hosts in sorted(status.breakers.items()))
    yield "Breakers", (told and f"open: {told}") or "closed", _BAD if told else _GOOD
    waiting = status.pulse.approvals_waiting
    yield "Approvals waiting", f"{waiting:,}", _LOOK if waiting else ""
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(status.states.items()))
    yield "Accounts", states or "none", ""
    ending = ", ".join(f"{number:,} in {days} d" for days, number in status.census.ending.items())
    yield "Grants that end", ending, _LOOK if status.census.ending.get(1) else ""
    newest, sealed = status.age(status.pulse.newest_event_at), status.age(status.pulse.sealed_until)
    told = "no event yet" if newest is None else f"newest event {_span(newest)} ago"
    told += ", nothing sealed yet" if sealed is None else f", sealed until {_span(sealed)} ago"
    unsealed = status.age(status.pulse.unsealed_since) or 0
    yield "Activity", told, _LOOK if unsealed > _UNSEALED else ""
    yield "Answer journal here", f"{status.journal_bytes / 1024:,.0f} KiB", ""
    told = f"read {status.read_ms:.1f} ms, commit {status.commit_ms:.1f} ms"
    yield "Storage", told, _LOOK if status.commit_ms > _SLOW_COMMIT else _GOOD


def _in_words(hosts: Mapping[str, str]) -> str:
    return ", ".join(f"{why} at {host}" for host, why in sorted(hosts.items()))


def _processes(status: Status) -> RenderableType:
    if not status.replicas:
        return Text("No process serves this vault: run token-vault serve", style=_LOOK)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for head in ("process", "host", "version", "up", "seen", "failing"):
        table.add_column(head)
    for one in status.replicas:
        is_late = status.is_late(one)
        failing = ", ".join(f"{step} ({code})" for step, code in sorted(one.failing.items()))
        seen = f"{_span(status.age(one.seen_at) or 0)} ago"
        cells = (one.role, one.host, one.version, _span(status.age(one.started_at) or 0), seen, failing or "nothing")
        table.add_row(*map(printable, cells), style="dim" if is_late else _BAD if failing else "")
    return table


def _span(seconds: int) -> str:
    """A duration in its two largest useful units."""
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
