"""Starts programs that speak MCP over stdio, as a client does."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.support.processes import free_port


async def list_tools(server: StdioServerParameters) -> set[str]:
    async with asyncio.timeout(60), Client(server) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


def data_directory(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text(f"[server]\nport = {free_port()}\n")
    return data
