"""Messages that would delay every other caller while they are read: each transport refuses them before that."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.http.strict_json import has_more_parts
from server.mcp import mcp_bodies
from tests.support.rooms.mcp_room import Room, legacy_headers, modern, modern_headers, room

COSTLY: dict[str, object] = {
    "objects": [{}] * 30_000,
    "arrays": [[]] * 30_000,
    "values": [0] * 60_000,
    "names": {f"{number:x}": 0 for number in range(10_000)},
}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Room]:
    async with room(tmp_path) as opened:
        yield opened


def call_message(arguments: object) -> dict[str, object]:
    return modern("tools/call", {"name": "slack_post", "arguments": arguments})


@pytest.mark.requirement("S-174")
@pytest.mark.parametrize("of", COSTLY)
async def test_a_message_with_too_many_parts_is_refused_in_each_era(place: Room, of: str) -> None:
    arguments = COSTLY[of] if of == "names" else {"channel": "#general", "text": COSTLY[of]}
    async with place.http(await place.agent()) as http:
        headers = modern_headers("tools/call", "slack_post")
        for sent in (headers, legacy_headers()):
            answer = await http.post("/mcp", json=call_message(arguments), headers=sent)
            assert answer.status_code == 400
            assert "at most" in answer.json()["error"]["message"]
        text = {"channel": "#general", "text": json.dumps(COSTLY[of])}  # the twin: sent as text, it is a single value
        assert (await http.post("/mcp", json=call_message(text), headers=headers)).status_code == 200


def test_what_counts_are_parts_outside_of_strings() -> None:
    parts = b"[{}]," * 100
    assert has_more_parts(b'{"a":[' + parts + b"0]}", nested=150, values=1000)
    assert has_more_parts(b'{"a":[' + parts + b"0]}", nested=1000, values=99)
    assert not has_more_parts(b'{"a":[' + parts + b"0]}", nested=203, values=101)
    text = json.dumps({"a": parts.decode()}).encode()
    assert not has_more_parts(text, nested=150, values=99)
    assert has_more_parts(b'{"a":"' + parts * 10 + b'"}', nested=150, values=99), "hardly anything else"


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 70_000, b'{"params":[' + b'"' * 70_000, b"\xff" * 70_000])
def test_a_body_that_is_no_json_is_left_to_its_reader_or_refused_at_once(body: bytes) -> None:
    started = time.perf_counter()
    assert mcp_bodies.is_costly(body) in {True, False}
    assert time.perf_counter() - started < 10


def test_the_members_of_message_parameters_and_arguments_are_counted() -> None:
    many, padding = {f"{number:x}": 0 for number in range(1001)}, "x" * 70_000
    few = dict(list(many.items())[:900])
    for members, is_costly in ((many, True), (few, False)):
        for message in (members, {"params": members}, {"params": {"arguments": members}}):
            assert mcp_bodies.is_costly(json.dumps({**message, "padding": padding}).encode()) is is_costly
    assert not mcp_bodies.is_costly(json.dumps({"params": {"arguments": {"rows": many}}, "padding": padding}).encode())
