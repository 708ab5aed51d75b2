"""Receive security events that transmitters push (RFC 8935): POST /signals/NAME."""

from __future__ import annotations

import hmac
import logging
import time
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.deployment import Deployment
from server.errors import status_of
from server.http.addresses import address_of, counting_key
from server.http.answers import SECRET, WholeAnswer, json_answer
from server.http.bodies import BodyTooLarge, read_body
from server.provider_settings import SettingsRefused
from server.signal_settings import Secret, TransmitterSettings
from server.signals import effects, security_events
from server.signals.security_events import EventRefused, KeysAway
from vault import limits
from vault.records import Event

_RETRY: Final = 30  # seconds until keys that can't be fetched may be back
_log = logging.getLogger("token_vault.signals")


class TooMany(Exception):
    """The limit is exceeded; `wait`: seconds until another request is accepted."""

    def __init__(self, wait: int) -> None:
        super().__init__(str(wait))
        self.wait = wait


async def receive(deployment: Deployment, request: Request) -> Response:
    """One event of the transmitter of that name: RFC 8935, RFC 8417, OpenID Shared Signals Framework 1.0. 202 once it
    took effect, 400 with an error code.
    """
    name = str(request.path_params["name"])
    transmitter = deployment.settings.signals.transmitters.get(name)
    if transmitter is None:
        return refuse(status_of("not_found"), "access_denied", "no transmitter has this name")
    try:
        count_stranger(deployment, request)
        token = await _read_token(request)
        _check_transmitter(transmitter, name, request)
        await take(deployment, name, transmitter, token)
    except EventRefused as refused:
        await note_refusal(deployment, name, refused)
        return refuse(status_of("invalid_request"), refused.code, refused.reason)
    except BodyTooLarge:
        return refuse(status_of("body_too_large"), "invalid_request", "the body is too large")
    except TooMany as many:
        return refuse(
            status_of("too_many_requests"), "access_denied", "too many events", headers={"Retry-After": str(many.wait)}
        )
    except KeysAway as away:
        _log.warning("keys away", extra={"transmitter": name, "detail": str(away)})
        headers = {"Retry-After": str(_RETRY)}
        return refuse(status_of("not_ready"), "invalid_key", "the event can't be checked now", headers=headers)
    return WholeAnswer(HTTPStatus.ACCEPTED, list(SECRET))


def refuse(status: int, code: str, description: str, *, headers: dict[str, str] | None = None) -> Response:
    """RFC 8935 §2.3."""
    return json_answer({"err": code, "description": description}, status=status, headers=headers)


def count_stranger(deployment: Deployment, request: Request) -> None:
    """Count a request by its address, before anything costs more. Raises TooMany."""
    if wait := deployment.rows.spend(counting_key(address_of(request)), "", now=time.monotonic()):
        raise TooMany(wait)


async def _read_token(request: Request) -> str:
    types = request.headers.getlist("content-type")
    if len(types) != 1 or types[0].split(";", 1)[0].strip().lower() != "application/secevent+jwt":
        raise EventRefused("invalid_request", "send the event as application/secevent+jwt")
    try:
        body = await read_body(request.receive, limit=security_events.LIMIT)
        return body.decode("ascii").strip()
    except ClientDisconnect as error:
        raise EventRefused("invalid_request", "the body didn't arrive whole") from error
    except UnicodeDecodeError as error:
        raise EventRefused("invalid_request", "the body isn't a token") from error


def _check_transmitter(transmitter: TransmitterSettings, name: str, request: Request) -> None:
    expected = expected_token(transmitter, "push_token", name)
    if expected is not None and not is_bearer(request, expected):
        raise EventRefused("authentication_failed", "the bearer token is missing or another")


def expected_token(transmitter: TransmitterSettings, which: Secret, name: str) -> str | None:
    """One of its bearer tokens, if it has one. Raises KeysAway while its file can't be read."""
    try:
        return transmitter.secret(which, name)
    except SettingsRefused as refused:
        raise KeysAway(str(refused)) from refused


def is_bearer(request: Request, expected: str) -> bool:
    """Whether the one Authorization header has exactly this token; never where none is expected."""
    values = request.headers.getlist("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    is_same = hmac.compare_digest(token.strip().encode(), expected.encode())
    return bool(expected) and scheme.lower() == "bearer" and is_same


async def take(
    deployment: Deployment, name: str, transmitter: TransmitterSettings, token: str, *, is_polled: bool = False
) -> None:
    """Verify an event and do what follows. Raises EventRefused, KeysAway or TooMany.

    A token that was already used changes nothing and counts as delivered (RFC 8935 §2.2).
    """
    event = await security_events.verify(deployment, name, transmitter, token, is_polled=is_polled)
    now = deployment.now()
    if await effects.is_used(deployment.database, transmitter, event, now=now):
        return  # anyone who saw it can send it again, which must not use up the transmitter's limit
    async with deployment.transaction() as transaction:
        may = await limits.spend(transaction, f"signals:{name}", limit=transmitter.per_minute, window=60, now=now)
    if not may:
        raise TooMany(60)
    await effects.apply(deployment, name, transmitter, event)


async def note_refusal(deployment: Deployment, name: str, refused: EventRefused) -> None:
    """Count repeated refusals within a minute, since anyone can send events that are refused."""
    _log.info("signal refused", extra={"transmitter": name, "code": refused.code, "detail": refused.reason})
    details: dict[str, object] = {"name": name, "reason": refused.code, "detail": refused.reason}
    await deployment.activity.record_refusal(Event("signal.refused", outcome="refused", details=details))
