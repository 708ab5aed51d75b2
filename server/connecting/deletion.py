"""End a connection, and a person with everything that is theirs: what the commands and the pages both do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from server.deployment import Deployment
from vault import connections, users
from vault.audit import audit
from vault.records import Connection, Event, User
from vault.upkeep import revocations

PATIENCE: Final = 20.0  # seconds for all providers together; a running server tries again what is left


async def end_connection(deployment: Deployment, connection: Connection) -> str:
    """Disconnect, then try once to revoke at the provider; a running server retries what is left."""
    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now())
    return await revocations.revoke_upstream(deployment.vault, connection.id) or "pending"


async def delete_person(deployment: Deployment, user: User) -> None:
    """End the person's connections, then delete them; their key goes with the last grant that a provider ended."""
    owned = await connections.list_connections(deployment.database, user.id)
    for connection in owned:
        async with deployment.transaction() as transaction:
            await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now())
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await users.delete_user(transaction, user.id, now=now)
        await audit.append(transaction, Event(kind="user.removed", user_id=user.id), now=now)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            for connection in owned:
                await revocations.revoke_upstream(deployment.vault, connection.id)
    await revocations.finish_deletions(deployment.vault)
