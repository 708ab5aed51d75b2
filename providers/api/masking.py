"""Masking credentials that a provider repeats, in whole answers and in those that pass through piece by piece. Pure.

The one place for tools and proxy alike. A secret is found as it stands, with any of its characters escaped as URLs,
JSON or HTML escape them (also twice), and inside base64, wherever an answer is cut into pieces.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

_BASE64_FROM: Final = 12  # characters: a shorter secret leaves too few of them in base64 to be told from others
# One escaped ASCII character. Backslashes repeat where JSON stands inside JSON, `%25` where URLs stand inside URLs.
_ESCAPE: Final = re.compile(
    rb"\\{1,8}(?:u00([2-7][0-9A-Fa-f])|x([2-7][0-9A-Fa-f])|([/+=_.~:-]))"
    rb"|%(?:25){0,4}([2-7][0-9A-Fa-f])"
    rb"|&#(?:[xX]0{0,4}([2-7][0-9A-Fa-f])|0{0,4}(3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-6]));"
)
_LONGEST: Final = 14  # bytes of an escaped character
_UNFINISHED: Final = re.compile(
    rb"(?:\\{1,8}(?:u(?:0(?:0[2-7]?)?)?|x[2-7]?)?|%(?:25){0,4}[2-7]?|&(?:#(?:[xX]0{0,4}[2-7]?[0-9A-Fa-f]?|[0-9]{0,7}))?)\Z"
)


def needles(secret: str) -> tuple[bytes, ...]:
    """What to look for so that this secret is found: itself, and what of it base64 shows at each of three offsets."""
    plain = secret.encode()
    found = {plain, _unescape(plain)}
    if len(plain) >= _BASE64_FROM:
        for before in range(3):
            letters = b64encode(bytes(before) + plain)
            first = (8 * before + 5) // 6  # the first letter that holds nothing of what stands before
            whole = (8 * (before + len(plain))) // 6  # letters that hold nothing of what follows
            found |= {letters[first:whole], letters[first:whole].translate(bytes.maketrans(b"+/", b"-_"))}
    return tuple(sorted(found - {b""}, key=len, reverse=True))


def mask(body: bytes, secrets: Sequence[bytes]) -> bytes:
    """The body with a mask, as long, for each secret in it; `secrets` are `needles`."""
    return Replacer(secrets).whole(body)


def mask_text(text: str, secrets: Sequence[bytes]) -> str:
    """The text with each secret masked."""
    return Replacer(secrets).text(text)


class Replacer:
    """Feed it pieces, then `finish`. Holds back only what may be the beginning of something to replace.

    `secrets` are masked in every spelling; a string of `exact` is replaced where it stands as it is. Searches without
    patterns made of secrets: those would stay in a cache of the process, and with them the secret.
    """

    __slots__ = ("_exact", "_held", "_secrets")

    def __init__(self, secrets: Sequence[bytes], exact: Mapping[bytes, bytes] | None = None) -> None:
        self._secrets = secrets
        self._exact = exact or {}
        self._held = b""

    def whole(self, body: bytes) -> bytes:
        """A body that is all there."""
        done, rest = self._replace(body)
        return done + rest if done else rest

    def text(self, value: str) -> str:
        """A header's value, or a text."""
        return self.whole(value.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def feed(self, piece: bytes) -> bytes:
        """What can go out now."""
        done, rest = self._replace(self._held + piece)
        keep = self._beginning(rest)
        self._held = rest[len(rest) - keep :]
        return done + rest[: len(rest) - keep]

    def finish(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held

    def _replace(self, content: bytes) -> tuple[bytes, bytes]:
        """Everything up to the end of the last string that was replaced, and the rest."""
        done: list[bytes] = []
        end = 0
        for start, stop, by in sorted(self._find(content), key=lambda one: (one[0], -one[1])):
            if stop <= end:
                continue
            if by is None:
                start = max(start, end)  # of two secrets that overlap, all is masked
                by = b"*" * (stop - start)
            elif start < end:
                continue
            done += (content[end:start], by)
            end = stop
        return b"".join(done), content[end:]

    def _find(self, content: bytes) -> Iterator[tuple[int, int, bytes | None]]:
        """Start, end and replacement (None: a mask) of each string that is there."""
        for string, by in self._exact.items():
            yield from ((at, at + len(string), by) for at in _places(string, content))
        for secret in self._secrets:
            yield from ((at, at + len(secret), None) for at in _places(secret, content))
        if not _has_escapes(content):
            return
        plain = _unescape(content)
        origins: Sequence[int] | None = None
        for secret in self._secrets:
            for at in _places(secret, plain):
                origins = _origins(content) if origins is None else origins
                yield origins[at], origins[at + len(secret)], None

    def _beginning(self, rest: bytes) -> int:
        """The length of the longest end of `rest` that may begin one of the strings."""
        longest = max((_overlap(rest, string) for string in (*self._secrets, *self._exact)), default=0)
        if not self._secrets:
            return longest
        tail = rest[-_LONGEST * max(len(secret) for secret in self._secrets) :]
        if not _has_escapes(tail):
            return longest
        unfinished = _UNFINISHED.search(tail, max(0, len(tail) - _LONGEST))
        read = tail if unfinished is None else tail[: unfinished.start()]
        plain = _unescape(read)
        overlap = max(_overlap(plain, secret) for secret in self._secrets)
        return max(longest, len(tail) - _origins(read)[len(plain) - overlap]) if overlap or unfinished else longest


def _has_escapes(content: bytes) -> bool:
    return b"\\" in content or b"%" in content or b"&" in content


def _places(string: bytes, content: bytes) -> Iterator[int]:
    at = content.find(string)
    while at >= 0:
        yield at
        at = content.find(string, at + len(string))


def _character(match: re.Match[bytes]) -> bytes:
    hexadecimal = match[1] or match[2] or match[4] or match[5]
    if hexadecimal is not None:
        return bytes((int(hexadecimal, 16),))
    return match[3] if match[6] is None else bytes((int(match[6]),))


def _unescape(content: bytes) -> bytes:
    return _ESCAPE.sub(_character, content)


def _origins(content: bytes) -> Sequence[int]:
    """Where each byte of the unescaped content begins in the content, and where that ends."""
    found: list[int] = []
    end = 0
    for match in _ESCAPE.finditer(content):
        found += range(end, match.start())
        found.append(match.start())
        end = match.end()
    found += range(end, len(content) + 1)
    return found


def _overlap(content: bytes, string: bytes) -> int:
    """The length of the longest end of the content that begins the string, the whole string left out."""
    start = max(0, len(content) - len(string) + 1)
    while (start := content.find(string[:1], start)) >= 0:
        if string.startswith(content[start:]):
            return len(content) - start
        start += 1
    return 0
