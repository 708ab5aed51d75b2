"""CSV for downloads that a spreadsheet can open without running formulas. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

# Cells that spreadsheets take as formulas begin like this (OWASP, CSV injection).
_FORMULA: Final = (*"=+-@", *"＝＋－＠", *"\t\r\n")


def csv_lines(rows: Iterable[Sequence[str]]) -> str:
    """The rows as CSV (RFC 4180). A cell that would be a formula gets an apostrophe in front."""
    written = io.StringIO()
    csv.writer(written).writerows([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in row] for row in rows)
    return written.getvalue()
