"""Events to the operator's endpoints: CloudEvents, signed so that Standard Webhooks' library verifies them; retried."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.administration import webhooks
from server.administration.actor import Actor, ChangeRefused
from server.notices import delivery
from server.notices.delivery import deliver
from server.notices.webhooks import BACKOFF, deliver_to
from tests.support.harness import free_socket, serve_app
from tests.support.rooms.portal_room import Room, running_room
from vault.audit import audit
from vault.notices import channels, outbox
from vault.notices.endpoints import EventEndpoint
from vault.records import Event

KINDS = {
    "connection.opened": "token_vault.connection.connected",
    "connection.expiring": "token_vault.connection.expiring",
    "connection.needs_reauth": "token_vault.connection.needs_reauth",
    "connection.quarantined": "token_vault.connection.needs_reauth",
    "connection.closed": "token_vault.connection.revoked",
    "connection.closed_by_admin": "token_vault.connection.revoked",
    "connection.closed_by_agent": "token_vault.connection.revoked",
    "approval.requested": "token_vault.approval.waiting",
}


@dataclass
class Listener:
    """An operator's server, which answers with `status`."""

    url: str
    got: list[tuple[dict[str, str], bytes]]
    status: int = 204
    headers: dict[str, str] | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: Request) -> Response:
        self.got.append((dict(request.headers), await request.body()))
        if request.query_params.get("slow"):
            await self.released.wait()
        return Response(status_code=self.status, headers=self.headers)


@dataclass
class Place:
    """A vault and the operator's server."""

    room: Room
    listener: Listener

    @property
    def actor(self) -> Actor:
        return Actor(self.room.deployment, None, "command_line")

    async def endpoint(self, *events: str) -> EventEndpoint:
        return await webhooks.add(self.actor, self.listener.url, events=events)

    async def happen(self, kind: str = "connection.needs_reauth", **details: object) -> Event:
        user, now = await self.room.user("alice"), self.room.deployment.now()
        event = Event(
            kind, user_id=user.id, connection_id=secrets.token_hex(4), details={"provider": "slack"} | details
        )
        async with self.room.deployment.transaction() as transaction:
            await audit.append(transaction, event, now=now)
        return event

    async def pass_time(self, seconds: int) -> None:
        self.room.deployment.database.clock_offset += seconds
        await deliver(self.room.deployment)


@pytest.fixture(scope="module")
async def shared_place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    listening = free_socket()
    listener = Listener(f"http://127.0.0.1:{listening.getsockname()[1]}/hook", [])
    app = Starlette(routes=[Route("/hook", listener.take, methods=["POST"])])
    async with serve_app(app, listening), running_room(tmp_path_factory.mktemp("webhooks")) as room:
        yield Place(room, listener)


@pytest.fixture
async def place(shared_place: Place) -> AsyncGenerator[Place]:
    """No endpoints yet, and a server that works."""
    shared_place.listener.status, shared_place.listener.headers = 204, None
    shared_place.listener.got.clear()
    yield shared_place
    shared_place.room.deployment.database.clock_offset = 0
    for one in await webhooks.list_all(shared_place.room.deployment):
        await webhooks.remove(shared_place.actor, one)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_event_arrives_as_a_signed_cloud_event(place: Place, kind: str) -> None:
    endpoint = await place.endpoint()
    happened = await place.happen(kind, approval="a1", reason="invalid_grant", account="carol@example.com")
    assert await deliver(place.room.deployment) == 1
    ((headers, body),) = place.listener.got
    assert Webhook(endpoint.secret).verify(body, headers) == json.loads(body)
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    event = json.loads(body)
    alice = await place.room.user("alice")
    is_approval = kind == "approval.requested"
    subject = "a1" if is_approval else happened.connection_id
    page = f"{place.room.url}/{'approvals' if is_approval else 'connections'}/{subject}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.pop("time"))
    assert event == {
        "specversion": "1.0",
        "id": headers["webhook-id"],
        "source": place.room.url,
        "type": KINDS[kind],
        "subject": subject,
        "datacontenttype": "application/json",
        "data": {
            "person_id": alice.id,
            "connection_id": happened.connection_id,
            "approval_id": "a1",
            "provider": "slack",
            "reason": "invalid_grant",
            "url": page,
        },
    }
    assert await deliver(place.room.deployment) == 0
    assert len(place.listener.got) == 1


