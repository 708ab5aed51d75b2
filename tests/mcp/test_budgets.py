"""How often one person's agents may call one provider: how calls are counted, and what agents are told at the limit."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from mcp_types import CallToolResult

from server.runtime import rate_limits
from server.runtime.rate_limits import Budgets
from tests.support.inspection import note_repeats, read_events
from tests.support.rooms.mcp_room import Agent, connect_agent, modern, modern_headers, room, text_of
from tests.support.rooms.proxy_room import post_reply, proxy_room
from vault import grants


def test_a_minute_has_so_many_calls_and_they_come_back_one_by_one() -> None:
    counted = Budgets(3)
    assert [counted.spend("alice", "slack", now=100.0) for _ in range(4)] == [0, 0, 0, 20]
    assert counted.spend("alice", "slack", now=119.0) == 1
    assert counted.spend("alice", "slack", now=120.0) == 0
    assert counted.spend("alice", "slack", now=120.0) == 20
    assert [counted.spend("alice", "slack", now=500.0) for _ in range(4)] == [0, 0, 0, 20]  # at most a minute's worth


def test_each_person_and_each_provider_is_counted_apart() -> None:
    counted = Budgets(1)
    assert counted.spend("alice", "slack", now=0.0) == 0
    assert counted.spend("alice", "slack", now=0.0) == 60
    assert counted.spend("alice", "google", now=0.0) == 0
    assert counted.spend("bob", "slack", now=0.0) == 0


def test_who_is_idle_is_forgotten_and_who_is_not_stays_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_KEPT", 3)
    counted = Budgets(1)
    for name in ("a", "b"):
        assert counted.spend(name, "slack", now=0.0) == 0
    assert counted.spend("busy", "slack", now=50.0) == 0
    assert counted.spend("next", "slack", now=70.0) == 0
    assert len(counted) == 2
    assert counted.spend("busy", "slack", now=70.0) == 40


class HashedName(str):
    """A name that counts how often a table looks at it."""

    looks = 0

    def __hash__(self) -> int:
        HashedName.looks += 1
        return super().__hash__()


def test_many_active_people_do_not_make_each_new_one_dearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_KEPT", 10)
    counted, how_many = Budgets(1), 2000
    for number in range(how_many):
        assert counted.spend(HashedName(number), "slack", now=number / 1000) == 0
    assert len(counted) == how_many, "all are active"
    assert HashedName.looks < 20 * how_many
    assert counted.spend("next", "slack", now=100.0) == 0
    assert counted.spend(HashedName(0), "slack", now=100.0) == 0, "its call came back"


async def test_an_agent_that_calls_too_often_is_told_when_and_nothing_is_sent(tmp_path: Path) -> None:
    async with room(tmp_path, tools={"calls_per_minute": 2}) as place:

        async def list_channels(agent: Agent) -> CallToolResult:
            async with place.client(agent) as client:
                return await client.call_tool("slack_channels", {})

        alice, bob = await connect_agent(place, "alice"), await connect_agent(place, "bob")
        for _ in range(2):
            assert not (await list_channels(alice)).is_error
        sent = len(place.simulator.books()["api_calls"])
        late = await list_channels(alice)
        assert late.is_error
        told = re.search(r"try again in (\d+) s", text_of(late))
        assert told is not None and 1 <= int(told[1]) <= 30
        second = await place.agent("alice")  # another agent of the same person
        assert "called this provider too often" in text_of(await list_channels(second))
        assert len(place.simulator.books()["api_calls"]) == sent
        assert not (await list_channels(bob)).is_error  # the twin: another person


def test_looking_how_long_to_wait_counts_nothing() -> None:
    counted = Budgets(1)
    assert [counted.wait("alice", "slack", now=0.0) for _ in range(3)] == [0, 0, 0]
    assert counted.spend("alice", "slack", now=0.0) == 0
    assert counted.wait("alice", "slack", now=0.0) == counted.spend("alice", "slack", now=0.0) == 60


async def test_calls_that_are_refused_do_not_use_up_what_the_person_has(tmp_path: Path) -> None:
    async with room(tmp_path, tools={"calls_per_minute": 2}) as place:
        agent = await connect_agent(place, "alice")
        cut_off, unpermitted = await connect_agent(place, "alice"), await place.agent("alice")
        async with place.vault.deployment.transaction() as transaction:
            await grants.revoke_grant(
                transaction, cut_off.principal.grant_id, reason="test", now=place.vault.deployment.now()
            )
        call = modern("tools/call", {"name": "slack_channels", "arguments": {}})
        headers = modern_headers("tools/call", "slack_channels")
        async with place.http(cut_off) as ended, place.http(unpermitted) as asking, place.http(agent) as http:
            for _ in range(3):
                assert (await ended.post("/mcp", json=call, headers=headers)).status_code == 401
                assert "error" in (await asking.post("/mcp", json=call, headers=headers)).text.lower()
            for _ in range(2):
                answer = (await http.post("/mcp", json=call, headers=headers)).json()
                assert not answer["result"].get("isError"), answer
            late = (await http.post("/mcp", json=call, headers=headers)).json()  # the twin: these calls count
            assert late["result"]["isError"]


async def test_an_agent_that_calls_without_a_provider_too_often_is_slowed_and_leaves_few_rows(tmp_path: Path) -> None:
    async with room(tmp_path, tools={"calls_per_minute": 5}) as place:
        alice = await connect_agent(place, "alice")
        before = len(await read_events(place.vault.deployment))
        async with place.client(alice) as client:
            told = [text_of(await client.call_tool("connections", {})) for _ in range(20)]
            wrong = [text_of(await client.call_tool("slack_channels", {"nonsense": 1})) for _ in range(20)]
            assert not (await client.call_tool("slack_channels", {})).is_error  # the twin: counts for the provider
        assert sum("This agent calls too often" in one for one in told) == 15
        assert all("This agent calls too often" in one for one in wrong)
        note_repeats(place.vault.deployment.activity)
        assert len(await read_events(place.vault.deployment)) - before < 20


async def test_an_agent_whose_calls_are_refused_in_a_loop_is_slowed_down_and_nobody_else_is(tmp_path: Path) -> None:
    async with room(tmp_path, tools={"calls_per_minute": 5}) as place:
        good, refused = await connect_agent(place, "alice"), await place.agent("alice")
        told: list[str] = []
        async with place.client(refused) as client:
            for _ in range(8):
                answer = await client.call_tool("slack_channels", {})
                assert answer.is_error
                told.append(text_of(answer))
        assert ["This agent calls too often" in text for text in told] == [False] * 5 + [True] * 3
        assert all(re.search(r"try again in \d+ s", text) for text in told[5:])
        async with place.client(good) as client:  # the twin: another agent of the same person
            assert not (await client.call_tool("slack_channels", {})).is_error


async def test_an_agent_whose_calls_the_proxy_refuses_in_a_loop_is_slowed_down_and_nobody_else_is(
    tmp_path: Path,
) -> None:
    async with proxy_room(tmp_path, tools={"calls_per_minute": 5}) as place:
        place.provider.answer = post_reply
        agent = await place.agent()
        handle = await place.handle(agent, await place.account(agent))
        other = await place.ready()
        for _ in range(8):  # calls that are carried out don't count
            assert (await handle.call(json={})).status_code == 200
        codes = [(await handle.call("POST", "/admin.users.list")).headers["token-vault-refusal"] for _ in range(8)]
        assert codes == ["call_not_allowed"] * 5 + ["rate_limited"] * 3
        late = await handle.call("POST", "/admin.users.list")
        assert late.status_code == 429
        assert 1 <= int(late.headers["retry-after"]) <= 12
        assert (await handle.call(json={})).status_code == 200  # the twin: an allowed call is still carried out
        assert (await other.call(json={})).status_code == 200  # the twin: another agent


async def test_a_call_beyond_the_hours_number_counts_as_no_refused_one(tmp_path: Path) -> None:
    async with proxy_room(tmp_path, tools={"calls_per_minute": 1}, proxy={"per_agent_hourly": 60}) as place:
        handle = await place.ready()
        who = handle.agent.principal
        while not place.vault.deployment.proxy_calls.spend(who.user_id, who.client_id, now=time.monotonic()):
            pass
        for _ in range(3):
            late = await handle.call(json={})
            assert late.status_code == 429
            assert "This agent calls too often" in late.json()["title"]
        codes = [(await handle.call("POST", "/admin.users.list")).headers["token-vault-refusal"] for _ in range(2)]
        assert codes == ["call_not_allowed", "rate_limited"]  # the twin: calls that are refused for their own reason
