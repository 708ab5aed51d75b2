"""Counts what people see as one character, which services such as Bluesky limit. Pure. Follows Unicode Standard Annex
#29 as far as the standard library's categories allow: marks, emoji joined or with a skin tone, flags, Hangul syllables
of letters, and CRLF count once.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_JOINER: Final = "\u200d"
_EXTENDING: Final = "\u200c\u0e33\u0eb3"  # zero-width non-joiner, Thai and Lao AM: by the annex's data, not by category
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})


def count_graphemes(text: str) -> int:
    """The number of graphemes."""
    found, flags, before = 0, 0, ""
    for one in text:
        is_flag = "\U0001f1e6" <= one <= "\U0001f1ff"
        flags = flags + 1 if is_flag else 0
        if not before or not (_continues(before, one) or (is_flag and flags % 2 == 0)):
            found += 1
        before = one
    return found


def _continues(before: str, one: str) -> bool:
    """Whether a code point belongs to the one before it."""
    if before in "\r\n":
        return before + one == "\r\n"
    if one == _JOINER or one in _EXTENDING or unicodedata.category(one) in _MARKS:
        return True
    if "\U0001f3fb" <= one <= "\U0001f3ff" or "\U000e0020" <= one <= "\U000e007f":  # skin tones, flags of regions
        return True
    if before == _JOINER:
        return unicodedata.category(one) == "So"
    is_vowel, is_final = "\u1160" <= one <= "\u11a7", "\u11a8" <= one <= "\u11ff"
    if "\uac00" <= before <= "\ud7a3":
        return is_final or (is_vowel and (ord(before) - 0xAC00) % 28 == 0)
    if "\u1100" <= before <= "\u115f":
        return is_vowel or "\u1100" <= one <= "\u115f" or "\uac00" <= one <= "\ud7a3"
    return (is_vowel and "\u1160" <= before <= "\u11a7") or (is_final and "\u1160" <= before <= "\u11ff")