async def test_a_changed_body_time_or_id_does_not_verify(place: Place) -> None:
    endpoint, other = await place.endpoint(), await place.endpoint()
    await place.happen()
    assert await deliver(place.room.deployment) == 2
    by_secret = {
        one.secret: message
        for one in (endpoint, other)
        for message in place.listener.got
        if _verifies(one.secret, *message)
    }
    assert len(by_secret) == 2, "each endpoint has a secret of its own"
    headers, body = by_secret[endpoint.secret]
    assert not _verifies(endpoint.secret, headers, body + b" ")
    assert not _verifies(endpoint.secret, headers | {"webhook-id": "msg_another"}, body)
    assert not _verifies(
        endpoint.secret, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}, body
    )


def _verifies(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


async def test_an_endpoint_hears_only_what_it_asked_for_and_from_then_on(place: Place) -> None:
    await place.happen("connection.opened")
    await place.endpoint("revoked", "approval.waiting")
    for kind in KINDS:
        await place.happen(kind)
    await place.happen("tool.called")
    await deliver(place.room.deployment)
    types = [json.loads(body)["type"] for _, body in place.listener.got]
    assert types == ["token_vault.connection.revoked"] * 3 + ["token_vault.approval.waiting"]


async def test_a_failed_event_is_sent_again_with_growing_intervals_the_same_id_and_a_new_time(place: Place) -> None:
    endpoint = await place.endpoint()
    place.listener.status = 500
    await place.happen()
    await deliver(place.room.deployment)
    for number, wait in enumerate(BACKOFF, 1):
        await place.pass_time(wait - 2)
        assert len(place.listener.got) == number, "too early"
        await place.pass_time(int(wait * 0.1) + 3)
        assert len(place.listener.got) == number + 1
    assert len({headers["webhook-id"] for headers, _ in place.listener.got}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in place.listener.got}) == len(BACKOFF) + 1
    assert len({body for _, body in place.listener.got}) == 1
    await place.pass_time(90_000)
    assert len(place.listener.got) == len(BACKOFF) + 1
    (failed,) = await webhooks.list_failed(place.room.deployment)
    assert (failed.delivery.type, failed.delivery.failure, failed.delivery.attempts) == ("needs_reauth", "500", 10)
    place.listener.status = 200
    assert await webhooks.resend(place.actor, endpoint) == 1
    await deliver(place.room.deployment)
    assert len({headers["webhook-id"] for headers, _ in place.listener.got}) == 1
    assert await webhooks.list_failed(place.room.deployment) == []
    (known,) = await webhooks.list_all(place.room.deployment)
    assert known.failure == ""


async def test_one_failed_event_can_be_sent_again_alone(place: Place) -> None:
    endpoint = await place.endpoint()
    place.listener.status = 410
    await place.happen()
    await place.happen()
    await deliver(place.room.deployment)
    assert len(place.listener.got) == 1, "nothing more for an endpoint that is gone"
    (known,) = await webhooks.list_all(place.room.deployment)
    assert known.is_gone
    await place.happen()
    await deliver(place.room.deployment)
    assert len(place.listener.got) == 1
    failed = await webhooks.list_failed(place.room.deployment)
    assert [one.delivery.failure for one in failed] == ["gone", "gone"]
    with pytest.raises(ChangeRefused):
        await webhooks.resend(place.actor, endpoint, sequence=1)
    place.listener.status = 204
    place.listener.got.clear()
    assert await webhooks.resend(place.actor, endpoint, sequence=failed[1].delivery.sequence) == 1
    await deliver(place.room.deployment)
    assert len(place.listener.got) == 1
    assert len(await webhooks.list_failed(place.room.deployment)) == 1


