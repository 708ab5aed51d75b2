"""Calls that wait for approval as tasks of MCP 2026-07-28: offered to clients that support it, made once, private."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import httpx2
import pytest
from mcp.client import ClaimContext, ClientExtension, ResultClaim
from mcp_types import CallToolResult, Request, RequestParams, Result, TextContent

from providers.tools.builtin import builtin_tools
from server.connecting import approvals
from tests.generating.shipped_tools import shipped_tools
from tests.mcp.test_approve import POST, asking_agent
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.mcp_room import (
    Agent,
    Room,
    count_posts,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
)
from tests.support.toolset_cases import CASES
from vault.approvals import approvals as vault_approvals
from vault.approvals import requests
from vault.approvals.approvals import RELEASE
from vault.approvals.requests import BackchannelRequest
from vault.records import TENANT

TASKS = "io.modelcontextprotocol/tasks"
FOLLOWS: Mapping[str, object] = {"extensions": {TASKS: {}}}
OPENS: Mapping[str, object] = {"elicitation": {"url": {}}}


async def ask(
    place: Room, agent: Agent, method: str, params: Mapping[str, object], *, can: Mapping[str, object] = FOLLOWS
) -> dict[str, Any]:
    """Send one request from a client with these capabilities."""
    message: dict[str, Any] = modern(method, params)
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = dict(can)
    name = str(params.get("name", params.get("taskId", "")))
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=message, headers=modern_headers(method, name or None))
    return answer.json()


async def post(place: Room, agent: Agent, *, can: Mapping[str, object] = FOLLOWS, **more: object) -> dict[str, Any]:
    call = {"name": "slack_post", "arguments": dict(POST), **more}
    return (await ask(place, agent, "tools/call", call, can=can))["result"]


async def get(place: Room, agent: Agent, task: str) -> dict[str, Any]:
    return (await ask(place, agent, "tasks/get", {"taskId": task}))["result"]


async def start_task(place: Room, name: str) -> tuple[Agent, str]:
    """An agent whose call waits as a task."""
    agent, _ = await asking_agent(place, name, "tool:slack_post")
    return agent, str((await post(place, agent))["taskId"])


async def answer(place: Room, name: str, task: str, decision: str) -> httpx2.Response:
    """The person answers on their page."""
    async with Person(place.url) as browser:
        assert (await browser.sign_in(name, PASSWORD)).status_code == 200
        page = await browser.open(f"/approvals/{task}")
        return await browser.submit(page, form="/approvals/", button=("decision", decision))


def words(task: Mapping[str, Any]) -> str:
    assert task["status"] == "completed", task
    assert task["result"]["isError"]
    return task["result"]["content"][0]["text"]


async def test_a_call_waits_as_a_task_and_is_made_when_its_client_polls_after_the_yes(place: Room) -> None:
    agent, _ = await asking_agent(place, "patient", "tool:slack_post")
    offered, before = await post(place, agent), count_posts(place)
    assert {key: offered[key] for key in ("resultType", "status", "ttlMs", "pollIntervalMs")} == {
        "resultType": "task",
        "status": "working",
        "ttlMs": 1_800_000,
        "pollIntervalMs": 2_000,
    }
    task = offered["taskId"]
    assert f"{place.url}/approvals/{task}" in offered["statusMessage"]
    waiting = await get(place, agent, task)
    assert (waiting["resultType"], waiting["status"], waiting["createdAt"]) == (
        "complete",
        "working",
        offered["createdAt"],
    )
    assert "result" not in waiting
    assert "Approved" in (await answer(place, "patient", task, "allow")).text
    assert count_posts(place) == before, "the yes alone does nothing"
    done = await get(place, agent, task)
    assert done["status"] == "completed"
    assert not done["result"].get("isError")
    assert done["result"]["structuredContent"]["channel"]
    assert count_posts(place) == before + 1
    assert await get(place, agent, task) == done, "for a client that missed the answer"
    assert count_posts(place) == before + 1
    assert (await post(place, agent))["taskId"] != task, "a yes is for one call"


async def test_only_clients_that_follow_tasks_are_offered_one(place: Room) -> None:
    agent, _ = await asking_agent(place, "plain", "tool:slack_post")
    told = await post(place, agent, can={})
    assert told["isError"]
    assert "/approvals/" in told["content"][0]["text"]
    assert (await post(place, agent))["resultType"] == "task"  # the twin
    discovered = await ask(place, agent, "server/discover", {})
    assert TASKS in discovered["result"]["capabilities"]["extensions"]
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "slack_post", "arguments": POST}}
    async with place.http(agent) as http:
        session = await legacy_session(http, capabilities=FOLLOWS)
        old = (await http.post("/mcp", json=call, headers=legacy_headers(session))).json()
        assert old["result"]["isError"], "no task before 2026-07-28"
        poll = {"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": {"taskId": "x"}}
        refused = (await http.post("/mcp", json=poll, headers=legacy_headers(session))).json()
        assert refused["error"]["code"] == -32601


async def test_a_client_that_opens_links_does_that_first(place: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "WAIT", 0.01)
    agent, _ = await asking_agent(place, "opener", "tool:slack_post")
    both = {**FOLLOWS, **OPENS}
    first = await post(place, agent, can=both)
    assert first["resultType"] == "input_required"
    opened = {"requestState": first["requestState"], "inputResponses": {"connect": {"action": "accept"}}}
    offered = await post(place, agent, can=both, **opened)
    assert offered["resultType"] == "task"
    await answer(place, "opener", offered["taskId"], "allow")
    assert not (await get(place, agent, offered["taskId"]))["result"].get("isError")


async def test_a_task_is_nobody_elses(place: Room) -> None:
    agent, task = await start_task(place, "owner-of-a-task")
    other, _ = await asking_agent(place, "stranger", "tool:slack_post")
    same_person = await place.agent("owner-of-a-task")
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        for who in (other, same_person):
            refused = await ask(place, who, method, {"taskId": task, "inputResponses": {}})
            assert refused["error"]["code"] == -32602, method
    assert (await ask(place, agent, "tasks/get", {"taskId": "unknown"}))["error"]["code"] == -32602
    assert (await ask(place, agent, "tasks/get", {}))["error"]["code"] == -32602
    acknowledged = await ask(place, agent, "tasks/update", {"taskId": task, "inputResponses": {"x": {}}})
    assert acknowledged["result"]["resultType"] == "complete"
    assert (await get(place, agent, task))["status"] == "working"  # the twin: not affected by any of this


async def test_a_question_about_no_call_is_no_task(place: Room) -> None:
    """A client's own request and an exchange ask the person, too, but are answered elsewhere."""
    agent, _ = await asking_agent(place, "other-questions", "tool:slack_post")
    deployment, who = place.vault.deployment, agent.principal
    wanted = BackchannelRequest(frozenset({"openid"}), f"{place.url}/mcp")
    bound = {"user_id": who.user_id, "client_id": who.client_id}
    async with deployment.transaction() as transaction:
        now = deployment.now()
        request, _ = await requests.ask(
            transaction, deployment.keys, request=wanted, lifetime=300, ping_token=None, now=now, **bound
        )
        facts = {"tenant": TENANT, "id": "released", "connection_id": "c", "tool": RELEASE, "digest": b"d", **bound}
        times = {"created_at": now, "expires_at": now + 300}
        exchange = await vault_approvals.keep_question(transaction, deployment.keys, {**facts, **times}, payload={})
    for one in (request, exchange):
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            refused = await ask(place, agent, method, {"taskId": one.id, "inputResponses": {}})
            assert refused["error"]["code"] == -32602, (one.tool, method)
        found = await vault_approvals.get(deployment.database, deployment.keys, one.id)
        assert found is not None
        assert found.status(deployment.now()) == "pending"
    task = (await post(place, agent))["taskId"]  # the twin
    assert (await get(place, agent, task))["status"] == "working"


