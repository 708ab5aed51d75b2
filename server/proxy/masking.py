"""Replacing byte strings in a body that passes through piece by piece, also where one is split over pieces. Pure.

What is replaced and why is decided in `server.proxy`: credentials that a provider repeats, and addresses of its API.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote


def mask_of(secret: str) -> dict[bytes, bytes]:
    """The secret as it stands, in a URL, and in JSON that escapes more than it must; each with a mask as long."""
    in_url = quote(secret, safe="")
    small = "".join(one if one.isalnum() or one in "_.-~" else f"%{ord(one):02x}" for one in secret)
    forms = {secret, in_url, small}
    forms |= {secret.replace("/", "\\/"), secret.replace("=", "\\u003d")}
    return {form.encode(): b"*" * len(form.encode()) for form in forms if form}


class Replacer:
    """Feed it pieces, then `finish`. Holds back only what may be the beginning of something to replace.

    Searches without compiled patterns: those would stay in a cache of the process, and with them the secret.
    """

    __slots__ = ("_held", "_replacements")

    def __init__(self, replacements: Mapping[bytes, bytes]) -> None:
        self._replacements = sorted(replacements.items(), key=lambda one: len(one[0]), reverse=True)
        self._held = b""

    def whole(self, body: bytes) -> bytes:
        """A body that is all there."""
        done, rest = self._replaced(body)
        return done + rest if done else rest

    def text(self, value: str) -> str:
        """A header's value."""
        return self.whole(value.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def feed(self, piece: bytes) -> bytes:
        """What can go out now."""
        done, rest = self._replaced(self._held + piece)
        keep = self._beginning(rest)
        self._held = rest[len(rest) - keep :]
        return done + rest[: len(rest) - keep]

    def finish(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held

    def _replaced(self, content: bytes) -> tuple[bytes, bytes]:
        """Everything up to the end of the last string that was replaced, and the rest."""
        done: list[bytes] = []
        end = 0
        present = [(string, by) for string, by in self._replacements if string in content]
        while present:
            places = [(content.find(string, end), index) for index, (string, _) in enumerate(present)]
            start, index = min((one for one in places if one[0] >= 0), default=(-1, 0))
            if start < 0:
                break
            string, by = present[index]
            done += (content[end:start], by)
            end = start + len(string)
        return b"".join(done), content[end:]

    def _beginning(self, rest: bytes) -> int:
        """The length of the longest end of `rest` that begins one of the strings."""
        longest = 0
        for string, _ in self._replacements:
            start = max(0, len(rest) - len(string) + 1)
            while longest < len(rest) - start:
                start = rest.find(string[:1], start)
                if start < 0 or len(rest) - start <= longest:
                    break
                if string.startswith(rest[start:]):
                    longest = len(rest) - start
                    break
                start += 1
        return longest
