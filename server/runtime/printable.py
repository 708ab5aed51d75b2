"""Makes external texts safe for a terminal and a log: nothing in them can control, hide, or reorder what is shown.

Control characters move the cursor and forge lines; U+009B begins a command as ESC [ does; U+202E reverses the reading
direction (Unicode TR 36 §2.2). They are written as `\\u009b`, which JSON reads as the same character.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"  # used in Persian and in emoji; no effect elsewhere


def printable(text: str, *, kept: str = "") -> str:
    """`text` with every control and format character escaped, except those in `kept` (`"\\n"`)."""
    if text.isprintable():
        return text
    return "".join(
        c if c in kept or c in _JOINERS or unicodedata.category(c) not in _UNSAFE else _escape(c) for c in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)  # JSON writes it as a pair (RFC 8259 §7)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
