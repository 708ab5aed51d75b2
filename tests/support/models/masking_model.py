"""What masking must find, byte by byte and without shortcuts: slow, and easy to compare with the documentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from providers.api.masking import needles

BREAKS = b"\r\n\t ="
LONG_ENOUGH = 12  # minimum length of a secret that is searched for across lines
_LETTERS = {ord("n"): 10, ord("r"): 13, ord("t"): 9}
_NUMBER = rb"([2-7][0-9A-Fa-f]|0[9AaDd])"
_BACKSLASHED = re.compile(rb"(?:u00|x)" + _NUMBER)
_URL = re.compile(rb"%(?:25){0,4}" + _NUMBER)
_HTML = re.compile(rb"&#(?:[xX]([0-9A-Fa-f]{1,6})|([0-9]{1,7}));")


@dataclass(frozen=True)
class Letter:
    """A byte as a reader of the body sees it, and its position."""

    value: int
    start: int
    end: int

    @property
    def is_break(self) -> bool:
        return self.value in BREAKS


def letters_of(body: bytes) -> list[Letter]:
    """The body with each escape read once, to the depth that backslashes and `%25` repeat."""
    found: list[Letter] = []
    at = 0
    while at < len(body):
        value, end = _read_escape(body, at) or (body[at], at + 1)
        found.append(Letter(value, at, end))
        at = end
    return found


def _read_escape(body: bytes, at: int) -> tuple[int, int] | None:
    if body[at : at + 1] == b"\\":
        return _read_backslash_escape(body, at)
    if (url := _URL.match(body, at)) is not None:
        return int(url[1], 16), url.end()
    if (html := _HTML.match(body, at)) is not None:
        digits, base, last = (html[1], 16, 127) if html[1] is not None else (html[2], 10, 126)
        value = int(digits, base)
        zeros = len(digits) - len(digits.lstrip(b"0"))
        if zeros <= 4 and (value in {9, 10, 13} or 32 <= value <= last):
            return value, html.end()
    return None


def _read_backslash_escape(body: bytes, at: int) -> tuple[int, int] | None:
    after = at
    while body[after : after + 1] == b"\\":
        after += 1
    if after - at > 8 or after == len(body):
        return None
    if (number := _BACKSLASHED.match(body, after)) is not None:
        return int(number[1], 16), number.end()
    if body[after] in b"/+=_.~:-":
        return body[after], after + 1
    return (_LETTERS[body[after]], after + 1) if body[after] in _LETTERS else None


def mask(body: bytes, secret: str) -> bytes:
    """The body with a mask over each spelling of the secret."""
    done = bytearray(body)
    letters = letters_of(body)
    for one in needles(secret):
        for at in range(len(body) - len(one) + 1):
            if body.startswith(one, at):
                done[at : at + len(one)] = b"*" * len(one)
        # A backslash before its first letter can turn that into an end of line.
        for wanted in (one, one[1:]) if one[0] in _LETTERS else (one,):
            for first in range(len(letters)):
                if (last := _follows(letters, first, wanted)) is not None:
                    start, end = letters[first].start, letters[last].end
                    done[start:end] = b"*" * (end - start)
    return bytes(done)


def _follows(letters: Sequence[Letter], first: int, wanted: bytes) -> int | None:
    """The end of this secret if it starts here, also across lines; None if it doesn't."""
    at, left = first, list(wanted)
    while at < len(letters) and left:
        if letters[at].value == left[0]:
            left.pop(0)
        elif at == first or not letters[at].is_break:
            return None
        at += 1
    if left:
        return None
    between = bytes(one.value for one in letters[first:at])
    if len(between) == len(wanted):
        return at - 1
    is_whole = b"\n" in between or b"\r" in between
    is_whole = is_whole and re.search(rb"\n[ \t]*\r?\n", between) is None and len(wanted) >= LONG_ENOUGH
    return at - 1 if is_whole else None
