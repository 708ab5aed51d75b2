"""What the guides tell a new user to type: the fenced blocks of a section, read from a checkout's docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


class GuideChanged(AssertionError):
    """A section to follow is missing or empty."""


@dataclass(frozen=True)
class Guide:
    """The pages of one checkout."""

    root: Path

    def section(self, page: str, title: str) -> str:
        text = (self.root / "docs" / page).read_text(encoding="utf-8")
        found = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^##+ |\Z)", text, flags=re.MULTILINE | re.DOTALL)
        if len(found) != 1:
            raise GuideChanged(f"docs/{page} has {len(found)} sections {title!r}")
        return found[0]

    def blocks(self, page: str, title: str, kind: str = "sh") -> list[str]:
        """The fenced blocks of one kind, in order."""
        found = re.findall(rf"^ *```{kind}\n(.*?)^ *```", self.section(page, title), flags=re.MULTILINE | re.DOTALL)
        if not found:
            raise GuideChanged(f"docs/{page} has no {kind} block under {title!r}")
        return found

    def lines(self, page: str, title: str) -> list[str]:
        """Every command of a section, in order."""
        return [line.strip() for block in self.blocks(page, title) for line in block.splitlines() if line.strip()]
