"""The ways to show a person a link: sealed request state, one link per question, waiting, and the final text."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from mcp.server.request_state import AESGCMRequestStateCodec

from server.app import build_app, open_deployment
from server.connecting.links import consume_link
from server.mcp.offer import connections_tool
from server.mcp.sdk_server import SERVER_NAME
from tests.conftest import Store
from tests.support.harness import RunningVault, free_socket, running_vault, serve_app
from tests.support.rooms.mcp_room import Agent, Room, legacy_headers, legacy_session, modern, modern_headers, room

ARGUMENTS = {"channel": "#general", "text": "hello"}
URL = {"elicitation": {"url": {}}}
SLACK = frozenset({"chat:write"})


async def call(
    place: Room,
    agent: Agent,
    *,
    state: str | None = None,
    action: str | None = None,
    arguments: Mapping[str, object] = ARGUMENTS,
    capabilities: Mapping[str, object] = URL,
) -> dict[str, object]:
    """Make one `slack_post` call of 2026-07-28; returns the JSON-RPC answer."""
    params: dict[str, object] = {"name": "slack_post", "arguments": dict(arguments)}
    if state is not None:
        params["requestState"] = state
    if action is not None:
        params["inputResponses"] = {"connect": {"action": action}}
    message = modern("tools/call", params)
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = dict(capabilities)
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_post"))
    return answer.json()


def link_of(answer: dict[str, object]) -> str:
    return answer["result"]["inputRequests"]["connect"]["params"]["url"]


def state_of(answer: dict[str, object]) -> str:
    return answer["result"]["requestState"]


async def test_a_client_that_opens_links_is_asked_for_input_and_the_link_holds_nothing_personal(place: Room) -> None:
    agent = await place.agent()
    answer = await call(place, agent)
    assert answer["result"]["resultType"] == "input_required"
    assert link_of(answer).startswith(f"{place.url}/connect/")
    assert agent.principal.user_id not in link_of(answer)
    assert "alice" not in link_of(answer)


async def test_a_handshake_session_gets_the_error_of_its_revision_instead(place: Room) -> None:
    agent = await place.agent()
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    params = {"name": "slack_post", "arguments": ARGUMENTS}
    async with place.http(agent) as http:
        can = await legacy_session(http, capabilities=URL)
        answer = (await http.post("/mcp", json=message | {"params": params}, headers=legacy_headers(can))).json()
        assert answer["error"]["code"] == -32042
        asked = answer["error"]["data"]["elicitations"][0]
        assert asked["mode"] == "url"
        assert asked["elicitationId"]
        assert asked["url"] in answer["error"]["message"]  # some clients show nothing else
        assert "Ask the person to open" in answer["error"]["message"]
        form_only = await legacy_session(http, capabilities={"elicitation": {}})
        answer = (await http.post("/mcp", json=message | {"params": params}, headers=legacy_headers(form_only))).json()
        assert answer["result"]["isError"]
        assert f"{place.url}/connect/" in answer["result"]["content"][0]["text"]


@pytest.mark.requirement("S-160")
async def test_request_state_counts_unbent_for_its_own_agent_and_request_only(
    place: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_tool, "WAIT", 0.01)
    alice, bob, other = await place.agent(), await place.agent("bob"), await place.agent()
    state = state_of(await call(place, alice))
    assert "connect" not in state
    bent = state[:-8] + ("A" if state[-8] != "A" else "B") + state[-7:]
    refused = [
        await call(place, alice, state=bent),
        await call(place, alice, state=state[:40]),
        await call(place, bob, state=state),
        await call(place, other, state=state),
        await call(place, alice, state=state, arguments={**ARGUMENTS, "text": "another"}),
    ]
    assert [answer["error"]["code"] for answer in refused] == [-32602] * 5
    assert "result" in await call(place, alice, state=state)


@pytest.mark.requirement("S-160")
async def test_request_state_expires(place: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_tool, "WAIT", 0.01)
    agent = await place.agent()
    codec = AESGCMRequestStateCodec([place.vault.deployment.keys.subkey("request-state")])
    claims = json.loads(codec.unseal(state_of(await call(place, agent))))
    assert claims["aud"] == SERVER_NAME
    assert claims["exp"] - claims["iat"] == 600
    old = codec.seal(json.dumps(claims | {"iat": time.time() - 700, "exp": time.time() - 100}).encode())
    assert (await call(place, agent, state=old))["error"]["code"] == -32602
    fresh = codec.seal(json.dumps(claims).encode())
    assert "result" in await call(place, agent, state=fresh)


async def test_every_process_of_a_vault_opens_the_state_of_every_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_tool, "WAIT", 0.01)
    async with room(store.data, database_url=store.url) as first:
        agent = await first.agent()
        state = state_of(await call(first, agent))
        listening = free_socket()
        settings = first.vault.settings  # another process behind the same public address
        async with (
            open_deployment(settings, data=store.data) as deployment,
            serve_app(build_app(deployment), listening),
        ):
            second = Room(RunningVault(f"http://127.0.0.1:{listening.getsockname()[1]}", deployment), first.simulator)
            answer = await call(second, agent, state=state)
            assert link_of(answer) == link_of(await call(first, agent, state=state))


async def test_a_retry_before_the_person_is_done_brings_the_same_link_again(
    place: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_tool, "WAIT", 0.01)
    agent = await place.agent()
    first = await call(place, agent)
    again = await call(place, agent, state=state_of(first), action="accept")
    assert link_of(again) == link_of(first)
    assert link_of(await call(place, agent)) != link_of(first)


async def test_a_retry_waits_for_the_person_who_is_at_the_link(place: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_tool, "WAIT", 50)  # so that a slow machine has time to connect the account
    agent = await place.agent("carol")
    state = state_of(await call(place, agent))
    async with asyncio.timeout(60):
        retry = asyncio.create_task(call(place, agent, state=state, action="accept"))
        await place.connect(agent, "slack", scopes=SLACK)
        answer = await retry
    assert answer["result"]["structuredContent"]["channel"]


async def test_a_person_who_declines_is_not_asked_again_at_once(place: Room) -> None:
    agent = await place.agent()
    state = state_of(await call(place, agent))
    answer = await call(place, agent, state=state, action="decline")
    assert answer["result"]["isError"]
    assert "declined to open" in answer["result"]["content"][0]["text"]


async def test_a_question_that_the_client_cancels_is_answered_with_its_link_and_code_in_words(place: Room) -> None:
    agent = await place.agent()
    first = await call(place, agent)
    async with asyncio.timeout(connections_tool.WAIT):  # nobody opened the link, so the call doesn't wait
        answer = await call(place, agent, state=state_of(first), action="cancel")
    told = answer["result"]
    assert told["isError"]
    words = told["content"][0]["text"]
    facts = told["_meta"]["io.github.mcp-token-vault/connect"]
    assert "declined to open" not in words
    assert facts["url"] == link_of(first)
    assert facts["url"] in words and facts["user_code"] in words and facts["device_url"] in words


async def test_a_canceled_question_that_was_answered_elsewhere_goes_on(place: Room) -> None:
    agent = await place.agent("dora")
    state = state_of(await call(place, agent))
    await place.connect(agent, "slack", scopes=SLACK)
    answer = await call(place, agent, state=state, action="cancel")
    assert answer["result"]["structuredContent"]["channel"]


async def test_a_handshake_client_that_left_the_last_link_unused_gets_the_next_one_in_words(
    store: Store,
) -> None:
    async with room(store.data, database_url=store.url) as place:
        agent, other = await place.agent(), await place.agent()

        async def ask(caller: Agent, tool: str = "slack_post") -> dict[str, object]:
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
            params = {"name": tool, "arguments": ARGUMENTS if tool == "slack_post" else {}}
            async with place.http(caller) as http:
                session = await legacy_session(http, capabilities=URL)
                answer = await http.post("/mcp", json=message | {"params": params}, headers=legacy_headers(session))
            return answer.json()

        first = await ask(agent)
        link: str = first["error"]["data"]["elicitations"][0]["url"]
        told = await ask(agent)
        assert told["result"]["isError"]
        words = told["result"]["_meta"]["io.github.mcp-token-vault/connect"]
        assert words["url"] in told["result"]["content"][0]["text"]
        for another in (await ask(other), await ask(agent, "calendar_list")):  # not its link, and not for this call
            assert another["error"]["code"] == -32042
        for url in (link, words["url"]):
            await consume_link(place.vault.deployment, url.rpartition("/")[2])
        assert (await ask(agent))["error"]["code"] == -32042


async def test_without_a_registered_provider_the_answer_leads_to_the_page_that_sets_it_up(tmp_path: Path) -> None:
    async with running_vault(tmp_path) as vault:
        place = Room(vault, None)
        answer = await call(place, await place.agent())
    assert answer["result"]["isError"]
    assert f"{place.url}/administration/providers/slack" in answer["result"]["content"][0]["text"]
