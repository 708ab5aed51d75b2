"""Lists are printed a page at a time: as one JSON array, or as one table."""

from __future__ import annotations

import json

import pytest

from server.terminal.listing import Listing, hang

ROWS: list[dict[str, object]] = [
    {"name": "alice", "admin": True, "ends_at": None},
    {"name": "b\u00e9atrice of the long name", "admin": False, "ends_at": "2026-11-26"},
    {"name": "\u5f20\u4f1f", "admin": False, "ends_at": "line\nbreak"},
]
COLUMNS = ("name", "admin", "ends_at")


def print_pages(capsys: pytest.CaptureFixture[str], *pages: list[dict[str, object]], as_json: bool) -> str:
    listing = Listing(COLUMNS, empty="Nothing.", as_json=as_json)
    for page in pages:
        listing.add(page)
    listing.end()
    return capsys.readouterr().out


@pytest.mark.parametrize("pages", [(ROWS,), (ROWS[:1], ROWS[1:]), (ROWS[:1], [], ROWS[1:2], ROWS[2:])])
def test_pages_make_one_json_array(
    capsys: pytest.CaptureFixture[str], pages: tuple[list[dict[str, object]], ...]
) -> None:
    out = print_pages(capsys, *pages, as_json=True)
    assert out == json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n"


def test_a_list_of_nothing_is_an_empty_array_or_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(print_pages(capsys, as_json=True)) == []
    assert json.loads(print_pages(capsys, [], as_json=True)) == []
    assert print_pages(capsys, [], as_json=False) == "Nothing.\n"


def test_a_table_has_one_heading_and_columns_that_grow(capsys: pytest.CaptureFixture[str]) -> None:
    lines = print_pages(capsys, ROWS[:1], ROWS[1:], as_json=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["name", "alice", ROWS[1]["name"], ROWS[2]["name"]]
    assert lines[0].index("admin") == lines[1].index("yes")
    assert lines[2].index("2026") == len(str(ROWS[1]["name"])) + 2 + len("admin") + 2
    assert not any(line.endswith(" ") for line in lines)


def on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # without bold


ID = "R_UR81WvKv3znxAL07bIGA"
CALENDAR = "https://www.googleapis.com/auth/calendar.readonly"
ACCOUNT: dict[str, object] = {
    "provider": "google",
    "account": "alice.with.a.long.name@subdomain.example.com",
    "status": "needs_reauth",
    "scopes": [CALENDAR, "https://mail.google.com/", "openid", "email", "profile", "phone"],
    "connected_at": "2026-11-26T10:11:12Z",
    "id": ID,
}


def test_on_a_terminal_ids_stay_whole_and_scopes_times_and_long_words_get_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_80_columns(monkeypatch)
    columns = ("provider", "account", "status", "scopes", "id")
    listing = Listing(columns, empty="", as_json=False)
    listing.add([ACCOUNT])
    listing.add([{**ACCOUNT, "account": "bob", "scopes": [CALENDAR]}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["provider", "google", "google"]
    assert sum(ID in line for line in lines) == 2
    shown = " ".join(lines)
    assert "googleapis" not in shown
    assert "mail.google.com" in shown
    assert " +2 " in shown
    assert "alice.with.a" in shown and "…" in shown and "example.com" not in shown
    listing = Listing(("account", "connected_at"), empty="", as_json=False)
    listing.add([ACCOUNT])
    assert "2026-11-26 10:11Z" in capsys.readouterr().out


def test_a_row_that_fits_no_table_is_printed_as_lines_with_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_80_columns(monkeypatch)
    listing = Listing(("provider", "account", "scopes", "id", "client_id"), empty="", as_json=False)
    client = "https://claude.example/oauth/mcp-oauth-client-metadata.json"
    listing.add([{**ACCOUNT, "client_id": client}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "google"
    assert max(map(len, lines)) <= 80
    fields = {line.split()[0]: line for line in lines[1:]}
    assert str(ACCOUNT["account"]) in fields["account"]
    assert fields["id"].endswith(ID)
    assert any(line.endswith(client) for line in lines)
    assert CALENDAR in " ".join(lines)


def test_a_program_and_json_get_everything(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        listing = Listing(tuple(ACCOUNT), empty="", as_json=as_json)
        listing.add([ACCOUNT])
        listing.end()
        out = capsys.readouterr().out
        for whole in (CALENDAR, "phone", str(ACCOUNT["account"]), "2026-11-26T10:11:12Z", ID):
            assert whole in out


def test_a_long_text_hangs_below_its_label_and_no_word_is_broken() -> None:
    lines = hang(
        "note     port  ", f"start the server at {CALENDAR} or " + "choose another port " * 4, width=60
    ).splitlines()
    assert lines[0].startswith("note     port  start")
    assert all(line.startswith(" " * 15) and line[15] != " " for line in lines[1:])
    assert sum(CALENDAR in line for line in lines) == 1
    assert hang("name  ", "", width=60) == "name"
