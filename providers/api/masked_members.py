"""Mask the members of an answer that carry a credential, in whole answers and in streamed ones. Pure.

The only implementation, for tools and proxy. A provider file names the members; `providers.api.masking` masks the
account's own credential. The JSON is searched as it passes, without being parsed, so nothing else in it changes. Lines
of JSON, events, and JSON inside a text of JSON are searched, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from providers.api.rules import expand, judged_method, of_path
from providers.definitions.model import Provider
from providers.definitions.unruled_calls import EVERYTHING

_PART: Final = re.compile(rb'[\[\]{}]|(\\*)"')
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_LEVELS: Final = frozenset({0, 1, 3, 7})  # backslashes before a quote: of JSON, of JSON in a text of JSON, and so on
_ESCAPE: Final = re.compile(rb"\\+u00([2-7][0-9A-Fa-f])")
_BEGINNING: Final = re.compile(rb'\\*(?:"[^"\s]*)?\Z')  # of a name, at the end of a piece
_CUT_ESCAPE: Final = re.compile(rb"\\+(?:u0{0,2}[2-7]?)?\Z")
_LONGEST: Final = 2048  # bytes of a name in its longest spelling
# Kinds of answers that can't contain JSON, and kinds in which members can't be found.
_OTHER: Final = re.compile(
    r"(?:image|audio|video|font)/.*|text/(?:html|css|csv|calendar|vcard)|application/(?:pdf|zip|gzip|octet-stream)"
)
_XML: Final = re.compile(r".*[/+]xml|.*[/+](?:x-)?(?:yaml|msgpack|cbor|protobuf)")
_CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"})


def _spellings(words: str) -> frozenset[str]:
    first, *more = words.split()
    pascal = "".join(word.capitalize() for word in (first, *more))
    return frozenset({"_".join((first, *more)), "-".join((first, *more)), first + pascal[len(first) :], pascal})


_USUAL: Final = frozenset[str]().union(
    *map(
        _spellings,
        (
            *("secret", "client secret", "api secret", "app secret", "consumer secret", "shared secret", "user secret"),
            *("webhook secret", "signing secret", "secret key", "secret access key", "secret token", "signing key"),
            *("access token", "refresh token", "auth token", "bot token", "api token", "api key", "private key"),
            *("password", "passphrase", "auth password", "sip password", "smtp password", "api tokens"),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class MaskedNames:
    """The members to mask in one answer: those that the provider file names, and perhaps the usual ones."""

    named: frozenset[str]
    has_usual: bool

    @property
    def names(self) -> frozenset[str]:
        return self.named | _USUAL if self.has_usual else self.named

    def __str__(self) -> str:
        return ", ".join([*sorted(self.named), *(["credentials"] if self.has_usual else [])])


def masked_names(
    provider: Provider, scopes: frozenset[str], *, api: str, method: str, path: str, content_type: str
) -> MaskedNames | None:
    """What to mask in the answer of a call, for a caller with these scopes; None if there is nothing.

    Nobody has read the answers of calls that only a rule for every path allows, so the usual names of credentials are
    masked in what they read; a write may return what it created. Raises UnreadableAnswer.
    """
    held = expand(provider, scopes) if provider.masked else scopes
    named = frozenset(
        name for one in provider.masked if one.shown_to.isdisjoint(held) and one.is_for(path) for name in one.members
    )
    has_usual = judged_method(method) == "GET" and any(
        rule.path == EVERYTHING for rule in of_path(provider, api=api, method="GET", path=path)
    )
    if not named and not has_usual:
        return None
    is_searched = may_have_members(content_type)
    if is_searched is None and named:
        raise UnreadableAnswer
    return MaskedNames(named, has_usual) if is_searched else None


def may_have_members(content_type: str) -> bool | None:
    """Whether an answer of this type is searched; None if its members can't be found."""
    kind, _, parameters = content_type.lower().partition(";")
    kind = kind.strip()
    if _OTHER.fullmatch(kind) is not None:
        return False
    named = [one.strip().partition("=") for one in parameters.split(";")]
    charsets = {value.strip("\"' ") for name, _, value in named if name.strip() == "charset"}
    return None if _XML.fullmatch(kind) is not None or not charsets <= _CHARSETS else True


class UnreadableAnswer(Exception):
    """In this form, the members that must be masked can't be found."""


