"""Code for clients without a configuration file (SDKs, and n8n nodes). Each text is complete and runs as printed.

Read in November 2026: langchain-mcp-adapters 0.3.2, openai-agents 0.24.0, pydantic-ai-slim[mcp] 2.68.0 (FastMCP 4.2),
and nodes/mcp/McpClientTool of @n8n/n8n-nodes-langchain 2.41.1. The suite runs the three programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from server.setup.client_kinds import ALL, START_TIMEOUT, Program, TransportName, plain

_BEARER: Final = '{"Authorization": "Bearer " + os.environ["ACCESS_TOKEN"]}'


@dataclass(frozen=True, slots=True)
class CodeClient:
    """The configuration of an SDK or editor without a file."""

    title: str
    local: Callable[[Program], str] | None
    remote: Callable[[TransportName, str], str]
    install: str | None = None  # for pip
    transports: tuple[TransportName, ...] = ALL


def _literal(value: object) -> str:
    """A Python literal: JSON's text, lists and objects are Python's, too."""
    return json.dumps(value, ensure_ascii=False, indent=4 if isinstance(value, dict) else None)


def _langgraph(server: str, *, imports: str = "") -> str:
    return f"""\
import asyncio
{imports}
from langchain_mcp_adapters.client import MultiServerMCPClient
from langgraph.prebuilt import ToolNode

server = {server}
vault = MultiServerMCPClient({{"token-vault": server}})


async def main() -> None:
    tools = await vault.get_tools()
    node = ToolNode(tools)  # a node of your graph; or create_agent(model, tools)
    print(*sorted(node.tools_by_name))


asyncio.run(main())
"""


def _langgraph_local(program: Program) -> str:
    return _langgraph(_literal({"transport": "stdio", **plain(program)}))


def _langgraph_remote(transport: TransportName, url: str) -> str:
    kind = "streamable_http" if transport == "http" else "sse"
    return _langgraph(f'{{"transport": "{kind}", "url": {_literal(url)}, "headers": {_BEARER}}}', imports="import os\n")


def _agents(server: str, name: str, *, imports: str = "") -> str:
    return f"""\
import asyncio
{imports}
from agents import Agent
from agents.mcp import {name}

{server}


async def main() -> None:
    async with vault:
        agent = Agent(name="Assistant", mcp_servers=[vault])  # then: await Runner.run(agent, "...")
        print(*sorted(tool.name for tool in await agent.mcp_servers[0].list_tools()))


asyncio.run(main())
"""


def _agents_local(program: Program) -> str:
    rest = f', name="token-vault", client_session_timeout_seconds={START_TIMEOUT}'
    return _agents(f"server = {_literal(plain(program))}\nvault = MCPServerStdio(server{rest})", "MCPServerStdio")


def _agents_remote(transport: TransportName, url: str) -> str:
    name = "MCPServerStreamableHttp" if transport == "http" else "MCPServerSse"
    rest = f', name="token-vault", client_session_timeout_seconds={START_TIMEOUT}'
    server = f'server = {{"url": {_literal(url)}, "headers": {_BEARER}}}'
    return _agents(f"{server}\nvault = {name}(server{rest})", name, imports="import os\n")


def _pydantic(transport: str, name: str, *, imports: str = "") -> str:
    return f"""\
import asyncio
{imports}
from fastmcp.client.transports import {name}
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

server = {transport}
vault = MCPToolset(server, init_timeout={START_TIMEOUT})
agent = Agent(toolsets=[vault])  # then: await agent.run("...", model=...)


async def main() -> None:
    async with agent:
        print(*sorted(tool.name for tool in await vault.list_tools()))


asyncio.run(main())
"""


def _pydantic_local(program: Program) -> str:
    return _pydantic(f"StdioTransport(**{_literal(plain(program))})", "StdioTransport")


def _pydantic_remote(transport: TransportName, url: str) -> str:
    name = "StreamableHttpTransport" if transport == "http" else "SSETransport"
    return _pydantic(f"{name}({_literal(url)}, headers={_BEARER})", name, imports="import os\n")


def _n8n(transport: TransportName, url: str) -> str:
    """A node to paste into a workflow; n8n registers itself and signs in when its credential is created."""
    node = {
        "name": "Token Vault",
        "type": "@n8n/n8n-nodes-langchain.mcpClientTool",
        "typeVersion": 1.2,
        "position": [0, 0],
        "parameters": {
            "endpointUrl": url,
            "serverTransport": "httpStreamable" if transport == "http" else "sse",
            "authentication": "mcpOAuth2Api",
        },
    }
    return json.dumps({"nodes": [node], "connections": {}}, indent=2)


CODE: Final[Mapping[str, CodeClient]] = {
    "n8n": CodeClient("n8n", None, _n8n, transports=("http", "sse")),
    "langgraph": CodeClient("LangGraph", _langgraph_local, _langgraph_remote, "langchain-mcp-adapters langgraph"),
    "openai-agents": CodeClient("OpenAI Agents SDK", _agents_local, _agents_remote, "openai-agents"),
    "pydantic-ai": CodeClient("Pydantic AI", _pydantic_local, _pydantic_remote, "'pydantic-ai-slim[mcp]'"),
}
