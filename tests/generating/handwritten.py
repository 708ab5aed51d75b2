"""How many words of the documentation are handwritten: `python -m tests.generating.handwritten` counts them by page.

It counts README.md, SECURITY.md, CONTRIBUTING.md, and every page of docs/, including code blocks, but not what a
program collects from the product or from a run: what `reference_pages` and `marked_parts` read from code, and the
tables of the conformance run and of the tested clients. Sentences that people typed inside these programs count. The
change log, the formats in vault/, and the clients' own READMEs belong to what they describe and aren't counted.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.generating import marked_parts, reference_pages
from tests.generating.documentation import DOCS, ROOT
from tests.support.foreign import tested_clients


def words_by_page() -> dict[str, int]:
    """The number of handwritten words by page."""
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    return {page.relative_to(ROOT).as_posix(): len(_handwritten_text(page).split()) for page in pages}


def _handwritten_text(page: Path) -> str:
    text = marked_parts.by_hand(page.read_text(encoding="utf-8"))
    if page in {DOCS / "reference/tools.md", DOCS / "reference/services.md"}:
        return "".join(re.findall(r"(?m)\A[^#]*# .*(?:\n(?!#).*)*|^## .* .*", text))  # the beginning, and headings
    if page == DOCS / "reference/settings.md":
        return reference_pages.settings_intro(text) + reference_pages.settings_links()
    if page == DOCS / "reference/commands.md":
        return reference_pages.commands_intro(text)
    if page == DOCS / "evidence/conformance.md":
        return re.sub(r"(?m)^- 20\d\d-.*\n", "", text)
    if page == tested_clients.PAGE:
        return re.sub(r"(?m)^\| .*\n", "", text)
    return text


if __name__ == "__main__":
    counted = words_by_page()
    for name, words in sorted(counted.items(), key=lambda one: -one[1]):
        print(f"{words:6} {name}")
    print(f"{sum(counted.values()):6} in total")
