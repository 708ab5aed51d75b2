"""Approvals end to end: an agent's call, the person's page with the arguments, the same call again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from mcp_types import CallToolResult

from server.connecting import approvals
from server.mcp.approval_settings import ApprovalRules
from server.portal.texts import visible
from server.settings import SettingsRefused
from tests.support.accounts import set_ask
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.mcp_room import (
    SLACK,
    Agent,
    Room,
    count_posts,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
    room,
    text_of,
)
from tests.support.simulator_apps import wait_until_held
from vault.records import Connection

Browse = Callable[[str], Awaitable[Person]]
POST: Mapping[str, object] = {"channel": "#general", "text": "CANARY-hello"}


async def asking_agent(place: Room, name: str, *entries: str) -> tuple[Agent, Connection]:
    """An agent with Slack whose person wants to approve these calls."""
    await place.vault.add_user(name)
    agent = await place.agent(name)
    connection = await place.connect(agent, "slack", scopes=SLACK)
    if entries:
        await set_ask(place.vault.deployment, agent.principal, connection, entries)
    return agent, connection


async def post(place: Room, agent: Agent, arguments: Mapping[str, object] = POST) -> CallToolResult:
    async with place.client(agent) as client:
        return await client.call_tool("slack_post", dict(arguments))


def link_of(result: CallToolResult) -> str:
    assert result.is_error
    assert result.meta is not None
    return str(result.meta["io.github.mcp-token-vault/connect"]["url"])


@pytest.fixture
async def browse(place: Room) -> AsyncGenerator[Browse]:
    """Open a browser in which the named person is signed in; it closes with the test."""
    async with AsyncExitStack() as stack:

        async def signed_in(name: str) -> Person:
            browser = await stack.enter_async_context(Person(place.url))
            assert (await browser.sign_in(name, PASSWORD)).status_code == 200
            return browser

        yield signed_in


async def test_a_call_waits_for_the_persons_yes_to_exactly_its_arguments(place: Room, browse: Browse) -> None:
    agent, _ = await asking_agent(place, "yes-person", "tool:slack_post")
    before = count_posts(place)
    asked = await post(place, agent)
    assert "needs the person's approval" in text_of(asked)
    assert count_posts(place) == before
    browser = await browse("yes-person")
    page = await browser.open(link_of(asked))
    assert "CANARY-hello" in page.text
    assert "#general" in page.text
    said = await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    assert "Approved" in said.text
    assert link_of(await post(place, agent, {**POST, "text": "CANARY-hello!"})) != link_of(asked)
    assert not (await post(place, agent)).is_error
    assert count_posts(place) == before + 1
    again = await post(place, agent)  # an approval counts for one call
    assert link_of(again) != link_of(asked)
    kinds = [event.kind for event in await read_events(place.vault.deployment)]
    assert {"approval.requested", "approval.given", "approval.consumed"} <= set(kinds)
    await browser.__aexit__()


async def test_a_call_that_is_stopped_has_used_its_yes_and_the_activity_says_so(place: Room, browse: Browse) -> None:
    """The provider may have carried it out, so the approval must not count for a second call."""
    agent, connection = await asking_agent(place, "stopping-person", "tool:slack_post")
    browser = await browse("stopping-person")
    await browser.submit(
        await browser.open(link_of(await post(place, agent))), form="/approvals/", button=("decision", "allow")
    )
    place.simulator.fault("slack.api.chat.postMessage", "hold")
    message = modern("tools/call", {"name": "slack_post", "arguments": dict(POST)})
    message["params"]["_meta"]["progressToken"] = "p"  # a client that asks for progress ends its call when it leaves
    async with place.http(agent) as http:
        call = asyncio.create_task(
            http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_post")),
        )
        await wait_until_held(place.simulator, "slack.api.chat.postMessage")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    async with asyncio.timeout(30):
        await place.vault.deployment.drain._idle.wait()
    place.simulator.control("release")
    assert "needs the person's approval" in text_of(await post(place, agent))
    found = await read_events(place.vault.deployment, user_id=agent.principal.user_id)
    (event,) = [one for one in found if one.details.get("code") == "interrupted"]
    assert (event.kind, event.outcome, event.connection_id) == ("tool.called", "failed", connection.id)
    assert [one.kind for one in found].count("approval.consumed") == 1


async def test_what_does_not_fit_says_so_and_can_be_scrolled_by_keyboard(place: Room, browse: Browse) -> None:
    agent, _ = await asking_agent(place, "leo", "tool:slack_post")
    browser = await browse("leo")
    for text, is_long in (("short", False), ("word " * 100, True), ("line\n" * 12, True)):
        page = (await browser.open(link_of(await post(place, agent, {**POST, "text": text})))).text
        assert (f"{len(text)} characters: scroll" in page) is is_long
        assert ('<pre class="text" tabindex="0"' in page) is is_long


async def test_a_no_is_told_to_the_agent_and_not_asked_again(place: Room, browse: Browse) -> None:
    agent, _ = await asking_agent(place, "no-person", "chat:write")
    before = count_posts(place)
    asked = await post(place, agent)
    browser = await browse("no-person")
    page = await browser.open(link_of(asked))
    said = await browser.submit(page, form="/approvals/", button=("decision", "deny"))
    assert "Denied" in said.text
    assert "denied this call" in text_of(await post(place, agent))
    assert count_posts(place) == before
    await browser.__aexit__()


@pytest.mark.requirement("S-061")
async def test_only_the_person_who_is_asked_can_look_and_answer(place: Room, browse: Browse) -> None:
    agent, _ = await asking_agent(place, "asked-person", "chat:write")
    await place.vault.add_user("stranger")
    link = link_of(await post(place, agent))
    stranger = await browse("stranger")
    page = await stranger.open(link)
    assert page.status_code == 403
    assert "CANARY-hello" not in page.text
    mine = await browse("asked-person")
    assert (await mine.open(link)).status_code == 200  # the twin
    for browser in (stranger, mine):
        await browser.__aexit__()


async def test_whoever_has_to_sign_in_first_comes_back_to_the_question(place: Room) -> None:
    agent, _ = await asking_agent(place, "signing-person", "chat:write")
    link = link_of(await post(place, agent))
    async with Person(place.url) as browser:
        page = await browser.open(link)
        assert "CANARY-hello" not in page.text
        assert "CANARY-hello" in (await browser.sign_in("signing-person", PASSWORD, page=page)).text


async def test_an_answer_counts_once(place: Room, browse: Browse) -> None:
    agent, _ = await asking_agent(place, "once-person", "chat:write")
    browser = await browse("once-person")
    page = await browser.open(link_of(await post(place, agent)))
    await browser.submit(page, form="/approvals/", button=("decision", "deny"))
    late = await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    assert late.status_code == 410
    assert "denied this call" in text_of(await post(place, agent))
    await browser.__aexit__()


async def test_what_is_asked_now_stands_on_one_page_for_any_device(place: Room, browse: Browse) -> None:
    agent, _ = await asking_agent(place, "list-person", "chat:write")
    browser = await browse("list-person")
    assert "Nothing to approve" in (await browser.open("/approvals")).text
    asked = await post(place, agent)
    assert f"{place.url}/approvals on any device." in text_of(asked)
    assert link_of(asked).removeprefix(place.url) in (await browser.open("/approvals")).text
    await browser.__aexit__()


async def test_a_client_that_opens_links_goes_on_when_the_person_has_answered(
    place: Room, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "WAIT", 0.01)
    agent, _ = await asking_agent(place, "modern-person", "tool:slack_post")
    params: dict[str, object] = {"name": "slack_post", "arguments": dict(POST)}

    async def call(**more: object) -> dict[str, object]:
        message = modern("tools/call", params | more)
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {"url": {}}}
        async with place.http(agent) as http:
            answer = await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_post"))
        return answer.json()["result"]

    first = await call()
    assert first["resultType"] == "input_required"
    url = str(first["inputRequests"]["connect"]["params"]["url"])
    accepted = {"requestState": first["requestState"], "inputResponses": {"connect": {"action": "accept"}}}
    early = await call(**accepted)
    assert early["inputRequests"]["connect"]["params"]["url"] == url
    browser = await browse("modern-person")
    page = await browser.open(url)
    await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    assert not (await call(**accepted)).get("isError")
    await browser.__aexit__()


async def test_the_person_chooses_on_the_agents_page_what_to_be_asked_about(place: Room, browse: Browse) -> None:
    agent, connection = await asking_agent(place, "choosing-person")
    browser = await browse("choosing-person")
    page = await browser.open(f"/agents/{agent.principal.client_id}")
    assert "Ask me each time" in page.text
    kept: dict[str, str | list[str] | None] = {
        f"level.{connection.id}": "custom",
        "use": [f"{connection.id} {scope}" for scope in SLACK],
    }
    await browser.submit(page, kept | {"ask": [f"{connection.id} tool:slack_post"]}, form="/access")
    assert "needs the person's approval" in text_of(await post(place, agent))
    page = await browser.open(f"/agents/{agent.principal.client_id}")
    await browser.submit(page, kept | {"ask": []}, form="/access")
    assert not (await post(place, agent)).is_error
    page = await browser.open(f"/agents/{agent.principal.client_id}")
    writes: dict[str, str | list[str] | None] = {f"level.{connection.id}": "write", f"asks.{connection.id}": "writes"}
    await browser.submit(page, writes, form="/access")
    assert "needs the person's approval" in text_of(await post(place, agent))
    page = await browser.open(f"/agents/{agent.principal.client_id}")
    await browser.submit(page, {f"asks.{connection.id}": None}, form="/access")
    assert not (await post(place, agent)).is_error
    await browser.__aexit__()


async def test_the_operator_can_have_a_tool_or_a_scope_asked_about(tmp_path: Path) -> None:
    for number, entry in enumerate(("slack_post", "slack:chat:write")):
        data = tmp_path / str(number)
        async with room(data, approvals={"ask": [entry]}) as place:
            agent = await place.agent()
            await place.connect(agent, "slack", scopes=SLACK)
            assert "needs the person's approval" in text_of(await post(place, agent))
            async with place.client(agent) as client:
                assert not (await client.call_tool("slack_channels", {})).is_error  # the twin: another tool


async def test_a_rule_about_nothing_stops_the_start(place: Room) -> None:
    deployment = place.vault.deployment
    for entry in ("slack_pots", "slack:chat:wriet", "slak:chat:write", "connections"):
        settings = deployment.settings.model_copy(
            update={"approvals": deployment.settings.approvals.model_copy(update={"ask": (entry,)})}
        )
        with pytest.raises(SettingsRefused, match=r"approvals\.ask"):
            ApprovalRules.from_settings(settings, deployment.catalog, deployment.tools)


def test_what_cannot_be_seen_is_shown_as_its_code_point() -> None:
    assert visible("a\u202eb\u200bc\x07\ud800") == "a‹U+202E›b‹U+200B›c‹U+0007›‹U+D800›"
    assert visible("two\nlines\tand é 漢 👍") == "two\nlines\tand é 漢 👍"
    assert visible(["a", 1]) == '[\n  "a",\n  1\n]'


async def test_a_handshake_session_that_opens_links_is_asked_by_its_revisions_error(
    place: Room, browse: Browse
) -> None:
    agent, _ = await asking_agent(place, "handshake-person", "tool:slack_post")
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "slack_post", "arguments": POST}}
    async with place.http(agent) as http:
        session = await legacy_session(http, capabilities={"elicitation": {"url": {}}})
        answer = (await http.post("/mcp", json=message, headers=legacy_headers(session))).json()
        assert answer["error"]["code"] == -32042
        url = answer["error"]["data"]["elicitations"][0]["url"]
        assert url.startswith(f"{place.url}/approvals/")
        assert url in answer["error"]["message"]
        told = (await http.post("/mcp", json=message | {"id": 4}, headers=legacy_headers(session))).json()
        assert url in told["result"]["content"][0]["text"]  # nobody opened the link: the same question, as text
        browser = await browse("handshake-person")
        page = await browser.open(url)
        assert "CANARY-hello" in page.text
        await browser.submit(page, form="/approvals/", button=("decision", "allow"))
        done = (await http.post("/mcp", json=message | {"id": 2}, headers=legacy_headers(session))).json()
        assert not done["result"].get("isError")
        again = (await http.post("/mcp", json=message | {"id": 3}, headers=legacy_headers(session))).json()
        assert again["error"]["code"] == -32042
