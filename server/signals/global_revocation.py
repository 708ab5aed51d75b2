"""Global Token Revocation (draft-parecki-oauth-global-token-revocation-06): an identity provider ends all permissions
that a person gave agents, and signs them out. Connected accounts stay; each agent needs a new sign-in by the person.

The caller authenticates with its own bearer token, or with a JWT that its keys sign for this request, as Okta does.
Each caller can only affect its own people (§7.1).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from providers.definitions.issuers import is_same_issuer
from providers.outbound.json_values import is_object
from server.deployment import Deployment
from server.errors import status_of
from server.http.answers import SECRET, WholeAnswer, json_answer
from server.http.bodies import BodyTooLarge, read_body
from server.http.strict_json import json_object
from server.signal_settings import TransmitterSettings
from server.signals import security_events, subjects
from server.signals.push_delivery import TooMany, count_stranger, expected_token, is_bearer
from server.signals.security_events import EventRefused, KeysAway
from server.signals.subjects import SubjectUnsupported
from server.signatures import jose
from vault import limits, replay, users
from vault.audit import audit
from vault.records import Event, User
from vault.storage.database import Transaction

PATH: Final = "/global-token-revocation"
TYPES: Final = ("global-token-revocation+jwt",)  # developer.okta.com, "Build Universal Logout for your app"
REASON: Final = "revoked_by_provider"
_LIMIT: Final = 16 * 1024  # bytes
_LIFETIME: Final = 600  # seconds that a JWT may live
_LEEWAY: Final = 60
_UseToken = Callable[[Transaction], Awaitable[None]]
_log = logging.getLogger("token_vault.signals")


class RevocationRefused(Exception):
    """The request changes nothing."""

    def __init__(self, kind: str, description: str) -> None:
        super().__init__(description)
        self.kind = kind
        self.description = description


async def revoke(deployment: Deployment, request: Request) -> Response:
    """A transmitter with permission: draft-parecki-oauth-global-token-revocation-06. 204, or 400, 401, 404 (§3.4)."""
    try:
        count_stranger(deployment, request)
        name, transmitter, use = await _caller(deployment, request)
        await _count(deployment, name, transmitter)
        person = await _person(deployment, transmitter, await _subject(request))
        await _end(deployment, name, person, use=use)
    except RevocationRefused as refused:
        _log.info("revocation refused", extra={"code": refused.kind, "detail": refused.description})
        details: dict[str, object] = {"reason": refused.kind}
        await deployment.activity.record_refusal(Event("signal.refused", outcome="refused", details=details))
        status = status_of(refused.kind)
        headers = {"WWW-Authenticate": "Bearer"} if status == status_of("invalid_token") else None
        return json_answer(
            {"error": refused.kind, "error_description": refused.description}, status=status, headers=headers
        )
    except (TooMany, KeysAway) as error:
        status = status_of("too_many_requests" if isinstance(error, TooMany) else "not_ready")
        return json_answer({"error": "temporarily_unavailable"}, status=status, headers={"Retry-After": "60"})
    return WholeAnswer(HTTPStatus.NO_CONTENT, list(SECRET))


async def _caller(deployment: Deployment, request: Request) -> tuple[str, TransmitterSettings, _UseToken | None]:
    """Who asks, and how to use up a token that counts once.

    Raises RevocationRefused: `no_token`, `invalid_token`, and KeysAway: perhaps a token can't be read.
    """
    allowed = {name: one for name, one in deployment.settings.signals.transmitters.items() if one.can_revoke}
    away: KeysAway | None = None
    for name, one in allowed.items():
        try:
            secret = expected_token(one, "revocation_token", name)
        except KeysAway as error:  # the others' tokens are still checked
            _log.warning("token away", extra={"transmitter": name, "detail": str(error)})
            away = error
            continue
        if secret is not None and is_bearer(request, secret):
            return name, one, None
    values = request.headers.getlist("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        raise RevocationRefused("no_token", "send your bearer token")
    try:
        issuer = jose.unverified_claims(token).get("iss")
        for name, one in allowed.items():
            if one.revokes and is_same_issuer(issuer, one.issuer):
                return name, one, await _check_jwt(deployment, one, token)
    except (jose.TokenMalformed, EventRefused) as error:
        raise away or RevocationRefused("invalid_token", f"the token can't be accepted: {error}") from error
    raise away or RevocationRefused("invalid_token", "no one here has this token")


async def _check_jwt(deployment: Deployment, transmitter: TransmitterSettings, token: str) -> _UseToken:
    """Of this type, for this endpoint, and now; the result uses it up. Raises EventRefused or KeysAway."""
    claims = await security_events.signed_claims(deployment, transmitter, token, types=TYPES, has_type=True)
    now = deployment.now()
    issued_at, expires_at = jose.integer_claim(claims, "iat"), jose.integer_claim(claims, "exp")
    token_id = claims.get("jti")
    if not is_same_issuer(claims.get("iss"), transmitter.issuer) or claims.get("aud") != deployment.url(PATH):
        raise EventRefused("invalid_audience", "iss isn't the trusted issuer, or aud isn't this vault")
    if issued_at is None or expires_at is None or not issued_at < expires_at <= issued_at + _LIFETIME:
        raise EventRefused("invalid_request", "iat or exp is missing, or they are too far apart")
    if not (issued_at - _LEEWAY <= now < expires_at):
        raise EventRefused("invalid_request", "expired, or of the future")
    if not isinstance(token_id, str) or not 1 <= len(token_id) <= 255:
        raise EventRefused("invalid_request", "jti is missing or too long")
    purpose = f"revocation:{transmitter.issuer}"

    async def use(transaction: Transaction) -> None:
        if not await replay.first_use(
            transaction, purpose, token_id, expires_at=expires_at, now=now, made_at=issued_at
        ):
            raise RevocationRefused("invalid_token", "the token can't be accepted: used before")

    return use


async def _count(deployment: Deployment, name: str, transmitter: TransmitterSettings) -> None:
    async with deployment.transaction() as transaction:
        may = await limits.spend(
            transaction, f"revocations:{name}", limit=transmitter.per_minute, window=60, now=deployment.now()
        )
    if not may:
        raise TooMany(60)


async def _subject(request: Request) -> object:
    """`sub_id`; `subject` in draft 02, which Okta sends."""
    types = request.headers.getlist("content-type")
    if len(types) != 1 or types[0].split(";", 1)[0].strip().lower() != "application/json":
        raise RevocationRefused("invalid_request", "send the subject as application/json")
    try:
        content = json_object(await read_body(request.receive, limit=_LIMIT))
    except (ValueError, RecursionError, BodyTooLarge, ClientDisconnect) as error:
        raise RevocationRefused("invalid_request", "the body isn't a valid JSON object") from error
    subject = content.get("sub_id", content.get("subject"))
    if not is_object(subject):
        raise RevocationRefused("invalid_request", "sub_id is missing")
    return subject


async def _person(deployment: Deployment, transmitter: TransmitterSettings, subject: object) -> User:
    try:
        found = await subjects.find_person(deployment.database, transmitter, security_events.subjects_in(subject))
    except SubjectUnsupported as error:
        raise RevocationRefused("invalid_request", "the format of sub_id isn't supported") from error
    if found is None:
        raise RevocationRefused("not_found", "no one here has this subject")
    return found


async def _end(deployment: Deployment, name: str, person: User, *, use: _UseToken | None) -> None:
    now = deployment.now()
    async with deployment.transaction() as transaction:
        if use is not None:
            await use(transaction)
        await users.end_user_access(transaction, person.id, reason=REASON, now=now)
        event = Event("signal.revoked", user_id=person.id, details={"name": name})
        await audit.append(transaction, event, now=now)
