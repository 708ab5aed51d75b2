"""Webhooks for account events: an admin's actions on them in the browser, commands, or the Admin API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from providers.definitions.suggestions import did_you_mean
from providers.outbound.addresses import url_problem
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.notices import webhooks as notices
from vault.audit import audit
from vault.notices import endpoints, outbox
from vault.notices.endpoints import EventEndpoint, FailedDelivery

OVERLAP: Final = 24  # hours that the old secret keeps signing after a rotation, by default
LONGEST_OVERLAP: Final = 168  # hours
_GONE: Final = "This endpoint was removed."
_LONGEST: Final = 2000  # characters of an address


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """A failed delivery and its endpoint."""

    delivery: FailedDelivery
    url: str = field(repr=False)


async def add(actor: Actor, url: str, *, events: Sequence[str]) -> EventEndpoint:
    """Add an endpoint for these types, or for all if empty; its secret is shown only now. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    problem = "too long" if len(url) > _LONGEST else url_problem(url, deployment.http.policy)
    if problem is not None:
        raise ChangeRefused("endpoint_refused", f"{url[:200]} can't be reached as an endpoint: {problem}", field="url")
    for name in events:
        if name not in endpoints.TYPES:
            near = did_you_mean(name, endpoints.TYPES)
            raise ChangeRefused("endpoint_refused", f"no event {name!r}.{near}", field="events")
    async with actor.change() as transaction:
        if len(await endpoints.list_endpoints(transaction, deployment.keys)) >= endpoints.MOST:
            raise ChangeRefused(
                "endpoint_refused", f"there are already {endpoints.MOST} endpoints: remove one", kind="conflict"
            )
        made = await endpoints.add(
            transaction, deployment.keys, url=url, events=frozenset(events or endpoints.TYPES), now=now
        )
        event = actor.event("webhook.added", endpoint=made.id, host=urlsplit(url).netloc, events=sorted(made.events))
        await audit.append(transaction, event, now=now)
    await outbox.begin(deployment.database)
    return made


async def list_all(deployment: Deployment) -> tuple[EventEndpoint, ...]:
    """All endpoints, oldest first."""
    return await endpoints.list_endpoints(deployment.database, deployment.keys)


async def endpoint_with_id(actor: Actor, endpoint_id: str) -> EventEndpoint:
    """The endpoint. Raises ChangeRefused."""
    known = await list_all(actor.deployment)
    found = next((one for one in known if one.id == endpoint_id), None)
    if found is None:
        near = did_you_mean(endpoint_id, [one.id for one in known])
        raise ChangeRefused("no_endpoint", f"no endpoint {endpoint_id!r}.{near}", kind="not_found")
    return found


async def remove(actor: Actor, endpoint: EventEndpoint) -> None:
    """Remove the endpoint with its waiting and failed events."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        if not await endpoints.remove(transaction, endpoint.id):
            raise ChangeRefused("no_endpoint", _GONE, kind="not_found")
        host = urlsplit(endpoint.url).netloc
        await audit.append(transaction, actor.event("webhook.removed", endpoint=endpoint.id, host=host), now=now)


async def test(actor: Actor, endpoint: EventEndpoint) -> str:
    """Send an event of the type `token_vault.test` now; returns why it wasn't accepted, or empty if it was."""
    failure = await notices.send_test(actor.deployment, endpoint)
    now = actor.deployment.now()
    async with actor.change() as transaction:
        event = actor.event("webhook.tested", endpoint=endpoint.id, failure=failure)
        await audit.append(transaction, event, now=now)
    return failure


async def rotate(actor: Actor, endpoint: EventEndpoint, *, overlap: int) -> EventEndpoint:
    """Create a new secret, only available now; the old one also signs for `overlap` hours. Raises ChangeRefused."""
    now = actor.deployment.now()
    if not 0 <= overlap <= LONGEST_OVERLAP:
        raise ChangeRefused(
            "endpoint_refused", f"the overlap can be 0 to {LONGEST_OVERLAP} hours", field="overlap_hours"
        )
    async with actor.change() as transaction:
        until = now + overlap * 3600
        changed = await endpoints.rotate(transaction, actor.deployment.keys, endpoint.id, previous_until=until, now=now)
        if changed is None:
            raise ChangeRefused("no_endpoint", _GONE, kind="not_found")
        event = actor.event("webhook.secret_rotated", endpoint=endpoint.id, overlap_hours=overlap)
        await audit.append(transaction, event, now=now)
    return changed


async def set_disabled(actor: Actor, endpoint: EventEndpoint, *, is_disabled: bool) -> bool:
    """Stop or resume sending events to the endpoint, even if it answered 410. False if nothing changed."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        change = endpoints.disable if is_disabled else endpoints.enable
        has_changed = await change(transaction, endpoint.id)
        if has_changed:
            kind = "webhook.disabled" if is_disabled else "webhook.enabled"
            await audit.append(transaction, actor.event(kind, endpoint=endpoint.id), now=now)
    return has_changed


async def list_failed(deployment: Deployment) -> list[FailedEvent]:
    """Events that endpoints didn't accept in any attempt, by endpoint, newest first."""
    return [
        FailedEvent(delivery, one.url)
        for one in await list_all(deployment)
        for delivery in await endpoints.list_failed(deployment.database, one.id)
    ]


async def resend(actor: Actor, endpoint: EventEndpoint, *, sequence: int | None = None) -> int:
    """Resend one or all failed events of an endpoint, and undo its stop by a 410; returns the number of events.

    Raises ChangeRefused for an event that did not fail, and for an endpoint that is disabled.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        count = await endpoints.resend(transaction, endpoint.id, sequence=sequence, until=now + outbox.KEPT, now=now)
        if count is None:
            raise ChangeRefused("endpoint_disabled", "This endpoint is disabled: enable it first.", kind="conflict")
        if sequence is not None and not count:
            raise ChangeRefused("no_endpoint", f"event {sequence} did not fail there", kind="not_found")
        await audit.append(transaction, actor.event("webhook.resent", endpoint=endpoint.id, events=count), now=now)
    return count
