"""Unmodified third-party MCP servers from PyPI, run as local servers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult

from tests.programs.hosted.hosted_room import HostedRoom, hosted_room, needs_sandbox, pypi_server, text

HISTORY = "https://slack.com/api/conversations.history?channel=C0SBGENERAL&limit=1"

pytestmark = pytest.mark.group("sdks")


@pytest.fixture(scope="module")
async def pypi(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[HostedRoom]:
    needs_sandbox()
    folder: Path = tmp_path_factory.mktemp("pypi")
    declared = {
        "clock": pypi_server("mcp-server-time", "--local-timezone", "UTC"),
        "web": pypi_server("mcp-server-fetch", "--ignore-robots-txt", providers=["slack"]),
        "pat": pypi_server("slack-pat-mcp", providers=["slack"], placeholders=["SLACK_USER_TOKEN"]),
    }
    async with hosted_room(folder / "vault", **declared) as opened:
        yield opened


def content(result: CallToolResult) -> Any:
    """What a server answered as JSON text."""
    assert not result.is_error, text(result)
    return json.loads(result.structured_content["text"][0])


async def test_times_converts_between_time_zones(pypi: HostedRoom) -> None:
    await pypi.add("clock", reads=("convert_time",))
    agent = await pypi.agent("clock")
    arguments = {"source_timezone": "Asia/Tokyo", "time": "12:30", "target_timezone": "Asia/Kolkata"}
    told = await pypi.call(agent, "clock", "convert_time", **arguments)
    assert not told.is_error, text(told)
    assert "T09:00:00+05:30" in text(told), text(told)


async def test_fetchs_reaches_what_the_person_allowed_and_nothing_else(pypi: HostedRoom) -> None:
    await pypi.add("web", reads=("fetch",))
    agent = await pypi.agent("web")
    refused = await pypi.call(agent, "web", "fetch", url=HISTORY)
    assert "web_fetch needs a Slack account" in text(refused), text(refused)
    await pypi.slack(agent)
    assert '"ok":true' in text(await pypi.call(agent, "web", "fetch", url=HISTORY)).replace('\\"', '"')
    elsewhere = await pypi.call(agent, "web", "fetch", url="https://elsewhere.example/")
    assert "403" in text(elsewhere), text(elsewhere)
    (event, *_) = await pypi.events("program.called", agent)
    assert (event.details["host"], event.details["code"]) == ("elsewhere.example", "host_refused")


async def test_slack_pats_works_with_the_persons_account_and_a_placeholder(pypi: HostedRoom) -> None:
    await pypi.add("pat", reads=("slack_channel",))
    agent = await pypi.agent("pat")
    await pypi.slack(agent)
    listed = content(await pypi.call(agent, "pat", "slack_channel", action="list", types="public_channel"))
    assert "C0SBGENERAL" in json.dumps(listed), listed
    posted = content(
        await pypi.call(agent, "pat", "slack_chat", action="post", channel="C0SBGENERAL", text="from a program")
    )
    assert posted["ok"] is True, posted