async def test_of_many_that_poll_at_once_one_makes_the_call(place: Room) -> None:
    agent, task = await start_task(place, "crowded")
    await answer(place, "crowded", task, "allow")
    before = count_posts(place)
    found = await asyncio.gather(*(get(place, agent, task) for _ in range(12)))
    assert {one["status"] for one in found} <= {"working", "completed"}
    assert count_posts(place) == before + 1
    assert not (await get(place, agent, task))["result"].get("isError")


async def test_a_no_and_no_answer_complete_the_task_with_words(place: Room) -> None:
    agent, task = await start_task(place, "denier")
    await answer(place, "denier", task, "deny")
    assert "denied this call" in words(await get(place, agent, task))
    agent, task = await start_task(place, "absent")
    database = place.vault.deployment.database
    database.clock_offset += 601
    try:
        assert "in time" in words(await get(place, agent, task))
    finally:
        database.clock_offset -= 601


async def test_a_client_withdraws_what_waits_and_not_what_was_done(place: Room) -> None:
    agent, task = await start_task(place, "regretful")
    before = count_posts(place)
    assert (await ask(place, agent, "tasks/cancel", {"taskId": task}))["result"]["resultType"] == "complete"
    assert (await get(place, agent, task))["status"] == "cancelled"
    assert "Approved" not in (await answer_late(place, "regretful", task))
    assert count_posts(place) == before
    assert (await post(place, agent))["taskId"] != task
    agent, task = await start_task(place, "too-late")
    await answer(place, "too-late", task, "allow")
    done = await get(place, agent, task)
    await ask(place, agent, "tasks/cancel", {"taskId": task})
    assert await get(place, agent, task) == done
    kinds = [event.details.get("method") for event in await read_events(place.vault.deployment)]
    assert kinds.count("withdrawn") == 1


