"""`@tool`: a typed function becomes a tool like any other, and a function that can't become one gets a reason."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

import pytest
from mcp_types import TextContent
from pydantic import Field, model_validator

from providers.api.api import UpstreamAPI
from providers.api.text import as_data
from providers.definitions.catalog import load_catalog
from providers.outbound.json_values import text_at
from providers.simulator.local_server import running_simulator
from providers.tools.declarations import read_tool_file
from providers.tools.declared_tools import data_tools
from providers.tools.spec import Progress, ToolInput, ToolOutput, ToolSpec
from providers.tools.tool import tool
from tests.support.harness import running_vault
from tests.support.rooms.mcp_room import Room
from tests.support.tool_bench import Bench, open_bench

GUIDE = Path(__file__).parent.parent.parent / "CONTRIBUTING.md"
USER = "U0SBALICE01"


def guide_tool() -> ToolSpec:
    """The tool from the contributor guide, run exactly as written there."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Add a tool")[2]
    (source,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    names: dict[str, object] = {
        "__name__": __name__,
        "Annotated": Annotated,
        "Field": Field,
        "ToolOutput": ToolOutput,
        "UpstreamAPI": UpstreamAPI,
        "as_data": as_data,
        "text_at": text_at,
        "tool": tool,
    }
    exec(compile(source, "CONTRIBUTING.md", "exec"), names)
    (spec,) = [found for found in names.values() if isinstance(found, ToolSpec)]
    return spec


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with (
        running_simulator() as simulator,
        running_vault(
            tmp_path_factory.mktemp("declared"), providers=simulator.settings(), more_tools=[guide_tool()]
        ) as vault,
    ):
        yield Room(vault, simulator)


async def test_the_tool_of_the_contributor_guide_is_listed_with_its_schemas_and_hints(place: Room) -> None:
    async with place.client(await place.agent()) as client:
        listed = {found.name: found for found in (await client.list_tools()).tools}["slack_user"]
    assert listed.title == "Show a Slack user"
    assert listed.description == "Show who a member of the person's Slack workspace is."
    assert listed.input_schema["required"] == ["user"]
    assert list(listed.input_schema["properties"]) == ["account", "user"]
    assert listed.output_schema is not None
    assert list(listed.output_schema["properties"]) == ["_vault", "id", "name"]
    hints = listed.annotations
    assert hints is not None
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == (True, False, True)


async def test_the_tool_of_the_contributor_guide_needs_permission_and_then_answers(place: Room) -> None:
    agent = await place.agent("bea")
    scopes = frozenset({"users:read"})
    connection = await place.connect(agent, "slack", scopes=scopes, delegated=frozenset())
    async with place.client(agent) as client:
        refused = await client.call_tool("slack_user", {"user": USER})
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent)
        assert "/connect/" in refused.content[0].text
        wrong = await client.call_tool("slack_user", {"user": "../x"})
        assert wrong.is_error
        assert isinstance(wrong.content[0], TextContent)
        assert "the arguments are invalid: user: doesn't have the expected form" in wrong.content[0].text
        await place.allow(agent, connection, scopes)
        done = await client.call_tool("slack_user", {"user": USER})
    assert not done.is_error
    assert done.structured_content is not None
    assert done.structured_content["id"] == USER
    assert isinstance(done.content[0], TextContent)
    assert "data, not instructions" in done.content[0].text
    assert done.structured_content["name"] in done.content[0].text


class NameOutput(ToolOutput):
    """A name."""

    name: str | None


class Span(ToolInput):
    """Two numbers in order."""

    low: Annotated[int, Field(description="From")]
    high: Annotated[int, Field(description="To")]

    @model_validator(mode="after")
    def _is_in_order(self) -> Span:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


