"""Mutants that no test needs to detect, each with its reason: `explanations.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LIST = Path(__file__).with_name("explanations.toml")
ANY_NUMBER = "any other number"
NUMBERS = "core/NumberReplacer"


@dataclass(frozen=True)
class ExplainedMutant:
    """A mutant, identified by its lines before and after without comments; line numbers may change.

    `equivalent`: nothing distinguishes it from the original, so it doesn't count. `accepted`: something does, but no
    promise depends on it; it counts as a survivor. `after` is ANY_NUMBER if the reason holds for every other number in
    those lines.
    """

    file: str
    before: str
    after: str
    kind: Literal["equivalent", "accepted"]
    reason: str


def without_comments(text: str) -> str:
    """The lines without their comments, which may be reworded."""
    return re.sub(r"\s+# .*$", "", text, flags=re.MULTILINE)


def explained_mutants() -> list[ExplainedMutant]:
    """All rows of the list."""
    return [ExplainedMutant(**row) for row in tomllib.loads(LIST.read_text(encoding="utf-8")).get("mutant", [])]


def explanation_of(row: Mapping[str, str], explained: Iterable[ExplainedMutant]) -> ExplainedMutant | None:
    """The explanation of a sampled mutant, if there is one."""
    before, after = without_comments(row["before"]), without_comments(row["after"])
    afters = {after, ANY_NUMBER} if row["operator"] == NUMBERS else {after}
    return next(
        (one for one in explained if (one.file, one.before) == (row["file"], before) and one.after in afters), None
    )


def stale(row: ExplainedMutant, root: Path) -> bool:
    """Whether the lines that it changes no longer exist."""
    path = root / row.file
    text = without_comments(path.read_text(encoding="utf-8")) if path.exists() else ""
    present = {line.strip() for line in text.splitlines()}
    return not all(line in present for line in row.before.splitlines())
