"""Events by polling (RFC 8936): fetched in turns, acknowledged, refused by name, and left there if that helps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.lifecycle.periodic_steps import STEPS
from server.signals import poll_delivery
from tests.support.doubles.transmitter_double import CAEP, RISC
from tests.support.rooms.signal_room import TOKEN, LinkedPerson, SignalRoom

SESSION = f"{CAEP}session-revoked"


@pytest.fixture(autouse=True)
def reset_transmitter(place: SignalRoom) -> Iterator[None]:
    place.transmitter.queue.clear()
    place.transmitter.polls.clear()
    place.transmitter.status, place.transmitter.at_once = 200, 50
    yield
    place.room.deployment.database.clock_offset += 60  # the next turn


def queue(place: SignalRoom, person: LinkedPerson, kind: str = SESSION, **changes: object) -> str:
    """An event that waits to be fetched; returns its ID."""
    claims = place.claims(kind, place.subject(person), name="polled", **changes)
    token_id = str(claims["jti"])
    place.transmitter.queue[token_id] = place.transmitter.sign(claims)
    return token_id


async def test_a_poll_takes_everything_and_acknowledges_it(place: SignalRoom) -> None:
    people = [await place.link_person() for _ in range(3)]
    ids = [queue(place, one) for one in people]
    place.transmitter.at_once = 2
    assert await poll_delivery.poll(place.room.deployment) == 3
    assert [await place.is_signed_in(one) for one in people] == [False] * 3
    assert place.transmitter.queue == {}
    first, second, last = place.transmitter.polls
    assert first == {"maxEvents": 50, "returnImmediately": True, "ack": []}
    assert second["ack"] == ids[:2]
    assert (last["ack"], last["maxEvents"]) == (ids[2:], 0), "acknowledges only (§2.4)"
    assert set(place.transmitter.authorizations) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("late", [3 * 86400, 0])
async def test_an_event_counts_however_long_it_waited(place: SignalRoom, late: int) -> None:
    """The vault was down over a weekend, say. What the person did since then stays."""
    disabled = await place.link_person()
    place.room.deployment.database.clock_offset += late
    kept, now = await place.link_person(), place.room.deployment.now()
    queue(place, disabled, f"{RISC}account-disabled", iat=now - late)
    queue(place, kept, iat=now - late - 200)  # before the sign-in
    assert await poll_delivery.poll(place.room.deployment) == 2
    assert place.transmitter.queue == {}
    assert not await place.can_call(disabled)
    assert await place.is_signed_in(kept)


async def test_processes_take_turns(place: SignalRoom) -> None:
    queue(place, await place.link_person())
    taken = [await poll_delivery.poll(place.room.deployment) for _ in range(3)]
    assert taken == [1, 0, 0]
    assert len(place.transmitter.polls) == 2


async def test_a_forged_event_is_refused_by_name_and_the_others_count(place: SignalRoom) -> None:
    person, other = await place.link_person(), await place.link_person()
    forged = queue(place, person, aud="https://other.example")
    queue(place, other)
    assert await poll_delivery.poll(place.room.deployment) == 1
    assert await place.is_signed_in(person)
    assert not await place.is_signed_in(other)
    (errors,) = [one["setErrs"] for one in place.transmitter.polls if "setErrs" in one]
    assert errors == {forged: {"err": "invalid_audience", "description": "aud is another receiver"}}


async def test_an_event_is_left_while_its_keys_cannot_be_fetched_and_counts_later(place: SignalRoom) -> None:
    from server.signatures import key_sets

    person, http = await place.link_person(), place.room.deployment.http
    token_id = queue(place, person, f"{RISC}account-disabled")
    place.transmitter.published = False
    key_sets._known.pop(http, None)
    try:
        assert await poll_delivery.poll(place.room.deployment) == 0
        assert list(place.transmitter.queue) == [token_id]
        assert await place.can_call(person)
    finally:
        place.transmitter.published = True
        key_sets._known.pop(http, None)
    place.room.deployment.database.clock_offset += 60
    assert await poll_delivery.poll(place.room.deployment) == 1
    assert not await place.can_call(person)


async def test_a_transmitter_out_of_order_is_asked_again_in_the_next_turn(place: SignalRoom) -> None:
    person = await place.link_person()
    queue(place, person)
    place.transmitter.status = 500
    assert await poll_delivery.poll(place.room.deployment) == 0
    assert await place.is_signed_in(person)
    place.transmitter.status = 200
    place.room.deployment.database.clock_offset += 60
    (step,) = [one for one in STEPS if one.name == "signals"]
    await step.work(place.room.deployment)
    assert not await place.is_signed_in(person)


@pytest.mark.parametrize(("per_minute", "left"), [(2, 1), (3, 0)])
async def test_what_took_effect_is_acknowledged_when_the_rest_is_too_much(
    place: SignalRoom, per_minute: int, left: int
) -> None:
    deployment = place.room.deployment
    deployment.database.clock_offset += 130  # the counts of other tests have expired
    people = [await place.link_person() for _ in range(3)]
    ids = [queue(place, one) for one in people]
    transmitter = deployment.settings.signals.transmitters["polled"].model_copy(update={"per_minute": per_minute})
    assert await poll_delivery.poll_one(deployment, "polled", transmitter) == per_minute
    assert list(place.transmitter.queue) == ids[3 - left :]
