"""What arrives at /mcp and /sse: header and body that disagree, bombs, odd messages, other users' sessions."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json

import httpx2
import pytest
from mcp_types import CallToolResult

from providers.tools.spec import ToolOutput
from server.mcp import tools
from server.mcp.elicitation import AskingOptions
from tests.support.rooms.mcp_room import (
    ACCEPT,
    SLACK,
    Room,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
    room,
)
from tests.support.simulator_apps import wait_until_held

POST = {"name": "slack_post", "arguments": {"channel": "#general", "text": "hi"}}
LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}


@pytest.mark.requirement("S-154")
@pytest.mark.parametrize(
    "headers",
    [
        modern_headers("tools/list", "slack_post"),
        modern_headers("tools/call", "slack_channels"),
        modern_headers("tools/call"),
        {name: value for name, value in modern_headers("tools/call", "slack_post").items() if name != "mcp-method"},
    ],
    ids=["method", "name", "no-name", "no-method"],
)
async def test_headers_that_disagree_with_the_body_are_refused(place: Room, headers: dict[str, str]) -> None:
    async with place.http(await place.agent()) as http:
        answer = await http.post("/mcp", json=modern("tools/call", POST), headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == -32020
        right = await http.post(
            "/mcp", json=modern("tools/call", POST), headers=modern_headers("tools/call", "slack_post")
        )
        assert right.status_code == 200


def bombs() -> list[bytes]:
    deep = b"[" * 100_000 + b"]" * 100_000
    message = json.dumps(LIST).encode()
    return [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"NaN",
        deep,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" + message + b"," + message + b"]",
        b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
        b'{"id":1,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":{"a":1},"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":[1],"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":7}',
        b'{"jsonrpc":"2.0","id":1' + b"0" * 100_000 + b',"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[1,2]}',
        b"\xff\xfe" + message,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_002,
    ]


@pytest.mark.requirement("S-155")
@pytest.mark.parametrize("era", ["modern", "legacy", "sse"])
async def test_bombs_batches_and_odd_ids_are_refused_at_once(place: Room, era: str) -> None:
    async with place.http(await place.agent()) as http:
        match era:
            case "modern":
                path, headers = "/mcp", modern_headers("tools/list")
            case "legacy":
                path, headers = "/mcp", legacy_headers(await legacy_session(http))
            case _:
                path, headers = "/messages/?session_id=" + "0" * 32, {"content-type": "application/json"}
        for body in bombs():
            async with asyncio.timeout(30):
                answer = await http.post(path, content=body, headers=headers)
            assert 400 <= answer.status_code < 500, (body[:60], answer.status_code)
            assert "Traceback" not in answer.text
            assert "pydantic" not in answer.text
        if era == "modern":
            right = await http.post(path, json=modern("tools/list"), headers=headers)
            assert right.status_code == 200


async def test_two_requests_of_one_session_may_not_share_an_id_while_one_is_under_way(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    place.simulator.fault("slack.api.chat.postMessage", "hold")
    async with place.http(agent) as http:
        session = await legacy_session(http)
        call = {"jsonrpc": "2.0", "id": "same", "method": "tools/call", "params": POST}
        async with asyncio.timeout(30):
            first = asyncio.create_task(http.post("/mcp", json=call, headers=legacy_headers(session)))
            await wait_until_held(place.simulator, "slack.api.chat.postMessage")
            second = await http.post("/mcp", json=call, headers=legacy_headers(session))
            place.simulator.control("release")
            assert second.status_code == 400
            assert (await first).status_code == 200
        again = await http.post("/mcp", json=LIST | {"id": "same"}, headers=legacy_headers(session))
        assert again.status_code == 200


@pytest.mark.requirement("S-157")
async def test_a_session_works_for_the_agent_of_the_user_that_opened_it_only(place: Room) -> None:
    alice, bob, other = await place.agent(), await place.agent("bob"), await place.agent()
    async with place.http(alice) as http:
        session = await legacy_session(http)
        assert len(session) >= 32
        assert len({await legacy_session(http) for _ in range(5)}) == 5
        for stranger in (bob, other):
            answer = await http.post("/mcp", json=LIST, headers=legacy_headers(session) | stranger.headers)
            assert answer.status_code == 404
            assert (await http.delete("/mcp", headers=legacy_headers(session) | stranger.headers)).status_code == 404
        assert (await http.post("/mcp", json=LIST, headers=legacy_headers("0" * 32))).status_code == 404
        assert (await http.post("/mcp", json=LIST, headers=legacy_headers(session))).status_code == 200


@pytest.mark.requirement("S-152", "S-157")
async def test_messages_of_an_sse_stream_are_taken_from_its_own_agent_only(place: Room) -> None:
    alice, bob = await place.agent(), await place.agent("bob")
    async with place.http(alice) as http, http.stream("GET", "/sse", headers={"accept": ACCEPT}) as stream:
        lines = stream.aiter_lines()
        endpoint = [await anext(lines) for _ in range(2)][1].removeprefix("data: ")
        async with place.http(alice) as posting:
            message = LIST | {"method": "ping"}
            assert (await posting.post(endpoint, json=message, headers=bob.headers)).status_code == 404
            assert (await posting.post(endpoint, json=message)).status_code == 202


async def test_sse_can_be_switched_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("no-sse")
    async with room(data, transports={"sse": False}) as place, place.http(await place.agent()) as http:
        assert (await http.get("/sse")).status_code == 404
        listed = await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
        assert listed.status_code == 200


INTERNAL = ("/work", "site-packages", "pydantic", "Traceback", "RuntimeError", "server.mcp.tools", "vault.exchange")


@pytest.mark.requirement("S-159")
async def test_errors_name_nothing_internal(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)

    async def call(arguments: object, name: str = "slack_post") -> httpx2.Response:
        params = {"name": name, "arguments": arguments}
        return await http.post("/mcp", json=modern("tools/call", params), headers=modern_headers("tools/call", name))

    async with place.http(agent) as http:
        unknown = await call({}, "no_such_tool")
        assert unknown.json()["error"]["code"] == -32602
        wrong = [await call(arguments) for arguments in ({"channel": 7}, {"channel": "#a", "text": ["x"], "more": 1})]
        assert all(answer.json()["result"]["isError"] for answer in wrong)
        for answer in (unknown, *wrong):
            for internal in (agent.token, *INTERNAL):
                assert internal not in answer.text
        assert not (await call(POST["arguments"])).json()["result"].get("isError")


@pytest.mark.requirement("S-159")
async def test_a_tool_that_breaks_is_logged_under_an_id_and_says_nothing_else(
    place: Room, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)

    async def raise_error(api: object, arguments: object, progress: object) -> ToolOutput:
        raise RuntimeError(f"at {__file__}")

    async def silent(done: int, total: int | None, message: str) -> None:
        return None

    deployment = place.vault.deployment
    spec = deployment.tool("slack_post")
    assert spec is not None
    request = tools.ToolRequest(
        agent.principal, "slack_post", {"channel": "#general", "text": "x"}, AskingOptions(), "http"
    )
    live = copy.copy(deployment.live)
    live.current = dataclasses.replace(live.current, tools=(dataclasses.replace(spec, call=raise_error),))
    result = await tools.call(dataclasses.replace(deployment, live=live), request, progress=silent)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    text = result.content[0].model_dump()["text"]
    assert not [internal for internal in INTERNAL if internal in text]
    logged = [record for record in caplog.records if record.name == "token_vault.tools" and record.exc_info]
    assert logged[0].request_id in text
    assert not (await tools.call(deployment, request, progress=silent)).is_error


@pytest.mark.requirement("S-163", "S-164")
async def test_tools_are_the_same_for_everybody_in_one_order_and_say_what_they_change(place: Room) -> None:
    lists = []
    for name, scopes in (("alice", {"tools"}), ("bob", {"tools", "connections"})):
        agent = await place.agent(name, scopes=frozenset(scopes))
        if name == "bob":  # connected accounts make no difference either
            await place.connect(agent, "slack", scopes=SLACK)
        async with place.http(agent) as http:
            answer = await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
            lists.append(answer.json()["result"])
    first, second = lists
    assert first["tools"] == second["tools"]
    assert first["cacheScope"] == "private"
    found = {tool["name"]: tool for tool in first["tools"]}
    assert list(found) == [*(tool.name for tool in place.vault.deployment.tools), "connections"]
    for tool in found.values():
        assert tool["inputSchema"]["type"] == "object"
        assert tool["inputSchema"]["additionalProperties"] is False
        assert tool["outputSchema"]["type"] == "object"
    reading = {name for name, tool in found.items() if tool["annotations"]["readOnlyHint"]}
    assert reading >= {"slack_channels", "slack_history", "calendar_list", "connections"}
    assert not reading & {"slack_post", "calendar_create", "calendar_delete"}


@pytest.mark.parametrize("last", [None, "1", "x" * 5000])
async def test_a_stream_that_cannot_be_resumed_begins_anew(place: Room, last: str | None) -> None:
    async with place.http(await place.agent("alice")) as http:
        headers = legacy_headers(await legacy_session(http)) | ({} if last is None else {"last-event-id": last})
        async with asyncio.timeout(30), http.stream("GET", "/mcp", headers=headers) as stream:
            assert stream.status_code == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
