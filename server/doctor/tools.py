"""Checks of the names of tools in the settings."""

from __future__ import annotations

from collections.abc import Iterator

from server.deployment import Deployment
from server.doctor.findings import Finding, problem


def check_tool_names(deployment: Deployment) -> Iterator[Finding]:
    """A name of an MCP server's tool that nobody accepted does nothing, which may not be what it is there for."""
    for one in deployment.live.current.late:
        sentence = f"{one.setting} names {one.name}, and no accepted tool of an MCP server has that name"
        yield problem("tools", sentence, fix="see token-vault mcp list, and correct or accept it")
