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


def with_request_id(send: Send, identity: str) -> Send:
    """Wrap `send` to name the request in its answer."""
    value = identity.encode("ascii")

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = message.get("headers", ())
            name = OURS if any(field.lower() == HEADER for field, _ in fields) else HEADER
            message = {**message, "headers": [*fields, (name, value)]}
        await send(message)

    return send_named
