"""Post a message to an address that someone entered: used by all notices, pings, and webhooks.

It goes through `providers.outbound`, which checks every address, follows no redirect, and has limits of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from providers.outbound.messages import AddressRefused, HttpError, NotReached, OutboundRequest
from server.deployment import Deployment

_ANSWER_LIMIT: Final = 64 * 1024  # bytes


class NotAccepted(Exception):
    """The message definitely didn't arrive. `code` is the key of a text in `notice_failure`.

    `is_final`: sending it again would not help. `status` is that of the answer, 0 without any; `retry_after` seconds.
    """

    def __init__(self, code: str, *, is_final: bool = False, status: int = 0, retry_after: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.is_final = is_final
        self.status = status
        self.retry_after = retry_after


class Uncertain(Exception):
    """The message was sent, but it is unknown whether it arrived."""


@dataclass(frozen=True, slots=True)
class Post:
    """A message and its target. `sender` is the person, client, or endpoint whose share of the connections is used."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    peer: str
    sender: str
    timeout: float  # seconds


async def post(deployment: Deployment, message: Post) -> None:
    """Send it once; any 2xx is acceptance. Raises NotAccepted or Uncertain."""
    asked = OutboundRequest(
        "POST",
        message.url,
        headers={"User-Agent": "token-vault", **message.headers},
        body=message.body,
        timeout=message.timeout,
        max_bytes=_ANSWER_LIMIT,
        peer=message.peer,
        account=message.sender,
        is_foreign=True,
        reuse=False,
    )
    try:
        answer = await deployment.http.send(asked)
    except AddressRefused as error:
        raise NotAccepted("address", is_final=True) from error
    except NotReached as error:
        raise NotAccepted("unreachable") from error
    except HttpError as error:
        raise Uncertain from error
    status = answer.status
    if status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS:
        raise NotAccepted("busy", status=status, retry_after=answer.retry_after)
    if status >= 300:
        raise NotAccepted("refused", is_final=True, status=status)
