"""A tool call that wrote something and then stopped says so; the vault never repeats it or advises to repeat it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated

import pytest
from mcp_types import TextContent
from pydantic import Field

from providers.api.api import PARTLY_DONE, UpstreamAPI
from providers.simulator.local_server import running_simulator
from providers.tools.spec import ToolOutput, ToolSpec
from providers.tools.tool import tool
from server.errors import status_of
from tests.mcp.test_mcp_storage import storage_away
from tests.support.harness import running_vault
from tests.support.processes import free_port
from tests.support.rooms.mcp_room import SLACK, Agent, Room, modern, modern_headers

Hook = Callable[[], Awaitable[None]]
LIFETIME = 13 * 3600  # longer than the lifetime of Slack's access tokens


class PostedTwice(ToolOutput):
    done: bool = Field(description="Whether both were posted")


class Hooks:
    """What happens before each of the tool's two posts."""

    def __init__(self) -> None:
        self.before: dict[int, Hook] = {}

    def spec(self) -> ToolSpec:
        @tool("slack", title="Post twice", scopes={"chat:write"}, effect="create")
        async def slack_post_twice(
            api: UpstreamAPI, text: Annotated[str, Field(description="The text of both")]
        ) -> PostedTwice:
            """Post a text twice."""
            for number in (1, 2):
                if (hook := self.before.get(number)) is not None:
                    await hook()
                await api.post("web", "/chat.postMessage", body={"channel": "#general", "text": text})
            return PostedTwice(done=True)

        return slack_post_twice


@pytest.fixture(scope="module")
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, hooks: Hooks) -> AsyncGenerator[Room]:
    async with (
        running_simulator() as simulator,
        running_vault(
            tmp_path_factory.mktemp("partial"), providers=simulator.settings(), more_tools=[hooks.spec()]
        ) as vault,
    ):
        yield Room(vault, simulator)


@pytest.fixture(scope="module")
async def cut_off(tmp_path_factory: pytest.TempPathFactory, hooks: Hooks) -> AsyncGenerator[Room]:
    """A room in which nothing listens at Slack's address for renewals."""
    async with running_simulator() as simulator:
        settings = {**simulator.settings()}
        settings["slack"] = {**settings["slack"], "refresh_url": f"http://127.0.0.1:{free_port()}/token"}
        folder = tmp_path_factory.mktemp("cut-off")
        async with running_vault(folder, providers=settings, more_tools=[hooks.spec()]) as vault:
            yield Room(vault, simulator)


@pytest.fixture
async def agent(place: Room, hooks: Hooks) -> Agent:
    hooks.before.clear()
    place.simulator.reset()
    found = await place.agent()
    await place.connect(found, "slack", scopes=SLACK)
    return found


async def call(place: Room, agent: Agent) -> tuple[str, bool]:
    async with place.client(agent) as client:
        result = await client.call_tool("slack_post_twice", {"text": "x"})
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text, bool(result.is_error)


def posts(place: Room) -> int:
    return len(place.simulator.books()["posts"])


@pytest.mark.parametrize("number", [2, 1], ids=["after a write", "before any write"])
async def test_a_renewal_without_storage_offers_a_retry_only_before_the_first_write(
    place: Room, agent: Agent, hooks: Hooks, number: int
) -> None:
    async def let_the_token_die() -> None:
        place.simulator.advance(LIFETIME)
        await place.vault.deployment.database._writing.execute("pragma query_only = on")

    hooks.before[number] = let_the_token_die
    params = {"name": "slack_post_twice", "arguments": {"text": "x"}}
    async with place.http(agent) as http, storage_away(place):
        await place.vault.deployment.database._writing.execute("pragma query_only = off")
        headers = modern_headers("tools/call", "slack_post_twice")
        answer = await http.post("/mcp", json=modern("tools/call", params, id=7), headers=headers)
    is_partial = number == 2
    assert (posts(place), "retry-after" in answer.headers) == ((1, False) if is_partial else (0, True)), answer.text
    assert (answer.status_code == status_of("temporarily_unavailable")) is not is_partial
    assert (PARTLY_DONE in answer.text) is is_partial
    assert ("Nothing is lost" in answer.text) is not is_partial


@pytest.mark.parametrize("number", [2, 1], ids=["after a write", "before any write"])
async def test_an_account_that_ends_within_a_call_is_offered_again_without_repeating_the_call(
    place: Room, agent: Agent, hooks: Hooks, number: int
) -> None:
    async def end_the_account() -> None:
        place.simulator.advance(LIFETIME)
        place.simulator.fault("slack.token.refresh", "invalid_grant")

    hooks.before[number] = end_the_account
    text, is_error = await call(place, agent)
    assert is_error
    assert f"{place.url}/connect/" in text
    assert (posts(place), PARTLY_DONE in text) == ((1, True) if number == 2 else (0, False)), text


@pytest.mark.parametrize("number", [2, 1], ids=["after a write", "before any write"])
async def test_a_rate_limit_after_a_write_does_not_say_that_nothing_was_done(
    place: Room, agent: Agent, hooks: Hooks, number: int
) -> None:
    async def limit() -> None:
        place.simulator.fault("slack.api.chat.postMessage", "status", status=429, times=9)

    hooks.before[number] = limit
    text, is_error = await call(place, agent)
    assert is_error
    assert "rate limiting" in text
    assert (PARTLY_DONE in text, "Nothing was done" in text) == (number == 2, number == 1), text


@pytest.mark.parametrize("kind", ["unreachable", "429"])
@pytest.mark.parametrize("number", [2, 1], ids=["after a write", "before any write"])
async def test_a_renewal_that_fails_after_a_write_does_not_say_that_nothing_was_sent(
    place: Room, cut_off: Room, hooks: Hooks, number: int, kind: str
) -> None:
    there = cut_off if kind == "unreachable" else place
    hooks.before.clear()
    there.simulator.reset()
    agent = await there.agent()
    await there.connect(agent, "slack", scopes=SLACK)

    async def let_the_token_die() -> None:
        there.simulator.advance(LIFETIME)
        if kind == "429":
            there.simulator.fault("slack.token.refresh", kind, times=9)

    hooks.before[number] = let_the_token_die
    text, is_error = await call(there, agent)
    assert is_error
    assert (posts(there), PARTLY_DONE in text) == ((1, True) if number == 2 else (0, False)), text
    assert ("Slack is rate limiting." if kind == "429" else "Slack can't be asked for a new token") in text
    assert "Nothing" not in text, text


async def test_a_token_that_is_renewed_between_two_writes_leaves_nothing_to_tell(
    place: Room, agent: Agent, hooks: Hooks
) -> None:
    async def let_the_token_die() -> None:
        place.simulator.advance(LIFETIME)

    hooks.before[2] = let_the_token_die
    text, is_error = await call(place, agent)
    assert not is_error, text
    assert posts(place) == 2