async def answer_late(place: Room, name: str, task: str) -> str:
    async with Person(place.url) as browser:
        assert (await browser.sign_in(name, PASSWORD)).status_code == 200
        return (await browser.open(f"/approvals/{task}")).text


async def test_a_call_that_was_begun_and_lost_is_not_made_again(place: Room) -> None:
    """As after a crash between making the call and storing its result."""
    agent, task = await start_task(place, "crashed")
    await answer(place, "crashed", task, "allow")
    before = count_posts(place)
    await get(place, agent, task)
    async with place.vault.deployment.transaction() as transaction:
        await transaction.execute("delete from tickets where purpose = 'task'")
    assert (await get(place, agent, task))["status"] == "working"
    database = place.vault.deployment.database
    database.clock_offset += 31
    try:
        assert "Check whether it was done" in words(await get(place, agent, task))
    finally:
        database.clock_offset -= 31
    assert count_posts(place) == before + 1


class _Params(RequestParams):
    task_id: str


class _Get(Request[_Params, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"


class _Task(Result):
    result_type: Literal["task"] = "task"
    task_id: str


class _State(Result):
    status: str
    result: dict[str, Any] | None = None


class Follower(ClientExtension):
    """Polls as a client would."""

    identifier = TASKS

    def __init__(self, place: Room, person: str) -> None:
        self._place, self._person = place, person

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=_Task, resolve=self._follow)]

    async def _follow(self, task: _Task, context: ClaimContext) -> CallToolResult:
        wanted = _Get(params=_Params(task_id=task.task_id))
        assert (await context.session.send_request(wanted, _State)).status == "working"
        await answer(self._place, self._person, task.task_id, "allow")
        done = await context.session.send_request(wanted, _State)
        assert done.status == "completed"
        return CallToolResult.model_validate(done.result)


async def test_the_official_client_follows_a_task_with_an_extension_of_its_own(place: Room) -> None:
    agent, _ = await asking_agent(place, "follower", "tool:slack_post")
    async with place.client(agent, extensions=[Follower(place, "follower")]) as client:
        done = await client.call_tool("slack_post", dict(POST))
    assert not done.is_error
    assert isinstance(done.content[0], TextContent)


def test_what_is_kept_of_a_call_makes_the_same_call_again() -> None:
    specs = {spec.name: spec for spec in (*builtin_tools(), *shipped_tools().values())}
    for name, case in CASES.items():
        spec = specs[name]
        try:
            first = spec.input.model_validate(dict(case.arguments))
        except ValueError:  # some arguments are known only while a service runs
            continue
        kept = first.model_dump(mode="json")
        assert spec.input.model_validate(kept).model_dump(mode="json") == kept, name
