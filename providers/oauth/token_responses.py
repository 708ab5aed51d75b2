"""Interprets answers of a provider's token endpoint. Pure. The question that matters is whether the token was used.
There are four outcomes: new tokens, refused, not processed, unknown. `providers.oauth.client` sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from providers.api.text import as_data
from providers.definitions.model import Provider
from providers.outbound.json_values import at, fill, integer_at, is_array, is_object, text_at
from providers.outbound.messages import HttpError, NotReached, OutboundResponse, PeerBusy
from vault.upstream import Account, NotSent, Refusal, Silent, TokenAnswer

_LONGEST = 10 * 365 * 86400


LATER: Final = 30  # seconds, if a rate-limiting provider names no time


@dataclass(frozen=True, slots=True)
class ResponseContext:
    """The answered request: its grant, the secrets that no error text may repeat, the time, and `not_now`'s `later`.

    `spends`: the request may have used up the token in it.
    """

    is_refresh: bool
    secrets: Sequence[str] = field(repr=False)
    now: int = 0
    later: int = LATER
    spends: bool = False


TokenOutcome = TokenAnswer | Refusal | NotSent | Silent


def outcome_without_answer(error: HttpError) -> NotSent | Silent:
    """The outcome of a token request without an answer: held back by our own limits, not sent, or silence."""
    if isinstance(error, PeerBusy):
        return NotSent(error.reason, retry_after=1)
    return NotSent(error.reason) if isinstance(error, NotReached) else Silent(error.reason)


def not_now(answer: OutboundResponse, *, later: int = LATER) -> NotSent:
    """The provider asks to wait: for the time that it names, otherwise `later` seconds. A 503 isn't a rate limit."""
    is_limited = answer.status != HTTPStatus.SERVICE_UNAVAILABLE
    reason = "the provider is rate limiting" if is_limited else "the provider is unavailable"
    return NotSent(reason, retry_after=answer.retry_after or later, is_limited=is_limited)


def judge(provider: Provider, answer: OutboundResponse, asked: ResponseContext) -> TokenOutcome:
    """Anything that is neither new tokens nor a well-formed refusal is silence: the token may have been used.

    So is a 503 with a time to wait, if the provider rotates. RFC 9110 §15.6.4 doesn't say that nothing was processed,
    and gateways such as Varnish add a time to the 503 that they send when the provider took too long. Another try after
    that time would end the grant where reuse does, or come too late for the grace. Waiting as after any silence costs
    less: the access token is still used until it expires.
    """
    if asked.spends and answer.status == HTTPStatus.SERVICE_UNAVAILABLE and answer.retry_after is not None:
        return Silent(f"status {answer.status}", retry_after=answer.retry_after)
    if answer.is_turned_away:
        return not_now(answer, later=asked.later)
    content = answer.json_object()
    if answer.status >= 500 or not 200 <= answer.status < 500 or 300 <= answer.status < 400:
        return Silent(f"status {answer.status}", is_over=not _is_of_gateway(answer.status))
    if answer.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY):
        return Silent(f"status {answer.status}", is_over=True)
    if content is None:
        return Silent(f"status {answer.status} without a JSON object", is_over=True)
    says_no = provider.response.ok_flag is not None and at(content, provider.response.ok_flag) is not True
    if answer.status < 300 and not says_no:
        tokens = _tokens(provider, content, asked)
        if tokens is not None:
            return tokens
    return _refusal(provider, content, answer, asked)


def _is_of_gateway(status: int) -> bool:
    """Whether a gateway gave up on the provider, which may still process the request (RFC 9110 §15.6.3, §15.6.5).

    Statuses from 520 are those of content delivery networks.
    """
    return status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT) or status >= 520


def _refusal(
    provider: Provider, content: Mapping[str, object], answer: OutboundResponse, asked: ResponseContext
) -> Refusal | NotSent | Silent:
    code = text_at(content, provider.response.error)
    if code is None and provider.refresh_tokens == "access_token":  # the renewal endpoint is one of their APIs
        code = next((found for path in provider.errors.code if (found := text_at(content, path)) is not None), None)
    if code is None:
        return Silent(f"status {answer.status} with neither token nor error", is_over=True)
    code = clean_code(code, asked.secrets)
    errors = provider.errors
    if code in errors.busy:
        return not_now(answer, later=asked.later)
    if code in errors.unknown_outcome:
        return Silent(code, is_over=True)
    description = clean_description(text_at(content, provider.response.error_description) or "", asked.secrets)
    return Refusal(code=code, description=description, ends_grant=code in errors.ends_grant)