class MemberMask:
    """Masks a stream: call `feed` with pieces, then `finish`. Holds back only what may be the beginning of a name.

    Every text below a member of these `names` becomes a mask of the same length. `found`: the members that had one.
    """

    __slots__ = ("_current", "_depth", "_held", "_level", "_names", "_state", "found")

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.encode() for name in names)
        self._held = b""
        self._state = "search"  # then "colon", "value", "text" or "inside" (objects and arrays), "inner" (a text there)
        self._current = ""
        self._level = 0
        self._depth = 0
        self.found: set[str] = set()

    def whole(self, body: bytes) -> bytes:
        """Mask a complete body."""
        return self.feed(body) + self.finish()

    def feed(self, piece: bytes) -> bytes:
        """The part that can be sent now."""
        content, self._held = self._held + piece, b""
        done: list[bytes] = []
        at = 0
        while at < len(content):
            match self._state:
                case "search":
                    at = self._search(content, at, done)
                case "colon" | "value":
                    at = self._read_beginning(content, at, done)
                case "inside":
                    at = self._inside(content, at, done)
                case _:
                    at = self._mask_text(content, at, done)
            if self._held:
                break
        return b"".join(done)

    def finish(self) -> bytes:
        """The part that was held back."""
        held, self._held = self._held, b""
        return b"*" * len(held) if self._state in {"text", "inner"} else held

    def _search(self, content: bytes, at: int, done: list[bytes]) -> int:
        for found in _name_pattern(self._names).finditer(content, at):
            level = len(found[2])
            if level in _LEVELS and _backslashes(content, at, found.start()) == level:
                self._state, self._current, self._level = "colon", _unescape(found[1]).decode(), level
                done.append(content[at : found.end()])
                return found.end()
        keep = self._beginning(content, at)
        self._held = content[keep:]
        done.append(content[at:keep])
        return len(content)

    def _beginning(self, content: bytes, at: int) -> int:
        """Where a name may begin that this content doesn't end."""
        found = _BEGINNING.search(content, max(at, len(content) - _LONGEST))
        _, quote, name = (b"", b"", b"") if found is None else found[0].partition(b'"')
        begun = _unescape(_CUT_ESCAPE.sub(b"", name))
        if found is not None and quote and any(one.startswith(begun) for one in self._names):
            return found.start()
        return len(content) - _backslashes(content, at, len(content))  # these may precede a quote

    def _read_beginning(self, content: bytes, at: int, done: list[bytes]) -> int:
        """Pass over blanks and the colon to the value."""
        space = _SPACE.match(content, at)
        end = at if space is None else space.end()
        done.append(content[at:end])
        if end == len(content):
            return end
        one, quote = content[end : end + 1], b"\\" * self._level + b'"'
        if self._state == "colon":
            self._state = "value" if one == b":" else "search"
            done.append(one if one == b":" else b"")
            return end + (one == b":")
        if one in b"[{":
            self._state = "inside"
            return end
        begun = content[end : end + len(quote)]
        if begun == quote:
            self._state = "text"
            done.append(quote)
            return end + len(quote)
        if quote.startswith(begun):
            self._held = begun
            return len(content)
        self._state = "search"  # a number, true, false, or null
        return end

    def _inside(self, content: bytes, at: int, done: list[bytes]) -> int:
        """Pass over an object or array up to its next text, or its end."""
        for found in _PART.finditer(content, at):
            one = found[0]
            if one in (b"[", b"{"):
                self._depth += 1
            elif one in (b"]", b"}"):
                self._depth -= 1
            elif len(found[1]) >= self._level:
                self._state = "inner"
            else:  # the text around the inner JSON ends
                self._depth = 0
            if self._state == "inner" or self._depth <= 0:
                self._state = "inner" if self._state == "inner" else "search"
                done.append(content[at : found.end()])
                return found.end()
        ends = len(content) - _backslashes(content, at, len(content))
        self._held = content[ends:]
        done.append(content[at:ends])
        return len(content)

    def _mask_text(self, content: bytes, at: int, done: list[bytes]) -> int:
        """Mask a text up to its end, which has as many backslashes as its beginning."""
        level, length, quote = self._level, 0, at - 1
        while quote < at or _is_escaped(length, level):
            quote = content.find(b'"', quote + 1)
            length = _backslashes(content, at, len(content) if quote < 0 else quote)
            if quote < 0:
                ends = len(content) - length
                self._mask(ends - at, done)
                self._held = content[ends:]
                return len(content)
        ends = quote - min(length, level)
        self._mask(ends - at, done)
        done.append(content[ends : quote + 1])
        self._state = "inside" if self._state == "inner" and length >= level else "search"
        self._depth = self._depth if self._state == "inside" else 0
        return quote + 1

    def _mask(self, length: int, done: list[bytes]) -> None:
        if length:
            self.found.add(self._current)
            done.append(b"*" * length)


def _is_escaped(length: int, level: int) -> bool:
    """Whether a quote after this many backslashes is part of the text."""
    return length >= level and (length - level) % (2 * level + 2) != 0


def _backslashes(content: bytes, start: int, end: int) -> int:
    """How many stand before `end`."""
    before = end
    while before > start and content[before - 1] == 0x5C:
        before -= 1
    return end - before


def _unescape(name: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), name) if b"\\" in name else name


@lru_cache(maxsize=512)
def _name_pattern(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Finds these names in quotes, with any character escaped."""
    spelled = b"|".join(b"".join(map(_letter, name)) for name in sorted(names))
    return re.compile(rb'"(' + spelled + rb')(\\*)"')


def _letter(one: int) -> bytes:
    return rb"(?:%s|\\+u00(?i:%02x))" % (re.escape(bytes([one])), one)
