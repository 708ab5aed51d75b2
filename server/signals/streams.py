"""Create and end event streams at a transmitter, with its stream management API (SSF 1.0 §8.1).

An answer is used only if it names the expected issuer (§8.1.1.1) and has the expected format. The stream pushes to this
vault or is polled by it, and requests the events that have a rule here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

from providers.definitions.issuers import is_same_issuer
from providers.outbound.addresses import AddressPolicy
from providers.outbound.json_values import is_array, is_object
from providers.outbound.messages import HttpError, OutboundRequest, OutboundResponse
from server.deployment import Deployment
from server.http.strict_json import json_object, parse_json
from server.signal_settings import TransmitterSettings
from server.signals import effects, security_events, verifications
from server.signals.security_events import KeysAway

PUSH: Final = "urn:ietf:rfc:8935"
POLL: Final = "urn:ietf:rfc:8936"
Status = Literal["enabled", "paused", "disabled"]
STATUSES: Final[Mapping[str, Status]] = {"enabled": "enabled", "paused": "paused", "disabled": "disabled"}
_ANSWER_LIMIT: Final = 256 * 1024  # bytes
_TIMEOUT: Final = 15.0  # seconds
_MOST: Final = 100  # streams, and types of one
_LONGEST: Final = 1000  # characters of a value
_SAID: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: "it doesn't understand the request, or doesn't offer this way of delivery",
    HTTPStatus.UNAUTHORIZED: "it doesn't accept the token: set management_token",
    HTTPStatus.FORBIDDEN: "it doesn't allow that with this token",
    HTTPStatus.NOT_FOUND: "it doesn't know the stream",
    HTTPStatus.CONFLICT: "it allows no second stream: list the one that there is, and update it",
    HTTPStatus.TOO_MANY_REQUESTS: "it asks to try later",
}


class StreamRefused(Exception):
    """The transmitter refused, or its answer can't be used. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class SignalStream:
    """A stream as its transmitter reports it. `missing`: event types that have a rule here but aren't delivered."""

    id: str
    audiences: tuple[str, ...]
    method: str
    endpoint_url: str
    delivered: frozenset[str]
    missing: frozenset[str]
    problems: tuple[str, ...]  # what to correct here so that its events are accepted
    description: str = ""


