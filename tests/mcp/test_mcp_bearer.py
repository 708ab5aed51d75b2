"""Who may use the MCP endpoints: challenges, tokens only from the header, scopes, audiences, live grants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from tests.support.network.held_requests import held_json
from tests.support.rooms.mcp_room import (
    INITIALIZE,
    MODERN,
    SLACK,
    Room,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
)
from vault import grants
from vault.storage.database import NO_PARAMETERS, Row, Value
from vault.storage.sqlite import SqliteDatabase


@pytest.mark.requirement("S-003")
@pytest.mark.parametrize(("path", "metadata"), [("/mcp", "/mcp"), ("/sse", "/sse"), ("/messages/", "/sse")])
async def test_without_a_token_the_challenge_names_metadata_and_scope_but_no_error(
    place: Room, path: str, metadata: str
) -> None:
    async with place.http() as http:
        answer = await http.post(path, json=INITIALIZE)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        named = f"{place.url}/.well-known/oauth-protected-resource{metadata}"
        assert challenge.startswith("Bearer ")
        assert f'resource_metadata="{named}"' in challenge
        assert 'scope="connections tools"' in challenge
        assert "error" not in challenge
        assert place.url + metadata in answer.json()["message"]  # for a person who opened the address in a browser
        document = (await http.get(named)).json()
        assert document["resource"] == f"{place.url}{metadata}"


@pytest.mark.requirement("S-003")
async def test_a_bad_token_is_called_invalid(place: Room) -> None:
    async with place.http() as http:
        for token in ("nonsense", "a.b.c", "x" * 16_000):
            answer = await http.post("/mcp", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
            assert "sign in again" in answer.json()["error"]["data"]["error_description"]


@pytest.mark.parametrize(
    ("user_agent", "told", "not_told"),
    [
        ("claude-code/2.1.332 (cli)", "claude mcp login NAME", "codex mcp login"),
        ("codex-mcp-client/0.154.0", "codex mcp login NAME", "claude mcp login"),
        ("opencode/1.18.33", "opencode mcp auth NAME", "codex mcp login"),
        ("node", "claude mcp login NAME; Codex: codex mcp login NAME", "<"),
    ],
)
async def test_a_client_whose_token_ended_is_told_its_own_command(
    place: Room, user_agent: str, told: str, not_told: str
) -> None:
    async with place.http() as http:
        sent = {"authorization": "Bearer ended", "user-agent": user_agent}
        answer = (await http.post("/mcp", headers=sent)).json()
        assert answer["error"]["message"] == f"Your sign-in has ended. {answer['error']['data']['sign_in']}"
        assert told in answer["error"]["message"]
        assert not_told not in answer["error"]["message"]
        assert ("other clients: remove" in answer["error"]["message"]) is (user_agent == "node")
        del sent["authorization"]
        assert "sign-in has ended" not in (await http.post("/mcp", headers=sent)).text, "nobody had signed in yet"


@pytest.mark.parametrize("mode", [MODERN, "legacy"])
async def test_a_client_that_cannot_sign_in_shows_how_where_the_result_would_stand(place: Room, mode: str) -> None:
    """An unmodified client with a fixed token: the official Python SDK reads a JSON-RPC error with any status."""
    agent = await place.agent()
    async with (
        httpx2.AsyncClient(headers=agent.headers, trust_env=False, timeout=30) as http,
        Client(streamable_http_client(f"{place.url}/mcp", http_client=http), mode=mode) as client,
    ):
        assert (await client.list_tools()).tools
        async with place.vault.deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=1)
        with pytest.raises(MCPError, match=r"Your sign-in has ended.*claude mcp login NAME"):
            await client.call_tool("slack_channels", {})


@pytest.mark.requirement("S-096")
async def test_a_token_counts_in_the_header_only(place: Room) -> None:
    agent = await place.agent()
    async with place.http() as http:
        headers = modern_headers("tools/list")
        in_query = await http.post(f"/mcp?access_token={agent.token}", json=modern("tools/list"), headers=headers)
        in_cookie = await http.post(
            "/mcp", json=modern("tools/list"), headers=headers | {"cookie": f"access_token={agent.token}"}
        )
        in_body = await http.post("/mcp", json=modern("tools/list", access_token=agent.token), headers=headers)
        in_form = await http.post("/mcp", data={"access_token": agent.token})
        assert [answer.status_code for answer in (in_query, in_cookie, in_body, in_form)] == [401] * 4
        in_header = await http.post("/mcp", json=modern("tools/list"), headers=headers | agent.headers)
        assert in_header.status_code == 200
        twice = [*(headers | agent.headers).items(), ("authorization", f"Bearer {agent.token}")]
        assert (await http.post("/mcp", json=modern("tools/list"), headers=twice)).status_code == 400


@pytest.mark.requirement("S-152", "S-153")
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/sse", "/sse/", "/messages", "/messages/"])
async def test_every_verb_needs_a_token_before_its_body_is_looked_at(place: Room, path: str) -> None:
    async with place.http() as http:
        for verb in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            answer = await http.request(verb, path, content=b"{")
            assert answer.status_code == 401, verb
            assert answer.headers["content-type"] == "application/json"
    async with place.http(await place.agent()) as http:
        assert (await http.request("PUT", path, content=b"{")).status_code == 405


@pytest.mark.requirement("S-153")
@pytest.mark.parametrize(
    "method", ["initialize", "tools/list", "tools/call", "ping", "server/discover", "resources/list"]
)
async def test_every_method_needs_a_token(place: Room, method: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
    async with place.http() as http:
        assert (await http.post("/mcp", json=message, headers=legacy_headers())).status_code == 401
        assert (await http.post("/mcp", json=modern(method), headers=modern_headers(method))).status_code == 401


@pytest.mark.requirement("S-099")
async def test_a_token_without_the_scope_is_told_which_and_no_tool_runs(place: Room) -> None:
    narrow = await place.agent(scopes=frozenset({"connections"}))
    await place.connect(narrow, "slack", scopes=SLACK)
    call = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "general", "text": "no"}})
    async with place.http(narrow) as http:
        answer = await http.post("/mcp", json=call, headers=modern_headers("tools/call", "slack_post"))
    assert answer.status_code == 403
    challenge = answer.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="connections tools"' in challenge
    assert place.simulator.books()["posts"] == []
    wide = await place.agent()
    async with place.http(wide) as http:
        answer = await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
        assert answer.status_code == 200


@pytest.mark.requirement("S-101")
async def test_a_token_for_another_audience_is_refused_and_ours_never_goes_upstream(place: Room) -> None:
    foreign = await place.agent(audience="https://api.example/")
    async with place.http(foreign) as http:
        answer = await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
        assert answer.status_code == 401
    for audience in ("/mcp", "/sse", "", "/"):
        agent = await place.agent(audience=place.url + audience)
        async with place.http(agent) as http:
            answer = await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
            assert answer.status_code == 200
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    async with place.client(agent) as client:
        assert not (await client.call_tool("slack_channels", {})).is_error
    assert agent.token not in repr(place.simulator.books())


async def test_a_revoked_grant_ends_the_token_at_once(place: Room) -> None:
    agent = await place.agent()
    deployment = place.vault.deployment
    async with place.http(agent) as http:
        headers = modern_headers("tools/list")
        assert (await http.post("/mcp", json=modern("tools/list"), headers=headers)).status_code == 200
        async with deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=deployment.now())
        answer = await http.post("/mcp", json=modern("tools/list"), headers=headers)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


_STREAMED: Mapping[str, object] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "progressToken": 1,
}


@pytest.mark.parametrize(
    ("arguments", "header", "more"),
    [
        ({"channel": "general", "text": "no"}, "slack_post", {}),
        ({"channel": "general", "text": "no"}, "slack_post", {"_meta": _STREAMED}),
        ({"channel": "general", "text": "no"}, "slack_channels", {}),  # differs from what the body says
        ({"channel": "not a channel"}, "slack_post", {}),
        ({"channel": "general", "text": "no", "account": "unknown"}, "slack_post", {}),
    ],
    ids=["plain", "stream", "other name", "misfit", "no account"],
)
async def test_a_tool_call_of_a_revoked_agent_is_challenged_whatever_else_is_wrong_with_it(
    place: Room, arguments: dict[str, str], header: str, more: Mapping[str, object]
) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    deployment = place.vault.deployment
    call = modern("tools/call", {"name": "slack_post", "arguments": arguments, **more})
    headers = modern_headers("tools/call", header)
    async with place.http(agent) as http:
        assert (await http.post("/mcp", json=call, headers=headers)).status_code == (
            200 if header == "slack_post" else 400
        )
        posts = len(place.simulator.books()["posts"])
        async with deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=deployment.now())
        answer = await http.post("/mcp", json=call, headers=headers)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert answer.json()["error"]["data"]["error"] == "invalid_token"
    assert len(place.simulator.books()["posts"]) == posts


async def test_a_tool_call_reads_the_database_once(place: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    database = place.vault.deployment.database
    assert isinstance(database, SqliteDatabase)
    read: list[str] = []
    look_up, fetch = database.look_up, database.fetch

    async def look_up_and_count(sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        read.append(sql)
        return await look_up(sql, parameters)

    async def counted_too(sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        read.append(sql)
        return await fetch(sql, parameters)

    monkeypatch.setattr(database, "look_up", look_up_and_count)
    monkeypatch.setattr(database, "fetch", counted_too)
    call = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "general", "text": "hi"}})
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=call, headers=modern_headers("tools/call", "slack_post"))
        assert (answer.status_code, len(read)) == (200, 1)
        assert "Posted to" in answer.text
        await http.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
        # now also the grant, before the body was read and after it, and the tool set that the person chose
        assert len(read) == 4


async def test_both_spellings_are_served_without_a_redirect(place: Room) -> None:
    async with place.http(await place.agent()) as http:
        for path in ("/mcp", "/mcp/"):
            answer = await http.post(path, json=modern("tools/list"), headers=modern_headers("tools/list"))
            assert answer.status_code == 200


@pytest.mark.parametrize("has_ended", [True, False])
@pytest.mark.parametrize(
    ("method", "params"),
    [("tools/list", {}), ("tools/call", {"name": "connections", "arguments": {}})],
)
@pytest.mark.parametrize("era", [MODERN, "legacy"])
async def test_a_message_that_arrives_after_its_grant_ended_is_not_answered(
    place: Room, method: str, params: dict[str, object], era: str, has_ended: bool
) -> None:
    agent = await place.agent()
    name = None if method == "tools/list" else "connections"
    message, headers = modern(method, params), modern_headers(method, name)
    if era == "legacy":
        async with place.http(agent) as http:
            headers = legacy_headers(await legacy_session(http))
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    del headers["content-type"]
    async with held_json(place.url, "/mcp", message, token=agent.token, headers=headers) as held:
        if has_ended:
            async with place.vault.deployment.transaction() as transaction:
                await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=1)
        answer = await held.finish()
    assert answer.status_code == (401 if has_ended else 200), answer.text
    assert ("result" in answer.json()) is not has_ended


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_message_for_a_stream_that_arrives_after_its_grant_ended_is_not_answered_there(
    place: Room, has_ended: bool
) -> None:
    agent = await place.agent()
    answers: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    async with (
        place.http(agent) as http,
        http.stream("GET", "/sse", timeout=30) as stream,
        asyncio.TaskGroup() as group,
    ):
        lines = stream.aiter_lines()
        path = await anext(line.removeprefix("data: ") async for line in lines if line.startswith("data: "))

        async def read() -> None:
            async for line in lines:
                if line.startswith("data: "):
                    answers.put_nowait(json.loads(line.removeprefix("data: ")))

        reading = group.create_task(read())
        assert (await http.post(path, json=INITIALIZE)).status_code == 202
        assert "result" in await answers.get()
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await http.post(path, json=initialized)).status_code == 202
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "connections", "arguments": {}}}
        ping = {"jsonrpc": "2.0", "id": 8, "method": "ping"}  # the SDK handles it
        async with (
            held_json(place.url, path, call, token=agent.token) as first,
            held_json(place.url, path, ping, token=agent.token) as second,
        ):
            if has_ended:
                async with place.vault.deployment.transaction() as transaction:
                    await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=1)
            for held in (first, second):
                assert (await held.finish()).status_code == (401 if has_ended else 202)
        if has_ended:
            await reading  # the stream ends with the grant
            assert answers.empty()
        else:
            found = [await answers.get(), await answers.get()]
            assert {answer["id"] for answer in found if "result" in answer} == {7, 8}
            reading.cancel()
