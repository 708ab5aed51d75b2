"""Delete a person with everything that is theirs, on their own request or an administrator's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from server.deployment import Deployment
from vault import connections, users
from vault.audit import audit
from vault.records import Connection, Event, User
from vault.storage.database import Transaction
from vault.upkeep import revocations

PATIENCE: Final = 20.0  # seconds for all providers together; a running server retries the rest


async def remove_person(
    transaction: Transaction, deployment: Deployment, user: User, *, event: Event
) -> Sequence[Connection]:
    """Delete the person with their connections, which are returned; `end_at_providers` ends these there."""
    now = deployment.now()
    owned = await connections.list_connections(transaction, user.id)
    for connection in owned:
        await connections.disconnect(transaction, deployment.keys, connection, now=now)
    await users.delete_user(transaction, user.id, now=now)
    await audit.append(transaction, event, now=now)
    return owned


async def end_at_providers(deployment: Deployment, owned: Sequence[str]) -> None:
    """End the grants of a deleted person's or group's connections at their providers, in bounded time.

    Also finishes the deletion of those that have no grant left.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            for connection in owned:
                await revocations.revoke_upstream(deployment.vault, connection)
    await revocations.finish_deletions(deployment.vault)
