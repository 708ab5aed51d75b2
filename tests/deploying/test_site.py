"""The documentation's terminal pictures show existing commands, and each picture is on some page."""

from __future__ import annotations

import re

import pytest

from tests.generating.documentation import DOCS, commands, options_of
from tests.generating.images.recordings import RECORDED, TARGET, draw


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_command_exists_and_its_picture_is_shown(name: str) -> None:
    program, word, *options = RECORDED[name]
    assert program == "token-vault"
    assert {one for one in options if one.startswith("--")} <= set(options_of(commands()[word]))
    picture = (TARGET / f"{name}.svg").read_text(encoding="utf-8")
    assert f"$&#160;token-vault&#160;{word}" in picture
    assert not re.search(r"https?://(?!www\.w3\.org)[^<]*\.(woff|css|js)", picture)  # no external resources
    shown = [path for path in DOCS.rglob("*.md") if f"recordings/{name}.svg)" in path.read_text(encoding="utf-8")]
    assert shown


def test_no_picture_is_left_of_a_command_that_is_recorded_no_more() -> None:
    assert {path.stem for path in TARGET.iterdir()} == set(RECORDED)


def test_colors_and_words_of_a_terminal_get_into_a_picture() -> None:
    picture = draw(("token-vault", "version"), "\x1b[32mfine\x1b[0m & <well>\r\n")
    assert "fine" in picture
    assert "&amp;&#160;&lt;well&gt;" in picture
    assert picture.count("fill:") > 1
    assert "\x1b" not in picture
