"""`token-vault explain` on the command line; the agent gets the same sentence if it reveals nothing new."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from mcp_types import CallToolResult, TextContent
from typer.testing import CliRunner, Result

from server.administration import group_accounts, groups
from server.administration.actor import Actor
from server.administration.people import person_with_id
from server.cli import app
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.rooms.mcp_room import SLACK, Agent, Room, room
from vault import clients, delegations
from vault.records import ClientKind, Connection


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("explained")) as opened:
        yield opened


async def run(place: Room, agent: Agent, connection: Connection | str, *more: str, user: str = "alice") -> Result:
    named = connection if isinstance(connection, str) else connection.id
    arguments = ["explain", "--user", user, "--client", agent.principal.client_id, "--connection", named, *more]
    arguments += ["--data", str(place.vault.deployment.data)]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def call_result_text(place: Room, agent: Agent) -> str:
    """What the agent reads when it calls the tool and can't open links."""
    async with place.client(agent) as client:
        result = await client.call_tool("slack_post", {"channel": "#general", "text": "hello"})
    assert isinstance(result, CallToolResult)
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def test_what_works_and_what_does_not_differ_in_the_exit_code(place: Room) -> None:
    agent = await place.agent("alice", client_name="Explained")
    connection = await place.connect(agent, "slack", scopes=SLACK, delegated=frozenset({"channels:read"}))
    works = await run(place, agent, connection, "--scopes", "channels:read")
    assert works.exit_code == 0, works.output
    assert "An exchange returns channels:read (enforced" in works.stdout
    assert works.stdout.count("ok\n") == 11
    assert "upstream   not checked: only a call shows" in works.stdout
    fails = await run(place, agent, connection, "--scopes", "channels:read chat:write", "--json")
    assert fails.exit_code == 1
    said = json.loads(fails.stdout)
    assert (said["works"], said["failing"]["step"]) == (False, "delegation")
    assert said["passed"][-1] == "scopes"
    outcomes = {one["step"]: one["outcome"] for one in said["steps"]}
    assert (outcomes["state"], outcomes["delegation"], outcomes["token"]) == ("ok", "failed", "not checked")
    in_words = await run(place, agent, connection, "--scopes", "chat:write")
    assert f"delegation_required: {said['failing']['sentence']}".partition(", but")[0] in in_words.stdout
    assert "fix: " in in_words.stdout


async def test_it_says_what_the_client_would_be_handed_over_http(place: Room) -> None:
    agent = await place.agent("olga", client_name="Released")
    connection = await place.connect(agent, "slack", scopes=SLACK)
    deployment = place.vault.deployment

    async def handover(**changes: object) -> dict[str, str | None]:
        client = await clients.get_client(deployment.database, agent.principal.client_id)
        assert client is not None
        async with deployment.transaction() as transaction:
            await clients.update_client(transaction, replace(client, **changes))
            if "kind" in changes:
                await transaction.execute(
                    "update clients set kind = :kind where id = :id", {"id": client.id, "kind": str(changes["kind"])}
                )
        said = await run(place, agent, connection, "--scopes", "chat:write", "--json", user="olga")
        return json.loads(said.stdout)["release"]

    assert await handover() == {"policy": "proxy", "gives": "nothing", "narrowing": None}
    exchanging = frozenset({"authorization_code", TOKEN_EXCHANGE})
    assert await handover(grant_types=exchanging) == {"policy": "proxy", "gives": "handle", "narrowing": None}
    known = {"kind": ClientKind.MANUAL, "auth_method": "client_secret_basic"}
    assert await handover(**known) == {"policy": "narrowed", "gives": "handle", "narrowing": None}
    full = await handover(metadata={"release": {"slack": "full"}})
    assert full == {"policy": "full", "gives": "upstream token", "narrowing": "none"}
    in_words = await run(place, agent, connection, "--scopes", "chat:write", user="olga")
    assert "the provider's own token (release policy full)" in in_words.stdout


async def test_names_may_stand_for_ids(place: Room) -> None:
    agent = await place.agent("nora", client_name="Named agent")
    connection = await place.connect(agent, "slack", scopes=SLACK)
    named = ["explain", "--user", "nora", "--client", "named agent", "--connection", connection.label, "--json"]
    arguments = [*named, "--data", str(place.vault.deployment.data)]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert json.loads(result.stdout)["works"] is True
    for user, step in (("nobody", "user"), ("alice", "grant")):
        refused = await run(place, agent, connection.label, "--json", user=user)
        assert (refused.exit_code, json.loads(refused.stdout)["failing"]["step"]) == (1, step)


async def test_the_agent_reads_the_same_sentence_of_an_account_that_it_may_use(place: Room) -> None:
    agent = await place.agent("mary")
    connection = await place.connect(agent, "slack", scopes=SLACK, delegated=frozenset({"channels:read"}))
    said = json.loads((await run(place, agent, connection, "--scopes", "chat:write", "--json", user="mary")).stdout)
    assert said["failing"]["sentence"] in await call_result_text(place, agent)


async def test_the_agent_does_not_learn_the_name_of_an_account_that_it_may_not_use(place: Room) -> None:
    agent = await place.agent("paul")
    connection = await place.connect(agent, "slack", scopes=SLACK, delegated=frozenset())
    text = await call_result_text(place, agent)
    assert connection.label not in text
    assert "isn't allowed to use it" in text
    said = json.loads((await run(place, agent, connection, "--scopes", "chat:write", "--json", user="paul")).stdout)
    assert connection.label in said["failing"]["sentence"]


async def test_a_groups_account_is_named_by_its_members_only(place: Room) -> None:
    deployment, operator = place.vault.deployment, Actor(place.vault.deployment, None, "command_line")
    giver, member = await place.agent("giver"), await place.agent("member")
    own = await place.connect(giver, "slack", scopes=SLACK)
    owner = await person_with_id(deployment.database, giver.principal.user_id)
    group = await groups.create(operator, "Explained")
    await groups.add_member(operator, group, await person_with_id(deployment.database, member.principal.user_id))
    given = await group_accounts.give(operator, owner, own.id, group, reads_only=False, asks_writes=False)
    async with deployment.transaction() as transaction:
        which = {"user_id": member.principal.user_id, "client_id": member.principal.client_id}
        scopes, now = frozenset({"chat:write"}), deployment.now()
        await delegations.allow(transaction, **which, connection_id=given.id, scopes=scopes, now=now)
    for named in (given.id, given.label, "slack"):
        works = await run(place, member, named, user="member")
        assert works.exit_code == 0, works.output
        refused = await run(place, giver, named, user="giver")
        assert refused.exit_code == 1
        assert "giver has no such connection." in refused.output
    for user, agent, code in (("giver", giver, 1), ("member", member, 0)):
        ask = ["delegations", "ask", agent.principal.client_id, "slack", "--tool", "slack_post", "--user", user]
        asked = await asyncio.to_thread(CliRunner().invoke, app, [*ask, "--data", str(deployment.data)])
        assert asked.exit_code == code, asked.output
    held = await delegations.get(deployment.database, **which, connection_id=given.id)
    assert held is not None
    assert held.ask == {"tool:slack_post"}


async def test_nothing_is_connected_is_said_alike(place: Room) -> None:
    agent = await place.agent("rita")
    text = await call_result_text(place, agent)
    assert "No slack account is connected yet" in text
    assert text.count("connected yet") == 1, "said twice"