@dataclass(frozen=True, slots=True)
class StreamClient:
    """The stream management API of one transmitter."""

    deployment: Deployment
    name: str
    transmitter: TransmitterSettings
    metadata: Mapping[str, object]

    @property
    def policy(self) -> AddressPolicy:
        return AddressPolicy(allow_loopback=self.deployment.settings.sandbox.loopback_openid)

    async def list(self) -> tuple[SignalStream, ...]:
        """All streams that this vault may see (§8.1.1.2)."""
        answer = await self._ask("GET", "configuration_endpoint")
        content = _parse(answer, expected=(HTTPStatus.OK,))
        found = content if is_array(content) else [content]  # drafts before 02 have only one
        if len(found) > _MOST:
            raise StreamRefused(f"it lists more than {_MOST} streams")
        return tuple(self._stream(one) for one in found)

    async def create(self, *, is_polled: bool) -> SignalStream:
        """A stream for the events that have a rule here (§8.1.1.1)."""
        answer = await self._ask("POST", "configuration_endpoint", content=self._configuration(is_polled=is_polled))
        return self._stream(_parse(answer, expected=(HTTPStatus.CREATED, HTTPStatus.OK)))

    async def update(self, stream_id: str) -> SignalStream:
        """Update a stream to the current settings (§8.1.1.3)."""
        content = {"stream_id": stream_id, **self._configuration(is_polled=self.transmitter.poll_url is not None)}
        stream = self._stream(
            _parse(await self._ask("PATCH", "configuration_endpoint", content=content), expected=(HTTPStatus.OK,))
        )
        if stream.id != stream_id:
            raise StreamRefused("it answered with another stream")
        return stream

    async def remove(self, stream_id: str) -> None:
        """End a stream (§8.1.1.5)."""
        answer = await self._ask("DELETE", "configuration_endpoint", query={"stream_id": stream_id})
        _check_status(answer, expected=(HTTPStatus.NO_CONTENT, HTTPStatus.OK))

    async def status(self, stream_id: str) -> tuple[Status, str]:
        """The stream's status, and the transmitter's reason (§8.1.2.1)."""
        answer = await self._ask("GET", "status_endpoint", query={"stream_id": stream_id})
        return _status_of(answer, stream_id)

    async def set_status(self, stream_id: str, status: Status) -> tuple[Status, str]:
        """Request that it deliver, keep, or drop events; returns the resulting status (§8.1.2.2)."""
        content = {"stream_id": stream_id, "status": status}
        return _status_of(await self._ask("POST", "status_endpoint", content=content), stream_id)

    async def verify(self, stream_id: str) -> str:
        """Ask for a verification event (§8.1.4.2); the state that it will have."""
        state = secrets.token_urlsafe(24)
        await verifications.expect(self.deployment, self.name, state)
        answer = await self._ask("POST", "verification_endpoint", content={"stream_id": stream_id, "state": state})
        _check_status(answer, expected=(HTTPStatus.NO_CONTENT, HTTPStatus.OK, HTTPStatus.ACCEPTED))
        return state

    def _configuration(self, *, is_polled: bool) -> dict[str, object]:
        delivery: dict[str, object] = {"method": POLL}
        if not is_polled:
            delivery = {"method": PUSH, "endpoint_url": self.deployment.url(f"/signals/{self.name}")}
            if (token := self.transmitter.secret("push_token", self.name)) is not None:
                delivery["authorization_header"] = f"Bearer {token}"
        return {
            "delivery": delivery,
            "events_requested": sorted(wanted_events(self.transmitter)),
            "description": "Token Vault",
        }

    def _stream(self, content: object) -> SignalStream:
        """Raises StreamRefused for an invalid answer."""
        if not is_object(content):
            raise StreamRefused("its answer isn't a stream")
        if not is_same_issuer(content.get("iss"), self.transmitter.issuer):
            raise StreamRefused("its answer names another issuer, so it isn't used")
        delivery = content.get("delivery")
        if not is_object(delivery):
            raise StreamRefused("its answer doesn't say how it delivers")
        audience, events = content.get("aud"), content.get("events_delivered", [])
        delivered = frozenset(_texts(events, what="events_delivered"))
        audiences = _texts([audience] if isinstance(audience, str) else audience, what="aud")
        method, url = _text(delivery, "method"), _text(delivery, "endpoint_url", is_optional=True)
        return SignalStream(
            id=_text(content, "stream_id"),
            audiences=audiences,
            method=method,
            endpoint_url=url,
            delivered=delivered,
            missing=wanted_events(self.transmitter) - delivered,
            problems=(*self._wrong_audience(audiences), *self._wrong_delivery(method, url)),
            description=_text(content, "description", is_optional=True),
        )

    def _wrong_audience(self, audiences: tuple[str, ...]) -> tuple[str, ...]:
        """Check its audience (§8.1.1.1.1): otherwise its events would be refused as meant for another receiver."""
        expected = {*self.transmitter.audiences} or {self.deployment.url(f"/signals/{self.name}")}
        if expected & {*audiences}:
            return ()
        return (f"set signals.transmitters.{self.name}.audiences = {json.dumps(list(audiences))}",)

    def _wrong_delivery(self, method: str, url: str) -> tuple[str, ...]:
        setting, here = f"signals.transmitters.{self.name}", self.deployment.url(f"/signals/{self.name}")
        if method == PUSH:
            return () if url == here else (f"it pushes to {url or 'nowhere'}, not to {here}: update it",)
        if method != POLL:
            return (f"it delivers by {method}, which the vault doesn't know",)
        if not _is_usable(url, self.policy):
            return ("it names no https address to poll",)
        return () if url == self.transmitter.poll_url else (f"set {setting}.poll_url = {json.dumps(url)}",)

    async def _ask(
        self,
        method: str,
        endpoint: str,
        *,
        content: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> OutboundResponse:
        url = self.metadata.get(endpoint)
        if not isinstance(url, str) or len(url) > _LONGEST or not _is_usable(url, self.policy):
            raise StreamRefused(f"it names no usable {endpoint}")
        if query:
            url += ("&" if urlsplit(url).query else "?") + urlencode(query)
        headers = {"Accept": "application/json", "User-Agent": "token-vault"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if (token := self.transmitter.secret("management_token", self.name)) is not None:
            headers["Authorization"] = f"Bearer {token}"
        asked = OutboundRequest(
            method,
            url,
            headers=headers,
            body=None if content is None else json.dumps(content).encode(),
            timeout=_TIMEOUT,
            max_bytes=_ANSWER_LIMIT,
            policy=self.policy,
            peer="signals",
            account=self.name,
            reuse=False,
        )
        try:
            return await self.deployment.http.send(asked)
        except HttpError as error:
            raise StreamRefused(f"it can't be reached: {type(error).__name__}") from error


async def client_of(deployment: Deployment, name: str, transmitter: TransmitterSettings) -> StreamClient:
    """Its stream management API, by its own metadata (§7). Raises StreamRefused."""
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
    try:
        metadata = await security_events.read_metadata(deployment, transmitter, policy=policy)
    except KeysAway as away:
        raise StreamRefused(str(away)) from away
    return StreamClient(deployment, name, transmitter, metadata)


def wanted_events(transmitter: TransmitterSettings) -> frozenset[str]:
    """The event types that have a rule here."""
    rules = frozenset(effects.RULES)
    return rules if transmitter.provider is None else rules | effects.HINTS


def status_named(value: object) -> Status | None:
    """The status of this name."""
    return STATUSES.get(value) if isinstance(value, str) else None


def _is_usable(url: str, policy: AddressPolicy) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # such as `https://[x`
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and policy.allow_loopback))


