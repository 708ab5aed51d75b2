"""The examples of the documentation, run as they stand there: foreign SDKs at the vault, against the sandbox."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from providers.simulator.running import running_simulator
from tests.documented import DOCS
from tests.foreign import FOLDER, node
from tests.harness import running_vault
from tests.mcp_room import Room
from tests.proxy_room import HOUR, Proxied, issue

PATIENCE = 60.0  # seconds for one example
CALENDAR = "https://www.googleapis.com/auth/calendar.events"
SLACK = frozenset({"chat:write", "channels:read"})
GITHUB = frozenset({"metadata:read", "issues:write"})


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


async def run_node(title: str, folder: Path, **variables: str) -> str:
    """As a module beside the packages, where Node looks for them."""
    program = FOLDER / f"example-{secrets.token_hex(4)}.mjs"
    program.write_text(example(title, language="js"), encoding="utf-8")
    try:
        return await run([node(), str(program)], folder=folder, NODE_OPTIONS="--no-warnings", **variables)
    finally:
        program.unlink()


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_simulator() as simulator:
        providers = {**simulator.settings(), "github": simulator.family_settings("github", apis=("rest",))}
        async with running_vault(tmp_path_factory.mktemp("examples"), providers=providers) as vault:
            yield Room(vault, simulator)


async def connected(place: Room, provider: str, scopes: frozenset[str], *, narrow: frozenset[str]) -> Proxied:
    agent = await place.agent()
    connection = await place.connect(agent, provider, scopes=scopes)
    return await issue(place, agent, connection, scopes=narrow, lifetime=HOUR)


async def test_slack_sdk_lists_and_posts(place: Room, tmp_path: Path) -> None:
    handle = await connected(place, "slack", SLACK, narrow=SLACK)
    printed = await run_python("Slack with slack_sdk", tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base())
    post = place.simulator.books()["posts"][-1]
    assert (post["text"], post["ts"]) == ("Hello from my own program", printed)


async def test_googles_client_makes_and_finds_an_event(place: Room, tmp_path: Path) -> None:
    everything = CALENDAR.removesuffix(".events")
    handle = await connected(place, "google", frozenset({CALENDAR, everything}), narrow=frozenset({CALENDAR}))
    title = "Google Calendar with google-api-python-client"
    assert await run_python(title, tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base("calendar")) == "True"
    assert len(place.simulator.books()["events"]) == 1
    calls = [one for one in place.simulator.books()["api_calls"] if "/calendar/" in str(one["path"])]
    assert len(calls) == 2
    # the token that arrived carried the handle's scope, and not all that is connected
    assert all(CALENDAR in one["scopes"] and everything not in one["scopes"] for one in calls)  # type: ignore[operator]


async def test_pygithub_opens_comments_and_pages(place: Room, tmp_path: Path) -> None:
    handle = await connected(place, "github", GITHUB, narrow=GITHUB)
    title = "GitHub with PyGithub"
    printed = await run_python(title, tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base("rest"))
    number, count = printed.split()
    assert int(count) >= 6
    posts = [one["text"] for one in place.simulator.books()["posts"] if one.get("face") == "github"]
    assert posts[-2:] == ["Water the roses", "Done today"]
    assert int(number) >= 6


@pytest.mark.group("node")
async def test_octokit_opens_and_pages(place: Room, tmp_path: Path) -> None:
    handle = await connected(place, "github", GITHUB, narrow=GITHUB)
    printed = await run_node("GitHub with octokit", tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base("rest"))
    number, count = printed.split()
    assert int(count) >= 6
    assert place.simulator.books()["posts"][-1]["text"] == "Rake the leaves"
    assert int(number) >= 6
