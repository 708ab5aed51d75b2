"""Unmodified third-party MCP servers from npm, run as local servers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.programs.hosted.hosted_room import HostedRoom, hosted_room, needs_sandbox, npm_server, text


@pytest.fixture(scope="module")
async def foreign(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[HostedRoom]:
    needs_sandbox()
    folder: Path = tmp_path_factory.mktemp("foreign")
    files = folder / "files"
    files.mkdir()
    (files / "note.txt").write_text("a note\n")
    declared = {
        "sampler": npm_server("@modelcontextprotocol/server-everything"),
        "files": npm_server("@modelcontextprotocol/server-filesystem", str(files)),
        "chat": npm_server(
            "@modelcontextprotocol/server-slack", providers=["slack"], environment={"SLACK_TEAM_ID": "T0SANDBOX"}
        ),
    }
    declared["files"]["folders"].append(str(files))
    async with hosted_room(folder / "vault", **declared) as opened:
        opened.files = files
        yield opened


async def test_everything_answers_with_checked_results(foreign: HostedRoom) -> None:
    await foreign.add("sampler", reads=("echo", "get-structured-content"))
    agent = await foreign.agent("sampler")
    assert "Echo: hello" in text(await foreign.call(agent, "sampler", "echo", message="hello"))
    told = await foreign.call(agent, "sampler", "get-structured-content", location="Chicago")
    assert not told.is_error, text(told)
    assert set(told.structured_content["result"]) == {"temperature", "conditions", "humidity"}
    variables = text(await foreign.call(agent, "sampler", "get-env"))
    assert "/home/program" in variables
    assert str(foreign.deployment.data) not in variables


async def test_files_reads_its_folder_and_no_other(foreign: HostedRoom) -> None:
    await foreign.add("files", reads=("read_text_file",))
    agent = await foreign.agent("files")
    assert foreign.files is not None
    read = await foreign.call(agent, "files", "read_text_file", path=str(foreign.files / "note.txt"))
    assert "a note" in text(read), text(read)
    refused = await foreign.call(agent, "files", "write_file", path=str(foreign.files / "more.txt"), content="x")
    assert refused.is_error
    assert "EROFS" in text(refused)
    assert not (foreign.files / "more.txt").exists()


async def test_slacks_works_with_the_persons_account_and_no_token_of_its_own(foreign: HostedRoom) -> None:
    await foreign.add("chat", reads=("slack_list_channels",))
    agent = await foreign.agent("chat")
    refused = await foreign.call(agent, "chat", "slack_list_channels")
    assert "chat_slack_list_channels needs a Slack account" in text(refused), text(refused)
    await foreign.slack(agent)
    found = await foreign.call(agent, "chat", "slack_list_channels")
    assert not found.is_error, text(found)
    assert json.loads(found.structured_content["text"][0])["ok"] is True, text(found)
    posted = await foreign.call(agent, "chat", "slack_post_message", channel_id="C0SBRANDOM1", text="from a program")
    assert json.loads(posted.structured_content["text"][0])["ok"] is True, text(posted)
    (event, *_) = await foreign.events("proxy.called", agent)
    assert event.details["tool"] == "chat_slack_post_message"
