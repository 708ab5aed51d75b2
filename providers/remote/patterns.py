"""Estimates from its text how large a third party's regular expression gets, because the engine expands counted
repetitions.

The engine takes linear time, but building `\\w{90}` takes a tenth of a second and five megabytes. The estimate errs on
the high side.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 300  # characters of one pattern
MOST: Final = 3000  # limit for all patterns of one schema: about 10 MB and 0.2 s
_TABLES: Final = {"w": 25, "W": 25, "p": 25, "P": 25, "b": 25, "B": 25, "d": 5, "D": 5, "s": 3, "S": 3}  # of Unicode
_NEGATED: Final = 5
_SPACED: Final = re.compile(r"\(\?[a-zA-Z]*x")
_TOKEN: Final = re.compile(
    r"(?P<open>\()|(?P<close>\))|(?P<set>\[\^?(?P<odd>\])?)|(?P<end>\])"
    r"|(?P<count>\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\})"
    r"|(?P<table>\\[pP](?:\{[^}]*\}|.)|\\[wWdDsSbB])|\\.|.",
    re.DOTALL,
)


def size_of(pattern: str) -> int:
    """What building it comes to, one for a plain character."""
    if len(pattern) > LONGEST or _SPACED.search(pattern) is not None:
        return MOST + 1
    sizes, last, widest = [0], 0, 0  # for open groups, for what a count repeats, for what a set holds
    is_set = False
    for token in _TOKEN.finditer(pattern):
        if token["odd"] is not None or (is_set and token["set"] is not None):
            return MOST + 1  # sets that are hard to read
        if is_set and token["end"] is None:
            widest = max(widest, _size_of_one(token))
            continue
        if token["open"] is not None:
            sizes.append(0)
            last = 0
            continue
        if token["set"] is not None:
            is_set, widest = True, _NEGATED if "^" in token[0] else 1
            continue
        if not is_set and token[0] in "*+?":
            continue
        if token["close"] is not None and len(sizes) > 1:
            last = sizes.pop() + 1
        elif is_set:
            is_set, last = False, widest
        elif token["count"] is not None:
            times = max(1, int(token["most"] or int(token["least"] or 0) + 1))
            last, added = last * times, last * (times - 1)
            sizes[-1] += added
            continue
        else:
            last = _size_of_one(token)
        sizes[-1] += last
    return sum(sizes) * (4 if re.search(r"\(\?[a-zA-Z]*i", pattern) else 1)


def _size_of_one(token: re.Match[str]) -> int:
    if token["table"] is not None:
        return _TABLES[token["table"][1]]
    return 2 if token[0] == "." or not token[0].isascii() else 1
