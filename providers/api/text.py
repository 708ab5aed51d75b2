"""Cleaning a provider's text before it is shown or logged."""

from __future__ import annotations

import re

_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)

# Also: zero-width characters that belong to emoji and scripts, and tags that spell invisible text.
_UNSEEN = re.compile("[\U000e0000-\U000e0fff\u00ad\u034f\u061c\u115f\u1160\u180e\u3164\ufe00-\ufe0f\uffa0]")
_NOT_IN_WORDS = re.compile(r"[^\x21-\x7e]")


def as_data(text: str, *, limit: int) -> str:
    """A provider's text without control, bidirectional and invisible characters, cut to `limit` characters."""
    cleaned = _INVISIBLE.sub("", text)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def as_seen(text: str, *, limit: int) -> str:
    """Third-party text without invisible characters."""
    return as_data(_UNSEEN.sub("", text), limit=limit)


def as_description(text: str, *, limit: int) -> str:
    """The same for a text that a model reads before it does anything."""
    return as_seen(text, limit=limit).strip()


def as_id(text: str | None, *, limit: int) -> str:
    """A provider's ID, time or other single word: visible ASCII only, cut to `limit`; empty when there is none."""
    return _NOT_IN_WORDS.sub("", text or "")[:limit]


def quote(text: str) -> str:
    """A provider's text on one line in quotation marks, so that it can't pass for ours in a readable answer."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
