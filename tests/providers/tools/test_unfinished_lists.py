"""A list of several requests keeps what it has when a later request fails for now."""

from __future__ import annotations

import pytest

from providers.api import retries
from providers.api.api import RateLimited, ToolRefused, UpstreamRefused, UpstreamUnavailable
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply
from tests.support.tool_bench import Bench

FIRST = {
    "slack_channels": {"ok": True, "channels": [{"id": "C1"}], "response_metadata": {"next_cursor": "c1"}},
    "calendar_list": {"items": [{"id": "e1"}], "nextPageToken": "p1"},
    "gmail_search": {"messages": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
}
FOUND = {"slack_channels": "channels", "calendar_list": "events", "gmail_search": "messages"}
FAILURES: dict[str, tuple[Reply, type[ToolRefused]]] = {  # the times are longer than a call can wait
    "a rate limit": (Reply(429, headers={"Retry-After": "11"}), RateLimited),
    "a 503 with a time": (Reply(503, headers={"Retry-After": "11"}), UpstreamUnavailable),
    "a 503": (Reply(503), UpstreamUnavailable),
    "a 502": (Reply(502), UpstreamUnavailable),
    "no answer": (Reply(close=True), UpstreamUnavailable),
}


@pytest.fixture(autouse=True)
def briskly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF", 0.01)


def is_first(arrival: Arrival) -> bool:
    """Whether this asks for the first page, or for the one message that is answered."""
    query = arrival.query
    return "cursor" not in query and "pageToken" not in query and arrival.path[-9:] not in {"essages/b", "essages/c"}


def answer_of(tool: str, arrival: Arrival) -> Reply:
    is_message = tool == "gmail_search" and not arrival.path.endswith("/messages")
    return json_reply({"id": arrival.path[-1]} if is_message else FIRST[tool])


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("tool", FIRST)
async def test_a_list_keeps_what_it_has_when_a_later_request_fails_for_now(
    bench: Bench, tool: str, failure: str
) -> None:
    reply, refusal = FAILURES[failure]
    bench.server.answer = lambda arrival: answer_of(tool, arrival) if is_first(arrival) else reply
    output = (await bench.run(tool)).model_dump()
    assert len(output[FOUND[tool]]) == 1
    assert output.get("next_cursor") == "c1" or output.get("more") or output.get("left_out") == 2
    bench.server.answer = lambda _: reply
    with pytest.raises(refusal):
        await bench.run(tool)


@pytest.mark.parametrize("tool", ["slack_channels", "calendar_list"])
async def test_a_list_that_the_service_refuses_is_no_list(bench: Bench, tool: str) -> None:
    refused = json_reply({"ok": False, "error": "invalid_cursor"}, status=200 if tool == "slack_channels" else 400)
    bench.server.answer = lambda arrival: answer_of(tool, arrival) if is_first(arrival) else refused
    with pytest.raises(UpstreamRefused):
        await bench.run(tool)