async def test_an_endpoint_that_asks_for_patience_gets_it(place: Place) -> None:
    await place.endpoint()
    place.listener.status, place.listener.headers = 429, {"retry-after": "600"}
    await place.happen()
    await deliver(place.room.deployment)
    await place.pass_time(500)
    assert len(place.listener.got) == 1
    place.listener.status = 204
    await place.pass_time(110)
    assert len(place.listener.got) == 2


async def test_what_a_dying_process_had_taken_is_sent_by_another_one(place: Place) -> None:
    endpoint = await place.endpoint()
    await place.happen()
    deployment = place.room.deployment
    await outbox.enter(deployment.database, deployment.keys, due_at=lambda settings, how, now: now)
    now = deployment.now()
    async with deployment.transaction() as transaction:
        assert await outbox.hold(transaction, endpoint.id, now=now)
        assert await outbox.take(transaction, endpoint.id, now=now, again_at=now + outbox.HELD)
    assert await deliver(deployment) == 0, "its taker may still be sending"
    await place.pass_time(outbox.HELD + 1)
    assert len(place.listener.got) == 1


async def test_a_failing_endpoint_delays_no_other_and_keeps_the_order(place: Place) -> None:
    await place.endpoint()
    place.listener.status = 503
    for _ in range(3):
        await place.happen()
    await deliver(place.room.deployment)
    assert len(place.listener.got) == 1, "the rest waits for the next turn"
    place.listener.status = 204
    await deliver(place.room.deployment)
    await place.pass_time(10)
    ids = [headers["webhook-id"] for headers, _ in place.listener.got]
    assert len(ids) == 4
    assert len(set(ids)) == 3


