"""Adds pages from outside docs/ to the documentation site, and corrects links to them.

On the site, the README of the project is the home page. Links to files that the site doesn't have become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
# path in the repository -> path on the site
OUTSIDE: Final = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "development/changelog.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "vault/FORMATS.md": "development/formats.md",
    "clients/python/README.md": "guides/python-client.md",
    "clients/typescript/README.md": "guides/typescript-client.md",
    "mcp.json": "mcp.json",
}
_FENCE: Final = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside; docs/README.md moves, because the site has another home page."""
    index = files.get_file_from_path("README.md")
    if index is not None:
        files.remove(index)
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point every relative link to its target's place on the site."""
    here = page.file.src_uri
    known = {file.src_uri for file in files}
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [lead(markdown[end : fence.start()], here, known), fence[0]]
        end = fence.end()
    return "".join(parts) + lead(markdown[end:], here, known)


def lead(text: str, here: str, known: set[str]) -> str:
    """The text of the page `here` with its links changed. Both are paths on the site."""
    back = {target: source for source, target in OUTSIDE.items()}
    folder = posixpath.dirname(back.get(here, f"docs/{here}"))

    def change(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        path, hash_, part = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return link[0]
        source = posixpath.normpath(posixpath.join(folder, path))
        place = OUTSIDE.get(source, source.removeprefix("docs/"))
        if place not in known:
            return words if not mark and not source.startswith("docs/") else link[0]
        return f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{hash_}{part})"

    return _LINK.sub(change, text)
