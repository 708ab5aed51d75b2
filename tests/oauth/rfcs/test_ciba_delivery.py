"""OpenID CIBA Core 1.0 §10.2, §10.3: a client is told that its person answered, or receives the answer itself."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from server.notices.delivery import deliver
from server.oauth.backchannel import notifications
from server.oauth.backchannel.clients import DELIVERY, DETAILS_TYPES, ENDPOINT
from server.oauth.backchannel.notifications import tell_clients
from server.oauth.identity import token_hash
from tests.support.doubles.mailbox import Receiver
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.ciba_room import PAYMENT, SECRET, Asker
from tests.support.rooms.oauth_world import World, claims_of, error_of, vault_with
from vault import apis, clients
from vault.approvals import approvals, client_notices, requests
from vault.notices import channels
from vault.refusals import TransitionRefused


async def ping_asker(asker: Asker, receiver: Receiver, mode: str = "ping") -> Asker:
    receiver.posted.clear()
    receiver.status = 204
    address = f"{receiver.url}/{secrets.token_hex(4)}"
    return await asker.other(metadata={DELIVERY: mode, ENDPOINT: address, DETAILS_TYPES: ["payment"]})


@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_client_that_wants_it_is_told_once_that_the_person_answered(
    asker: Asker, receiver: Receiver, decision: str
) -> None:
    told, deployment = await ping_asker(asker, receiver), asker.world.vault.deployment
    auth_req_id = await told.ask(client_notification_token="bearer-of-the-client")
    assert await tell_clients(deployment) == 0, "nobody answered yet"
    await told.answer(decision)
    assert await tell_clients(deployment) == 1
    ((path, body),) = receiver.posted
    assert path == str(told.client.metadata[ENDPOINT]).removeprefix(receiver.url)
    assert json.loads(body) == {"auth_req_id": auth_req_id}
    assert receiver.headers["authorization"] == "Bearer bearer-of-the-client"
    assert await tell_clients(deployment) == 0
    assert (await told.poll(auth_req_id)).status_code == (200 if decision == "allow" else 400)


async def test_what_was_not_taken_is_sent_again_until_the_client_was_here(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await ping_asker(asker, receiver), asker.world.vault.deployment
    auth_req_id = await told.ask(client_notification_token="t")
    await told.answer()
    receiver.status = 503
    assert await tell_clients(deployment) == 0
    assert await tell_clients(deployment) == 0
    assert len(receiver.posted) == 1, "not at once again"
    with asker.world.clock_ahead(11):
        assert await tell_clients(deployment) == 0
    assert len(receiver.posted) == 2
    assert (await told.poll(auth_req_id)).status_code == 200
    with asker.world.clock_ahead(3600):
        await tell_clients(deployment)
    assert len(receiver.posted) == 2


@pytest.mark.parametrize("change", ["none", "polls", "removed"])
async def test_a_client_that_polls_by_now_or_is_gone_is_told_nothing(
    asker: Asker, receiver: Receiver, change: str
) -> None:
    told, deployment = await ping_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    async with deployment.transaction() as transaction:
        if change == "polls":
            polls = replace(told.client, metadata={**told.client.metadata, DELIVERY: "poll"})
            assert await clients.update_client(transaction, polls)
        elif change == "removed":
            assert await clients.remove_client(transaction, told.client.id, now=deployment.now()) is not None
    assert await tell_clients(deployment) == (change == "none")
    assert len(receiver.posted) == (change == "none")
    with asker.world.clock_ahead(3600):
        now = deployment.now()
        assert not await client_notices.is_due(deployment.database, now=now), "it isn't looked at again and again"


async def test_all_answers_are_told_though_a_process_takes_a_few_at_once(
    asker: Asker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = client_notices.BATCH / notifications.AT_ONCE * notifications.TIMEOUT
    assert longest < client_notices.HELD, "or another process would tell them, too"
    monkeypatch.setattr(client_notices, "BATCH", 1)
    told, deployment = await ping_asker(asker, receiver), asker.world.vault.deployment
    for _ in range(3):
        await told.ask(client_notification_token="t")
        await told.answer()
    assert await tell_clients(deployment) == 3
    assert len(receiver.posted) == 3


async def test_a_client_that_is_told_must_name_its_token(asker: Asker, receiver: Receiver) -> None:
    told = await ping_asker(asker, receiver)
    for token in (None, "a b", "x" * 1025):
        assert error_of(await told.post({"client_notification_token": token})) == "invalid_request"
    assert (await told.post({"client_notification_token": "t"})).status_code == 200


async def test_no_client_is_told_at_an_address_in_a_private_network(
    asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    told = await asker.other(metadata={DELIVERY: "ping", ENDPOINT: "https://10.1.2.3/ping"})
    await told.ask(client_notification_token="t")
    await told.answer()
    with caplog.at_level("WARNING", notifications.logger.name):
        assert await tell_clients(asker.world.vault.deployment) == 0
    logged = [one for one in caplog.records if one.name == notifications.logger.name]
    assert [getattr(one, "code", "") for one in logged] == ["address"]


async def push_asker(asker: Asker, receiver: Receiver) -> Asker:
    return await ping_asker(asker, receiver, "push")


def last(receiver: Receiver) -> dict[str, object]:
    found = json.loads(receiver.posted[-1][1])
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- parsed JSON


async def test_a_client_is_sent_its_tokens_which_its_id_token_binds_to_the_request(
    asker: Asker, receiver: Receiver
) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    parameters = {"scope": "openid offline_access tools", "client_notification_token": "bearer-of-the-client"}
    asked = (await told.post(parameters)).json()
    assert "interval" not in asked
    await told.answer()
    assert await tell_clients(deployment) == 1
    assert receiver.headers["authorization"] == "Bearer bearer-of-the-client"
    answer = last(receiver)
    assert answer["auth_req_id"] == asked["auth_req_id"]
    about = claims_of(str(answer["id_token"]))
    assert about["urn:openid:params:jwt:claim:auth_req_id"] == asked["auth_req_id"]
    assert about["urn:openid:params:jwt:claim:rt_hash"] == token_hash(str(answer["refresh_token"]))
    assert about["at_hash"] == token_hash(str(answer["access_token"]))
    assert await asker.world.probe(str(answer["access_token"])) == 200
    again = await asker.world.refresh(told.client.id, str(answer["refresh_token"]), client_secret=SECRET)
    assert again.status_code == 200, again.text
    assert await tell_clients(deployment) == 0


async def test_details_are_pushed_too_and_without_staying_signed_in_there_is_no_refresh_token(
    asker: Asker, receiver: Receiver
) -> None:
    told = await push_asker(asker, receiver)
    await told.ask(client_notification_token="t", authorization_details=json.dumps([PAYMENT]))
    await told.answer()
    assert await tell_clients(asker.world.vault.deployment) == 1
    assert last(receiver)["authorization_details"] == [PAYMENT]
    assert "refresh_token" not in last(receiver)
    assert "urn:openid:params:jwt:claim:rt_hash" not in claims_of(str(last(receiver)["id_token"]))


async def test_a_client_that_is_sent_its_tokens_can_not_come_for_them(asker: Asker, receiver: Receiver) -> None:
    told, polls = await push_asker(asker, receiver), await asker.other()
    auth_req_id = await told.ask(client_notification_token="t")
    await told.answer()
    assert error_of(await told.poll(auth_req_id)) == "unauthorized_client"
    assert await tell_clients(asker.world.vault.deployment) == 1
    assert (await polls.poll(await polls.ask_and_approve())).status_code == 200


@pytest.mark.parametrize("polls", [True, False])
async def test_a_client_that_polled_before_it_wants_the_answer_pushed_gets_it_once(
    asker: Asker, receiver: Receiver, *, polls: bool
) -> None:
    told, deployment = await ping_asker(asker, receiver), asker.world.vault.deployment
    auth_req_id = await told.ask(client_notification_token="t")
    await told.answer()
    if polls:
        assert (await told.poll(auth_req_id)).status_code == 200
    async with deployment.transaction() as transaction:
        changed = replace(told.client, metadata={**told.client.metadata, DELIVERY: "push"})
        assert await clients.update_client(transaction, changed)
    assert await tell_clients(deployment) == len(receiver.posted) == (not polls)


async def test_a_denial_and_the_end_are_pushed_as_errors(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer("deny")
    assert await tell_clients(deployment) == 1
    assert last(receiver)["error"] == "access_denied"
    late = await told.ask(client_notification_token="t", requested_expiry="600")
    with asker.world.clock_ahead(500):
        assert await tell_clients(deployment) == 0
    with asker.world.clock_ahead(600):
        assert await tell_clients(deployment) == 1
    assert (last(receiver)["auth_req_id"], last(receiver)["error"]) == (late, "expired_token")


async def test_each_attempt_sends_the_same_grant_and_refresh_token(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t", scope="openid offline_access tools")
    await told.answer()
    receiver.status = 503
    assert await tell_clients(deployment) == 0
    first, receiver.status = last(receiver), 200
    with asker.world.clock_ahead(11):
        assert await tell_clients(deployment) == 1
    assert last(receiver)["refresh_token"] == first["refresh_token"]
    grants_of = [claims_of(str(one["access_token"]))["gid"] for one in (first, last(receiver))]
    assert grants_of[0] == grants_of[1]
    assert len(await told.events("grant.created")) == 1


async def test_tokens_that_the_client_never_takes_end(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    receiver.status = 404
    assert await tell_clients(deployment) == 0
    assert await asker.world.probe(str(last(receiver)["access_token"])) == 401
    assert [one.details["reason"] for one in await told.events("grant.revoked")] == ["not_delivered"]
    with asker.world.clock_ahead(3600):
        assert await tell_clients(deployment) == 0


@pytest.mark.parametrize("polls", [True, False])
async def test_tokens_end_that_nobody_brings_to_the_client_anymore(
    asker: Asker, receiver: Receiver, *, polls: bool
) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    receiver.status = 503
    assert await tell_clients(deployment) == 0
    token, receiver.status = str(last(receiver)["access_token"]), 204
    assert await asker.world.probe(token) == 200
    if polls:
        async with deployment.transaction() as transaction:
            changed = replace(told.client, metadata={**told.client.metadata, DELIVERY: "poll"})
            assert await clients.update_client(transaction, changed)
    with asker.world.clock_ahead(61):
        assert await tell_clients(deployment) == (not polls)
    assert await asker.world.probe(token) == (401 if polls else 200)


@pytest.mark.parametrize("first", ["lost", "killed", 500, 504, 503, 499])
async def test_tokens_that_an_earlier_attempt_may_have_brought_stay(
    asker: Asker, receiver: Receiver, first: str | int
) -> None:
    """The client has them already, and says so with a refusal."""
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    receiver.status, receiver.overflows = (first, False) if isinstance(first, int) else (200, first == "lost")
    receiver.holds = asyncio.Event() if first == "killed" else None
    sending = asyncio.create_task(tell_clients(deployment))
    while not receiver.posted:
        await asyncio.sleep(0.01)
    if receiver.holds is not None:
        sending.cancel()
        receiver.holds.set()
    await asyncio.wait({sending})
    receiver.overflows, receiver.holds = False, None
    token, receiver.status = str(last(receiver)["access_token"]), 409
    with asker.world.clock_ahead(61):
        assert await tell_clients(deployment) == 0
    assert await asker.world.probe(token) == (401 if first in {503, 499} else 200)


async def test_tokens_that_a_second_attempt_may_have_brought_stay(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    for seconds, status in ((0, 503), (61, 500), (200, 409)):
        receiver.status = status
        with asker.world.clock_ahead(seconds):
            assert await tell_clients(deployment) == 0
    assert len(receiver.posted) == 3
    assert await asker.world.probe(json.loads(receiver.posted[0][1])["access_token"]) == 200


@pytest.mark.parametrize("first", ["lost", 500, 503])
async def test_an_answer_that_may_not_have_arrived_is_sent_again(
    asker: Asker, receiver: Receiver, first: str | int
) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    receiver.status, receiver.overflows = (first, False) if isinstance(first, int) else (200, True)
    assert await tell_clients(deployment) == 0
    receiver.status, receiver.overflows = 200, False
    with asker.world.clock_ahead(61):
        assert (await tell_clients(deployment), await tell_clients(deployment)) == (1, 0)


async def test_a_yes_before_the_end_is_pushed_after_it(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t", requested_expiry="600")
    with asker.world.clock_ahead(500):
        await told.answer()
    with asker.world.clock_ahead(620):
        assert await tell_clients(deployment) == 1
    assert "access_token" in last(receiver)


async def test_no_yes_comes_after_the_client_was_told_that_nobody_answered(asker: Asker, receiver: Receiver) -> None:
    """Not even from a process that read the time just before."""
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment

    async def say_yes(auth_req_id: str) -> None:
        which = {"user_id": asker.person.id, "is_approved": True, "now": now + 30}
        async with deployment.transaction() as transaction:
            await approvals.decide(transaction, requests.approval_id_of(auth_req_id), **which)

    with stopped_clock(deployment.database) as now:
        asked = [await told.ask(client_notification_token="t", requested_expiry="60") for _ in range(2)]
    await say_yes(asked[0])
    with stopped_clock(deployment.database, at=now + 60):
        assert await tell_clients(deployment) == 2
        with pytest.raises(TransitionRefused):
            await say_yes(asked[1])
    answers = {str(one["auth_req_id"]): one for _, body in receiver.posted if (one := json.loads(body))}
    assert "access_token" in answers[asked[0]]
    assert answers[asked[1]]["error"] == "expired_token"


async def test_access_that_ended_meanwhile_is_not_pushed(asker: Asker, receiver: Receiver) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    receiver.status = 503
    assert await tell_clients(deployment) == 0
    person, path = asker.world.alice, f"/agents/{told.client.id}/cut-off"
    await person.submit(await person.open(path), form=path)
    receiver.status = 200
    with asker.world.clock_ahead(11):
        assert await tell_clients(deployment) == 1
    assert last(receiver)["error"] == "transaction_failed"
    assert "access_token" not in last(receiver)


@pytest.mark.parametrize("is_disabled", [True, False])
async def test_nothing_is_issued_for_a_person_who_was_disabled_after_the_yes(
    asker: Asker, receiver: Receiver, *, is_disabled: bool
) -> None:
    told, deployment = await push_asker(asker, receiver), asker.world.vault.deployment
    await told.ask(client_notification_token="t")
    await told.answer()
    async with deployment.transaction() as transaction:
        at = "update users set disabled_at = :at where id = :id"
        await transaction.execute(at, {"at": 1 if is_disabled else None, "id": asker.person.id})
    assert await tell_clients(deployment) == 1
    assert last(receiver).get("error") == ("transaction_failed" if is_disabled else None)
    assert ("access_token" in last(receiver)) is not is_disabled
    assert len(await told.events("grant.created")) == (not is_disabled)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("left", ["orders.write", "orders.read"])
async def test_a_scope_that_was_taken_off_the_api_is_not_pushed(
    asker: Asker, receiver: Receiver, *, left: str, first: bool
) -> None:
    """Before the first answer is sent, and before it is sent again."""
    deployment, api = asker.world.vault.deployment, "https://orders.example/"

    async def set_scopes(*scopes: str) -> None:
        async with deployment.transaction() as transaction:
            await apis.add_api(transaction, api, name="Orders", scopes=frozenset(scopes), now=asker.world.now())

    await set_scopes("orders.read", "orders.write")
    pushed = await push_asker(asker, receiver)
    told = await asker.other(metadata=pushed.client.metadata, resources=(api,))
    await told.ask(client_notification_token="t", scope="openid orders.write", resource=api)
    await told.answer()
    if not first:
        receiver.status = 503
        assert await tell_clients(deployment) == 0
    await set_scopes(left)
    receiver.status = 200
    with asker.world.clock_ahead(11):
        assert await tell_clients(deployment) == 1
    assert last(receiver)["scope"] == ("openid orders.write" if left == "orders.write" else "openid")


async def test_the_person_is_notified_of_a_request_as_of_a_call(asker: Asker, receiver: Receiver) -> None:
    deployment, now = asker.world.vault.deployment, asker.world.now()
    receiver.posted.clear()
    receiver.status = 200
    await deliver(deployment)  # start the feed
    async with deployment.transaction() as transaction:
        which = {"user_id": asker.person.id, "kind": "webhook", "label": "hook", "target": f"{receiver.url}/hook"}
        added = await channels.add_channel(transaction, deployment.keys, **which, now=now)
        await channels.confirm_channel(transaction, added.id, user_id=asker.person.id, now=now)
    await asker.ask()
    await deployment.activity.settle()
    await deliver(deployment)
    ((path, body),) = receiver.posted
    assert path == "/hook"
    said = body.decode()
    assert "Bakery bot" in said
    assert "/approvals/r" in said
    assert "Order 4711" not in said, "what it is about is for the page only"


async def test_nothing_is_pushed_where_tokens_must_be_bound_to_a_key(asker: Asker, tmp_path: Path) -> None:
    async with vault_with(tmp_path, tokens={"require_dpop": True}) as (vault, http), vault.person() as person:
        user = await vault.add_user("bound")
        bound = Asker(World(vault, person, http), asker.client, user)
        metadata: dict[str, object] = {DELIVERY: "push", ENDPOINT: "https://shop.example/told"}
        token = {"client_notification_token": "t"}
        assert error_of(await (await bound.other(metadata=metadata)).post(token)) == "unauthorized_client"
        polls = await bound.other(metadata={**metadata, DELIVERY: "ping"})
        assert (await polls.post(token)).status_code == 200
    assert (await (await asker.other(metadata=metadata)).post(token)).status_code == 200