async def test_an_endpoint_that_does_not_answer_delays_no_next_round(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE", 0.5)
    slow = await webhooks.add(place.actor, f"{place.listener.url}?slow=1", events=("revoked",))
    await place.endpoint("needs_reauth")
    try:
        await place.happen("connection.closed")
        assert await deliver(place.room.deployment) == 0
        await _until(lambda: len(place.listener.got) == 1)
        await place.happen("connection.closed")
        await place.happen("connection.needs_reauth")
        await deliver(place.room.deployment)
        await _until(lambda: len(place.listener.got) == 2)  # the slow one is still held
    finally:
        place.listener.released.set()
    async with asyncio.timeout(30):
        while (await webhooks.endpoint_with_id(place.actor, slow.id)).sent_at is None:
            await asyncio.sleep(0.01)
    assert len(place.listener.got) == 2
    await deliver(place.room.deployment)
    await _until(lambda: len(place.listener.got) == 3)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_gone", [True, False])
async def test_an_endpoint_that_is_gone_is_sent_nothing_of_what_waits(place: Place, *, is_gone: bool) -> None:
    endpoint, deployment = await place.endpoint(), place.room.deployment
    await place.happen()
    await outbox.enter(deployment.database, deployment.keys, due_at=lambda settings, how, now: now)
    async with deployment.transaction() as transaction:
        failure = channels.GONE if is_gone else "500"
        await channels.record_result(transaction, endpoint.id, failure=failure, now=deployment.now())
    assert await deliver(deployment) == (0 if is_gone else 1)
    assert len(place.listener.got) == (0 if is_gone else 1)
    failed = await webhooks.list_failed(deployment)
    assert [one.delivery.failure for one in failed] == (["gone"] if is_gone else [])
    (known,) = await webhooks.list_all(deployment)
    assert known.is_gone == is_gone


async def test_a_turn_with_nothing_to_send_says_of_no_endpoint_that_it_was_sent_something(place: Place) -> None:
    endpoint, deployment = await place.endpoint(), place.room.deployment
    channel = await channels.get_channel(deployment.database, deployment.keys, endpoint.id)
    assert channel is not None
    assert not await deliver_to(deployment, channel, ())
    assert (await webhooks.endpoint_with_id(place.actor, endpoint.id)).sent_at is None


@pytest.mark.parametrize("overlap", [24, 0])
async def test_a_rotated_secret_signs_beside_the_new_one_while_it_overlaps(place: Place, *, overlap: int) -> None:
    before, outsider = await place.endpoint(), Webhook("whsec_" + "b" * 43 + "=")
    after = await webhooks.rotate(place.actor, before, overlap=overlap)
    assert after.secret != before.secret
    await place.happen()
    await deliver(place.room.deployment)
    headers, body = place.listener.got.pop()
    assert Webhook(after.secret).verify(body, headers)
    assert _verifies(before.secret, headers, body) is bool(overlap)
    with pytest.raises(WebhookVerificationError):
        outsider.verify(body, headers)
    await place.pass_time(25 * 3600)
    await place.happen()
    await deliver(place.room.deployment)
    headers, body = place.listener.got.pop()
    assert headers["webhook-signature"].count("v1,") == 1
    assert len(headers["webhook-signature"].split()) == 1
    twice = await webhooks.rotate(place.actor, after, overlap=overlap)
    signing = twice.signing_secrets(place.room.deployment.now())
    assert (twice.secret in signing, after.secret in signing, before.secret in signing) == (True, bool(overlap), False)
    for wrong in (-1, 169):
        with pytest.raises(ChangeRefused, match="overlap"):
            await webhooks.rotate(place.actor, twice, overlap=wrong)


async def test_rotations_in_a_row_keep_the_secret_that_the_receiver_knows(place: Place) -> None:
    endpoint, deployment = await place.endpoint(), place.room.deployment
    made = [endpoint, *await asyncio.gather(*(webhooks.rotate(place.actor, endpoint, overlap=1) for _ in range(2)))]
    known = await webhooks.endpoint_with_id(place.actor, endpoint.id)
    secrets = {one.secret for one in made}
    assert len(secrets) == 3
    assert {*known.signing_secrets(deployment.now())} == secrets
    await place.happen()
    await deliver(deployment)
    headers, body = place.listener.got.pop()
    assert all(_verifies(one, headers, body) for one in secrets)
    third, fourth = [await webhooks.rotate(place.actor, endpoint, overlap=1) for _ in range(2)]
    signing = fourth.signing_secrets(deployment.now())
    assert signing[:2] == (fourth.secret, third.secret)
    assert (len(signing), endpoint.secret in signing) == (4, False)
    assert fourth.signing_secrets(deployment.now() + 3700) == (fourth.secret,)
    alone = await webhooks.rotate(place.actor, endpoint, overlap=0)
    assert alone.signing_secrets(deployment.now()) == (alone.secret,)


@pytest.mark.parametrize(("status", "failure"), [(204, ""), (500, "500"), (410, "gone")])
async def test_a_test_is_sent_once_and_changes_nothing(place: Place, status: int, failure: str) -> None:
    endpoint = await place.endpoint("revoked")
    place.listener.status = status
    assert await webhooks.test(place.actor, endpoint) == failure
    ((headers, body),) = place.listener.got
    assert _verifies(endpoint.secret, headers, body)
    assert json.loads(body)["type"] == "token_vault.test"
    assert await webhooks.endpoint_with_id(place.actor, endpoint.id) == endpoint
    await deliver(place.room.deployment)
    assert len(place.listener.got) == 1


@pytest.mark.parametrize("is_disabled", [True, False])
async def test_a_disabled_endpoint_gets_nothing_until_it_is_enabled(place: Place, *, is_disabled: bool) -> None:
    endpoint, deployment = await place.endpoint(), place.room.deployment
    place.listener.status = 500
    await place.happen()
    await deliver(deployment)
    place.listener.status = 204
    place.listener.got.clear()
    if is_disabled:
        assert await webhooks.set_disabled(place.actor, endpoint, is_disabled=True)
        assert not await webhooks.set_disabled(place.actor, endpoint, is_disabled=True)
    async with deployment.transaction() as transaction:  # the result of a delivery that was in progress
        await channels.record_result(transaction, endpoint.id, failure="", now=deployment.now())
    await place.happen()
    await place.pass_time(100)
    assert len(place.listener.got) == (0 if is_disabled else 2)
    failed = await webhooks.list_failed(deployment)
    assert [one.delivery.failure for one in failed] == (["disabled"] if is_disabled else [])
    known = await webhooks.endpoint_with_id(place.actor, endpoint.id)
    assert known.is_disabled is is_disabled
    if is_disabled:
        with pytest.raises(ChangeRefused, match="enable it first"):
            await webhooks.resend(place.actor, known)
        with pytest.raises(ChangeRefused, match="disabled"):  # it was disabled after the page was shown
            await webhooks.resend(place.actor, endpoint)
        assert await webhooks.set_disabled(place.actor, known, is_disabled=False)
        assert await webhooks.resend(place.actor, endpoint) == 1
        await place.happen()
        await deliver(deployment)
        assert len(place.listener.got) == 2


async def test_what_was_taken_before_an_endpoint_was_disabled_joins_what_failed(place: Place) -> None:
    endpoint, deployment = await place.endpoint(), place.room.deployment
    await place.happen()
    await outbox.enter(deployment.database, deployment.keys, due_at=lambda settings, how, now: now)
    now = deployment.now()
    async with deployment.transaction() as transaction:
        taken = await outbox.take(transaction, endpoint.id, now=now, again_at=now + outbox.HELD)
    await webhooks.set_disabled(place.actor, endpoint, is_disabled=True)
    channel = await channels.get_channel(deployment.database, deployment.keys, endpoint.id)
    assert channel is not None
    assert not await deliver_to(deployment, channel, taken)
    assert place.listener.got == []
    assert [one.delivery.failure for one in await webhooks.list_failed(deployment)] == ["disabled"]


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/x",
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://user:password@hooks.example.com/",
        "ftp://hooks.example.com/",
        "hooks.example.com",
        "https://hooks.example.com/" + "x" * 2000,
    ],
)
async def test_addresses_inside_the_operators_network_are_refused(place: Place, url: str) -> None:
    with pytest.raises(ChangeRefused, match="endpoint"):
        await webhooks.add(place.actor, url, events=())
    assert await webhooks.list_all(place.room.deployment) == ()
    assert await webhooks.add(place.actor, "https://hooks.example.com/x", events=())


