"""Converts between mail and text: reads the parts of a message, and writes a plain one. Pure.

Reads parts as Gmail's API returns them (`payload` with `headers`, `body.data`, `parts`); the standard library handles
MIME itself.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Final

from providers.api.text import as_data, as_id
from providers.outbound.json_values import at, integer_at, is_object, objects_at, text_at
from providers.tools.spec import ToolOutput

_DEEPEST: Final = 20  # nesting of parts
_SILENT: Final = frozenset({"head", "script", "style", "title", "template"})
_BREAKS: Final = frozenset({"br", "div", "h1", "h2", "h3", "h4", "li", "p", "table", "tr", "ul", "ol", "blockquote"})


class Attachment(ToolOutput):
    """A file in a message. Its name was written by someone else."""

    name: str
    type: str
    size: int


def header(item: object, name: str) -> str:
    """The first header with that name; empty when there is none. `item` is a message or a part."""
    place = "payload.headers" if at(item, "payload") is not None else "headers"
    for one in objects_at(item, place):
        if (text_at(one, "name") or "").lower() == name.lower():
            return text_at(one, "value") or ""
    return ""


def readable(payload: object) -> str:
    """The text of a message: its plain parts, else its HTML parts without markup."""
    found = [(_kind(part), part) for part in _parts(payload) if not text_at(part, "filename")]
    plain = [_text(part) for kind, part in found if kind == "text/plain"]
    made = (
        plain
        if any(one.strip() for one in plain)
        else [_visible_text(_text(part)) for kind, part in found if kind == "text/html"]
    )
    return "\n\n".join(one.strip() for one in made if one.strip())


def attachments(payload: object) -> list[Attachment]:
    """The files in a message, in order."""
    return [
        Attachment(
            name=as_data(text_at(part, "filename") or "", limit=200),
            type=as_id(_kind(part), limit=100),
            size=integer_at(part, "body.size") or 0,
        )
        for part in _parts(payload)
        if text_at(part, "filename")
    ]


def compose(
    *, to: Sequence[str], cc: Sequence[str], bcc: Sequence[str], subject: str, text: str, in_reply_to: str | None
) -> bytes:
    """A plain message (RFC 5322); the server adds sender and date."""
    from email.message import EmailMessage  # imported here, because these take a hundredth of a start
    from email.policy import SMTP

    message = EmailMessage(policy=SMTP)
    for name, addresses in (("To", to), ("Cc", cc), ("Bcc", bcc)):
        if addresses:
            message[name] = ", ".join(addresses)
    message["Subject"] = subject
    if in_reply_to is not None:
        message["In-Reply-To"] = in_reply_to
        message["References"] = in_reply_to
    message.set_content(text)
    return message.as_bytes()


def _kind(part: Mapping[str, object]) -> str:
    return (text_at(part, "mimeType") or "").lower()


def _parts(payload: object, depth: int = 0) -> Iterator[Mapping[str, object]]:
    """The leaves of a message, in order."""
    if not is_object(payload):
        return
    inner = objects_at(payload, "parts")
    if not inner:
        yield payload
    for part in inner if depth < _DEEPEST else ():
        yield from _parts(part, depth + 1)


def _text(part: Mapping[str, object]) -> str:
    """A part's text: UTF-8 if it is valid, else the charset that it names."""
    data = text_at(part, "body.data") or ""
    try:
        content = urlsafe_b64decode(data + "=" * (-len(data) % 4))
    except ValueError:
        return ""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        named = re.search(r"charset=\"?([A-Za-z0-9_.:-]+)", header(part, "Content-Type"))
    try:
        return content.decode("latin-1" if named is None else named[1], errors="replace")
    except (LookupError, UnicodeError):
        return content.decode("latin-1")


def _visible_text(markup: str) -> str:
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.found).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    """What a person would see of an HTML mail, without its links' addresses and pictures."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag in _BREAKS:
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(self._silent - 1, 0)
        elif tag in _BREAKS:
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.found.append(data)
