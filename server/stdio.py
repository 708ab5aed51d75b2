"""The stdio transport: the owner of the data directory calls through a local client, without any token.

Owner, client and grant come from `server.mcp.local_owner`; from there on it is the same exchange, delegations and
activity. Pages that a person needs are served by the loopback companion (`server.lifecycle.loopback`).
"""

from __future__ import annotations

import asyncio
import logging

from server.app import build_app
from server.deployment import Deployment
from server.lifecycle.loopback import Companion, Holder, address_of
from server.mcp.local_owner import local_principal
from server.mcp.transports import PRINCIPAL, build_server
from server.runtime.serving import tune
from server.runtime.stdio_streams import standard_streams

logger = logging.getLogger("token_vault.stdio")


async def serve_stdio(deployment: Deployment, client_name: str) -> None:
    """Speak MCP on stdin and stdout until the client closes stdin, with the companion beside it."""
    principal = await local_principal(deployment, client_name)
    companion = Companion(build_app(deployment), address_of(deployment))
    deployment.pages.watch(companion.trouble)  # no link leaves while a stranger would get it
    watching = asyncio.create_task(companion.run())
    try:
        if await companion.first_look() is Holder.FOREIGN:
            logger.warning("no links are given until this is fixed", extra={"cause": await companion.trouble()})
        tune()
        PRINCIPAL.set(principal)
        server = build_server(deployment, transport="stdio")
        async with standard_streams() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        watching.cancel()
        await asyncio.gather(watching, deployment.drain.finish(), return_exceptions=True)
