"""Event streams at a transmitter (SSF 1.0 §8.1): created, verified, and ended; wrong answers are never used."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import JSONResponse, Response

from server.signals import effects, streams
from server.signals.streams import StreamClient, StreamRefused
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.doubles.transmitter_double import CAEP, Claims, Transmitter, running_transmitter
from tests.support.rooms.signal_room import TOKEN, SignalRoom

VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"
Answer = Callable[[Claims], Claims | list[Claims] | Response]


@pytest.fixture(autouse=True)
def honest(place: SignalRoom) -> Iterator[Transmitter]:
    """The transmitter without streams, which answers correctly."""
    one = place.transmitter
    one.authorizations.clear()  # tests of other files send requests to it, too
    yield one
    one.streams.clear()
    one.asked.clear()
    one.metadata, one.managed = {}, True
    one.answer = lambda said: said


async def client(place: SignalRoom, name: str = "managed") -> StreamClient:
    deployment = place.room.deployment
    return await streams.client_of(deployment, name, deployment.settings.signals.transmitters[name])


async def test_a_stream_pushes_here_the_events_that_have_a_rule(place: SignalRoom) -> None:
    made = await (await client(place)).create(is_polled=False)
    ((method, way, asked),) = place.transmitter.asked
    assert (method, way) == ("POST", "configuration")
    here = f"{place.room.url}/signals/managed"
    assert asked["delivery"] == {
        "method": "urn:ietf:rfc:8935",
        "endpoint_url": here,
        "authorization_header": "Bearer for the pushes",
    }
    assert asked["events_requested"] == sorted(effects.RULES)
    assert place.transmitter.authorizations == [f"Bearer {TOKEN}"]
    assert (made.problems, made.audiences) == ((), (here,))
    assert made.missing == frozenset(one for one in effects.RULES if not one.startswith(CAEP))
    assert await (await client(place)).list() == (made,)


async def test_a_stream_can_be_polled_and_says_which_address_to_enter(place: SignalRoom) -> None:
    made = await (await client(place)).create(is_polled=True)
    assert place.transmitter.asked[0][2]["delivery"] == {"method": "urn:ietf:rfc:8936"}
    assert made.endpoint_url == f"{place.transmitter.url}/poll"
    audience, poll_url = made.problems
    assert "signals.transmitters.managed.audiences = " in audience
    assert poll_url == f'set signals.transmitters.managed.poll_url = "{place.transmitter.url}/poll"'
    polled = await (await client(place, "polled")).update(made.id)
    assert [one for one in polled.problems if "poll_url" in one] == []


async def test_events_for_a_provider_are_asked_for_only_where_there_is_one(place: SignalRoom) -> None:
    await (await client(place, "provider")).create(is_polled=False)
    wanted = place.transmitter.asked[0][2]["events_requested"]
    assert isinstance(wanted, list)
    assert set(wanted) == set(effects.RULES) | effects.HINTS  # pyright: ignore


async def test_a_streams_status_is_read_and_changed_and_the_stream_ended(place: SignalRoom) -> None:
    managed = await client(place)
    made = await managed.create(is_polled=False)
    assert await managed.status(made.id) == ("enabled", "")
    assert await managed.set_status(made.id, "paused") == ("paused", "")
    assert await managed.status(made.id) == ("paused", "")
    updated = await managed.update(made.id)
    assert updated == made
    await managed.remove(made.id)
    assert await managed.list() == ()
    for work in (managed.remove(made.id), managed.status(made.id), managed.update(made.id), managed.verify(made.id)):
        with pytest.raises(StreamRefused, match="404"):
            await work


@pytest.mark.parametrize("state", ["the one asked for", "another", "none", "of another transmitter"])
async def test_only_a_verification_that_was_asked_for_counts(place: SignalRoom, state: str) -> None:
    managed = await client(place)
    made = await managed.create(is_polled=False)
    asked = await managed.verify(made.id)
    assert place.transmitter.states[made.id] == asked
    event: Claims = {} if state == "none" else {"state": "guessed" if state == "another" else asked}
    name = "company" if state == "of another transmitter" else "managed"
    subject = {"format": "opaque", "id": made.id}
    claims = place.claims(VERIFICATION, subject, name=name, events={VERIFICATION: event})
    bearer = {"authorization": "Bearer for the pushes"}
    answer = await place.push(place.transmitter.sign(claims), name=name, **bearer)
    is_right = state in {"the one asked for", "none"}
    assert answer.status_code == (202 if is_right else 400), answer.text
    if not is_right:
        assert answer.json()["err"] == "invalid_state"
    deployment = place.room.deployment
    has_come = await streams.verifications.came(deployment.database, "managed", asked, now=deployment.now())
    assert has_come is (state == "the one asked for")


def _with(**changes: object) -> Answer:
    return lambda said: {name: value for name, value in (said | changes).items() if value is not None}


HOSTILE: dict[str, Answer] = {
    "another issuer": _with(iss="https://other.example"),
    "no issuer": _with(iss=None),
    "no ID": _with(stream_id=None),
    "an ID that moves the cursor": _with(stream_id="x\x1b[2J"),
    "a long ID": _with(stream_id="x" * 5000),
    "an ID that is a number": _with(stream_id=7),
    "no audience": _with(aud=None),
    "audiences of another kind": _with(aud=[1, 2]),
    "too many audiences": _with(aud=["a"] * 1000),
    "no delivery": _with(delivery=None),
    "a delivery without method": _with(delivery={}),
    "an address with a line break": _with(delivery={"method": "urn:ietf:rfc:8936", "endpoint_url": "https://a\n"}),
    "events that are no list": _with(events_delivered={"a": 1}),
    "an escape in the description": _with(description="\x07"),
    "a list": lambda said: [said],
    "no JSON": lambda said: Response(b"{", 201, media_type="application/json"),
    "a repeated member": lambda said: Response(json.dumps(said)[:-1] + ', "iss": "x"}', 201),
    "deep JSON": lambda said: Response(b"[" * 5000, 201),
    "too much": lambda said: Response(b" " * 300_000, 201),
    "a redirect": lambda said: Response(status_code=307, headers={"location": "https://other.example"}),
    "unauthorized": lambda said: JSONResponse(said, 401),
    "a second stream": lambda said: JSONResponse(said, 409),
    "later": lambda said: JSONResponse(said, 202),
    "broken": lambda said: JSONResponse(said, 500),
}


REASONS = {
    "another issuer": "another issuer",
    "no issuer": "another issuer",
    "no ID": "stream_id",
    "an ID that moves the cursor": "stream_id",
    "a long ID": "stream_id",
    "an ID that is a number": "stream_id",
    "no audience": "usable aud",
    "audiences of another kind": "usable aud",
    "too many audiences": "usable aud",
    "no delivery": "how it delivers",
    "a delivery without method": "usable method",
    "an address with a line break": "usable endpoint_url",
    "events that are no list": "events_delivered",
    "an escape in the description": "description",
    "a list": "isn't a stream",
    "no JSON": "valid JSON",
    "a repeated member": "valid JSON",
    "deep JSON": "valid JSON",
    "too much": "can't be reached",
    "a redirect": "status 307",
    "unauthorized": "management_token",
    "a second stream": "no second stream",
    "later": "later",
    "broken": "status 500",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_nothing_of_a_wrong_answer_is_used(place: SignalRoom, name: str) -> None:
    managed = await client(place)
    place.transmitter.answer = HOSTILE[name]
    with pytest.raises(StreamRefused, match=REASONS[name]):
        await managed.create(is_polled=False)
    place.transmitter.answer = lambda said: said
    assert await managed.create(is_polled=False)


@pytest.mark.parametrize("wrong", [{"stream_id": "another"}, {"status": "on"}, {"status": None}, {"reason": "\x1b"}])
async def test_a_status_of_another_stream_or_form_is_refused(place: SignalRoom, wrong: Claims) -> None:
    managed = await client(place)
    made = await managed.create(is_polled=False)
    place.transmitter.answer = _with(**wrong)
    with pytest.raises(StreamRefused, match=r"another stream|no status|usable reason"):
        await managed.status(made.id)
    place.transmitter.answer = _with(reason="maintenance")
    assert await managed.status(made.id) == ("enabled", "maintenance")


async def test_an_update_that_answers_with_another_stream_is_refused(place: SignalRoom) -> None:
    managed = await client(place)
    made = await managed.create(is_polled=False)
    place.transmitter.answer = _with(stream_id="another")
    with pytest.raises(StreamRefused, match="another stream"):
        await managed.update(made.id)


@pytest.mark.parametrize(
    ("metadata", "is_usable"),
    [
        ({}, True),
        ({"issuer": "https://other.example"}, False),
        ({"configuration_endpoint": None}, False),
        ({"configuration_endpoint": 5}, False),
        ({"configuration_endpoint": "ftp://company.example/x"}, False),
        ({"configuration_endpoint": "https://10.0.0.1/ssf"}, False),
        ({"configuration_endpoint": "https:///x"}, False),
        ({"configuration_endpoint": "https://[x"}, False),
        ({"configuration_endpoint": "https://company.example/" + "x" * 2000}, False),
    ],
)
async def test_only_usable_addresses_of_the_right_issuer_are_asked(
    place: SignalRoom, metadata: Claims, is_usable: bool
) -> None:
    place.transmitter.metadata = metadata
    if is_usable:
        assert await (await client(place)).list() == ()
        return
    word = r"metadata|AddressRefused|no usable configuration_endpoint"
    with pytest.raises(StreamRefused, match=word):
        await (await client(place)).list()
    assert place.transmitter.asked == []


async def test_too_many_streams_are_refused(place: SignalRoom) -> None:
    managed = await client(place)
    for number in range(101):
        place.transmitter.streams[str(number)] = {}
    with pytest.raises(StreamRefused, match="more than 100"):
        await managed.list()


@asynccontextmanager
async def configured_transmitter(store: Store) -> AsyncGenerator[Transmitter]:
    """A vault on disk whose settings name its own transmitter."""
    async with running_transmitter(lambda: 0) as transmitter:
        (store.data / "config.toml").write_text(
            f'[signals.transmitters.company]\nissuer = "{transmitter.url}"\nmanagement_token = "{TOKEN}"\n'
            "[sandbox]\nloopback_openid = true\n"
        )
        yield transmitter


async def test_commands_create_list_update_and_remove_a_stream(sqlite_store: Store) -> None:
    async with configured_transmitter(sqlite_store) as transmitter:
        made = await content(sqlite_store, "signals", "streams", "create", "company")
        assert isinstance(made, dict)
        (stream_id,) = transmitter.streams
        assert made["id"] == stream_id
        assert await content(sqlite_store, "signals", "streams", "list", "company") == [made]
        assert await content(sqlite_store, "signals", "streams", "update", "company", stream_id) == made
        paused = await content(sqlite_store, "signals", "streams", "status", "company", stream_id, "--set", "paused")
        assert paused == {"id": stream_id, "status": "paused", "reason": None}
        silent = await run(sqlite_store, "signals", "streams", "verify", "company", stream_id, "--wait", "0")
        assert silent.exit_code == 1
        assert "It may still arrive" in silent.output
        for wrong, word in (
            (("list", "compny"), "company"),
            (("status", "company", stream_id, "--set", "off"), "paused"),
            (("remove", "company", "unknown"), "404"),
        ):
            result = await run(sqlite_store, "signals", "streams", *wrong)
            assert result.exit_code == 1
            assert word in result.output
        await content(sqlite_store, "signals", "streams", "remove", "company", stream_id)
        assert await content(sqlite_store, "signals", "streams", "list", "company") == []