def _check_status(answer: OutboundResponse, *, expected: tuple[int, ...]) -> None:
    if answer.status not in expected:
        said = (
            _SAID.get(answer.status, "it can't, now")
            if answer.status != HTTPStatus.ACCEPTED
            else "it does that later: list it then"
        )
        raise StreamRefused(f"{said} (status {answer.status})")


def _parse(answer: OutboundResponse, *, expected: tuple[int, ...]) -> object:
    _check_status(answer, expected=expected)
    try:
        content = parse_json(answer.body)
        return json_object(answer.body) if is_object(content) else content
    except (ValueError, RecursionError) as error:
        raise StreamRefused("its answer isn't valid JSON") from error


def _status_of(answer: OutboundResponse, stream_id: str) -> tuple[Status, str]:
    content = _parse(answer, expected=(HTTPStatus.OK,))
    if not is_object(content) or content.get("stream_id") != stream_id:
        raise StreamRefused("its answer is about another stream")
    status = status_named(content.get("status"))
    if status is None:
        raise StreamRefused("its answer has no status")
    return status, _text(content, "reason", is_optional=True)


def _text(content: Mapping[str, object], name: str, *, is_optional: bool = False) -> str:
    """A printable value, since it is shown on a terminal."""
    value = content.get(name)
    if value is None and is_optional:
        return ""
    if not isinstance(value, str) or not 0 < len(value) + is_optional <= _LONGEST or not value.isprintable():
        raise StreamRefused(f"its answer has no usable {name}")
    return value


def _texts(values: object, *, what: str) -> tuple[str, ...]:
    if not is_array(values) or len(values) > _MOST:
        raise StreamRefused(f"its answer has no usable {what}")
    return tuple(_text({what: one}, what) for one in values)
