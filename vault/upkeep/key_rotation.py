"""Rotate the master key while processes serve: make a key current, wrap people's keys under it, retire the former key.

Every serving process holds the new key before anything is wrapped under it. All processes rewrap concurrently, page by
page, and may stop anywhere: each row has the ID of the key that wraps it, so the next process continues.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vault.keys import masters
from vault.keys.held_keys import ROOT
from vault.keys.key_ring import KeyRing
from vault.keys.masters import MasterRow
from vault.keys.sources.source import fingerprint_of
from vault.records import TENANT, Tell, new_id, tell_nobody
from vault.refusals import CiphertextRejected, KeyUnavailable, TransitionRefused
from vault.spans import KEY_USES
from vault.storage.database import Database, Reader, Row, Transaction, Value, binary, text
from vault.upkeep import replicas

PAGE: Final = 200  # people's keys per transaction
# Seconds after which no transaction is open that read which key was current before: its statements and pauses time out
# within seconds.
SETTLED: Final = 60
AGAIN: Final = 600  # seconds between passes when nothing is left to wrap
logger = logging.getLogger("token_vault.keys")

_PAGE_AFTER: Final = (
    "select user_id, wrapped, kek_id from keys.user_keys "
    "where tenant = :tenant and user_id > :after order by user_id limit :limit"
)
_REWRAP: Final = (
    "update keys.user_keys set wrapped = :wrapped, kek_id = :kek_id "
    "where tenant = :tenant and user_id = :user_id and wrapped = :former"
)


@dataclass(slots=True)
class KeyUpkeep:
    """What one process remembers between its rounds."""

    counted: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    told: tuple[str, ...] | None = None
    settled: tuple[str, ...] = ()  # live keys when a pass last found nothing left
    next_pass: int = 0


# Every process, every few seconds


async def keep(database: Database, ring: KeyRing, state: KeyUpkeep, *, owner: str) -> None:
    """Load new keys, report which are held, and rewrap what is under a former key.

    Raises KeyUnavailable if this process lacks a key; other processes then rewrap.
    """
    trouble = await ring.learn_masters(database)
    held = ring.held.ids()
    if held != state.told:
        async with database.transaction() as transaction:
            await replicas.note_masters(transaction, owner, held)
        state.told = held
    if trouble is not None:
        raise trouble
    live = tuple(row.id for row in ring.held.rows if row.is_live)
    has_former = any(row.state == "previous" for row in ring.held.rows)
    is_due = has_former and (live != state.settled or database.now() >= state.next_pass)
    if is_due and await rewrap_all(database, ring) == 0:
        state.settled, state.next_pass = live, database.now() + AGAIN


async def count_uses(database: Database, ring: KeyRing, state: KeyUpkeep) -> None:
    """Add this process's wraps and unwraps to the counts in the database."""
    now = Counter({use: count for use, count in KEY_USES.items() if use[1] in {"wrap", "unwrap"}})
    known = {row.stored.fingerprint: row.id for row in ring.held.rows}
    uses: Counter[str] = Counter()
    for (key_id, _), count in (now - state.counted).items():
        if fingerprint_of(key_id) in known:
            uses[known[fingerprint_of(key_id)]] += count
    if uses:
        async with database.transaction() as transaction:
            await masters.add_uses(transaction, uses)
    state.counted = now


async def rewrap_all(database: Database, ring: KeyRing, *, tell: Tell = tell_nobody) -> int:
    """Wrap every person's key under the current master key; returns how many were under another.

    Begins at a random place, so that concurrent processes rarely meet. Raises KeyUnavailable after all other rows are
    done.
    """
    start = new_id()
    done, total, missing = 0, None, list[KeyUnavailable]()
    if tell is not tell_nobody:
        total = sum((await masters.count_people(database)).values())
    seen = 0
    for after, until in ((start, None), ("", start)):
        last: str | None = after
        while last is not None:
            page = await database.fetch(_PAGE_AFTER, {"tenant": TENANT, "after": last, "limit": PAGE})
            rows = [row for row in page if until is None or text(row, "user_id") <= until]
            done += await _rewrap(database, ring, rows, missing)
            seen += len(rows)
            tell("Wrapping people's keys", seen, total)
            last = text(rows[-1], "user_id") if len(rows) == PAGE else None
            await asyncio.sleep(0)
    if missing:
        raise missing[0]
    return done


