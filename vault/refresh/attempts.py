"""Record how an attempt without an answer ended: at once, or as soon as the storage accepts it.

A commit that is reported as failed may have happened. What this module writes concerns one attempt
(`vault.refresh.leases`), so writing it late or twice changes nothing else. Until it is written it stays owed: this
process's next refresh of the connection writes it first, or a background task writes it in the connection's turn, like
everything that changes its lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from vault.audit.audit import append
from vault.records import DAY, Event
from vault.refresh import leases
from vault.refresh.concurrency import Vault, growing_waits
from vault.refresh.leases import Lease
from vault.refusals import StorageUnavailable, TemporarilyUnavailable, VaultError
from vault.storage.database import Transaction

log = logging.getLogger("token_vault.rotation")

WAIT = (0.1, 5.0)  # seconds between tries
LONGEST = DAY  # seconds after which it is given up: by then an observer has taken the lease, and a retry is due

Ending = Callable[[Transaction], Awaitable[None]]


def undo_claim(vault: Vault, lease: Lease, *, event: Event | None = None) -> Ending:
    """Nothing was sent under this claim, or the provider processed nothing: `event` says which."""

    async def ending(transaction: Transaction) -> None:
        now = vault.database.now()
        if await leases.unsend(transaction, lease, now=now) and event is not None:
            await append(transaction, event, now=now)

    return ending


async def write(vault: Vault, connection_id: str, ending: Ending) -> None:
    """Commit this ending. Raises what the storage raises; the ending is then owed and written later."""
    try:
        async with vault.database.transaction() as transaction:
            await ending(transaction)
    except (StorageUnavailable, TemporarilyUnavailable):
        owe(vault, connection_id, ending)
        raise


def owe(vault: Vault, connection_id: str, ending: Ending) -> None:
    """Queue this to be written later, because its commit may not have happened."""
    owed = vault.tasks.owed.setdefault(connection_id, [])
    owed.append(ending)
    if len(owed) == 1:
        vault.tasks.tidy(_later(vault, connection_id))


async def pay(vault: Vault, connection_id: str) -> None:
    """Write this connection's pending endings; the caller holds its turn. Raises what the storage raises."""
    while owed := vault.tasks.owed.get(connection_id):
        ending, *_ = owed
        async with vault.database.transaction() as transaction:
            await leases.await_others(transaction, connection_id)
            await ending(transaction)
        owed.remove(ending)
    vault.tasks.owed.pop(connection_id, None)


async def _later(vault: Vault, connection_id: str) -> None:
    waits, loop = growing_waits(*WAIT), asyncio.get_running_loop()
    until = loop.time() + LONGEST
    while connection_id in vault.tasks.owed and loop.time() < until:
        try:
            await vault.tasks.take_turn(connection_id, lambda: pay(vault, connection_id))
        except VaultError:
            await asyncio.sleep(next(waits))
    if vault.tasks.owed.pop(connection_id, None):
        log.warning("claim left behind", extra={"connection": connection_id})
