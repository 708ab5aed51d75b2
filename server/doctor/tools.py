"""Checks of tool names in the settings, and of programs that the vault runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem

_MACHINE: Final = "use a machine with an x86-64 or a 64-bit ARM processor where you don't trust the programs"


def check_tool_names(deployment: Deployment) -> Iterator[Finding]:
    """Warn about MCP tools in the settings that aren't accepted: such names have no effect."""
    for one in deployment.live.current.late:
        sentence = f"{one.setting} names {one.name}, and no accepted tool of an MCP server has that name"
        yield problem("tools", sentence, fix="see token-vault mcp list, and correct or accept it")


async def check_local_servers(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check whether a sandbox can be created here, and whether the programs to run in it exist."""
    hosted = deployment.hosted
    if hosted is None:
        return
    if (found := await hosted.problem()) is not None:
        yield problem("sandbox", found.sentence, fix=found.fix)
        return
    if not hosted.is_filtered:
        yield note("sandbox", "local_servers can run in one, but without a system call filter", fix=_MACHINE)
    else:
        yield ok("sandbox", "local_servers can run in one, and its system call filter works")
    for name in deployment.settings.local_servers:
        if (wrong := hosted.setting_problem(name)) is not None:
            yield problem("sandbox", f"local_servers.{name}: {wrong.sentence}", fix=wrong.fix)
