"""Prints a list a page at a time, so that a long one is never in memory: as a JSON array, or as a table.

On a terminal, a table fits the width, and scopes and times are shortened. `--json`, and a table for another program,
show everything.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from server.runtime.printable import printable

_GAPS: Final = (2, 1)  # blanks between columns: the first that fits
_CUTS: Final = (60, 20, 14)  # characters after which a long word is cut: the first that fits
_SCOPES: Final = 4  # scopes in one row
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Listing:
    """One list. A table's columns are as wide as the first page needs, and grow with later ones."""

    def __init__(self, columns: Sequence[str], *, empty: str, as_json: bool) -> None:
        self._columns = columns
        self._heads = [column.replace("_", " ") for column in columns]
        self._empty = empty
        self._as_json = as_json
        self._is_begun = False
        self._widths: Sequence[int] = [len(head) for head in self._heads]

    def add(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Print more rows."""
        if not rows:
            return
        if self._as_json:
            page = json.dumps(list(rows), indent=2, ensure_ascii=False)
            self._write(("," if self._is_begun else "[") + page.removeprefix("[").removesuffix("\n]"))
            self._is_begun = True
            return
        if sys.stdout.isatty():
            self._print_fitted(rows)
        else:  # for programs that read the table (grep, awk): one full line per row
            cells = [[printable(format_cell(row.get(column))) for column in self._columns] for row in rows]
            self._print_lines(cells)
        self._is_begun = True

    def end(self) -> None:
        """Print the end of the list."""
        if self._as_json:
            self._write("\n]\n" if self._is_begun else "[]\n")
        elif not self._is_begun:
            self._write(f"{self._empty}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(printable(text, kept="\n\t"))
        sys.stdout.flush()

    def _print_lines(self, cells: Sequence[Sequence[str]]) -> None:
        from rich.cells import cell_len

        shown = cells if self._is_begun else [self._heads, *cells]
        self._widths = [
            max(width, *map(cell_len, column))
            for width, column in zip(self._widths, zip(*cells, strict=True), strict=True)
        ]
        lines = [
            "".join(
                cell + " " * (width + _GAPS[0] - cell_len(cell)) for cell, width in zip(row, self._widths, strict=True)
            )
            for row in shown
        ]
        self._write("".join(f"{line.rstrip()}\n" for line in lines))

    def _print_fitted(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Print a table that fits the terminal: text wraps between words, and a long word ends in an ellipsis."""
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        cells = [[printable(_shorten(column, row.get(column))) for column in self._columns] for row in rows]
        natural = [
            max(width, *map(cell_len, column))
            for width, column in zip(self._widths, zip(*cells, strict=True), strict=True)
        ]
        words = [max(cell_len(word) for row in cells for word in [*row[n].split(), ""]) for n in range(len(natural))]
        between = len(natural) - 1
        for cut, gap in ((cut, gap) for cut in _CUTS for gap in _GAPS):
            floors = [
                max(
                    natural[n] if n == 0 else words[n] if _is_whole(column) else min(words[n], cut), _head_width(column)
                )
                for n, column in enumerate(self._columns)
            ]
            if sum(floors) + gap * between <= console.width:
                break
        else:
            self._print_blocks(rows, width=console.width)
            return
        self._widths = _fit(natural, floors, room=console.width - gap * between)
        table = Table(
            box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold", show_header=not self._is_begun
        )
        for head, width in zip(self._heads, self._widths, strict=True):
            table.add_column(head, overflow="ellipsis", width=width)
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)

    def _print_blocks(self, rows: Sequence[Mapping[str, object]], *, width: int) -> None:
        """Print each row as separate full lines, for a terminal that is too narrow for a table."""
        label = max(len(head) for head in self._heads) + 3
        for row in rows:
            first, *rest = self._columns
            self._write(f"{printable(format_cell(row.get(first)))}\n")
            for column, head in zip(rest, self._heads[1:], strict=True):
                text = printable(format_cell(row.get(column)))
                self._write(hang(f"  {head:{label - 2}}", text, width=width) + "\n")


def hang(label: str, text: str, *, width: int) -> str:
    """The text after its label, with continuation lines indented to it. No word is broken."""
    import textwrap

    room = max(width - 1, len(label) + 20)
    return (
        textwrap.fill(
            text,
            room,
            initial_indent=label,
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        ).rstrip()
        or label.rstrip()
    )


def _is_whole(column: str) -> bool:
    """Whether a column holds IDs, which people copy: they are never cut."""
    return column == "id" or column.endswith(("_id", "clients"))


def _head_width(column: str) -> int:
    return max(len(word) for word in column.split("_"))


def _shorten(column: str, value: object) -> str:
    """A value for a terminal: scopes without their address and only the first few, times without seconds."""
    if column == "scopes" and isinstance(value, list):
        scopes = [str(scope) for scope in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- made for print
        ends = [scope.rstrip("/").rpartition("/")[2] if "://" in scope else scope for scope in scopes]
        more = len(ends) - _SCOPES
        return " ".join([*ends[:_SCOPES], f"+{more}"] if more > 1 else ends)
    if isinstance(value, str) and _TIME.fullmatch(value):
        return f"{value[:10]} {value[11:16]}Z"
    return format_cell(value)


def _fit(natural: Sequence[int], floors: Sequence[int], *, room: int) -> Sequence[int]:
    """Column widths that fit the room, by narrowing the widest. The floors must fit."""
    widths = [max(pair) for pair in zip(natural, floors, strict=True)]
    while sum(widths) > room:
        widest = max((width, index) for index, width in enumerate(widths) if width > floors[index])[1]
        widths[widest] -= 1
    return widths


def format_cell(value: object) -> str:
    """A value as shown in a table."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict():
            return " ".join(f"{name}={part}" for name, part in value.items())  # pyright: ignore[reportUnknownVariableType] -- made for print
        case list() | tuple():
            return " ".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- made for print
        case _:
            return str(value)
