"""Endpoints that hear what happens to accounts: add, list, remove, and send again what they didn't accept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from providers.definitions.suggestions import did_you_mean
from providers.outbound.addresses import url_problem
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from vault.audit import audit
from vault.notices import endpoints, outbox
from vault.notices.endpoints import EventEndpoint, FailedDelivery

_LONGEST: Final = 2000  # characters of an address


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """A failed delivery, and where it was to go."""

    delivery: FailedDelivery
    url: str


async def add(actor: Actor, url: str, *, events: Sequence[str]) -> EventEndpoint:
    """A new endpoint for these types, or all without any; its secret is shown this once. Raises ChangeRefused."""
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
                "endpoint_refused", f"there are {endpoints.MOST} endpoints already: remove one", kind="conflict"
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
    """Remove it, with what waits for it and what it didn't accept."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        if not await endpoints.remove(transaction, endpoint.id):
            raise ChangeRefused("no_endpoint", "This endpoint is gone already.", kind="not_found")
        host = urlsplit(endpoint.url).netloc
        await audit.append(transaction, actor.event("webhook.removed", endpoint=endpoint.id, host=host), now=now)


async def list_failed(deployment: Deployment) -> list[FailedEvent]:
    """What endpoints didn't accept in all attempts, by endpoint, the newest first."""
    return [
        FailedEvent(delivery, one.url)
        for one in await list_all(deployment)
        for delivery in await endpoints.list_failed(deployment.database, one.id)
    ]


async def resend(actor: Actor, endpoint: EventEndpoint, *, sequence: int | None = None) -> int:
    """Send one failed event again, or all of an endpoint, which gets events again if it had asked for none; how many.

    Raises ChangeRefused for an event that did not fail.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        count = await endpoints.resend(transaction, endpoint.id, sequence=sequence, until=now + outbox.KEPT, now=now)
        if sequence is not None and not count:
            raise ChangeRefused("no_endpoint", f"event {sequence} did not fail there", kind="not_found")
        await audit.append(transaction, actor.event("webhook.resent", endpoint=endpoint.id, events=count), now=now)
    return count
