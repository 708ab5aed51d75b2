"""What a mistyped name was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_MOST: Final = 2  # suggestions
_CUTOFF: Final = 0.7  # of 1: `gihub` and `github` have 0.91, `slack` and `square` 0.36


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """` Did you mean github?`, to follow a sentence; empty if nothing known is near."""
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(typed.casefold(), folded, n=_MOST, cutoff=_CUTOFF)
    return f" Did you mean {' or '.join(folded[name] for name in near)}?" if near else ""
