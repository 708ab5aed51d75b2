"""One call of a Slack method: who calls, with which scopes and arguments, and how refusals and pages are made."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from providers.simulator.state.books import Entry
from providers.simulator.state.tokens import AccessToken
from providers.simulator.state.workspace import SimulatedChannel, Workspace


class SlackRefused(Exception):
    """An `ok: false` answer."""

    def __init__(self, code: str, **facts: JsonValue) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, with which authority, and what was sent."""

    user: str
    token: AccessToken
    arguments: Mapping[str, JsonValue]
    workspace: Workspace
    now: float
    page_size: int
    write: Callable[..., Entry]

    def text(self, name: str) -> str | None:
        """A non-empty string argument; numbers count as their digits, as in a form."""
        value = self.arguments.get(name)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        return value if isinstance(value, str) and value else None

    def flag(self, name: str) -> bool:
        """A boolean argument in any spelling that Slack accepts."""
        return (self.text(name) or "").lower() in {"1", "true"}

    def require(self, *scopes: str) -> None:
        """Any one of these scopes. Raises SlackRefused."""
        if not self.token.scopes & set(scopes):
            provided = ",".join(sorted(self.token.scopes))
            raise SlackRefused("missing_scope", needed=scopes[0], provided=provided)

    def channel(self) -> SimulatedChannel:
        """The `channel` argument, if this user can see it. Raises SlackRefused."""
        reference = self.text("channel")
        if reference is None:
            raise SlackRefused("invalid_arguments")
        channel = self.workspace.find(self.user, reference)
        if channel is None:
            raise SlackRefused("channel_not_found")
        return channel

    def page(self, items: Sequence[Mapping[str, JsonValue]], *, cap: int) -> tuple[list[JsonValue], str]:
        """One page of a list and the cursor of the next ('' at the end). Raises SlackRefused."""
        limit = self.text("limit") or "100"
        if not limit.isdigit() or not 0 < int(limit) <= 1000:
            raise SlackRefused("invalid_limit")
        begin = _offset(self.text("cursor"))
        end = begin + min(int(limit), cap)
        following = base64.b64encode(f"next:{end}".encode()).decode() if end < len(items) else ""
        return [dict(item) for item in items[begin:end]], following


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        word, _, number = base64.b64decode(cursor, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise SlackRefused("invalid_cursor") from None
    if word != "next" or not number.isdigit():
        raise SlackRefused("invalid_cursor")
    return int(number)
