"""The printed HTTP and SSE entries in the clients that read them: the Inspector's catalog and mcp-remote."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.journeys.foreign.test_foreign_inspector import Inspector, settings_file
from tests.journeys.foreign.test_foreign_remote import client_of_proxy
from tests.support.foreign.foreign import MODULES, newcomer, node, open_screen
from tests.support.rooms.mcp_room import Room, room, run_client_config

pytestmark = pytest.mark.group("node")


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    node()
    async with room(tmp_path_factory.mktemp("configured")) as opened:
        (opened.vault.deployment.data / "config.toml").write_text(settings_file(opened))
        yield opened


def version(package: str) -> str:
    return json.loads((MODULES / package / "package.json").read_text())["version"]


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_inspector_reads_the_catalog_that_was_written_for_it(
    place: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    catalog = tmp_path / "catalog" / "mcp.json"
    monkeypatch.setenv("MCP_CATALOG_PATH", str(catalog))
    made = json.loads(await run_client_config(place, "inspector", "--transport", transport, "--write", "--json"))
    assert made["file"] == str(catalog)
    assert f"@modelcontextprotocol/inspector@{version('@modelcontextprotocol/inspector')}" in str(made["command_line"])
    async with newcomer(place.vault) as somebody, open_screen(tmp_path) as screen:
        screen.somebody = somebody
        target = ("--catalog", str(catalog), "--server", "token-vault")
        inspector = Inspector(tmp_path, target, screen.environment())
        assert "slack_post" in await inspector.tools()
        screen.check()
        assert somebody.sign_ins == 1


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_claude_desktops_entry_starts_mcp_remote_and_lists_the_tools(
    place: Room, tmp_path: Path, transport: str
) -> None:
    entry = json.loads(await run_client_config(place, "claude-desktop", "--transport", transport, "--json"))["entry"]
    yes, package, url, *options = entry["args"]
    assert (yes, package) == ("-y", f"mcp-remote@{version('mcp-remote')}")  # what npx would fetch is installed here
    async with newcomer(place.vault) as somebody, open_screen(tmp_path) as screen:
        screen.somebody = somebody
        async with client_of_proxy(url, *options, folder=tmp_path, screen=screen) as client:
            assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
        assert somebody.sign_ins == 1
