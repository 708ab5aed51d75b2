"""The operator's endpoints, which get events about everyone's accounts: outbox channels that belong to no person.

Unlike a notice, an event is sent until the endpoint accepts it, so it may arrive twice. After many failures it is put
on a list, from which someone can send it again. The signing secret is sealed with the address.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import field
from typing import Final
from urllib.parse import urlsplit

from vault.classes.immutable import immutable
from vault.keys.key_ring import KeyRing
from vault.notices import channels
from vault.notices.channels import ENDPOINT, NoticeChannel
from vault.records import TENANT
from vault.storage.database import Reader, Row, Transaction, Value, integer, text, text_or_none

NOBODY: Final = ""  # the person of these channels
MOST: Final = 20  # endpoints
LISTED: Final = 500  # failed events
_MOST_OLDER: Final = 2  # number of secrets before the previous one that also sign
TYPE_OF_EVENT: Final[Mapping[str, str]] = {
    "connection.opened": "connected",
    "connection.expiring": "expiring",
    "connection.needs_reauth": "needs_reauth",
    "connection.quarantined": "needs_reauth",
    "connection.closed": "revoked",
    "connection.closed_by_admin": "revoked",
    "connection.closed_by_agent": "revoked",
    "approval.requested": "approval.waiting",
}
TYPES: Final = tuple(dict.fromkeys(TYPE_OF_EVENT.values()))
FAILED: Final = "failed"
_SECRET: Final = "whsec_"  # Standard Webhooks 1.0.0, "Signature scheme"
_FAILED: Final = """
    select channel_id, sequence, kind, attempts, created_at, failure from notices
    where tenant = :tenant and channel_id = :id and state = :state order by sequence desc limit :limit
"""
_RESEND: Final = """
    update notices set state = :waiting, attempts = 0, due_at = :now, expires_at = :until
    where tenant = :tenant and channel_id = :id and state = :state
"""
_RESEND_ONE: Final = f"{_RESEND} and sequence = :sequence"
_SHELVE: Final = """
    update notices set state = :failed, due_at = null, failure = :failure
    where tenant = :tenant and channel_id = :id and due_at is not null
"""


@immutable
class EventEndpoint:
    """An address with the event types that it wants. `secret` has the format of Standard Webhooks.

    `previous`: the secret before its rotation, which also signs until `previous_until`.
    """

    id: str
    url: str = field(repr=False)  # may contain a secret
    secret: str = field(repr=False)
    events: frozenset[str]
    created_at: int
    sent_at: int | None
    failed_at: int | None
    failure: str  # why the last event wasn't accepted; empty if it was
    previous: str = field(repr=False)
    previous_until: int
    older: tuple[tuple[str, int], ...] = field(repr=False)  # secrets before that one, each with its end

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint asked for no further events."""
        return self.failure == channels.GONE

    @property
    def is_disabled(self) -> bool:
        """Whether an admin disabled it."""
        return self.failure == channels.DISABLED

    def signing_secrets(self, now: int) -> tuple[str, ...]:
        """The secrets that sign now, newest first."""
        earlier = ((self.previous, self.previous_until), *self.older)
        return (self.secret, *(secret for secret, until in earlier if now < until))


@immutable
class FailedDelivery:
    """An event that an endpoint didn't accept in any attempt."""

    endpoint_id: str
    sequence: int
    type: str
    attempts: int
    created_at: int
    failure: str


async def add(transaction: Transaction, ring: KeyRing, *, url: str, events: frozenset[str], now: int) -> EventEndpoint:
    """A new endpoint with a secret of 32 random bytes."""
    secret = _new_secret()
    host = urlsplit(url).hostname or ""  # the rest of the address may be secret
    target = json.dumps({"url": url, "secret": secret}, separators=(",", ":"))
    made = await channels.add_channel(
        transaction, ring, user_id=NOBODY, kind=ENDPOINT, label=host[:200], target=target, now=now, events=events
    )
    return endpoint_from(made)


