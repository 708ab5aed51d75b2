"""Poll transmitters for events (RFC 8936): a step of the upkeep, in which the processes of a vault take turns."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from providers.outbound.addresses import AddressPolicy
from providers.outbound.json_values import is_object
from providers.outbound.messages import HttpError, OutboundRequest
from server.deployment import Deployment
from server.http.strict_json import json_object
from server.signal_settings import TransmitterSettings
from server.signals import push_delivery, security_events
from server.signals.push_delivery import TooMany
from server.signals.security_events import EventRefused, KeysAway
from vault import replay

_MOST: Final = 50  # events of one answer
_ROUNDS: Final = 20  # answers in one turn
_ANSWER_LIMIT: Final = 4 * 1024 * 1024  # bytes
_TIMEOUT: Final = 15.0  # seconds
_log = logging.getLogger("token_vault.signals")


class PollFailed(Exception):
    """The transmitter gave no usable answer."""


async def poll(deployment: Deployment) -> int:
    """Fetch from each due transmitter; returns how many events took effect."""
    polled = {name: one for name, one in deployment.settings.signals.transmitters.items() if one.poll_url is not None}
    return sum(await asyncio.gather(*(_poll_in_turn(deployment, name, one) for name, one in polled.items())))


async def _poll_in_turn(deployment: Deployment, name: str, transmitter: TransmitterSettings) -> int:
    now, every = deployment.now(), transmitter.poll_every
    async with deployment.transaction() as transaction:
        is_ours = await replay.first_use(
            transaction, "signals-poll", f"{name}:{now // every}", expires_at=now + 2 * every, now=now
        )
    if not is_ours:
        return 0
    try:
        return await poll_one(deployment, name, transmitter)
    except PollFailed as failed:
        _log.warning("poll failed", extra={"transmitter": name, "detail": str(failed)})
        return 0


async def poll_one(deployment: Deployment, name: str, transmitter: TransmitterSettings) -> int:
    """Fetch until there are no more events; each request acknowledges those of the previous one. Raises PollFailed."""
    acknowledged: list[str] = []
    refused: dict[str, EventRefused] = {}
    taken, has_more, rounds = 0, True, 0
    while (has_more and rounds < _ROUNDS) or acknowledged or refused:
        rounds += 1
        most = _MOST if has_more and rounds <= _ROUNDS else 0  # §2.4: with 0, the request only acknowledges
        answer = await _ask(deployment, name, transmitter, most=most, acknowledged=acknowledged, refused=refused)
        acknowledged, refused = [], {}
        tokens = answer.get("sets", {})
        if not is_object(tokens):
            raise PollFailed("sets is not an object")
        is_left = False
        for token_id, token in list(tokens.items())[:_MOST] if most else ():
            try:
                await _take(deployment, name, transmitter, token_id, token)
            except EventRefused as refusal:
                await push_delivery.note_refusal(deployment, name, refusal)
                refused[token_id] = refusal
            except (KeysAway, TooMany) as away:  # it stays there for the next turn
                _log.warning("event left", extra={"transmitter": name, "detail": str(away)})
                is_left = True
                break
            else:
                taken += 1
                acknowledged.append(token_id)
        has_more = bool(most) and not is_left and answer.get("moreAvailable") is True and bool(tokens)
    return taken


async def _take(
    deployment: Deployment, name: str, transmitter: TransmitterSettings, token_id: str, token: object
) -> None:
    if not isinstance(token, str) or len(token) > security_events.LIMIT:
        raise EventRefused("invalid_request", "the event isn't a token")
    await push_delivery.take(deployment, name, transmitter, token, is_polled=True)


async def _ask(
    deployment: Deployment,
    name: str,
    transmitter: TransmitterSettings,
    *,
    most: int,
    acknowledged: list[str],
    refused: Mapping[str, EventRefused],
) -> Mapping[str, object]:
    content: dict[str, object] = {"maxEvents": most, "returnImmediately": True, "ack": acknowledged}
    if refused:
        content["setErrs"] = {key: {"err": one.code, "description": one.reason} for key, one in refused.items()}
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "token-vault"}
    if (secret := transmitter.secret("poll_token", name)) is not None:
        headers["Authorization"] = f"Bearer {secret}"
    asked = OutboundRequest(
        "POST",
        transmitter.poll_url or "",
        headers=headers,
        body=json.dumps(content).encode(),
        timeout=_TIMEOUT,
        max_bytes=_ANSWER_LIMIT,
        policy=AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid),
        peer="signals",
        account=name,
        reuse=False,
    )
    try:
        answer = await deployment.http.send(asked)
        if answer.status not in {HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT}:
            raise PollFailed(f"status {answer.status}")
        return json_object(answer.body) if answer.body else {}
    except (HttpError, ValueError, RecursionError) as error:
        raise PollFailed(type(error).__name__) from error
