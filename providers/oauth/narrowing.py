"""How to request a narrower access token with an access token, and what the answer proves. Pure. There are two ways:
RFC 8693 at the provider (Box), and GitHub's scoped tokens. Neither uses up a refresh token. An answer counts only for
the scopes and the item that it names, not for what was requested. `providers.oauth.client` sends; the vault decides
whether to narrow at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from providers.definitions.model import Provider
from providers.oauth.token_requests import Fields
from providers.oauth.token_responses import ResponseContext, TokenOutcome, judge, not_now
from providers.outbound.json_values import at, is_object, objects_at, text_at
from providers.outbound.messages import OutboundResponse
from vault.upstream import Refusal, Silent, TokenAnswer

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an API: its address, and its parts by the names in the provider file."""

    url: str
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NarrowTokenRequest:
    """What the new token may do, and the only item that it may reach."""

    scopes: frozenset[str]
    item: Item | None = None


def item_of(provider: Provider, url: str) -> Item | None:
    """The item at an address; None if the address isn't this provider's."""
    for base in provider.apis.values():
        if not url.startswith(f"{base.rstrip('/')}/"):
            continue
        path = url[len(base.rstrip("/")) :]
        for template in provider.downscope.item:
            pattern = "".join(
                f"(?P<{part[1:-1]}>[A-Za-z0-9._-]+)" if part.startswith("{") else re.escape(part)
                for part in re.split(r"(\{[a-z_]+\})", template)
            )
            found = re.fullmatch(pattern, path)
            if found is not None and all(part.strip(".") for part in found.groupdict().values()):
                return Item(url, found.groupdict())
    return None


def exchange_parameters(provider: Provider, request: NarrowTokenRequest, access_token: str) -> Fields:
    """RFC 8693 §2.1."""
    parameters = {"grant_type": EXCHANGE, "subject_token": access_token, "subject_token_type": ACCESS_TOKEN}
    parameters["scope"] = provider.scope.separator.join(sorted(request.scopes))
    if request.item is not None:
        parameters["resource"] = request.item.url
    return parameters


def exchange_answer(
    provider: Provider, answer: OutboundResponse, request: NarrowTokenRequest, asked: ResponseContext
) -> TokenOutcome:
    """RFC 8693 §2.2.1, with Box's `restricted_to`: an entry for each scope, and the item that it is for."""
    outcome = judge(provider, answer, asked)
    if isinstance(outcome, Refusal):
        is_dead = outcome.ends_grant or outcome.code in {"invalid_token", "unauthorized"}
        return replace(outcome, code="invalid_token" if is_dead else outcome.code, ends_grant=False)
    if not isinstance(outcome, TokenAnswer):
        return outcome
    entries = objects_at(answer.json_object(), "restricted_to")
    if not entries:
        scopes = outcome.scopes if request.item is None else None  # the answer doesn't mention the item
    elif all(request.item is None or _is_for(entry, request.item) for entry in entries):
        scopes = frozenset(scope for entry in entries if (scope := text_at(entry, "scope")) is not None)
    else:
        scopes = None
    return replace(outcome, refresh_token=None, scopes=scopes)


def _is_for(entry: Mapping[str, object], item: Item) -> bool:
    """`{"type": "folder", "id": "12"}` is `/2.0/folders/12`."""
    kind, number = text_at(entry, "object.type"), text_at(entry, "object.id")
    return kind is not None and item.url.endswith(f"/{kind}s/{number}")


def scoped_fields(request: NarrowTokenRequest, access_token: str) -> Mapping[str, object]:
    """GitHub's body: scopes are `permission:level`, the item is a repository."""
    fields: dict[str, object] = {"access_token": access_token}
    if request.item is not None:
        fields["target"] = unquote(request.item.parts["owner"])
        fields["repositories"] = [unquote(request.item.parts["repo"])]
    levels: dict[str, str] = {}
    for scope in sorted(request.scopes):  # read before write, so that the wider one stays
        permission, _, level = scope.partition(":")
        levels[permission] = level
    fields["permissions"] = levels
    return fields


def scoped_answer(answer: OutboundResponse, request: NarrowTokenRequest, *, now: int) -> TokenOutcome:
    """GitHub's answer: the token, its end, and the permissions and repositories of the installation it is for."""
    if answer.is_turned_away or (answer.status == HTTPStatus.FORBIDDEN and answer.retry_after is not None):
        return not_now(answer)
    content = answer.json_object()
    if answer.status >= 500 or content is None:
        return Silent(f"status {answer.status}")
    token = text_at(content, "token")
    if answer.status != HTTPStatus.OK or token is None:
        return _scoped_refusal(answer.status)
    permissions = at(content, "installation.permissions")
    scopes: frozenset[str] | None = None
    if is_object(permissions) and _is_confined(content, request):
        scopes = frozenset(f"{name}:{level}" for name, level in permissions.items() if isinstance(level, str))
    return TokenAnswer(token, scopes=scopes, expires_in=seconds_until(text_at(content, "expires_at"), now=now))


def _scoped_refusal(status: int) -> Refusal:
    match status:
        case HTTPStatus.NOT_FOUND:
            return Refusal("invalid_token", "the token is not known", ends_grant=False)
        case HTTPStatus.UNAUTHORIZED:
            return Refusal("invalid_client", "our client id or secret is wrong", ends_grant=False)
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return Refusal("invalid_scope", "no such token for these permissions", ends_grant=False)
        case _:
            return Refusal(f"status_{status}", "", ends_grant=False)


def _is_confined(content: Mapping[str, object], request: NarrowTokenRequest) -> bool:
    """Whether the answer covers only the owner, and only selected repositories if one was requested."""
    if request.item is None:
        return True
    owner = text_at(content, "installation.account.login") or ""
    is_selected = text_at(content, "installation.repository_selection") == "selected"
    return is_selected and owner.lower() == unquote(request.item.parts["owner"]).lower()


def seconds_until(instant: str | None, *, now: int) -> int | None:
    """Seconds until an ISO 8601 instant, at least 0; None for anything else."""
    try:
        ends = datetime.fromisoformat(instant or "")
    except ValueError:
        return None
    return max(0, int((ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp()) - now)
