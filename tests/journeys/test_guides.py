"""The guides: pictures render, error texts exist in the product, and pages can be found."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.generating.documentation import DOCS, ROOT, section
from tests.support.chromium import running_chromium

PICTURES = sorted((DOCS / "concepts").rglob("*.svg"))  # `make recordings` draws the others
SVG = "{http://www.w3.org/2000/svg}"


def sources() -> str:
    """The product's text, with string literals that span lines joined."""
    folders = (ROOT / "server", ROOT / "vault", ROOT / "providers")
    text = "\n".join(path.read_text(encoding="utf-8") for one in folders for path in sorted(one.rglob("*.py")))
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def test_there_are_two_pictures_and_the_page_shows_them() -> None:
    page = (DOCS / "concepts/how-it-works.md").read_text(encoding="utf-8")
    assert [path.name for path in PICTURES] == ["how-call.svg", "how-connect.svg"]
    for path in PICTURES:
        assert re.search(rf"!\[[^\]]{{30,}}\]\({path.name}\)", page), "a picture needs words for who cannot see it"


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_drawn_by_hand_and_does_nothing(path: Path) -> None:
    assert path.stat().st_size < 8_000
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title") is not None
    allowed = {"svg", "title", "defs", "marker", "g", "path", "rect", "text"}
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= allowed
    assert not [name for one in root.iter() for name in one.attrib if name.startswith("on") or "href" in name]


@pytest.mark.group("browser")
@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
async def test_the_words_of_a_picture_stay_inside_their_boxes(path: Path) -> None:
    async with running_chromium() as browser:
        page = await browser.new_page()
        await page.set_content(path.read_text(encoding="utf-8"))
        assert await page.evaluate(_OUTSIDE) == []


# Texts that are closer than 4 px to the side of the smallest box around their center.
_OUTSIDE = """() => [...document.querySelectorAll('svg text')].filter(text => {
  const t = text.getBoundingClientRect(), x = t.x + t.width / 2, y = t.y + t.height / 2;
  const around = [...document.querySelectorAll('svg rect')].map(one => one.getBoundingClientRect())
    .filter(r => r.left < x && x < r.right && r.top < y && y < r.bottom)
    .sort((a, b) => a.width * a.height - b.width * b.height)[0];
  return t.left < around.left + 4 || t.right > around.right - 4;
}).map(text => text.textContent)"""


@pytest.mark.parametrize("title", ["At the start", "In an MCP client", "With `stdio --url`", "In the browser"])
def test_every_error_text_of_the_troubleshooting_page_is_said_by_the_product(title: str) -> None:
    """Variable parts of a text are written as `...`; other programs' texts are left out."""
    said = sources()
    foreign = {"spawn token-vault ENOENT", "command not found", "npx: command not found", "spawn npx ENOENT"}
    foreign |= {"error parsing value for field"}  # pydantic's
    for row in section(DOCS / "operate/troubleshooting.md", title).rows:
        for text in re.findall(r"`([^`]+)`", row["Text"]):
            if text not in foreign:
                missing = [part for part in text.split("...") if part.strip() and part.strip() not in said]
                assert not missing, f"nobody says {text!r}"


def test_the_front_page_leads_to_every_guide() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in DOCS.glob("guides/*.md"):
        assert f"(docs/guides/{path.name})" in page, path.name


def test_what_is_said_of_others_has_its_date_and_that_it_was_not_tested() -> None:
    for name in ("guides/auth0.md", "evidence/clients.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        assert re.search(r"\bnot\s+(run|tested)\b", text, flags=re.IGNORECASE), name
        assert re.search(r"2026-\d\d-\d\d", text), name
