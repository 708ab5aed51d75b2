"""Mask credentials that a provider repeats, in whole answers and in streamed ones. Pure.

The only implementation, for tools and proxy. Finds a secret verbatim, with any of its characters escaped as in URLs,
JSON or HTML (also twice), and inside base64; also when these are broken into lines (RFC 2045 §6.7 and §6.8, folded
lines), with or without escaped line breaks, and wherever an answer is cut into pieces.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

_BASE64_FROM: Final = 12  # characters: a shorter secret leaves too few of them in base64 to be distinctive
# One escaped character: ASCII, or an end of line. Backslashes repeat for JSON inside JSON, `%25` for URLs inside URLs.
_ESCAPE: Final = re.compile(
    rb"\\{1,8}(?:(?:u00|x)(?P<json>[2-7][0-9A-Fa-f]|0[9AaDd])|(?P<itself>[/+=_.~:-])|(?P<letter>[nrt]))"
    rb"|%(?:25){0,4}(?P<url>[2-7][0-9A-Fa-f]|0[9AaDd])"
    rb"|&#(?:[xX]0{0,4}(?P<html>[2-7][0-9A-Fa-f]|[9AaDd])|0{0,4}(?P<decimal>3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-6]|9|10|13));"
)
_ESCAPES: Final = re.compile(b"(%s)" % re.sub(rb"\?P<[a-z]+>", b"?:", _ESCAPE.pattern))
# The escapes written as a number, by their first character, which occurs in no other entry.
_NUMBERED: Final = {
    b"\\": rb"\\\\{0,7}(?:u00|x)(?:[2-7][0-9A-Fa-f]|0[9AaDd])",
    b"%": rb"%(?:25){0,4}(?:[2-7][0-9A-Fa-f]|0[9AaDd])",
    b"&": rb"&#(?:[xX]0{0,4}(?:[2-7][0-9A-Fa-f]|[9AaDd])|0{0,4}(?:3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-6]|9|10|13));",
}
# Each pattern above contains one of these shorter ones, which are faster to search for.
_SIGNS: Final = {
    b"\\": (re.compile(rb"\\u00[0-7]"), re.compile(rb"\\x[0-7]")),
    b"%": (re.compile(rb"%[0-7]"),),
    b"&": (re.compile(rb"&#"),),
}
# An escaped end of line in its usual spellings, also in JSON inside JSON. A body with lines has many.
_END_OF_LINE: Final = re.compile(
    rb"\\{1,2}r\\{1,2}n|\\{1,2}[nr]|\\{1,2}u000[Dd]\\{1,2}u000[Aa]|\\{1,2}u000[AaDd]"
    rb"|%0[Dd]%0[Aa]|%0[AaDd]|&#13;&#10;|&#1[03];"
)
_GLANCE: Final = 1024  # bytes that show what is escaped in a body
_SPELLINGS: Final = 4  # most spellings of line ends to search for in one body
_AS_LETTER: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_LETTERS: Final = b"".join(_AS_LETTER)
_OF_ESCAPES: Final = b"\\%&#;/+=_.~:-0123456789ABCDEFXabcdefnrtux"  # all characters that escapes consist of
_LONGEST: Final = 14  # bytes of an escaped character
_UNFINISHED: Final = re.compile(
    rb"(?:\\{1,8}(?:u(?:0(?:0[0-7]?)?)?|x[0-7]?)?|%(?:25){0,4}[0-7]?|&(?:#(?:[xX]0{0,4}[0-7]?[0-9A-Fa-f]?|[0-9]{0,7}))?)\Z"
)
_BREAKS: Final = b"\r\n\t ="  # line separators; `=` precedes a break in quoted-printable
_THINNED: Final = _BREAKS + b"\\/+_.~:-" + _LETTERS  # breaks, and the characters of escapes that aren't numbered
_BLANK_LINE: Final = re.compile(rb"\n[ \t]*\r?\n")  # ends the lines
_IN_URLS: Final = bytes.maketrans(b"+/", b"-_")  # RFC 4648 §5
_SOLID_FROM: Final = 12  # characters: without line breaks, a shorter secret could occur by chance


def needles(secret: str) -> tuple[bytes, ...]:
    """The patterns that find this secret: the secret itself, and its part in base64 at each of three offsets."""
    plain = secret.encode()
    found = {plain, _unescape(plain) if _has_escapes(plain) else plain}
    if len(plain) >= _BASE64_FROM:
        for before in range(3):
            letters = b64encode(bytes(before) + plain)
            first = (8 * before + 5) // 6  # the first letter without bits of the preceding text
            whole = (8 * (before + len(plain))) // 6  # letters without bits of the following text
            found |= {letters[first:whole], letters[first:whole].translate(_IN_URLS)}
    return tuple(sorted(found - {b""}, key=len, reverse=True))


def mask(body: bytes, secrets: Sequence[bytes]) -> bytes:
    """The body with a mask of equal length for each secret in it; `secrets` are `needles`."""
    can_vary = _has_escapes(body) or _has_lines(body)  # otherwise a secret can only be there verbatim
    if not can_vary and not any(secret in body for secret in secrets):
        return body
    return Replacer(secrets).whole(body)


def mask_text(text: str, secrets: Sequence[bytes]) -> str:
    """The text with each secret masked."""
    return Replacer(secrets).text(text)


class Replacer:
    """Masks a stream: call `feed` with pieces, then `finish`. Holds back only what may be the beginning of a string to
    replace.

    `secrets` are masked in every spelling; a string of `exact` is replaced where it appears verbatim. Doesn't build
    regular expressions from secrets: a process-wide cache would keep them, and with them the secret.
    """

    __slots__ = ("_end", "_exact", "_held", "_in_lines", "_joined", "_letters", "_secrets", "_spelled", "_thin")

    def __init__(self, secrets: Sequence[bytes], exact: Mapping[bytes, bytes] | None = None) -> None:
        self._secrets = secrets
        self._in_lines: Sequence[bytes] | None = None
        self._joined: Collection[bytes] = ()
        self._end: re.Pattern[bytes] | None = None  # of a line, as spelled in the pieces so far
        self._thin: Collection[bytes] = ()
        self._letters = b""  # those of the secrets, and of line breaks
        self._spelled = b""  # all characters of the secrets' spellings, with line breaks
        self._exact = exact or {}
        self._held = b""

    def whole(self, body: bytes) -> bytes:
        """Replace in a complete body."""
        done, rest = self._replace(body)
        return done + rest if done else rest

    def text(self, value: str) -> str:
        """Replace in a header's value, or in a text."""
        return self.whole(value.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def feed(self, piece: bytes) -> bytes:
        """The part that can be sent now."""
        content = self._held + piece
        unfinished = _UNFINISHED.search(content, max(0, len(content) - _LONGEST))
        ends = len(content) if unfinished is None else unfinished.start()
        done, rest = self._replace(content[:ends])
        keep = self._beginning(rest)
        self._held = rest[len(rest) - keep :] + content[ends:]
        return done + rest[: len(rest) - keep]

    def finish(self) -> bytes:
        """The part that was held back."""
        held, self._held = self._held, b""
        return self.whole(held)

    def _replace(self, content: bytes) -> tuple[bytes, bytes]:
        """Everything up to the end of the last string that was replaced, and the rest."""
        done: list[bytes] = []
        end = 0
        for start, stop, by in sorted(self._find(content), key=lambda one: (one[0], -one[1])):
            if stop <= end:
                continue
            if by is None:
                start = max(start, end)  # mask all of two overlapping secrets
                by = b"*" * (stop - start)
            elif start < end:
                continue
            done += (content[end:start], by)
            end = stop
        return b"".join(done), content[end:]

    def _find(self, content: bytes) -> Iterator[tuple[int, int, bytes | None]]:
        """Start, end and replacement (None: a mask) of each string found."""
        for string, by in self._exact.items():
            yield from ((at, at + len(string), by) for at in _places(string, content))
        has_escapes = _has_escapes(content)
        if (has_escapes or _has_lines(content)) and self._is_absent(content, has_escapes=has_escapes):
            return
        for secret in self._secrets:
            if secret in content:
                yield from ((at, at + len(secret), None) for at in _places(secret, content))
        plain = _unescape(content) if has_escapes else content
        origins: Sequence[int] = ()
        for secret in _headless(self._secrets) if has_escapes else ():
            for at in _places(secret, plain):
                origins = origins or _origins(content)
                yield origins[at], origins[at + len(secret)], None
        if not _has_lines(plain):
            return
        solid, kept = _solid(plain), list[int]()
        for secret in self._solid_secrets():
            for at in _places(secret, solid):
                kept = kept or _positions(plain)
                origins = origins or (_origins(content) if has_escapes else range(len(content) + 1))
                start, stop = kept[at], kept[at + len(secret) - 1] + 1
                if _is_in_lines(plain[start:stop]):
                    yield origins[start], origins[stop], None

    def _is_absent(self, content: bytes, *, has_escapes: bool) -> bool:
        """Whether a quick check shows that there is no secret, which is nearly always the case.

        Once its numbered escapes are decoded, a spelling of a secret and the secret itself are equal without the
        characters of `_THINNED`.
        """
        joined = self._join(content) if has_escapes else content
        if joined is not None:
            solid = _solid(joined)
            return not any(secret in solid for secret in self._joined_secrets())
        self._thin = self._thin or {_thin(secret) for secret in self._secrets}
        thin = _thin(_read_numbers(content))
        return not any(secret in thin for secret in self._thin)

    def _join(self, content: bytes) -> bytes | None:
        """See `_join_lines`; tries the spelling of earlier pieces first."""
        if self._end is not None:
            joined = b"".join(self._end.split(content))
            if not _has_escapes(joined):
                return joined
        joined, self._end = _join_lines(content)
        return joined

    def _joined_secrets(self) -> Collection[bytes]:
        self._joined = self._joined or {_solid(one) for one in _headless(self._secrets)}
        return self._joined

    def _solid_secrets(self) -> Sequence[bytes]:
        """The patterns between lines, without the line breaks."""
        if self._in_lines is None:
            self._in_lines = [_solid(one) for one in _headless(self._secrets) if len(one) >= _SOLID_FROM]
        return self._in_lines

    def _beginning(self, rest: bytes) -> int:
        """The length of the longest suffix of `rest` that may begin one of the strings."""
        longest = max((_overlap(rest, string) for string in (*self._secrets, *self._exact)), default=0)
        if not self._secrets:
            return longest
        tail = rest[-2 * _LONGEST * max(len(secret) for secret in self._secrets) :]
        self._spelled = self._spelled or bytes({*b"".join(self._secrets), *_BREAKS, *_OF_ESCAPES})
        tail = tail[len(tail.rstrip(self._spelled)) :]
        if self._begins_nowhere(tail):
            return longest
        has_escapes = _has_escapes(tail)
        unfinished = _UNFINISHED.search(tail, max(0, len(tail) - _LONGEST)) if has_escapes else None
        read = tail if unfinished is None else tail[: unfinished.start()]
        plain = _unescape(read) if has_escapes else read
        begins = self._begins(plain, has_escapes=has_escapes)
        if has_escapes and begins < len(plain):
            begins = _origins(read)[begins]
        elif has_escapes:
            begins = len(read)
        return max(longest, len(tail) - begins)

    def _begins_nowhere(self, tail: bytes) -> bool:
        """Whether a quick check shows that no secret begins in lines or escapes here, which is mostly the case."""
        joined: bytes | None = tail
        if _has_escapes(tail):
            joined = None if self._end is None else b"".join(self._end.split(tail))
        if joined is None or _has_escapes(joined) or any(one[:1] in _BREAKS for one in _headless(self._secrets)):
            return False
        last = _solid(joined)[-max(map(len, self._secrets)) :]
        return not any(_overlap(last, one) for one in self._joined_secrets())

    def _begins(self, plain: bytes, *, has_escapes: bool) -> int:
        """Where a secret may begin in escaped or line-broken content; the length if none does."""
        solid_secrets = self._solid_secrets()
        self._letters = self._letters or bytes({*b"".join(self._secrets), *_BREAKS})
        run = len(plain.rstrip(self._letters))
        if run == len(plain):
            return run
        overlap = max(_overlap(plain[run:], one) for one in _headless(self._secrets)) if has_escapes else 0
        begins = len(plain) - overlap
        run = max((run + blank.end() for blank in _BLANK_LINE.finditer(plain[run:])), default=run)
        overlap = max((_overlap(_solid(plain[run:]), one) for one in solid_secrets), default=0)
        return min(begins, run + _positions(plain[run:])[-overlap]) if overlap else begins


def _is_in_lines(content: bytes) -> bool:
    return _has_lines(content) and _BLANK_LINE.search(content) is None


def _has_escapes(content: bytes) -> bool:
    return b"\\" in content or b"%" in content or b"&" in content


def _has_lines(content: bytes) -> bool:
    return b"\n" in content or b"\r" in content


def _places(string: bytes, content: bytes) -> Iterator[int]:
    at = content.find(string)
    while at >= 0:
        yield at
        at = content.find(string, at + len(string))


def _headless(secrets: Sequence[bytes]) -> Sequence[bytes]:
    """The secrets, and the remainder of a secret whose first letter becomes an end of line after a backslash."""
    return [*secrets, *(secret[1:] for secret in secrets if secret[:1] in _LETTERS)]


@lru_cache(maxsize=4096)
def _character(escape: bytes) -> bytes:
    match = _ESCAPE.fullmatch(escape)
    if match is None:
        raise ValueError("no escaped character")
    if match["itself"] is not None:
        return match["itself"]
    if match["letter"] is not None:
        return _AS_LETTER[match["letter"]]
    hexadecimal = match["json"] or match["url"] or match["html"]
    return bytes((int(match["decimal"]) if hexadecimal is None else int(hexadecimal, 16),))


def _unescape(content: bytes) -> bytes:
    return _read(_ESCAPES, content)


def _read(escapes: re.Pattern[bytes], content: bytes) -> bytes:
    """The content with these escapes decoded; the pattern captures each."""
    parts = escapes.split(content)
    parts[1::2] = map(_character, parts[1::2])
    return b"".join(parts)


def _join_lines(content: bytes) -> tuple[bytes | None, re.Pattern[bytes] | None]:
    """The content without escaped ends of line, if nothing else in it is escaped and they have their usual spellings;
    and the splitter for them, if there is only one spelling.
    """
    head = content[(start := _first_escape(content)) : start + _GLANCE]
    ends = _ends_of_line(head[: max(map(head.rfind, _NUMBERED))].rstrip(b"\\") or head)
    if not ends:
        return None, None
    inner = _without_half_pairs(content, start)
    end = _literally(ends[0])
    joined = b"".join(end.split(inner))
    if _has_escapes(joined) and len(ends) > 1:
        joined = inner
        for one in ends:
            joined = b"\n".join(_literally(one).split(joined))  # so that removing one doesn't create another
    return (None, None) if _has_escapes(joined) else (joined, end)


@lru_cache(maxsize=64)
def _literally(end: bytes) -> re.Pattern[bytes]:
    """Splits at this spelling of an end of line, faster than `bytes.split`, which restarts its search at each."""
    return re.compile(re.escape(end))


def _without_half_pairs(content: bytes, start: int) -> bytes:
    """The content without partial line breaks at its ends, which may be halves of one that was cut in two."""
    if (first := _END_OF_LINE.match(content, start)) is not None:
        content = b"\n".join((content[:start], content[first.end() :]))
    for _ in range(2):
        last = max(map(content.rfind, _NUMBERED))
        content = content[:last] if last >= 0 and _END_OF_LINE.fullmatch(content, last) else content
    return content


def _ends_of_line(content: bytes) -> Sequence[bytes]:
    """The spellings of the ends of line in it, longest first; none if anything else is escaped, too."""
    ends = set[bytes]()
    for _ in range(_SPELLINGS):
        at = _first_escape(content)
        if at < 0:
            return sorted(ends, key=len, reverse=True)
        found = _END_OF_LINE.match(content, at)
        if found is None:
            return ()
        if ends:  # not just the first, which may be a half
            for end in sorted({*ends, found[0]}, key=len, reverse=True):
                content = b"\n".join(content.split(end))
        else:
            content = content[found.end() :]
        ends.add(found[0])
    return ()


def _first_escape(content: bytes) -> int:
    """The position of the first escape; -1 if there is none."""
    return min((at for at in map(content.find, _NUMBERED) if at >= 0), default=-1)


def _read_numbers(content: bytes) -> bytes:
    """The content with the escapes of `_NUMBERED` decoded."""
    shown = [first for first in _NUMBERED if first in content and any(one.search(content) for one in _SIGNS[first])]
    return _read(_any_of(tuple(_NUMBERED[first] for first in shown)), content) if shown else content


@lru_cache(maxsize=8)
def _any_of(kinds: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(b"(%s)" % b"|".join(kinds))


def _thin(content: bytes) -> bytes:
    return content.translate(None, _THINNED)


def _solid(content: bytes) -> bytes:
    """The content without line breaks."""
    found = bytes(one for one in _BREAKS if one in content)
    return content.translate(None, found) if len(found) > 1 else content.replace(found, b"") if found else content


def _positions(content: bytes) -> list[int]:
    """The position in the content of each byte of the solid content."""
    return [at for at, byte in enumerate(content) if byte not in _BREAKS]


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
    """The length of the longest suffix of the content that is a proper prefix of the string."""
    start = max(0, len(content) - len(string) + 1)
    while (start := content.find(string[:1], start)) >= 0:
        if string.startswith(content[start:]):
            return len(content) - start
        start += 1
    return 0