async def _rewrap(database: Database, ring: KeyRing, page: Sequence[Row], missing: list[KeyUnavailable]) -> int:
    current = next(row for row in ring.held.rows if row.state == "current")
    changed: list[Mapping[str, Value]] = []
    for row in page:
        user_id, wrapped, former = text(row, "user_id"), binary(row, "wrapped"), text(row, "kek_id")
        if fingerprint_of(former) == current.stored.fingerprint:
            continue
        try:
            made = ring.rewrap_user_key(wrapped, user_id=user_id, from_id=former, to_id=current.id)
        except CiphertextRejected as error:  # the row is damaged: it opens under no key, and its key can't be retired
            logger.error("a person's key does not open", extra={"code": error.code, "detail": user_id})  # noqa: TRY400
            continue
        except KeyUnavailable as error:  # for this row only: the others are rewrapped
            missing.append(error)
            continue
        names = {"tenant": TENANT, "user_id": user_id, "former": wrapped}
        changed.append({**names, "wrapped": made, "kek_id": current.id})
    if changed:
        async with database.transaction(patient=True) as transaction:
            if await masters.current_id(transaction) == current.id:
                await transaction.execute_many(_REWRAP, changed)
    return len(changed)


# Operator's steps. Each raises TransitionRefused if refused.


async def list_without(reader: Reader, key_id: str, *, now: int) -> tuple[replicas.Replica, ...]:
    """The serving processes that don't hold this key, or whose release doesn't report it."""
    return tuple(
        one
        for one in await replicas.list_replicas(reader)
        if now - one.seen_at <= replicas.LATE and (one.master_keys is None or key_id not in one.master_keys)
    )


async def promote(transaction: Transaction, ring: KeyRing, key_id: str, *, now: int) -> None:
    """Wrap with this key from now on; rewraps the root secret at once.

    A concurrent promotion waits until this transaction ends, so that there is one current key.
    """
    await transaction.execute("update keys.ring set kek_id = kek_id where id = :id", {"id": ROOT})
    without = await list_without(transaction, key_id, now=now)
    if without:
        names = ", ".join(f"{one.host} ({one.role}, {one.id})" for one in without)
        raise TransitionRefused(
            f"these processes don't have the key {key_id} yet: {names}. Give it to them, or stop them, and try again"
        )
    if not await masters.promote(transaction, key_id, now=now):
        raise TransitionRefused(f"{key_id} isn't a key to rotate to: token-vault keys list shows which are")
    await transaction.execute(
        "update keys.ring set sealed = :sealed, kek_id = :kek_id where id = :id",
        {"id": ROOT, "sealed": ring.rewrap_root(key_id), "kek_id": key_id},
    )


async def retire(transaction: Transaction, row: MasterRow, *, now: int) -> None:
    """Retire a key that nothing needs anymore."""
    if row.state == "current":
        raise TransitionRefused(f"{row.id} is the current master key: rotate to another one first")
    people = (await masters.count_people(transaction)).get(row.stored.fingerprint, 0)
    if people:
        raise TransitionRefused(
            f"{row.id} still wraps people's keys ({people:,}): the running vault wraps them again, "
            "or token-vault keys rotate does"
        )
    current = next((one for one in await masters.list_masters(transaction) if one.state == "current"), None)
    settled_at = 0 if current is None else (current.current_at or 0) + SETTLED
    if row.state != "added" and now < settled_at:
        raise TransitionRefused(
            f"calls that began before the rotation may still use {row.id}: try again in {settled_at - now} s"
        )
    if not await masters.retire(transaction, row.id, now=now):
        raise TransitionRefused(f"{row.id} is retired already")
