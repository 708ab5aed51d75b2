"""Receive webhooks in which a provider reports an ended grant: POST /webhooks/PROVIDER.

Each is signed, small, accepted once, and only a reason to check: the vault refreshes or probes the account immediately,
and relies only on the provider's answer to that.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.deployment import Deployment
from server.errors import status_of
from server.http.answers import SECRET, WholeAnswer, json_answer
from server.http.bodies import BodyTooLarge, read_body
from server.provider_settings import SettingsRefused
from server.signal_settings import ProviderWebhookSettings
from server.signals import effects
from server.signals.provider_schemes import SCHEMES, GrantHint, SignedMessage, WebhookRefused, read_by_any
from server.signals.push_delivery import TooMany, count_stranger
from vault import limits
from vault.records import Event
from vault.refresh import grant_checks
from vault.refresh.grant_checks import HintedConnection

_LIMIT: Final = 256 * 1024  # bytes
_PER_MINUTE: Final = 600
_REPEATS: Final = 10  # of one message per minute
_log = logging.getLogger("token_vault.signals")


async def receive(deployment: Deployment, request: Request) -> Response:
    """The provider, with GitHub's, Slack's, or Square's signature. 204, whether or not someone here has the account;
    401 for a wrong signature.
    """
    name = str(request.path_params["name"])
    settings, scheme = deployment.settings.signals.providers.get(name), SCHEMES.get(name)
    if settings is None or scheme is None:
        return _refuse("not_found", "no webhooks are set up for this provider")
    try:
        count_stranger(deployment, request)
        message = await _read(deployment, request, name, settings)
        hint = read_by_any(scheme, message, settings.readable_keys(name), deployment.now())
        if hint.challenge:
            return json_answer({"challenge": hint.challenge})
        if not hint.is_empty:
            await _count(deployment, name, hint)
            found = await _find(deployment, name, hint)
            await effects.hint(deployment, found, source=name, once=hint.once, remembered=hint.remembered)
    except WebhookRefused as refused:
        _log.info("webhook refused", extra={"provider": name, "detail": refused.reason})
        details: dict[str, object] = {"name": name, "reason": refused.reason}
        await deployment.activity.record_refusal(Event("signal.refused", outcome="refused", details=details))
        return _refuse("invalid_token" if refused.is_forged else "invalid_request", refused.reason)
    except SettingsRefused as refused:
        _log.error("webhook secret can't be read: %s", refused)
        return _refuse("temporarily_unavailable", "try again later", headers={"Retry-After": "60"})
    except BodyTooLarge:
        return _refuse("body_too_large", "the body is too large")
    except TooMany as many:
        return _refuse("too_many_requests", "too many requests", headers={"Retry-After": str(many.wait)})
    return WholeAnswer(HTTPStatus.NO_CONTENT, list(SECRET))


def _refuse(kind: str, description: str, *, headers: dict[str, str] | None = None) -> Response:
    return json_answer({"error": kind, "error_description": description}, status=status_of(kind), headers=headers)


async def _read(
    deployment: Deployment, request: Request, name: str, settings: ProviderWebhookSettings
) -> SignedMessage:
    try:
        body = await read_body(request.receive, limit=_LIMIT)
    except ClientDisconnect as error:
        raise WebhookRefused("the body didn't arrive whole", is_forged=False) from error
    names = [header for header, _ in request.headers.items()]
    headers = {header: value for header, value in request.headers.items() if names.count(header) == 1}
    return SignedMessage(headers, body, settings.url or deployment.url(f"/webhooks/{name}"))


async def _count(deployment: Deployment, name: str, hint: GrantHint) -> None:
    """Limit repeated messages separately: anyone who saw one can repeat it, which must not use up the limit of others.
    Raises TooMany."""
    now = deployment.now()
    same = hashlib.sha256(hint.once.encode()).hexdigest()
    async with deployment.transaction() as transaction:
        may = await limits.spend(transaction, f"webhooks:{name}:{same}", limit=_REPEATS, window=60, now=now)
        may = may and await limits.spend(transaction, f"webhooks:{name}", limit=_PER_MINUTE, window=60, now=now)
    if not may:
        raise TooMany(60)


async def _find(deployment: Deployment, name: str, hint: GrantHint) -> Sequence[HintedConnection]:
    database = deployment.database
    if hint.prefix:
        return await grant_checks.find_group(database, provider=name, prefix=hint.prefix)
    found: list[HintedConnection] = []
    for account in sorted(hint.accounts):
        found += await grant_checks.find_accounts(database, provider=name, account=account)
    return found[: grant_checks.MOST]
