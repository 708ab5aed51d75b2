"""Paths of calls: which ones every server reads alike, and how some servers would read the others. Pure.

Used for tools, for calls through the proxy, and for redirects, so that all three agree.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@%/-]+")  # RFC 3986 §3.3 without `;`
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|5[0-9AaFf]|7[0-9AaEe])")  # §2.3
_SUFFIX: Final = re.compile(r"(?<=[^/])\.(?:json|xml)\Z")


@lru_cache(maxsize=1024)
def path_problem(path: str) -> str | None:
    """Why two servers could read this percent-encoded path differently; None when they couldn't.

    The caller handles an encoded slash; see `readings` for what it can mean.
    """
    if _CHARACTERS.fullmatch(path) is None or _BAD_ESCAPE.search(path) is not None or not path.startswith("/"):
        return "the path has characters that must be escaped"
    if _UNRESERVED.search(path) is not None:  # RFC 3986 §6.2.2.2
        return "the path escapes characters that need no escape"
    return next((problem for one in path[1:].split("/") if (problem := _segment_problem(one)) is not None), None)


def _segment_problem(segment: str) -> str | None:
    try:
        seen = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        return "the path is not UTF-8"
    folded = seen if seen.isascii() else unicodedata.normalize("NFKC", seen)
    if not seen.isprintable() or any(part.strip(". ") == "" for part in folded.split("/")):
        return "the path has an empty or dot segment, or control characters"
    if any(one in folded for one in "\\;%"):
        return "the path has a backslash, a semicolon or a double encoding"
    if folded != seen and any(folded.count(one) != seen.count(one) for one in "/?#"):
        return "the path has a character that some servers take for a slash, a question mark or a number sign"
    return None


def readings(path: str) -> tuple[str, str]:
    """The ways in which servers could read a path without problems.

    The path is decoded before it is split, and folded, because some hosts ignore case, trailing dots and spaces, and a
    format at the end (`.json`).
    """
    decoded = unquote(path) if "%" in path else path
    return decoded, fold(decoded)


def fold(path: str) -> str:
    """The path, or a rule's template, as the most lenient host reads it."""
    if not path.isascii():
        path = unicodedata.normalize("NFKC", path)
    path = path.casefold()
    if " " in path or "./" in path or path.endswith("."):
        path = "/".join(one.rstrip(". ").lstrip(" ") for one in path.split("/"))
    return _SUFFIX.sub("", path)


def pattern_of(template: str) -> re.Pattern[str]:
    """The pattern of a rule's path: `{}` matches one segment, `{+}` any number of them."""
    open_parts = {"{}": "[^/]+", "{+}": ".+"}
    return re.compile("".join(open_parts.get(part) or re.escape(part) for part in re.split(r"(\{\+?\})", template)))
