"""The examples of the documentation, run as they stand there: foreign SDKs at the vault, against the sandbox."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from tests.documented import DOCS
from tests.mcp_room import Room, room
from tests.proxy_room import HOUR, Proxied, issue

PATIENCE = 60.0  # seconds for one example
SLACK = frozenset({"chat:write", "channels:read"})


def example(title: str, *, language: str) -> str:
    """The code of an example, as a reader copies it."""
    text = (DOCS / "examples.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
    return code


async def run(command: Sequence[str], *, folder: Path, **variables: str) -> str:
    """What a program prints; it must end well."""
    environment = {"HOME": str(folder), "PATH": os.environ.get("PATH", ""), "PYTHONWARNINGS": "error"} | variables
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-3000:]
    return out.decode().strip()


async def run_python(title: str, folder: Path, **variables: str) -> str:
    program = folder / "example.py"
    program.write_text(example(title, language="python"), encoding="utf-8")
    return await run([sys.executable, str(program)], folder=folder, **variables)


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("examples")) as opened:
        yield opened


async def connected(place: Room, provider: str, scopes: frozenset[str], *, narrow: frozenset[str]) -> Proxied:
    agent = await place.agent()
    connection = await place.connect(agent, provider, scopes=scopes)
    return await issue(place, agent, connection, scopes=narrow, lifetime=HOUR)


async def test_slack_sdk_lists_and_posts(place: Room, tmp_path: Path) -> None:
    handle = await connected(place, "slack", SLACK, narrow=SLACK)
    printed = await run_python("Slack with slack_sdk", tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base())
    (post,) = place.simulator.books()["posts"]
    assert (post["text"], post["ts"]) == ("Hello from my own program", printed)
