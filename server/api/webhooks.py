"""Webhooks in the Admin API; `server.administration.webhooks` makes the changes."""

from __future__ import annotations

from pydantic import Field

from server.administration import webhooks
from server.api.operations import AdminCall, ApiOutput, Instant, Strict, instant, instant_of, operation
from vault.notices.endpoints import EventEndpoint


class EndpointRecord(ApiOutput):
    """An endpoint, without its secret."""

    id: str
    url: str = Field(repr=False)
    events: list[str]
    gone: bool = Field(description="It answered 410, so it no longer gets events")
    disabled: bool = Field(description="An admin disabled it")
    failure: str = Field(description="Why the last event wasn't accepted; empty if it was")
    created_at: Instant
    sent_at: Instant | None


class NewEndpoint(Strict):
    """An endpoint to add."""

    url: str = Field(repr=False, max_length=2000, description="Its https address")
    events: list[str] = Field(
        default_factory=list,
        max_length=20,
        description="`connected`, `expiring`, `needs_reauth`, `revoked`, `approval.waiting`; if empty, all of them",
    )


class AddedEndpoint(ApiOutput):
    """A new endpoint, with the secret that signs its events. The secret is shown only here."""

    endpoint: EndpointRecord
    secret: str = Field(repr=False)


class EndpointChange(Strict):
    """What to change."""

    disabled: bool = Field(description="`false` also resumes sending after the endpoint answered 410")


class RotationOptions(Strict):
    """How to rotate a secret."""

    overlap_hours: int = Field(
        default=webhooks.OVERLAP,
        ge=0,
        le=webhooks.LONGEST_OVERLAP,
        description="Hours in which the old secret also signs",
    )


class RotatedSecret(ApiOutput):
    """A new secret, shown only here."""

    endpoint: EndpointRecord
    secret: str = Field(repr=False)
    previous_until: Instant


class TestResult(ApiOutput):
    """The result of a test."""

    accepted: bool
    failure: str = Field(description="A status, or `unreachable`, `address`, `uncertain`; empty if it was accepted")


class WebhookList(ApiOutput):
    """All endpoints."""

    items: list[EndpointRecord]


class FailedEventRecord(ApiOutput):
    """An event that an endpoint did not accept in all attempts."""

    endpoint_id: str
    sequence: int
    type: str
    attempts: int
    failure: str
    created_at: Instant


class FailedEvents(ApiOutput):
    """Events that failed within 7 days, at most 500 for each endpoint."""

    items: list[FailedEventRecord]


class ResendOptions(Strict):
    """What to send again."""

    sequence: int | None = Field(default=None, ge=1, description="Only this event; without it, all that failed")


class ResentEvents(ApiOutput):
    """How many events are sent again."""

    events: int


@operation("GET", "/webhooks", scope="admin:read")
async def list_webhooks(call: AdminCall) -> WebhookList:
    """List the endpoints that get events about accounts."""
    return WebhookList(items=[_record(one) for one in await webhooks.list_all(call.deployment)])


@operation("POST", "/webhooks", scope="admin:access", status=201, refusals=["conflict"])
async def add_webhook(call: AdminCall, body: NewEndpoint) -> AddedEndpoint:
    """Add an endpoint. Its secret is returned once."""
    made = await webhooks.add(call.actor, body.url, events=body.events)
    return AddedEndpoint(endpoint=_record(made), secret=made.secret)


@operation("DELETE", "/webhooks/{webhook_id}", scope="admin:access", status=204)
async def remove_webhook(call: AdminCall) -> None:
    """Remove an endpoint and its waiting events."""
    await webhooks.remove(call.actor, await webhooks.endpoint_with_id(call.actor, call.param("webhook_id")))


@operation("PATCH", "/webhooks/{webhook_id}", scope="admin:access")
async def change_webhook(call: AdminCall, body: EndpointChange) -> EndpointRecord:
    """Disable or enable an endpoint. What happens while it is disabled isn't kept for it."""
    endpoint = await webhooks.endpoint_with_id(call.actor, call.param("webhook_id"))
    await webhooks.set_disabled(call.actor, endpoint, is_disabled=body.disabled)
    return _record(await webhooks.endpoint_with_id(call.actor, endpoint.id))


@operation("POST", "/webhooks/{webhook_id}/secrets", scope="admin:access", status=201)
async def rotate_webhook_secret(call: AdminCall, body: RotationOptions) -> RotatedSecret:
    """Sign with a new secret, which is returned once; the old one also signs for a while."""
    endpoint = await webhooks.endpoint_with_id(call.actor, call.param("webhook_id"))
    changed = await webhooks.rotate(call.actor, endpoint, overlap=body.overlap_hours)
    return RotatedSecret(
        endpoint=_record(changed), secret=changed.secret, previous_until=instant_of(changed.previous_until)
    )


@operation("POST", "/webhooks/{webhook_id}/test", scope="admin:access")
async def test_webhook(call: AdminCall) -> TestResult:
    """Send an event of the type `token_vault.test` now."""
    failure = await webhooks.test(call.actor, await webhooks.endpoint_with_id(call.actor, call.param("webhook_id")))
    return TestResult(accepted=not failure, failure=failure)


@operation("GET", "/webhook-failures", scope="admin:read")
async def list_webhook_failures(call: AdminCall) -> FailedEvents:
    """List the events that endpoints didn't accept in all attempts."""
    return FailedEvents(
        items=[
            FailedEventRecord(
                endpoint_id=one.delivery.endpoint_id,
                sequence=one.delivery.sequence,
                type=one.delivery.type,
                attempts=one.delivery.attempts,
                failure=one.delivery.failure,
                created_at=instant_of(one.delivery.created_at),
            )
            for one in await webhooks.list_failed(call.deployment)
        ]
    )


@operation("POST", "/webhooks/{webhook_id}/resend", scope="admin:access", refusals=["conflict"])
async def resend_webhook(call: AdminCall, body: ResendOptions) -> ResentEvents:
    """Send failed events again, even after the endpoint answered 410."""
    endpoint = await webhooks.endpoint_with_id(call.actor, call.param("webhook_id"))
    return ResentEvents(events=await webhooks.resend(call.actor, endpoint, sequence=body.sequence))


def _record(one: EventEndpoint) -> EndpointRecord:
    return EndpointRecord(
        id=one.id,
        url=one.url,
        events=sorted(one.events),
        gone=one.is_gone,
        disabled=one.is_disabled,
        failure=one.failure,
        created_at=instant_of(one.created_at),
        sent_at=instant(one.sent_at),
    )


OPERATIONS = (
    list_webhooks,
    add_webhook,
    remove_webhook,
    change_webhook,
    rotate_webhook_secret,
    test_webhook,
    list_webhook_failures,
    resend_webhook,
)