def _tokens(provider: Provider, content: Mapping[str, object], asked: ResponseContext) -> TokenAnswer | None:
    shape = provider.response
    root: object = content
    if shape.root is not None:
        inner = at(content, shape.root)
        # The answer to a refresh may omit the member (Slack does); the answer to a code never: its top level is
        # someone else's token.
        if is_object(inner) and text_at(inner, shape.access_token) is not None:
            root = inner
        elif not asked.is_refresh:
            return None
    access_token, refresh_token = text_at(root, shape.access_token), text_at(root, shape.refresh_token)
    if access_token is None or not _is_text(access_token) or not _is_text(refresh_token or ""):
        return None
    lifetime = _lifetime(provider, root, now=asked.now)
    grant = None if shape.grant_expires is None else integer_at(content, shape.grant_expires)
    return TokenAnswer(
        access_token=access_token,
        refresh_token=refresh_token,
        scopes=scopes_in(provider, at(root, shape.scope)),
        expires_in=min(lifetime, _LONGEST) if lifetime is not None and lifetime > 0 else None,
        grant_expires_in=min(grant, _LONGEST) if grant is not None and grant > 0 else None,
        account=account_of(provider, content) if provider.identity.source == "answer" else None,
        metadata=kept_facts(provider, content),
    )


def _is_text(token: str) -> bool:
    """Whether it can be encoded: JSON allows halves of characters, such as `\\ud800` alone."""
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True


def kept_facts(provider: Provider, content: Mapping[str, object]) -> dict[str, str]:
    """The facts to keep from a token endpoint's answer, according to the provider file."""
    found = {name: text_at(content, path) for name, path in provider.response.keep.items()}
    return {name: as_data(value, limit=200) for name, value in found.items() if value is not None}


def _lifetime(provider: Provider, root: object, *, now: int) -> int | None:
    """Seconds until the access token ends, in whatever form the provider states it; None when it doesn't."""
    path, unit = provider.expires.path, provider.expires.unit
    if unit == "iso":
        try:
            ends = datetime.fromisoformat(text_at(root, path) or "")
        except ValueError:
            return None
        return int((ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp()) - now
    said = integer_at(root, path)
    if said is None:
        return None
    match unit:
        case "seconds":
            return said
        case "milliseconds":
            return said // 1000
        case "epoch":
            return said - now
        case "epoch_milliseconds":
            return said // 1000 - now


def account_of(provider: Provider, content: object) -> Account | None:
    """The account in an answer; None when there is none."""
    identity = provider.identity
    return account_named(fill(identity.id, content) or "", fill(identity.label, content))


def account_named(account_id: str, label: str | None) -> Account | None:
    """The account with a label that can be shown anywhere; None for what can't be an account's ID."""
    if not 0 < len(account_id) <= 255 or not account_id.isprintable():
        return None
    return Account(id=account_id, label=as_data(label or "", limit=200) or as_data(account_id, limit=200))


def scopes_in(provider: Provider, said: object) -> frozenset[str] | None:
    """The scopes in an answer, as text or array; None when there are none or the app defines them. Leaves out those
    that no column can hold, such as one with a NUL.
    """
    syntax = provider.scope
    if syntax.app_level:
        return None
    if is_array(said):
        found = [scope for scope in said if isinstance(scope, str)]
    elif isinstance(said, str) and said:
        found = re.split(rf"[\s{re.escape(syntax.response_separator or syntax.separator)}]+", said)
    else:
        return None
    return frozenset(syntax.synonyms.get(name, name) for name in found if name and name.isprintable())


def clean_code(code: str, secrets: Sequence[str]) -> str:
    """A provider's error code as letters, digits and `_.-`; never one of our secrets."""
    if _repeats(code, secrets):
        return "error"
    return re.sub(r"[^A-Za-z0-9_.-]", "", code)[:64] or "error"


def clean_description(description: str, secrets: Sequence[str]) -> str:
    """A provider's error text without control characters, cut; empty when it repeats one of our secrets."""
    if _repeats(description, secrets):
        return ""
    return as_data(description, limit=200).replace("\n", " ").replace("\t", " ")


def _repeats(text: str, secrets: Sequence[str]) -> bool:
    """Whether the error repeats the refused token, or its beginning: some servers do."""
    return any(
        len(secret) >= 8 and (secret in text or secret[: max(8, len(secret) // 2)] in text) for secret in secrets
    )
