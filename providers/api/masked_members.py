"""Mask the members of an answer that carry a credential, in whole answers and in streamed ones. Pure.

The only implementation, for tools and proxy. A provider file names the members; `providers.api.masking` masks the
account's own credential. The JSON is searched as it passes, without being parsed, so nothing else in it changes. Lines
of JSON, events, and JSON inside a text of JSON are searched, too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from providers.api.rules import expand, judged_method, of_path
from providers.definitions.model import Provider
from providers.definitions.unruled_calls import EVERYTHING

_PART: Final = re.compile(rb'[\[\]{}"]')
_QUERY: Final = re.compile(rb"\?|(?=\\)")
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_LEVELS: Final = frozenset({0, 1, 3, 7})  # backslashes before a quote: of JSON, of JSON in a text of JSON, and so on
_MOST: Final = 8  # backslashes before a letter's escape at the innermost level; before a quote, one less
_ESCAPE: Final = re.compile(rb"\\{1,8}u00([2-7][0-9A-Fa-f])")
_CUT_ESCAPE: Final = re.compile(rb"\\{1,8}(?:u0{0,2}[2-7]?)?\Z")
_LETTER: Final = _MOST + 5  # bytes of an escaped letter
_CYCLE: Final = 16  # a quote after so many more backslashes has the same meaning at every level
_TURN: Final = 16_384  # bytes to mask before other tasks run
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
    """The members to mask in one answer: those that the provider file names, and perhaps the usual ones.

    `addresses`: of the named ones, those of whose texts only the query is masked. `may_be_file`: the answer may be
    someone's file, which isn't searched unless it is a list of objects.
    """

    named: frozenset[str]
    has_usual: bool
    addresses: frozenset[str] = frozenset()
    may_be_file: bool = False

    @property
    def names(self) -> frozenset[str]:
        return self.named | _USUAL if self.has_usual else self.named

    def mask(self) -> MemberMask:
        """What masks an answer, which is used once."""
        return MemberMask(self.names, addresses=self.addresses, only_lists=self.may_be_file)

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
    found = [one for one in provider.masked if one.shown_to.isdisjoint(held) and one.is_for(path)]
    named = frozenset(name for one in found for name in one.members)
    whole = frozenset(name for one in found if not one.only_query for name in one.members)
    has_usual = judged_method(method) == "GET" and any(
        rule.path == EVERYTHING for rule in of_path(provider, api=api, method="GET", path=path)
    )
    if not named and not has_usual:
        return None
    is_searched = may_have_members(content_type)
    if is_searched is None and named:
        raise UnreadableAnswer
    if not is_searched:
        return None
    may_be_file = any(one.may_be_file(path, content_type) for one in provider.masked)
    return MaskedNames(named, has_usual, named - whole, may_be_file)


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

    Every text below a member of these `names` becomes a mask of the same length; the text of one of `addresses` only
    from its query on, or from its first escape, which may hide the query. With `only_lists`, content that doesn't begin
    like a list of objects isn't searched. `found`: the members that had one.
    Time grows with the length of the answer, and what is held back is never longer than `most_held`: providers' answers
    contain what others wrote.
    """

    __slots__ = (
        *("_addresses", "_before", "_current", "_depth", "_held", "_is_shown", "_level", "_longest", "_names"),
        *("_start", "_state", "found"),
    )

    def __init__(
        self, names: Iterable[str], *, addresses: frozenset[str] = frozenset(), only_lists: bool = False
    ) -> None:
        self._names = frozenset(name.encode() for name in names)
        self._addresses = addresses
        self._is_shown = False  # whether the text's query hasn't begun yet
        self._longest = max(map(len, self._names), default=1)
        self._held = b""
        self._before = 0  # backslashes of a text before `_held`, which were masked
        self._start = b"[{" if only_lists else b""  # what must still come before the content is searched
        # "start", "file" (isn't searched), "search", then "colon", "value", "text" or "inside" (objects and arrays),
        # "inner" (a text there)
        self._state = "start" if only_lists else "search"
        self._current = ""
        self._level = 0
        self._depth = 0
        self.found: set[str] = set()

    @property
    def most_held(self) -> int:
        """The most bytes that are held back: a name in its longest spelling, with the backslashes around it."""
        return self._longest * _LETTER + 2 * _MOST

    def whole(self, body: bytes) -> bytes:
        """Mask a complete body."""
        return self.feed(body) + self.finish()

    async def whole_in_turns(self, body: bytes) -> bytes:
        """Like `whole`, but lets other tasks run in between if the body is long."""
        return await self.feed_in_turns(body) + self.finish()

    async def feed_in_turns(self, piece: bytes) -> bytes:
        """Like `feed`, but lets other tasks run in between if the piece is long."""
        done = [self.feed(piece[:_TURN])]
        for at in range(_TURN, len(piece), _TURN):
            await asyncio.sleep(0)
            done.append(self.feed(piece[at : at + _TURN]))
        return b"".join(done)

    def feed(self, piece: bytes) -> bytes:
        """The part that can be sent now."""
        content, self._held = self._held + piece, b""
        done: list[bytes] = []
        at = 0
        while at < len(content):
            match self._state:
                case "start":
                    at = self._begin(content, at, done)
                case "file":
                    done.append(content[at:])
                    at = len(content)
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

    def _begin(self, content: bytes, at: int, done: list[bytes]) -> int:
        """Pass over blanks and what begins a list of objects."""
        space = _SPACE.match(content, at)
        end = at if space is None else space.end()
        one = content[end : end + 1]
        if one and one == self._start[:1]:
            self._start = self._start[1:]
            self._state = "start" if self._start else "search"
            end += 1
        elif one:
            self._state = "file"
        done.append(content[at:end])
        return end

    def _search(self, content: bytes, at: int, done: list[bytes]) -> int:
        for found in _name_pattern(self._longest).finditer(content, at):
            level = len(found[2])
            if level not in _LEVELS or (name := _unescape(found[1])) not in self._names:
                continue
            if _backslashes(content, max(at, found.start() - _MOST), found.start()) == level:
                self._state, self._current, self._level = "colon", name.decode(), level
                done.append(content[at : found.end() + 1])
                return found.end() + 1
        keep = self._beginning(content, at)
        self._held = content[keep:]
        done.append(content[at:keep])
        return len(content)

    def _beginning(self, content: bytes, at: int) -> int:
        """Where a name may begin that this content doesn't end."""
        quote = content.rfind(b'"', max(at, len(content) - self._longest * _LETTER - _MOST))
        begun = _unescape(_CUT_ESCAPE.sub(b"", content[quote + 1 :])) if quote >= 0 else b""
        is_begun = quote >= 0 and any(one.startswith(begun) for one in self._names)
        end = quote if is_begun else len(content)
        return end - _backslashes(content, max(at, end - _MOST), end)  # these may precede a quote

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
            self._state, self._is_shown = "text", self._current in self._addresses
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
            elif _backslashes(content, max(at, found.start() - _MOST), found.start()) >= self._level:
                self._state = "inner"
            else:  # the text around the inner JSON ends
                self._depth = 0
            if self._state == "inner" or self._depth <= 0:
                self._state = "inner" if self._state == "inner" else "search"
                done.append(content[at : found.end()])
                return found.end()
        ends = len(content) - _backslashes(content, max(at, len(content) - _MOST), len(content))
        self._held = content[ends:]
        done.append(content[at:ends])
        return len(content)

    def _mask_text(self, content: bytes, at: int, done: list[bytes]) -> int:
        """Mask a text up to its end, which has as many backslashes as its beginning."""
        level, length, quote = self._level, 0, at - 1
        while quote < at or _is_escaped(length, level):
            quote = content.find(b'"', quote + 1)
            before = len(content) if quote < 0 else quote
            length = _backslashes(content, at, before)
            length += self._before if length == before - at else 0
            if quote < 0:
                held = min(length, level)  # without those that were masked, since these are fewer than a cycle
                self._before = length - held if length < _CYCLE else _CYCLE + length % _CYCLE - held
                self._mask(content[at : before - held], done)
                self._held = content[before - held :]
                return before
        self._before = 0
        ends = quote - min(length, level)
        self._mask(content[at:ends], done)
        done.append(content[ends : quote + 1])
        self._state = "inside" if self._state == "inner" and length >= level else "search"
        self._depth = self._depth if self._state == "inside" else 0
        return quote + 1

    def _mask(self, part: bytes, done: list[bytes]) -> None:
        if self._is_shown:
            query = _QUERY.search(part)
            shown = len(part) if query is None else query.end()
            self._is_shown = query is None
            done.append(part[:shown])
            part = part[shown:]
        if part:
            self.found.add(self._current)
            done.append(b"*" * len(part))


def _is_escaped(length: int, level: int) -> bool:
    """Whether a quote after this many backslashes is part of the text."""
    return length >= level and (length - level) % (2 * level + 2) != 0


def _backslashes(content: bytes, start: int, end: int) -> int:
    """How many stand before `end`."""
    width = _MOST
    while True:  # in steps that double, so that time depends on their number alone
        first = max(start, end - width)
        count = end - first - len(content[first:end].rstrip(b"\\"))
        if count < end - first or first == start:
            return count
        width *= 2


def _unescape(name: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), name) if b"\\" in name else name


@lru_cache(maxsize=32)
def _name_pattern(longest: int) -> re.Pattern[bytes]:
    """Finds names of up to this length in quotes, with any character escaped. Each quote may begin one."""
    return re.compile(rb'"((?:[^"\\]|\\{1,8}u00[2-7][0-9A-Fa-f]){1,%d}+)(\\{0,7})(?=")' % longest)
