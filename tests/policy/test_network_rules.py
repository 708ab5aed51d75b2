"""A rule about the network judges the address of the request that makes the call, whatever opened its session."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.rooms.mcp_room import (
    SLACK,
    Agent,
    Room,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
    room,
)

INSIDE, OUTSIDE = {"x-forwarded-for": "10.1.2.3"}, {"x-forwarded-for": "192.0.2.1"}
RULE = """@id("inside") forbid(principal, action, resource)
unless { context has address && context.address.isInRange(ip("10.0.0.0/8")) };"""
WANTED: dict[str, object] = {"name": "slack_channels", "arguments": {}}


@pytest.fixture(scope="module")
async def proxied_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Room, Agent]]:
    """A vault behind a trusted proxy; its rules allow calls from one network only."""
    base: Path = tmp_path_factory.mktemp("proxied_room")
    (base / "rules").mkdir()
    (base / "rules" / "rules.cedar").write_text(RULE)
    behind = {"trusted_proxies": ["127.0.0.1"]}
    async with room(base / "data", policy={"folder": str(base / "rules")}, server=behind) as place:
        agent = await place.agent("alice")
        await place.connect(agent, "slack", scopes=SLACK)
        yield place, agent


def is_refused(text: str) -> bool:
    if "general" in text:
        return False
    assert "Rule inside" in text, text
    return True


async def test_a_call_of_the_current_revision(proxied_room: tuple[Room, Agent]) -> None:
    place, agent = proxied_room
    async with place.http(agent) as http:
        for address, refused in ((INSIDE, False), (OUTSIDE, True), ({}, True)):
            headers = modern_headers("tools/call", "slack_channels") | address
            answer = await http.post("/mcp", json=modern("tools/call", WANTED), headers=headers)
            assert is_refused(answer.text) is refused, address


@pytest.mark.parametrize("extra", [{}, {"_meta": {"progressToken": "p", "unknown": None}}], ids=["plain", "by the SDK"])
async def test_a_call_in_a_session_that_another_address_opened(
    proxied_room: tuple[Room, Agent], extra: dict[str, object]
) -> None:
    place, agent = proxied_room
    for opened, called, refused in ((INSIDE, OUTSIDE, True), (OUTSIDE, INSIDE, False)):
        async with place.http(agent) as http:
            http.headers.update(opened)
            session = await legacy_session(http)
            message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {**WANTED, **extra}}
            answer = await http.post("/mcp", json=message, headers=legacy_headers(session) | called)
            assert is_refused(answer.text) is refused, (opened, called, json.dumps(message))
