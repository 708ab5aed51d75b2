"""Webhooks: the last events and those that failed, as in `token-vault webhooks`."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

from starlette.responses import Response

from server.administration import webhooks
from server.administration.actor import ChangeRefused
from server.errors import status_of
from server.http.page_texts import section, text
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from vault.notices import endpoints
from vault.notices.endpoints import EventEndpoint

PAGE: Final = f"{ROOT}/webhooks"
SHOWN: Final = 50  # failed events


async def show(visit: AdminVisit) -> Response:
    """All endpoints without secrets, and a form to add one."""
    return await _list_page(visit)


async def _list_page(visit: AdminVisit, *, url: str = "", chosen: frozenset[str] = frozenset()) -> Response:
    context: dict[str, object] = {
        "endpoints": [(one, path_of(one), host_of(one)) for one in await webhooks.list_all(visit.deployment)],
        "types": endpoints.TYPES,
        "chosen": chosen,
        "url": url,
        "error": text("admin_webhooks.url_refused") if url else "",
        "path": PAGE,
    }
    return await visit.page("webhooks.html", context, status=status_of("invalid_request") if url else 200)


def path_of(endpoint: EventEndpoint) -> str:
    """The page of an endpoint."""
    return f"{PAGE}/{quote(endpoint.id, safe='')}"


def host_of(endpoint: EventEndpoint) -> str:
    """The part of the endpoint's address that isn't secret."""
    return urlsplit(endpoint.url).netloc


async def add(visit: AdminVisit) -> Response:
    """Add an endpoint. The next page shows its secret once."""
    url, chosen = visit.form.one("url").strip(), visit.form.many("event") & frozenset(endpoints.TYPES)
    try:
        made = await webhooks.add(visit.actor, url, events=sorted(chosen))
    except ChangeRefused as refused:
        if refused.field != "url":
            raise
        return await _list_page(visit, url=url[:2000] or " ", chosen=chosen)
    said = text("admin_webhooks.added", host=host_of(made))
    return await visit.go(path_of(made), said=said, secret=made.secret, secret_kind="webhook_secret")


async def show_one(visit: AdminVisit) -> Response:
    """One endpoint: which events it gets, their deliveries, and those that failed."""
    endpoint = await _endpoint(visit)
    failed = await endpoints.list_failed(visit.deployment.database, endpoint.id)
    context: dict[str, object] = {
        "endpoint": endpoint,
        "host": host_of(endpoint),
        "why": failure_words(endpoint.failure) if endpoint.failed_at and endpoint.failure else "",
        "is_overlapping": len(endpoint.signing_secrets(visit.deployment.now())) > 1,
        "failed": [(one, failure_words(one.failure)) for one in failed[:SHOWN]],
        "more": max(0, len(failed) - SHOWN),
        "overlap": webhooks.OVERLAP,
        "path": path_of(endpoint),
    }
    return await visit.page("webhook.html", context)


def failure_words(failure: str) -> str:
    """Why an endpoint didn't accept an event."""
    if failure.isdecimal():
        return text("admin_webhooks.answered", status=failure)
    return section("webhook_failure").get(failure, failure)


async def test(visit: AdminVisit) -> Response:
    """Send the endpoint a test event."""
    endpoint = await _endpoint(visit)
    failure = await webhooks.test(visit.actor, endpoint)
    said = text("admin_webhooks.test_failed", why=failure_words(failure)) if failure else text("admin_webhooks.tested")
    return await visit.go(path_of(endpoint), said=said)


async def rotate(visit: AdminVisit) -> Response:
    """Create a new secret. The next page shows it once."""
    endpoint = await _endpoint(visit)
    changed = await webhooks.rotate(visit.actor, endpoint, overlap=webhooks.OVERLAP)
    said = text("admin_webhooks.rotated", hours=webhooks.OVERLAP)
    return await visit.go(path_of(endpoint), said=said, secret=changed.secret, secret_kind="webhook_secret")


async def disable(visit: AdminVisit) -> Response:
    """Stop sending events to the endpoint."""
    return await _set_disabled(visit, is_disabled=True)


async def enable(visit: AdminVisit) -> Response:
    """Resume sending events to the endpoint."""
    return await _set_disabled(visit, is_disabled=False)


async def _set_disabled(visit: AdminVisit, *, is_disabled: bool) -> Response:
    endpoint = await _endpoint(visit)
    await webhooks.set_disabled(visit.actor, endpoint, is_disabled=is_disabled)
    said = text("admin_webhooks.disabled" if is_disabled else "admin_webhooks.enabled", host=host_of(endpoint))
    return await visit.go(path_of(endpoint), said=said)


async def resend(visit: AdminVisit) -> Response:
    """Send one failed event again, or all of them."""
    endpoint, sequence = await _endpoint(visit), visit.form.one("sequence")
    if sequence and not (sequence.isascii() and sequence.isdecimal() and len(sequence) < 19):
        raise PageRefused("no_endpoint", kind="not_found")
    count = await webhooks.resend(visit.actor, endpoint, sequence=int(sequence) if sequence else None)
    return await visit.go(path_of(endpoint), said=text("admin_webhooks.resent", number=count))


async def remove(visit: AdminVisit) -> Response:
    """Remove the endpoint and its waiting events."""
    endpoint = await _endpoint(visit)
    await webhooks.remove(visit.actor, endpoint)
    return await visit.go(PAGE, said=text("admin_webhooks.removed", host=host_of(endpoint)))


async def _endpoint(visit: AdminVisit) -> EventEndpoint:
    return await webhooks.endpoint_with_id(visit.actor, visit.param("endpoint")[:64])