async def test_a_name_that_leads_inside_is_refused_when_it_is_called(place: Place) -> None:
    await webhooks.add(place.actor, "https://localtest.invalid/x", events=())
    await place.happen()
    await deliver(place.room.deployment)
    (known,) = await webhooks.list_all(place.room.deployment)
    assert known.failure in {"address", "unreachable"}


async def test_unknown_events_and_too_many_endpoints_are_refused(place: Place) -> None:
    with pytest.raises(ChangeRefused, match="needs_reauth"):
        await webhooks.add(place.actor, place.listener.url, events=["needs_reauht"])
    for _ in range(20):
        await place.endpoint()
    with pytest.raises(ChangeRefused, match="remove one"):
        await place.endpoint()


async def test_the_secret_is_stored_sealed_and_in_no_event(place: Place) -> None:
    endpoint = await place.endpoint()
    row = await place.room.deployment.database.fetch_one(
        "select sealed, label from notice_channels where id = :id", {"id": endpoint.id}
    )
    assert row is not None
    assert row["label"] == "127.0.0.1", "the address may hold a token, and is sealed, too"
    raw = endpoint.secret.removeprefix("whsec_")
    assert raw.encode() not in bytes(row["sealed"])  # pyright: ignore
    assert raw not in repr(endpoint)
    rotated = await webhooks.rotate(place.actor, endpoint, overlap=1)
    assert raw not in repr(rotated)
    assert rotated.secret not in repr(rotated)
    said = str(await place.room.events())
    assert raw not in said
    assert rotated.secret not in said
