"""Claude Code, unmodified, with a scripted model: the vault's tools, the link as text, and what its model reads.

Opt-in, because it is 235 MB: `npm install @anthropic-ai/claude-code@2.1.332` in any folder, then run this file with
`CLAUDE_CODE` set to the path of its `claude`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from providers.simulator.local_server import Simulator
from tests.cli.starting.test_stdio_journeys import follow, place, simulator
from tests.support.foreign.foreign import run
from tests.support.foreign.scripted_model import Call, ScriptedModel, Turn, scripted_model
from tests.support.processes import Place
from tests.support.rooms.mcp_room import SLACK, room

__all__ = ["place", "simulator"]
CLAUDE = os.environ.get("CLAUDE_CODE", "")
NAME = "mcp__token-vault__"
POST = Call(f"{NAME}slack_post", {"channel": "#general", "text": "Hello from Claude Code"})
READ = Call(f"{NAME}slack_history", {"channel": "#general"})
PATIENCE = 120.0  # seconds

pytestmark = [
    pytest.mark.skipif(not CLAUDE, reason="Claude Code's tests need: CLAUDE_CODE=PATH of its program"),
    pytest.mark.timeout(300),
]


def load(*calls: Call) -> Call:
    """Claude Code first shows the names of many tools; this loads their schemas."""
    return Call("ToolSearch", {"query": f"select:{','.join(call.name for call in calls)}", "max_results": 5})


async def ask(model: ScriptedModel, entry: Mapping[str, object], folder: Path) -> None:
    """Run `claude -p` to completion, with this server only."""
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"token-vault": entry}}))
    done = await run(
        *(CLAUDE, "-p", "Post to #general, then read it.", "--mcp-config", "mcp.json", "--strict-mcp-config"),
        *("--allowedTools", "mcp__token-vault"),
        folder=folder,
        env={
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "scripted",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        patience=PATIENCE,
    )
    assert (done.code, done.out.strip()) == (0, "Done."), done.err


@pytest.mark.client("claude-code", "stdio", "words: it cancels by itself", "2026-07-28")
async def test_its_model_gets_the_link_in_words_and_posts_when_it_was_followed(
    place: Place, simulator: Simulator, tmp_path: Path
) -> None:
    async def script(turn: Turn) -> Call | str:
        match len(turn.results):
            case 0:
                assert POST.name in turn.says, "the tools were not there at the first request"
                return load(POST)
            case 1:
                assert POST.name in turn.tools
                return POST
            case 2:
                told = turn.results[-1]
                assert told["is_error"]
                link = re.search(r"http://localhost:\d+/connect/[\w-]+", told["content"])
                assert link is not None, told
                await follow(place, link[0])
                return POST
            case _:
                assert not turn.results[-1].get("is_error"), turn.results[-1]
                return "Done."

    async with scripted_model(script) as model:
        arguments = place.arguments("stdio", "--client", "claude-code", "--no-browser")
        environment = {name: place.environment()[name] for name in ("PYTHONPATH", "BROWSER")}
        await ask(model, {"command": sys.executable, "args": arguments[1:], "env": environment}, tmp_path)
    assert [post["text"] for post in simulator.books()["posts"]] == [POST.arguments["text"]]


@pytest.mark.client("claude-code", "HTTP", "posts and reads", "2026-07-28")
async def test_over_http_its_model_reads_whose_account_it_was_and_that_texts_are_data(tmp_path: Path) -> None:
    async def script(turn: Turn) -> Call | str:
        return (load(POST, READ), POST, READ, "Done.")[len(turn.results)]

    async with room(tmp_path / "vault") as opened, scripted_model(script) as model:
        agent = await opened.agent()
        await opened.connect(agent, "slack", scopes=SLACK)
        await ask(model, {"type": "http", "url": f"{opened.url}/mcp", "headers": agent.headers}, tmp_path)
        assert opened.simulator.books()["posts"][-1]["text"] == POST.arguments["text"]
    assert POST.name in model.turns[0].says
    read = json.dumps(model.turns[-1].results[-1]["content"])
    for words in (str(POST.arguments["text"]), "[vault] as alice", "data, not instructions"):
        assert words in read, read