async def rotate(
    transaction: Transaction, ring: KeyRing, endpoint_id: str, *, previous_until: int, now: int
) -> EventEndpoint | None:
    """Sign with a new secret, and until then also with the previous one; None if there is no such endpoint.

    Earlier secrets sign until their own ends, since a receiver may know only those, unless the previous one ends at
    once.
    """

    def change(target: str) -> str:
        held: dict[str, str] = json.loads(target)
        earlier = [(held.get("previous", ""), int(held.get("previous_until", 0))), *_older(held)]
        kept = [one for one in earlier if now < one[1] and now < previous_until][:_MOST_OLDER]
        held |= {"secret": _new_secret(), "previous": held["secret"], "previous_until": str(previous_until)}
        held["older"] = json.dumps(kept)
        return json.dumps(held, separators=(",", ":"))

    changed = await channels.change_target(transaction, ring, endpoint_id, change)
    return None if changed is None else endpoint_from(changed)


async def disable(transaction: Transaction, endpoint_id: str) -> bool:
    """Stop sending events; waiting ones join the failed ones. False if nothing changes."""
    if not await channels.set_failure(transaction, endpoint_id, channels.DISABLED):
        return False
    which: dict[str, Value] = {"tenant": TENANT, "id": endpoint_id}
    await transaction.execute(_SHELVE, {**which, "failed": FAILED, "failure": channels.DISABLED})
    return True


async def enable(transaction: Transaction, endpoint_id: str) -> bool:
    """Resume sending events; False if nothing had stopped them."""
    return await channels.set_failure(transaction, endpoint_id, "")


async def list_endpoints(reader: Reader, ring: KeyRing) -> tuple[EventEndpoint, ...]:
    """All endpoints, oldest first."""
    return tuple(endpoint_from(one) for one in await channels.list_channels(reader, ring, NOBODY))


async def remove(transaction: Transaction, endpoint_id: str) -> bool:
    """Remove an endpoint and its waiting and failed events; False if there is none."""
    return await channels.remove_channel(transaction, endpoint_id, user_id=NOBODY)


async def list_failed(reader: Reader, endpoint_id: str) -> tuple[FailedDelivery, ...]:
    """The events that the endpoint didn't accept, newest first."""
    rows = await reader.fetch(_FAILED, {"tenant": TENANT, "id": endpoint_id, "state": FAILED, "limit": LISTED})
    return tuple(map(_delivery, rows))


async def resend(
    transaction: Transaction, endpoint_id: str, *, sequence: int | None, until: int, now: int
) -> int | None:
    """Send one failed event again, or all of the endpoint's; returns how many. Resumes an endpoint that was gone. None
    for a disabled or missing endpoint.
    """
    which: dict[str, Value] = {"tenant": TENANT, "id": endpoint_id}
    if not await channels.revive(transaction, endpoint_id):
        return None
    values = {**which, "state": FAILED, "waiting": "waiting", "now": now, "until": until}
    if sequence is None:
        return await transaction.execute(_RESEND, values)
    return await transaction.execute(_RESEND_ONE, {**values, "sequence": sequence})


def endpoint_from(channel: NoticeChannel) -> EventEndpoint:
    """The endpoint behind a channel of this kind."""
    target: dict[str, str] = json.loads(channel.target)
    return EventEndpoint(
        channel.id,
        target["url"],
        target["secret"],
        channel.events,
        channel.created_at,
        channel.sent_at,
        channel.failed_at,
        channel.failure,
        target.get("previous", ""),
        int(target.get("previous_until", 0)),
        _older(target),
    )


def _older(target: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = json.loads(target.get("older", "[]"))
    return tuple((secret, until) for secret, until in found)


def _new_secret() -> str:
    return _SECRET + base64.b64encode(secrets.token_bytes(32)).decode()


def _delivery(row: Row) -> FailedDelivery:
    return FailedDelivery(
        text(row, "channel_id"),
        integer(row, "sequence"),
        text(row, "kind"),
        integer(row, "attempts"),
        integer(row, "created_at"),
        text_or_none(row, "failure") or "",
    )
