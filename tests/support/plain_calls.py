"""Calls that are read in one step on every transport, one for each outcome, with a record of who read them."""

from __future__ import annotations

import pytest

from server.mcp import fast_path

HELD = "slack.api.conversations.list"  # the simulator's endpoint of LIST
LINKS = {"elicitation": {"url": {}}}
LIST: dict[str, object] = {"name": "slack_channels", "arguments": {"limit": 1}}
CALLS: dict[str, tuple[str, dict[str, object]]] = {
    "a post": ("slack_post", {"channel": "#general", "text": "gr\u00fc\u00dfe \u2028"}),
    "a list": ("slack_channels", {}),
    "what is connected": ("connections", {}),
    "a refusal of the service": ("slack_history", {"channel": "C9999999999"}),
    "arguments that do not fit": ("slack_post", {"channel": "not a channel!"}),
    "a service that is not connected": ("calendar_list", {}),
    "a tool that does not exist": ("no_such_tool", {}),
}


def call_message(name: str, arguments: object, **more: object) -> dict[str, object]:
    """A call of the handshake era."""
    params = {"name": name, "arguments": arguments, **more}
    return {"jsonrpc": "2.0", "id": "a-1", "method": "tools/call", "params": params}


def note_reading(monkeypatch: pytest.MonkeyPatch, reader: str, *, body: int) -> list[bool]:
    """Whether our `reader` read each call; `body` says which of its arguments is the call."""
    found: list[bool] = []
    reading = getattr(fast_path, reader)

    def note_call(*arguments: object) -> object:
        call = reading(*arguments)
        message = arguments[body]
        assert isinstance(message, bytes)
        if b'"tools/call"' in message:
            found.append(call is not None)
        return call

    monkeypatch.setattr(fast_path, reader, note_call)
    return found
