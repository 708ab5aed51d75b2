"""Credentials in a program's requests: added only while its tool call runs, only for that call's person and agent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from server.programs.hosted.turns import Turn
from server.proxy.program_hosts import HostMap
from tests.programs.hosted.hosted_room import CURIOUS, HostedRoom, hosted_room, needs_sandbox, text
from tests.support.rooms.mcp_room import Agent
from vault.refusals import ConnectionRequired

CHANNELS = "https://slack.com/api/conversations.list"
POST = "https://slack.com/api/chat.postMessage"


async def channels(place: HostedRoom, agent: Agent) -> Any:
    answer = await place.ask(agent, "fetch", url=CHANNELS)
    return json.loads(answer["body"]) if isinstance(answer, dict) and answer["status"] == 200 else answer


async def test_a_call_uses_the_account_and_is_recorded_with_its_requests(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    asked = str(await channels(place, agent))
    assert "curious_fetch needs a Slack account" in asked or "needs your permission" in asked, asked
    await place.slack(agent)
    assert (await channels(place, agent))["ok"] is True
    (called, *_) = await place.events("tool.called", agent)
    (proxied, *_) = await place.events("proxy.called", agent)
    assert (proxied.outcome, proxied.details["tool"]) == ("ok", "curious_fetch")
    assert proxied.details["request_id"] == called.details["request_id"]
    (issued, *_) = await place.events("handle.issued", agent)
    assert issued.details["purpose"] == "curious_fetch"


async def test_between_calls_nothing_is_put_in(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.slack(agent)
    await place.ask(agent, "fetch_later", url=CHANNELS, seconds=0.5)
    seen: list[str] = []
    async with asyncio.timeout(30):
        while not (await place.events("program.called", agent)):
            await asyncio.sleep(0.1)
    (refused, *_) = await place.events("program.called", agent)
    assert (refused.details["host"], refused.details["code"]) == ("slack.com", "no_tool_call")
    assert not await place.events("proxy.called", agent)
    async with asyncio.timeout(30):
        while not (seen := await place.ask(agent, "answers_seen")):
            await asyncio.sleep(0.1)
    assert "Tunnel connection failed: 403" in seen[0]
    assert (await channels(place, agent))["ok"] is True  # the twin: during a call


async def test_a_connection_ends_with_its_call(place: HostedRoom) -> None:
    agent, arrived, ended = await place.agent("curious"), asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        while await reader.read(1000):
            pass
        ended.set()
        writer.close()

    server = await asyncio.start_server(hold, sock=place.named)
    async with asyncio.timeout(30):
        call = asyncio.create_task(
            place.ask(agent, "fetch_beside", url=f"http://localhost:{place.named_port}/", seconds=1.0)
        )
        await arrived.wait()
        assert not ended.is_set()
        assert await call == "answered"
        await ended.wait()
    server.close()


async def test_each_person_and_agent_has_a_process_of_their_own(place: HostedRoom) -> None:
    alice, other, bob = [await place.agent("curious", person=name) for name in ("alice", "alice", "bob")]
    await place.slack(alice)
    started = [await place.ask(one, "pid") for one in (alice, other, bob)]
    assert len(set(started)) == 3
    assert await place.ask(alice, "pid") == started[0]
    assert (await channels(place, alice))["ok"] is True
    for one in (other, bob):
        assert "ok" not in str(await channels(place, one)).split(), "not with the account of alice"
        assert not await place.events("proxy.called", one)


async def test_it_calls_with_the_agents_scopes_and_no_more(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    account = await place.slack(agent, frozenset({"channels:read"}))
    body = json.dumps({"channel": "C0SBRANDOM1", "text": "hello"})
    assert (await channels(place, agent))["ok"] is True
    refused = await place.call(agent, "curious", "fetch", url=POST, method="POST", body=body)
    assert refused.is_error
    assert "chat:write" in text(refused) or "Post, change" in text(refused), text(refused)
    await place.room.allow(agent, account, frozenset({"channels:read", "chat:write"}))
    done = await place.ask(agent, "fetch", url=POST, method="POST", body=body)
    assert json.loads(done["body"])["ok"] is True


async def test_a_result_is_kept_where_only_a_part_lacked_a_permission(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    account = await place.slack(agent, frozenset({"channels:read"}))
    both = {"url": CHANNELS, "other": "https://slack.com/api/conversations.history?channel=C0SBRANDOM1"}
    kept = await place.call(agent, "curious", "fetch_both", **both, strict=0)
    assert not kept.is_error, text(kept)
    assert '"status": 200' in kept.structured_content["text"][0]
    for said in (text(kept), kept.structured_content["_vault"]):
        assert "[vault] A part may be missing. " in said
        assert "Read messages in public channels" in said or "channels:history" in said, said
        assert place.room.url in said, "with a link for the person"
    failed = await place.call(agent, "curious", "fetch_both", **both, strict=1)
    assert failed.is_error
    assert place.room.url in text(failed)
    await place.room.allow(agent, account, frozenset({"channels:read", "channels:history"}))
    whole = await place.call(agent, "curious", "fetch_both", **both, strict=1)
    assert not whole.is_error, text(whole)
    assert "A part may be missing" not in text(whole)


async def test_a_result_is_kept_where_no_link_can_be_made_for_what_is_missing(tmp_path: Path) -> None:
    needs_sandbox()
    async with hosted_room(tmp_path / "vault", curious=CURIOUS) as place:
        await place.add("curious")
        agent = await place.agent("curious")
        await place.slack(agent, frozenset({"chat:write"}))
        body = json.dumps({"channel": "C0SBRANDOM1", "text": "hello"})
        both = {"url": POST, "method": "POST", "body": body, "other": CHANNELS, "strict": 0}
        writing, before = place.deployment.database._writing, len(place.room.simulator.books()["posts"])
        await writing.execute("alter table tickets rename to tickets_away")
        try:
            kept = await place.call(agent, "curious", "fetch_both", **both)
        finally:
            await writing.execute("alter table tickets_away rename to tickets")
        assert len(place.room.simulator.books()["posts"]) == before + 1
        assert not kept.is_error, text(kept)
        assert '"status": 200' in kept.structured_content["text"][0]
        assert "A part may be missing. The person needs to allow more for this." in text(kept)
        assert "don't repeat the whole call" in text(kept)
        twin = await place.call(agent, "curious", "fetch_both", **both)
        assert place.room.url in text(twin), "with a link, now that one can be made"


async def test_a_tool_that_was_accepted_as_reading_changes_nothing(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.slack(agent)
    body = json.dumps({"channel": "C0SBRANDOM1", "text": "hello"})
    assert json.loads((await place.ask(agent, "fetch", url=POST, method="POST", body=body))["body"])["ok"] is True
    refused = await place.ask(agent, "peek", url=POST, method="POST", body=body)
    assert refused["status"] == 403
    assert "accepted as a tool that only reads" in refused["body"]
    assert json.loads((await place.ask(agent, "peek", url=CHANNELS))["body"])["ok"] is True
    listed = await place.ask(agent, "peek", url=CHANNELS, method="POST", body="{}")
    assert json.loads(listed["body"])["ok"] is True, "Slack's own SDKs read with POST"
    assert "any:call" not in place.deployment.catalog.provider("slack").reading_scopes


async def test_a_get_that_may_change_something_is_no_reading(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.slack(agent, frozenset({"channels:read", "any:call"}))
    url = "https://slack.com/api/conversations.archive?channel=C0SBRANDOM1"
    refused = await place.ask(agent, "peek", url=url)
    assert "accepted as a tool that only reads" in str(refused), refused
    done = await place.ask(agent, "fetch", url=url)
    assert "accepted as a tool that only reads" not in str(done)
    (called, *_) = await place.events("proxy.called", agent)
    assert called.details["tool"] == "curious_fetch"


async def test_only_named_hosts_are_reached(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    other = await place.ask(agent, "fetch", url="https://other.example/")
    assert "403" in str(other)
    (refused, *_) = await place.events("program.called", agent)
    assert refused.details == {
        **refused.details,
        "host": "other.example",
        "code": "host_refused",
        "tool": "curious_fetch",
    }
    named = await place.ask(agent, "fetch", url="https://named.example:81/")
    assert "502" in str(named), "let through, and nobody is there"
    assert "403" in str(await place.ask(agent, "fetch", url="https://named.example/")), "at that port only"
    github = await place.ask(agent, "fetch", url="https://api.github.com/user")
    assert "403" in str(github), "a provider that isn't on its list"


async def test_a_host_is_recorded_once_in_a_call_and_counts_as_written(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.ask(agent, "pid")
    (process,) = [
        one for one in place.hosted_servers.live if one.caller.principal.client_id == agent.principal.client_id
    ]
    turn = Turn(place.deployment, process.caller, process.settings, HostMap(()))
    turn._access.missing = ConnectionRequired("missing", provider="slack", reason="missing", scopes=frozenset())
    for number in range(150):
        for _ in range(2):
            turn.note_host(f"h{number}.example", 443, False)
    with pytest.raises(ConnectionRequired):
        turn.check_permission()
    turn = Turn(place.deployment, process.caller, process.settings, HostMap(()))
    turn._access.missing = ConnectionRequired("missing", provider="slack", reason="missing", scopes=frozenset())
    for _ in range(3):
        turn.note_host("reached.example", 443, True)
    turn.check_permission()
    async with asyncio.timeout(60):
        while not (reached := await place.events("program.called", agent)) or reached[0].outcome != "ok":
            await asyncio.sleep(0.1)
    assert sum(one.outcome == "ok" for one in reached) == 1
    assert len(reached) <= 101


async def test_a_permission_that_ends_ends_the_process(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    before = await place.ask(agent, "pid")
    (process,) = [
        one for one in place.hosted_servers.live if one.caller.principal.client_id == agent.principal.client_id
    ]
    access = await place.access(agent, "curious")
    await place.forbid(agent, access)
    assert "isn't allowed to use it" in await place.ask(agent, "pid")
    async with asyncio.timeout(30):
        while not process.has_ended:
            await asyncio.sleep(0.1)
    await place.room.allow(agent, access, place.deployment.catalog.provider("curious").own_scopes)
    assert await place.ask(agent, "pid") != before
