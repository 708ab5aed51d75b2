"""How providers sign webhooks about ended grants, and which accounts a webhook names. Pure.

A signature proves who sent a message, not that a grant has ended, so a webhook is only a reason to check.

- GitHub, `github_app_authorization`: docs.github.com/webhooks/webhook-events-and-payloads, and
  /using-webhooks/validating-webhook-deliveries. The delivery's id isn't signed: a replay is one more hint.
- Slack, `tokens_revoked` and `app_uninstalled`: docs.slack.dev/reference/events and
  /authentication/verifying-requests-from-slack
- Square, `oauth.authorization.revoked`: developer.squareup.com/docs/webhooks/step3validate

All read 2026-11-27, not run against the services.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.outbound.json_values import is_object
from server.http.strict_json import json_object

SLACK_WINDOW: Final = 300  # seconds
_MOST: Final = 100  # accounts of one message


class WebhookRefused(Exception):
    """The message isn't the provider's, or can't be read. `is_forged`: its signature is missing or wrong."""

    def __init__(self, reason: str, *, is_forged: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_forged = is_forged


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A request as it arrived. `url` is our address as the operator entered it at the provider."""

    headers: Mapping[str, str] = field(repr=False)  # lower-case names
    body: bytes = field(repr=False)
    url: str


@dataclass(frozen=True, slots=True)
class GrantHint:
    """The content of a message: grants of these accounts, or of all accounts that start with `prefix`, may have ended.

    `once` identifies the message, for `remembered` seconds; 0: a repeat counts again. `challenge` is to be answered,
    and nothing else.
    """

    once: str = ""
    accounts: frozenset[str] = frozenset()
    prefix: str = ""
    challenge: str = ""
    remembered: int = 3 * 86400  # providers repeat a delivery for up to a day

    @property
    def is_empty(self) -> bool:
        """The message isn't about grants."""
        return not self.accounts and not self.prefix


Scheme = Callable[[SignedMessage, str, int], GrantHint]  # message, key, now


def read_github(message: SignedMessage, key: str, now: int) -> GrantHint:
    """Accounts are GitHub's numbers of users."""
    _check(message.headers.get("x-hub-signature-256"), "sha256=" + _sign(key, message.body).hex())
    content = _content(message)
    sender = content.get("sender")
    identity = sender.get("id") if is_object(sender) else None
    once = hashlib.sha256(
        message.body
    ).hexdigest()  # the delivery's ID isn't signed, and a person may end a grant twice
    is_end = message.headers.get("x-github-event") == "github_app_authorization" and content.get("action") == "revoked"
    if not is_end or not isinstance(identity, int):
        return GrantHint(once)
    return GrantHint(once, frozenset({str(identity)}), remembered=0)


def read_slack(message: SignedMessage, key: str, now: int) -> GrantHint:
    """Accounts are WORKSPACE:USER."""
    sent_at = message.headers.get("x-slack-request-timestamp", "")
    if not sent_at.isascii() or not sent_at.isdecimal() or len(sent_at) > 12 or abs(now - int(sent_at)) > SLACK_WINDOW:
        raise WebhookRefused("timestamp missing or too old", is_forged=True)
    signed = b"v0:" + sent_at.encode() + b":" + message.body
    _check(message.headers.get("x-slack-signature"), "v0=" + _sign(key, signed).hex())
    content = _content(message)
    if content.get("type") == "url_verification":
        return GrantHint(challenge=_text(content, "challenge")[:500])
    team, once, event = _text(content, "team_id"), _text(content, "event_id"), content.get("event")
    if not team or not once or not is_object(event):
        return GrantHint(once)
    if event.get("type") == "app_uninstalled":
        return GrantHint(once, prefix=f"{team}:")
    tokens = event.get("tokens")
    if event.get("type") != "tokens_revoked" or not is_object(tokens):
        return GrantHint(once)
    people = [one for name in ("oauth", "bot") for one in _texts(tokens.get(name))]
    return GrantHint(once, frozenset(f"{team}:{one}" for one in people[:_MOST]))


def read_square(message: SignedMessage, key: str, now: int) -> GrantHint:
    """Accounts are merchants."""
    expected = base64.b64encode(_sign(key, message.url.encode() + message.body)).decode()
    _check(message.headers.get("x-square-hmacsha256-signature"), expected)
    content = _content(message)
    merchant, once = _text(content, "merchant_id"), _text(content, "event_id")
    if content.get("type") != "oauth.authorization.revoked" or not merchant:
        return GrantHint(once)
    return GrantHint(once, frozenset({merchant}))


SCHEMES: Final[Mapping[str, Scheme]] = {
    "github": read_github,
    "slack": read_slack,
    "slack-bot": read_slack,
    "square": read_square,
}


def read_by_any(scheme: Scheme, message: SignedMessage, keys: Sequence[str], now: int) -> GrantHint:
    """The content of a message signed with one of the keys; two are valid during a rotation. Raises WebhookRefused."""
    *others, last = keys
    for key in others:
        try:
            return scheme(message, key, now)
        except WebhookRefused as refused:
            if not refused.is_forged:
                raise
    return scheme(message, last, now)


def _sign(key: str, content: bytes) -> bytes:
    return hmac.digest(key.encode(), content, "sha256")


def _check(sent: str | None, expected: str) -> None:
    if sent is None or not hmac.compare_digest(sent.encode("utf-8", "replace"), expected.encode()):
        raise WebhookRefused("signature missing or wrong", is_forged=True)


def _content(message: SignedMessage) -> Mapping[str, object]:
    try:
        return json_object(message.body)
    except (ValueError, RecursionError) as error:
        raise WebhookRefused("the body isn't a JSON object", is_forged=False) from error


def _text(content: Mapping[str, object], name: str) -> str:
    value = content.get(name)
    return value if isinstance(value, str) and len(value) <= 1024 and value.isprintable() else ""


def _texts(values: object) -> list[str]:
    found: list[object] = values if isinstance(values, list) else []  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    return [one for one in found if isinstance(one, str) and 0 < len(one) <= 64 and one.isalnum()]
