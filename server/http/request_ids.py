"""The id of a request: a trusted proxy's, or one made here. Every answer carries it as `X-Request-Id`.

`vault.spans.REQUEST_ID` holds it for log records, events, refusals, and spans.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Final

from starlette.types import Message, Scope, Send

from vault.spans import REQUEST_ID, new_request_id

HEADER: Final = b"x-request-id"
OURS: Final = b"token-vault-request-id"  # for a provider's answer that has its own X-Request-Id
_FORM: Final = re.compile(rb"[A-Za-z0-9._:=+/-]{1,64}")  # nothing that JSON or a log line must escape


def request_id(scope: Scope, *, takes_given: bool) -> str:
    """The request's own id, if `takes_given` and it is well formed; otherwise a new one."""
    if takes_given:
        given = [value for name, value in scope["headers"] if name == HEADER]
        if len(given) == 1 and _FORM.fullmatch(given[0]):
            return given[0].decode("ascii")
    return new_request_id()


def forget(scope: Scope) -> None:
    """Drop the ids sent by a caller that isn't a trusted proxy."""
    scope["headers"] = [field for field in scope["headers"] if field[0] != HEADER]


def request_member() -> dict[str, str]:
    """The member that names the request in a refusal's JSON; nothing outside of a request."""
    identity = REQUEST_ID.get()
    return {"request_id": identity} if identity else {}


class NamedAnswer:
    """Passes an answer on to the web server, and adds the request's id to its headers."""

    __slots__ = ("_send", "_value", "has_begun")

    def __init__(self, send: Send, identity: str) -> None:
        self._send = send
        self._value = identity.encode("ascii")
        self.has_begun = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on."""
        self.has_begun = True
        if message["type"] == "http.response.start":
            fields = message.get("headers", ())
            name = OURS if HEADER in [field.lower() for field, _ in fields] else HEADER
            message = {**message, "headers": [*fields, (name, self._value)]}
        return self._send(message)
