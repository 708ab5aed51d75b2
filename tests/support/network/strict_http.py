"""A strict reader of HTTP/1.1 requests (RFC 9112), independent of the server's: the oracle for what bytes mean.

It reads each message in one way, or refuses it. Wherever RFC 9112 lets a recipient repair or choose, it refuses: two
programs that repair differently are how requests are smuggled. Two things carry no meaning and are skipped: line breaks
before a request (§2.2), and more than one blank between the parts of a request line (§3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE: Final = re.compile(rb"(" + _TOKEN + rb") +([\x21-\x7e]+) +HTTP/1\.([01])")
_FIELD: Final = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION: Final = rb"[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*")


@dataclass(frozen=True)
class ParsedRequest:
    """One request. Field names in lowercase, trailers left out."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Readings:
    """What the bytes of one connection mean: whole requests, and why nothing follows them.

    `end` is "empty" (nothing is left), "unfinished" (the rest could become a request), "refused" (the rest can never be
    one), or "closed" (the client announced the end).
    """

    requests: tuple[ParsedRequest, ...]
    end: str


class _UnfinishedRequest(Exception):
    pass


class _RequestRefused(Exception):
    pass


def read(data: bytes) -> Readings:
    """Every request in the bytes, up to the first incomplete or invalid one."""
    found: list[ParsedRequest] = []
    at = 0
    while True:
        while data[at : at + 1] in {b"\r", b"\n"}:
            at += 1
        if at == len(data):
            return Readings(tuple(found), "empty")
        try:
            one, at, is_last = _request(data, at)
        except _UnfinishedRequest:
            return Readings(tuple(found), "unfinished")
        except _RequestRefused:
            return Readings(tuple(found), "refused")
        found.append(one)
        if is_last:
            return Readings(tuple(found), "closed")


def _request(data: bytes, at: int) -> tuple[ParsedRequest, int, bool]:
    line, at = _line(data, at)
    matched = _LINE.fullmatch(line)
    if matched is None:
        raise _RequestRefused
    method, target, minor = matched[1].decode(), matched[2].decode(), matched[3]
    fields, at = _fields(data, at)
    if method == "CONNECT" or not _is_target(method, target):
        raise _RequestRefused
    if not target.startswith(("/", "*")):
        target = _own_path(target, fields)
    body, at = _body(data, at, fields, is_old=minor == b"0")
    options = {part.strip().lower() for name, value in fields if name == "connection" for part in value.split(",")}
    return (
        ParsedRequest(method, target, fields, body),
        at,
        "close" in options or (minor == b"0" and "keep-alive" not in options),
    )


def _is_target(method: str, target: str) -> bool:
    """RFC 9112 §3.2: origin-form, absolute-form, or `*` with OPTIONS."""
    if "#" in target:
        return False
    return (
        target.startswith("/")
        or re.match(r"https?://[^/?]", target) is not None
        or (method, target) == ("OPTIONS", "*")
    )


def _own_path(target: str, fields: tuple[tuple[str, str], ...]) -> str:
    """The path of an absolute-form that names the host of the field (RFC 9112 §3.2.2)."""
    authority, slash, path = target.partition("://")[2].partition("/")
    if not slash or "?" in authority or [authority.lower()] != [v.lower() for name, v in fields if name == "host"]:
        raise _RequestRefused
    return "/" + path


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    line = data[at:] if end < 0 else data[at : end + 1]
    inside = line.removesuffix(b"\r") if end < 0 else line[:-2]
    if (end >= 0 and not line.endswith(b"\r\n")) or any(bad in inside for bad in (b"\r", b"\0")):
        raise _RequestRefused
    if end < 0:
        raise _UnfinishedRequest
    return inside, end + 1


def _fields(data: bytes, at: int) -> tuple[tuple[tuple[str, str], ...], int]:
    found: list[tuple[str, str]] = []
    while True:
        line, at = _line(data, at)
        if not line:
            return tuple(found), at
        matched = _FIELD.fullmatch(line)
        if matched is None:
            raise _RequestRefused
        found.append((matched[1].decode().lower(), matched[2].decode("latin-1")))


def _body(data: bytes, at: int, fields: tuple[tuple[str, str], ...], *, is_old: bool) -> tuple[bytes, int]:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if codings:
        if lengths or is_old or [one.lower() for one in codings] != ["chunked"]:
            raise _RequestRefused
        return _chunks(data, at)
    if not lengths:
        return b"", at
    if len(lengths) > 1 or re.fullmatch(r"[0-9]{1,15}", lengths[0]) is None:
        raise _RequestRefused
    end = at + int(lengths[0])
    if end > len(data):
        raise _UnfinishedRequest
    return data[at:end], end


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    body = bytearray()
    while True:
        line, at = _line(data, at)
        matched = _CHUNK.fullmatch(line)
        if matched is None:
            raise _RequestRefused
        size = int(matched[1], 16)
        if size == 0:
            trailers, at = _fields(data, at)
            if any(name in _FRAMING for name, _ in trailers):  # RFC 9110 §6.5.1: never in a trailer
                raise _RequestRefused
            return bytes(body), at
        part = data[at : at + size]
        mark = data[at + size : at + size + 2]
        if not b"\r\n".startswith(mark):
            raise _RequestRefused
        if len(mark) < 2:
            raise _UnfinishedRequest
        body += part
        at += size + 2
