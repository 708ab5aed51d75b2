"""The stdio transport: the owner of the data directory calls through a local client, without a token.

`server.mcp.local_owner` makes owner, client and grant; exchange, delegations and activity are the same as elsewhere.
The loopback companion (`server.lifecycle.loopback`) serves the pages that a person needs.
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
    """Speak MCP on stdin and stdout until the client closes stdin, with the companion running beside it."""
    principal = await local_principal(deployment, client_name)
    companion = Companion(build_app(deployment), address_of(deployment))
    deployment.pages.watch(companion.trouble)  # no link goes out while a stranger would get it
    watching = asyncio.create_task(companion.run())
    try:
        if await companion.first_look() is Holder.FOREIGN:
            logger.warning("no links are sent until this is fixed", extra={"cause": await companion.trouble()})
        tune()
        PRINCIPAL.set(principal)
        server = build_server(deployment, transport="stdio")
        async with standard_streams() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        watching.cancel()
        await asyncio.gather(watching, deployment.drain.finish(), return_exceptions=True)
