"""Lists are printed a page at a time: as one JSON array, or as one table."""

from __future__ import annotations

import json

import pytest

from server.terminal.listing import Listing

ROWS: list[dict[str, object]] = [
    {"name": "alice", "admin": True, "ends_at": None},
    {"name": "b\u00e9atrice of the long name", "admin": False, "ends_at": "2026-11-26"},
    {"name": "\u5f20\u4f1f", "admin": False, "ends_at": "line\nbreak"},
]
COLUMNS = ("name", "admin", "ends_at")


def printed(capsys: pytest.CaptureFixture[str], *pages: list[dict[str, object]], as_json: bool) -> str:
    listing = Listing(COLUMNS, empty="Nothing.", as_json=as_json)
    for page in pages:
        listing.add(page)
    listing.end()
    return capsys.readouterr().out


@pytest.mark.parametrize("pages", [(ROWS,), (ROWS[:1], ROWS[1:]), (ROWS[:1], [], ROWS[1:2], ROWS[2:])])
def test_pages_make_one_json_array(
    capsys: pytest.CaptureFixture[str], pages: tuple[list[dict[str, object]], ...]
) -> None:
    out = printed(capsys, *pages, as_json=True)
    assert out == json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n"


def test_a_list_of_nothing_is_an_empty_array_or_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, as_json=True)) == []
    assert json.loads(printed(capsys, [], as_json=True)) == []
    assert printed(capsys, [], as_json=False) == "Nothing.\n"


def test_a_table_has_one_heading_and_columns_that_grow(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, ROWS[:1], ROWS[1:], as_json=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["name", "alice", ROWS[1]["name"], ROWS[2]["name"]]
    assert lines[0].index("admin") == lines[1].index("yes")
    assert lines[2].index("2026") == len(str(ROWS[1]["name"])) + 2 + len("admin") + 2
    assert not any(line.endswith(" ") for line in lines)


def test_a_page_that_is_wider_than_the_terminal_is_folded_and_the_first_column_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    out = printed(capsys, ROWS[:1], [{**ROWS[1], "ends_at": "x" * 60}], as_json=False)
    assert str(ROWS[1]["name"]) in out
    assert out.count("ends at") == 1
    assert "x" * 60 not in out
    assert out.count("x") == 60
