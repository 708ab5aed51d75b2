"""The page that says which clients ran against the vault agrees with the tests that ran them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from tests.support.foreign.tested_clients import PAGE, ROOT, SOFTWARE, marked_files, merge_rows, replace_table, rows_in

ROWS = rows_in(PAGE.read_text(encoding="utf-8"))
KEYS = {one.name: key for key, one in SOFTWARE.items()}


def files_of(row: tuple[str, ...]) -> list[str]:
    return re.findall(r"`([^`]+)`", row[6])


def test_each_row_is_of_a_test_that_runs_this_client() -> None:
    for row in ROWS:
        for file in files_of(row):
            assert f'("{KEYS[row[0]]}", ' in (ROOT / file).read_text(encoding="utf-8"), row
        assert files_of(row), row


def test_each_client_that_a_test_runs_has_a_row() -> None:
    listed = {file for row in ROWS for file in files_of(row)}
    assert {str(path.relative_to(ROOT)) for path in marked_files()} == listed
    assert {row[0] for row in ROWS} == set(KEYS)


def test_the_versions_are_those_that_are_installed_and_the_dates_are_over() -> None:
    for row in ROWS:
        installed = SOFTWARE[KEYS[row[0]]].version()
        assert row[1] == installed or not installed, f"run python -m tests.support.foreign.tested_clients: {row}"
        assert date.fromisoformat(row[5]) <= datetime.now(UTC).date()


def test_what_was_not_run_again_keeps_its_row_and_its_day() -> None:
    old = [("`httpx`", "1", "", "/token", "", "2026-01-01", "`a`"), ("`mcp-remote`", "1", "", "HTTP", "words", "", "")]
    new = [("`httpx`", "2", "", "/token", "", "2026-02-02", "`a`")]
    page = "before\n" + replace_table(PAGE.read_text(encoding="utf-8"), merge_rows(old, new))
    assert rows_in(page) == [old[1], new[0]]
    assert page.startswith("before\n# Tested clients")


def test_a_line_holds_all_transports_and_forms_of_a_day() -> None:
    ways = [("HTTP", "-32042"), ("HTTP", "words, code"), ("SSE", "words: it cancels"), ("/token", "")]
    rows = [("`mcp-remote`", "1", "", transport, form, "2026-01-01", "`a`") for transport, form in ways]
    page = replace_table(PAGE.read_text(encoding="utf-8"), rows)
    assert "| HTTP: -32042 or words, code; SSE: words: it cancels; /token | `a` |" in page
    assert rows_in(page) == rows
