"""How many words of the documentation people write: `python -m tests.generating.handwritten` counts them by page.

README.md, SECURITY.md, CONTRIBUTING.md, and every page of docs/, code blocks included, without what a program writes
and a test keeps current: what `reference_pages` and its `marked_parts` write, the page of the conformance run, and the
table of the clients that ran. The change log, the formats in vault/, and the clients' own READMEs belong to what they
describe and aren't counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.generating import marked_parts, reference_pages
from tests.generating.documented import DOCS, ROOT
from tests.support.foreign import tested_clients

_GENERATED: Final = {DOCS / "evidence/conformance.md", DOCS / "reference/tools.md", DOCS / "reference/services.md"}


def words_by_page() -> dict[str, int]:
    """Words that are written by hand, by page."""
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    return {page.relative_to(ROOT).as_posix(): len(_written(page).split()) for page in pages if page not in _GENERATED}


def _written(page: Path) -> str:
    text = marked_parts.by_hand(page.read_text(encoding="utf-8"))
    if page == DOCS / "reference/settings.md":
        return reference_pages.settings_intro(text)
    if page == DOCS / "reference/commands.md":
        return reference_pages.commands_intro(text)
    if page == DOCS / "reference/provider-files.md":
        return re.sub(r"(?m)(^- `.*\n){5,}", "", text)
    if page == tested_clients.PAGE:
        return re.sub(r"(?m)^\| .*\n", "", text)
    return text


if __name__ == "__main__":
    counted = words_by_page()
    for name, words in sorted(counted.items(), key=lambda one: -one[1]):
        print(f"{words:6} {name}")
    print(f"{sum(counted.values()):6} in total")
