"""The id of a request: a trusted proxy's, or one made here. Every answer carries it as `X-Request-Id`.

`vault.spans.REQUEST_ID` takes it to log records, events, refusals, and spans.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.types import Message, Scope, Send

from vault.spans import REQUEST_ID, new_request_id

HEADER: Final = b"x-request-id"
OURS: Final = b"token-vault-request-id"  # where a provider's answer, which is passed on, has an X-Request-Id of its own
_FORM: Final = re.compile(rb"[A-Za-z0-9._:=+/-]{1,64}")  # nothing that JSON or a log line must escape


def request_id(scope: Scope, *, takes_given: bool) -> str:
    """The one that came with the request, with `takes_given`, if it is well formed; otherwise a new one."""
    if takes_given:
        given = [value for name, value in scope["headers"] if name == HEADER]
        if len(given) == 1 and _FORM.fullmatch(given[0]):
            return given[0].decode("ascii")
    return new_request_id()


def forget(scope: Scope) -> None:
    """Drop the ids that a caller who isn't a trusted proxy sent."""
    scope["headers"] = [field for field in scope["headers"] if field[0] != HEADER]


def request_member() -> dict[str, str]:
    """The member that names the request in a refusal's JSON; nothing outside of a request."""
    identity = REQUEST_ID.get()
    return {"request_id": identity} if identity else {}


class NamedAnswer:
    """The way of an answer to the server, which names the request in it."""

    __slots__ = ("_send", "_value", "has_begun")

    def __init__(self, send: Send, identity: str) -> None:
        self._send = send
        self._value = identity.encode("ascii")
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        self.has_begun = True
        if message["type"] == "http.response.start":
            fields = message.get("headers", ())
            name = OURS if any(field.lower() == HEADER for field, _ in fields) else HEADER
            message = {**message, "headers": [*fields, (name, self._value)]}
        await self._send(message)
