"""Print a list a page at a time, so that a long one is never in memory: a JSON array, or a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from server.runtime.printable import printable

_GAPS = (2, 1)  # blanks between columns: as many as there is room for


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
        cells = [[printable(format_cell(row.get(column))) for column in self._columns] for row in rows]
        if sys.stdout.isatty():
            self._print_fitted(cells)
        else:  # programs that read the table (grep, awk) have no width: one line per row
            self._print_lines(cells)
        self._is_begun = True

    def end(self) -> None:
        """Print what follows the last row."""
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

    def _print_fitted(self, cells: Sequence[Sequence[str]]) -> None:
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        # What people copy, and every heading, stays in one piece however narrow the terminal is.
        floors = [max(len(word) for word in head.split()) for head in self._heads]
        natural = [
            max(width, *map(cell_len, column))
            for width, column in zip(self._widths, zip(*cells, strict=True), strict=True)
        ]
        floors[0] = natural[0]
        gap = next((wide for wide in _GAPS if sum(floors) + wide * len(floors) <= console.width), _GAPS[0])
        self._widths = _fit(natural, floors, room=console.width - gap * len(floors))
        table = Table(
            box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold", show_header=not self._is_begun
        )
        for head, width in zip(self._heads, self._widths, strict=True):
            table.add_column(head, overflow="fold", width=width)
        for row in cells:
            table.add_row(*map(Text, row))
        console.width = max(console.width, sum(self._widths) + 2 * len(self._widths))
        console.print(table)


def _fit(natural: Sequence[int], floors: Sequence[int], *, room: int) -> Sequence[int]:
    """Column widths that fit, taken from the widest; unchanged if even the minimum widths do not fit."""
    if sum(floors) > room:
        return natural  # the terminal breaks the lines; otherwise columns would get lost
    widths = list(natural)
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
