"""Stores the tools that an MCP server offers, and removes missing ones from the lists immediately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.deployment import Deployment
from vault.audit import audit
from vault.mcp import servers
from vault.mcp.servers import McpServer
from vault.records import Event

_NAMED: Final = 20  # the most tools that one event names


async def note_tools(deployment: Deployment, name: str, connection_id: str, offered: Mapping[str, str]) -> None:
    """Compare a list with the stored one, hold new and changed tools, and mark missing ones as gone, with events."""
    now = deployment.now()
    known = await servers.get_server(deployment.database, name)
    if known is None or _is_known(known, offered):
        return
    async with deployment.transaction() as transaction:
        known = await servers.hold(transaction, name)
        if known is None:
            return
        change = await servers.see(transaction, known, offered, by=connection_id, now=now)
        for kind, names in (("held", change.held), ("gone", change.gone), ("back", change.back)):
            if names:
                details = {"provider": name, "count": len(names), "tools": list(names[:_NAMED])}
                event = Event(f"mcp_server.tools_{kind}", connection_id=connection_id, details=details)
                await audit.append(transaction, event, now=now)
    if not change.is_nothing:
        await deployment.live.refresh(deployment.database, deployment.keys)


def _is_known(server: McpServer, offered: Mapping[str, str]) -> bool:
    """Whether this list matches the stored one, so that nothing has to be written."""
    return {one.name: one.seen for one in server.tools if not one.is_absent} == offered
