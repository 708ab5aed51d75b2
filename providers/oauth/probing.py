"""Check whether a token still works after its revocation, without using up a token or leaving one behind. The provider
file has the way (`revoke.probe`). `tests/support/models/ending_model.py` shows why a refresh is tried only where it
uses up no token and a revocation ends the whole grant, and why an expired access token proves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from providers.definitions.model import Provider
from providers.oauth.token_requests import TokenRequestBytes, identity_request, introspection_request
from providers.oauth.token_responses import LATER, account_of
from providers.outbound.json_values import at, text_at
from providers.outbound.messages import HttpError, OutboundResponse
from vault.upstream import (
    NotSent,
    ProbeAnswer,
    ProbeOutcome,
    RefreshOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    Rotation,
)

logger = logging.getLogger("token_vault.upstream")


@dataclass(frozen=True, slots=True)
class ProbeRequests:
    """Functions to reach the provider: one request; a refresh; a revocation of refresh token and access token."""

    send: Callable[[TokenRequestBytes], Awaitable[OutboundResponse]]
    refresh: Callable[[str], Awaitable[RefreshOutcome]]
    revoke: Callable[[str | None, str | None], Awaitable[RevokeAnswer]]


@dataclass(frozen=True, slots=True)
class _ProbeSeen:
    outcome: ProbeOutcome
    way: str
    retry_after: int | None = None


async def probe(
    provider: Provider,
    asking: ProbeRequests,
    *,
    refresh_token: str | None,
    access_token: str | None,
    is_fresh: bool,
    is_revoked: bool,
) -> ProbeAnswer:
    """Check each token that we hold, until one works or there is no answer. If revoking ends the whole grant, the
    refusal of a fresh access token also counts for the refresh token, provided that the provider accepted the
    revocation; the refusal of the refresh token then counts for the access token.
    """
    ends_whole = provider.revoke.ends_grant is True and is_revoked
    by_access = None if access_token is None else await _ask_by_access(provider, asking, access_token)
    if by_access is not None and by_access.outcome is not ProbeOutcome.DEAD:
        return ProbeAnswer(by_access.outcome, (by_access.way,), by_access.retry_after)
    by_refresh = None if refresh_token is None else await _ask_by_refresh(provider, asking, refresh_token)
    ways = tuple(one.way for one in (by_access, by_refresh) if one is not None)
    if by_refresh is not None and by_refresh.outcome is not ProbeOutcome.DEAD:
        return ProbeAnswer(by_refresh.outcome, ways, by_refresh.retry_after)
    speaks_for_refresh = by_access is not None and is_fresh and ends_whole
    is_proven = (refresh_token is None or by_refresh is not None or speaks_for_refresh) and (
        access_token is None or not is_fresh or by_access is not None or (by_refresh is not None and ends_whole)
    )
    held_any = refresh_token is not None or access_token is not None
    return ProbeAnswer(ProbeOutcome.DEAD if is_proven and ways and held_any else ProbeOutcome.UNPROVEN, ways)


async def _ask_by_access(provider: Provider, asking: ProbeRequests, token: str) -> _ProbeSeen | None:
    match provider.revoke.probe.access_token:
        case "identity" if provider.identity.source == "endpoint":
            return await _look_up(provider, asking, token)
        case "introspection":
            return await _introspect(provider, asking, token, kind="access_token")
        case _:
            return None


async def _ask_by_refresh(provider: Provider, asking: ProbeRequests, token: str) -> _ProbeSeen | None:
    match provider.revoke.probe.refresh_token:
        case "introspection":
            return await _introspect(provider, asking, token, kind="refresh_token")
        case "refresh" if provider.can_probe_by_refresh:
            return await _refresh(asking, token)
        case _:
            return None


async def _look_up(provider: Provider, asking: ProbeRequests, token: str) -> _ProbeSeen:
    """RFC 6750 §3.1: a refused token is answered with 401, by some providers with their own code."""
    way = "identity"
    answer = await _send(provider, asking, identity_request(provider, token))
    if answer is None:
        return _ProbeSeen(ProbeOutcome.SILENT, way)
    content, errors = answer.json_content(), provider.errors
    codes = {code for path in (*errors.code, "error") if (code := text_at(content, path)) is not None}
    if answer.status == HTTPStatus.UNAUTHORIZED or codes & (errors.unauthorized | {"invalid_token"}):
        return _ProbeSeen(ProbeOutcome.DEAD, way)
    says_yes = errors.ok_flag is None or at(content, errors.ok_flag) is True
    if answer.status < 300 and says_yes and account_of(provider, content) is not None:
        return _ProbeSeen(ProbeOutcome.ALIVE, way)
    return _ProbeSeen(ProbeOutcome.SILENT, way, _patience(answer))


async def _introspect(provider: Provider, asking: ProbeRequests, token: str, *, kind: str) -> _ProbeSeen | None:
    """RFC 7662 §2."""
    way, url = "introspection", provider.revoke.probe.url
    if url is None or not provider.registration.client_secret:
        return None
    answer = await _send(provider, asking, introspection_request(provider, url, kind, token=token))
    if answer is None:
        return _ProbeSeen(ProbeOutcome.SILENT, way)
    active = at(answer.json_object(), "active") if answer.status == HTTPStatus.OK else None
    if active is True or active is False:
        return _ProbeSeen(ProbeOutcome.ALIVE if active else ProbeOutcome.DEAD, way)
    return _ProbeSeen(ProbeOutcome.SILENT, way, _patience(answer))


async def _refresh(asking: ProbeRequests, token: str) -> _ProbeSeen:
    """A refusal is the proof; tokens from a successful refresh are revoked at once."""
    way, outcome = "refresh", await asking.refresh(token)
    match outcome:
        case Rotation(answer):
            ended = await asking.revoke(answer.refresh_token or token, answer.access_token)
            logger.warning("a revoked refresh token still works", extra={"ended": ended is RevokeOutcome.REVOKED})
            return _ProbeSeen(ProbeOutcome.ALIVE, way)
        case Refusal() if outcome.ends_grant:
            return _ProbeSeen(ProbeOutcome.DEAD, way)
        case NotSent():
            return _ProbeSeen(ProbeOutcome.SILENT, way, outcome.retry_after)
        case _:
            return _ProbeSeen(ProbeOutcome.SILENT, way)


async def _send(provider: Provider, asking: ProbeRequests, written: TokenRequestBytes) -> OutboundResponse | None:
    try:
        return await asking.send(written)
    except HttpError as error:
        logger.info("probe failed", extra={"provider": provider.name, "cause": error.reason})
        return None


def _patience(answer: OutboundResponse) -> int | None:
    """Seconds that the provider asks to wait before the next request."""
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        return answer.retry_after or LATER
    return answer.retry_after if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else None
