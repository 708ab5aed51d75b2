"""An agent makes a call that its group's rule leaves out: it gets a form to file a request, or a link to the page."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import pytest

from server.administration import access_requests, group_accounts, groups
from server.administration.access_requests import AccessAnswer
from server.administration.actor import Actor
from tests.mcp.test_mcp_accounts import POST, text_of
from tests.support.rooms.mcp_room import SLACK, Agent, Room, modern, modern_headers
from vault import users
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessRequest

FORMS: Mapping[str, object] = {"elicitation": {"form": {}}}
LINKS: Mapping[str, object] = {"elicitation": {"url": {}}}
FILLED = {"action": "accept", "content": {"reason": "the launch", "days": 2}}


async def with_shared(place: Room, *, reads_only: bool = True) -> Agent:
    """An agent that may use its group's account, for which the rule allows only reading."""
    deployment = place.vault.deployment
    operator, owner = Actor(deployment, None, "command_line"), await place.agent()
    own = await place.connect(owner, "slack", scopes=SLACK)
    alice, agent = await users.get_user(deployment.database, owner.principal.user_id), None
    agent = await place.agent(f"person-{secrets.token_hex(4)}", client_name="Poster")
    member = await users.get_user(deployment.database, agent.principal.user_id)
    assert alice is not None and member is not None
    group = await groups.create(operator, f"Group {secrets.token_hex(4)}")
    await groups.add_member(operator, group, member)
    given = await group_accounts.give(operator, alice, own.id, group, reads_only=reads_only, asks_writes=False)
    await place.allow(agent, given, SLACK)
    return agent


async def call(
    place: Room,
    agent: Agent,
    *,
    capabilities: Mapping[str, object] = FORMS,
    state: object = None,
    filled: Mapping[str, object] | None = None,
) -> dict[str, object]:
    params: dict[str, object] = {"name": "slack_post", "arguments": dict(POST)}
    if state is not None:
        params |= {"requestState": state, "inputResponses": {"access_request": filled}}
    message = modern("tools/call", params)
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = dict(capabilities)
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_post"))
    return answer.json()["result"]


async def list_requests(place: Room, agent: Agent) -> tuple[AccessRequest, ...]:
    return await stored.list_of_person(place.vault.deployment.database, agent.principal.user_id)


async def test_a_person_agrees_in_a_form_and_the_group_is_asked_once(place: Room) -> None:
    agent = await with_shared(place)
    asked = await call(place, agent)
    question = asked["inputRequests"]["access_request"]["params"]
    assert "the group's rule leaves out chat:write" in question["message"]
    assert await list_requests(place, agent) == ()
    done = await call(place, agent, state=asked["requestState"], filled=FILLED)
    assert done["isError"]
    (request,) = await list_requests(place, agent)
    assert f"/access-requests/{request.id}" in text_of(done)
    assert (request.access.filed_by, request.access.reason, request.access.lifetime) == (
        "agent",
        "the launch",
        2 * 86400,
    )
    again = await call(place, agent)
    assert f"/access-requests/{request.id}" in text_of(again)
    await call(place, agent, state=asked["requestState"], filled=FILLED)
    assert len(await list_requests(place, agent)) == 1
    operator = Actor(place.vault.deployment, None, "command_line")
    await access_requests.allow(operator, request.id, AccessAnswer(1))
    waits = await call(place, agent)
    assert waits["isError"], "the client filled the form: the person has said nothing yet"
    assert "the person has to confirm it" in text_of(waits)
    person = await users.get_user(place.vault.deployment.database, agent.principal.user_id)
    await access_requests.confirm(Actor(place.vault.deployment, person, "browser"), request.id)
    assert not (await call(place, agent)).get("isError")


@pytest.mark.parametrize(
    ("filled", "said"),
    [
        ({"action": "decline"}, "declined to ask the group"),
        ({"action": "cancel"}, "/connect/"),
        ({"action": "accept", "content": {"reason": "x", "days": 99}}, "Ask for 1 to 30 days"),
        ({"action": "accept", "content": {}}, "Give a reason"),
    ],
)
async def test_nothing_is_filed_without_the_persons_yes(place: Room, filled: dict[str, object], said: str) -> None:
    agent = await with_shared(place)
    asked = await call(place, agent)
    told = await call(place, agent, state=asked["requestState"], filled=filled)
    assert said in text_of(told)
    assert await list_requests(place, agent) == ()
    await call(place, agent, state=asked["requestState"], filled=FILLED)
    assert len(await list_requests(place, agent)) == 1


async def test_a_client_without_forms_gets_a_link(place: Room) -> None:
    asked = await call(place, await with_shared(place), capabilities=LINKS)
    assert "/connect/" in str(asked["inputRequests"]["connect"]["params"]["url"])


async def test_what_the_rule_allows_needs_no_request(place: Room) -> None:
    assert not (await call(place, await with_shared(place, reads_only=False))).get("isError")
