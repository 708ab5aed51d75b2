"""What an answer of a provider's token endpoint means. Pure.

The one question that matters: was the token spent? Four answers: here are new ones, it was refused, it was not looked
at, nobody can know. Sending is `providers.oauth`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from providers.answers import at, integer_at, is_object, text_at
from providers.http import OutboundResponse
from providers.provider import Provider
from providers.tools import as_data
from vault.upstream import NotSent, Refused, Silent, TokenAnswer

_LONGEST = 10 * 365 * 86400


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that was answered: its grant, and the secrets in it that no error text may repeat."""

    is_refresh: bool
    secrets: Sequence[str] = field(repr=False)


def judge(provider: Provider, answer: OutboundResponse, asked: Asked) -> TokenAnswer | Refused | NotSent | Silent:
    """Anything that is neither new tokens nor a well-formed refusal is silence: the token may be spent."""
    if answer.status == 429 or (answer.status == 503 and answer.retry_after is not None):
        return NotSent("the provider asks for patience", retry_after=answer.retry_after)
    content = answer.json_object()
    if answer.status >= 500 or not 200 <= answer.status < 500 or 300 <= answer.status < 400:
        return Silent(f"status {answer.status}")
    if answer.status in (408, 425):
        return Silent(f"status {answer.status}")
    if content is None:
        return Silent(f"status {answer.status} without a JSON object")
    says_no = provider.response.ok_flag is not None and at(content, provider.response.ok_flag) is not True
    if answer.status < 300 and not says_no:
        tokens = _tokens(provider, content, asked)
        if tokens is not None:
            return tokens
    return _refusal(provider, content, answer, asked)


def _refusal(
    provider: Provider, content: Mapping[str, object], answer: OutboundResponse, asked: Asked
) -> Refused | NotSent | Silent:
    code = text_at(content, "error")
    if code is None:
        return Silent(f"status {answer.status} with neither token nor error")
    code = clean_code(code, asked.secrets)
    errors = provider.errors
    if code in errors.busy:
        return NotSent("the provider asks for patience", retry_after=answer.retry_after)
    if code in errors.unknown_outcome:
        return Silent(code)
    description = clean_description(text_at(content, "error_description") or "", asked.secrets)
    return Refused(code=code, description=description, ends_grant=code in errors.ends_grant)


def _tokens(provider: Provider, content: Mapping[str, object], asked: Asked) -> TokenAnswer | None:
    shape = provider.response
    root: object = content
    if shape.root is not None:
        inner = content.get(shape.root)
        # The answer to a refresh may leave the member out (Slack does); that to a code never, there the top level is
        # somebody else's token.
        if is_object(inner) and text_at(inner, "access_token") is not None:
            root = inner
        elif not asked.is_refresh:
            return None
    access_token = text_at(root, "access_token")
    if access_token is None:
        return None
    lifetime = integer_at(root, "expires_in")
    grant = None if shape.grant_expires is None else integer_at(content, shape.grant_expires)
    metadata = {name: found for name, path in shape.keep.items() if (found := text_at(content, path)) is not None}
    return TokenAnswer(
        access_token=access_token,
        refresh_token=text_at(root, "refresh_token"),
        scopes=_scopes(provider, text_at(root, "scope")),
        expires_in=min(lifetime, _LONGEST) if lifetime is not None and lifetime > 0 else None,
        grant_expires_in=min(grant, _LONGEST) if grant is not None and grant > 0 else None,
        metadata={name: as_data(value, limit=200) for name, value in metadata.items()},
    )


def _scopes(provider: Provider, scope: str | None) -> frozenset[str] | None:
    if scope is None:
        return None
    synonyms = provider.scope.synonyms
    found = re.split(rf"[\s{re.escape(provider.scope.separator)}]+", scope)
    return frozenset(synonyms.get(name, name) for name in found if name)


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
    """Some servers put the refused token, or its beginning, into the error."""
    return any(
        len(secret) >= 8 and (secret in text or secret[: max(8, len(secret) // 2)] in text) for secret in secrets
    )
