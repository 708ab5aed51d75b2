"""Endpoints for events as an administrator manages them in the browser."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from server.administration import webhooks
from server.notices.delivery import deliver
from server.portal import csrf
from tests.support.doubles.mailbox import Receiver, running_receiver
from tests.support.person import Person, session_token
from tests.support.refused_pages import is_refused
from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from vault.audit import audit
from vault.notices.endpoints import EventEndpoint
from vault.records import Event

WEBHOOKS = "/administration/webhooks"


@dataclass
class Place:
    """A vault, alice's browser, and a server that hears events."""

    admin: AdminRoom
    alice: Person
    receiver: Receiver

    async def add_endpoint(self, *events: str) -> tuple[EventEndpoint, httpx2.Response]:
        page = await self.alice.open(WEBHOOKS)
        made = await self.alice.submit(page, {"url": f"{self.receiver.url}/hook"}, form=WEBHOOKS)
        assert made.status_code == 200, made.text
        (endpoint,) = await webhooks.list_all(self.admin.room.deployment)
        return endpoint, made

    async def fail(self, endpoint: EventEndpoint, *, number: int) -> None:
        """Events that the endpoint gave up on for good."""
        deployment = self.admin.room.deployment
        for _ in range(number):
            async with deployment.transaction() as transaction:
                event = Event("connection.closed", user_id="someone", connection_id="c1", details={"provider": "slack"})
                await audit.append(transaction, event, now=deployment.now())
        self.receiver.status = 410
        await deliver(deployment)
        self.receiver.status = 200
        assert len(await webhooks.list_failed(deployment)) == number


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    async with running_receiver() as receiver, running_admin_room(tmp_path) as admin:
        yield Place(admin, await admin.room.signed_in("alice"), receiver)


async def test_an_endpoint_is_added_tried_out_and_removed(place: Place) -> None:
    page = await place.alice.open(WEBHOOKS)
    refused = await place.alice.submit(page, {"url": "https://10.0.0.1/x"}, form=WEBHOOKS)
    assert refused.status_code == 400
    assert "can&#39;t be used" in refused.text or "can't be used" in refused.text
    endpoint, made = await place.add_endpoint()
    path = f"{WEBHOOKS}/{endpoint.id}"
    assert made.url.path == path
    assert endpoint.secret in made.text
    again = await place.alice.open(path)
    assert endpoint.secret not in again.text, "shown once"
    assert "Nothing was accepted yet." in again.text
    assert "accepted the test" in (await place.alice.submit(again, form=f"{path}/test")).text
    place.receiver.status = 503
    failed = await place.alice.submit(again, form=f"{path}/test")
    assert "It answered 503." in failed.text
    rotated = await place.alice.submit(again, form=f"{path}/rotate")
    (known,) = await webhooks.list_all(place.admin.room.deployment)
    assert known.secret in rotated.text
    assert known.secret != endpoint.secret
    assert "The old secret also signs until" in rotated.text
    assert known.secret not in (await place.alice.open("/administration/activity")).text
    gone = await place.alice.submit(rotated, form=f"{path}/remove")
    assert gone.url.path == WEBHOOKS
    assert "No endpoints yet" in gone.text
    assert (await place.alice.submit(rotated, form=f"{path}/test")).status_code == 404


async def test_failed_events_are_shown_and_sent_again_one_or_all(place: Place) -> None:
    endpoint, _ = await place.add_endpoint()
    path, deployment = f"{WEBHOOKS}/{endpoint.id}", place.admin.room.deployment
    await place.fail(endpoint, number=3)
    place.receiver.posted.clear()
    page = await place.alice.open(path)
    assert "answered 410" in page.text
    assert page.text.count("Account disconnected") >= 3
    one = await place.alice.submit(page, form=f"{path}/resend")
    assert "sent again: 1." in one.text
    await deliver(deployment)
    assert len(place.receiver.posted) == 1
    page = await place.alice.open(path)
    rest = [one.delivery.sequence for one in await webhooks.list_failed(deployment)]
    assert len(rest) == 2
    everything = await place.alice.submit(page, {"sequence": ""}, form=f"{path}/resend")
    assert "sent again: 2." in everything.text
    await deliver(deployment)
    assert len(place.receiver.posted) == 3
    for wrong in ("1", "x", "9" * 30):
        refused = await place.alice.submit(page, {"sequence": wrong}, form=f"{path}/resend")
        assert is_refused(refused, "no_endpoint", 404), wrong


async def test_a_disabled_endpoint_says_so_and_offers_to_be_enabled(place: Place) -> None:
    endpoint, _ = await place.add_endpoint()
    path = f"{WEBHOOKS}/{endpoint.id}"
    await place.fail(endpoint, number=1)
    before = await place.alice.open(path)
    enabled = await place.alice.submit(before, form=f"{path}/enable")
    assert "gets events again" in enabled.text
    disabled = await place.alice.submit(enabled, form=f"{path}/disable")
    assert f'action="{path}/enable"' in disabled.text
    assert f'action="{path}/disable"' not in disabled.text
    assert f'action="{path}/resend"' not in disabled.text
    refused = await place.alice.submit(before, {"sequence": ""}, form=f"{path}/resend")
    assert refused.status_code == 409
    assert "Enable it first" in refused.text
    enabled = await place.alice.submit(disabled, form=f"{path}/enable")
    assert "sent again: 1." in (await place.alice.submit(enabled, {"sequence": ""}, form=f"{path}/resend")).text


async def test_who_is_no_admin_neither_sees_nor_changes_endpoints(place: Place) -> None:
    endpoint, _ = await place.add_endpoint()
    bob = await place.admin.room.signed_in(await place.admin.room.user("bob"))
    for path in (WEBHOOKS, f"{WEBHOOKS}/{endpoint.id}"):
        assert (await bob.http.get(path)).status_code == 403
        assert (await place.alice.http.get(path)).status_code == 200
    path, deployment = f"{WEBHOOKS}/{endpoint.id}/remove", place.admin.room.deployment
    for person, status, left in ((bob, 403, 1), (place.alice, 303, 0)):  # each with a token of their own
        token = csrf.form_token(deployment.keys.subkey("csrf"), session_token(person.http), action=path)
        answer = await person.http.post(path, data={csrf.FIELD: token}, headers={"Origin": person.origin})
        assert answer.status_code == status
        assert "This page is out of date" not in answer.text
        assert len(await webhooks.list_all(deployment)) == left