async def test_a_function_gets_what_its_parameters_ask_for() -> None:
    @tool("slack", title="Count", scopes={"team:read"}, effect="read")
    async def slack_count(
        progress: Progress, api: UpstreamAPI, step: Annotated[int, Field(ge=1, description="By how much")] = 2
    ) -> NameOutput:
        """Count."""
        await progress(step, None, "counting")
        return NameOutput(name=api.account)

    async with open_bench() as bench:
        assert await ran(slack_count, bench) == NameOutput(name="T1:U1")
        assert await ran(slack_count, bench, step=5, account="another") == NameOutput(name="T1:U1")
        assert bench.steps == [(2, None), (5, None)]


async def test_a_tool_input_stands_for_all_arguments_with_the_rules_across_them() -> None:
    @tool("slack", title="Span", scopes={"team:read"}, effect="read")
    async def slack_span(span: Span) -> NameOutput:
        """Span."""
        return NameOutput(name=f"{span.low}-{span.high}")

    assert slack_span.input is Span
    async with open_bench() as bench:
        assert await ran(slack_span, bench, low=1, high=2) == NameOutput(name="1-2")
        with pytest.raises(ValueError, match="low must not be above high"):
            await ran(slack_span, bench, low=3, high=2)


async def ran(spec: ToolSpec, bench: Bench, **arguments: object) -> object:
    return await spec.call(bench.api(spec), spec.input.model_validate(arguments), bench._progress)


def test_a_coded_tool_and_a_declared_one_look_alike(tmp_path: Path) -> None:
    file = tmp_path / "slack.toml"
    file.write_text(
        """
provider = "slack"
[[tool]]
name = "slack_person"
title = "Show a person"
description = "Show a person."
scopes = ["users:read"]
effect = "update"
approval = true
request = { api = "web", method = "POST", path = "/users.info" }
arguments.user = { description = "Id", pattern = "^U[A-Z0-9]+$", max = 20 }
result = { line = "{name}", fields.name = { path = "user.name" } }
"""
    )
    (declared,) = data_tools([(file, read_tool_file(file))], load_catalog())

    @tool("slack", title="Show a person", scopes={"users:read"}, effect="update", approval=True)
    async def slack_person(
        user: Annotated[
            Annotated[str, Field(min_length=1, max_length=20, pattern="^U[A-Z0-9]+$")], Field(description="Id")
        ],
    ) -> NameOutput:
        """Show a person."""
        return NameOutput(name=user)

    assert shape(slack_person) == shape(declared)


def shape(spec: ToolSpec) -> dict[str, object]:
    """Everything about the tool that matters outside the call itself, without the names and descriptions of models."""
    schema = {name: value for name, value in spec.input_schema.items() if name not in {"title", "description"}}
    names = ("name", "title", "description", "provider", "scopes", "effect", "approval")
    hints = (spec.read_only, spec.destructive, spec.idempotent)
    return {name: getattr(spec, name) for name in names} | {"input": schema, "hints": hints}


async def silent(limit: Annotated[int, Field(description="How many")] = 1) -> NameOutput:
    return NameOutput(name=str(limit))


async def loose(limit: Annotated[int, Field(description="How many")] = 1) -> dict[str, int]:
    """Count."""
    return {"limit": limit}


async def of_two_accounts(account: Annotated[str, Field(description="Which")]) -> NameOutput:
    """Look."""
    return NameOutput(name=account)


async def mix_arguments(span: Span, limit: Annotated[int, Field(description="How many")] = 1) -> NameOutput:
    """Count."""
    return NameOutput(name=str(span.low + limit))


async def plain(limit: Annotated[int, Field(description="How many")] = 1) -> NameOutput:
    """Count."""
    return NameOutput(name=str(limit))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (silent, "silent: write a docstring"),
        (loose, "loose: annotate the result"),
        (of_two_accounts, "of_two_accounts: every tool has `account` already"),
        (mix_arguments, "mix_arguments: one ToolInput stands for all arguments"),
    ],
)
def test_a_function_that_cannot_be_a_tool_says_what_to_write(
    function: Callable[..., Awaitable[ToolOutput]], says: str
) -> None:
    declare = tool("slack", title="T", scopes={"team:read"}, effect="read")
    with pytest.raises(TypeError, match=says):
        declare(function)
    assert declare(plain).name == "plain"
