"""The master key: add one, make it current, and retire the old one. Only the owner of the data directory can do
this."""

from __future__ import annotations

import asyncio
from typing import Final

from server.administration.actor import Actor
from vault.audit import audit
from vault.keys import masters
from vault.keys.masters import MasterRow
from vault.records import Tell, tell_nobody
from vault.refusals import TransitionRefused
from vault.upkeep import key_rotation
from vault.upkeep.key_rotation import KeyUpkeep

LOOK_EVERY: Final = 1.0  # seconds
STARTING: Final = 10  # seconds within which a starting process announces itself


async def add(actor: Actor) -> str:
    """Add a key that is waiting in the source, or a new one; returns its ID. Nothing is wrapped under it yet."""
    deployment = actor.deployment
    source, now = deployment.keys.held.source, deployment.now()
    known = await masters.list_masters(deployment.database)
    for one in known:
        if one.state == "added":
            raise TransitionRefused(f"{one.id} was already added: rotate to it, or retire it")
    made = await source.create({one.stored.fingerprint for one in known})
    async with actor.change() as transaction:
        await masters.add_master(transaction, made.record, state="added", described=source.describe(), now=now)
        await audit.append(transaction, actor.event("master_key.added", key=made.key.id), now=now)
    deployment.keys.held.take(made)
    return made.key.id


async def rotate(actor: Actor, key_id: str | None, *, patience: int, tell: Tell = tell_nobody) -> tuple[str, int]:
    """Make the added key current once every process has it, and wrap people's keys under it; returns its ID and the
    count.

    `patience`: seconds to wait for processes that don't have it yet. Without `key_id`, an interrupted rotation is
    continued.
    """
    deployment = actor.deployment
    await deployment.keys.learn_masters(deployment.database)
    rows = deployment.keys.held.rows
    found = _find(rows, key_id) if key_id else next((one for one in rows if one.state == "added"), None)
    if found is None and not any(one.state == "previous" for one in rows):
        raise TransitionRefused("there is no new key to rotate to: run token-vault keys add first")
    if found is not None and found.state != "current":
        await _await_holders(actor, found, patience=patience, tell=tell)
        async with actor.change() as transaction:
            now = deployment.now()
            await key_rotation.promote(transaction, deployment.keys, found.id, now=now)
            await audit.append(transaction, actor.event("master_key.rotated", key=found.id), now=now)
        await deployment.keys.learn_masters(deployment.database)
    current = next(one for one in deployment.keys.held.rows if one.state == "current")
    wrapped = await key_rotation.rewrap_all(deployment.database, deployment.keys, tell=tell)
    await key_rotation.count_uses(deployment.database, deployment.keys, KeyUpkeep())  # no upkeep counts a command's
    return current.id, wrapped


async def _await_holders(actor: Actor, row: MasterRow, *, patience: int, tell: Tell) -> None:
    """Wait for every serving process, including those that started just before the key was added and aren't announced
    yet."""
    deployment = actor.deployment
    for passed in range(patience):
        now = deployment.now()
        without = await key_rotation.list_without(deployment.database, row.id, now=now)
        if not without and now >= row.created_at + STARTING:
            return
        tell("Waiting until every process has the key", passed, patience)
        await asyncio.sleep(LOOK_EVERY)


async def retire(actor: Actor, key_id: str) -> MasterRow:
    """Retire a key that is no longer needed, and wipe its remains from the database files."""
    deployment = actor.deployment
    await key_rotation.rewrap_all(deployment.database, deployment.keys)  # a call that began earlier may have left data
    async with actor.change() as transaction:
        now = deployment.now()
        found = _find(await masters.list_masters(transaction), key_id)
        await key_rotation.retire(transaction, found, now=now)
        await audit.append(transaction, actor.event("master_key.retired", key=found.id), now=now)
    await deployment.database.wipe()
    return found


def _find(rows: tuple[MasterRow, ...], key_id: str) -> MasterRow:
    found = next((one for one in rows if one.id == key_id), None)
    if found is None:
        raise TransitionRefused(f"there is no master key {key_id}: token-vault keys list shows them")
    return found
