"""The activity as a transparency log: its keys, its growth by verified events, and its signed checkpoints.

A log has a unique name (`origin`) and Ed25519 keys, sealed under the vault's key. It is append-only, so a vault that
was restored or went back in time begins another log, and the checkpoints of the former log stay verifiable up to that
point. Formats: `vault.audit.notes`; hashes: `vault.audit.tree`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vault.audit.audit import append
from vault.audit.notes import Note, NoteRefused, TreeHead, Verifier, sign
from vault.audit.proof import (
    ChainBroken,
    End,
    Walk,
    check_end,
    last_checkpoint,
    link_after,
    load_end,
    load_start,
    pruned_to,
)
from vault.audit.tree import LeafRun, Tree, count_leaves, store_leaves
from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.records import DAY, TENANT, Event
from vault.refusals import CiphertextRejected
from vault.storage.database import Database, Reader, Row, Transaction, Value, binary, integer, integer_or_none, text

OVERLAP: Final = 30 * DAY  # seconds for which a replaced key also signs
EXTEND_LIMIT: Final = 50_000  # events in one transaction
NOTES_KEPT: Final = 1000  # checkpoints of a log: each vouches for all before it
PURPOSE: Final = "activity-log"
RESTARTS: Final = ("vault.restored", "vault.quarantined", "vault.rollback_accepted")
_KEY_ID: Final = "events"

_KEYS = "select id, sealed, active_at, retired_at from keys.ring where purpose = :purpose order by id"
# These events belong to no one, and the index `events_of_vault` has them.
_RESTARTED = """
    select sequence, at, kind, details from events where tenant = :tenant
        and user_id is null and client_id is null and connection_id is null
        and kind in (:restored, :quarantined, :accepted) order by sequence
"""
_NEWEST = "select * from event_notes where tenant = :tenant and origin = :origin order by size desc limit 1"


@immutable
class LogKey:
    """One key of a log. `seed` is the private key; it signs from `active_at` until `retired_at`."""

    verifier: Verifier
    seed: bytes = field(repr=False)
    active_at: int
    retired_at: int | None

    def signs(self, now: int) -> bool:
        """Whether it signs now."""
        return self.retired_at is None or now < self.retired_at


@immutable
class Log:
    """One log of this vault. Its leaf 0 is event `base + 1`; it began when the activity had `after` events.

    `restarts` are the restores before it, by name, each with the last event before that restore; None where a release
    that didn't store them created the log. `ordinal` is its place among the logs.
    """

    origin: str
    base: int
    after: int
    keys: tuple[LogKey, ...]
    ordinal: int
    restarts: Mapping[str, int] | None

    @property
    def verifiers(self) -> tuple[Verifier, ...]:
        """All keys that it has ever signed with."""
        return tuple(key.verifier for key in self.keys)


@immutable
class SignedCheckpoint:
    """A signed checkpoint. `stamp` is its time stamp (RFC 3161), if it has one."""

    head: TreeHead
    note: Note
    created_at: int
    stamp: bytes | None = None


async def load_logs(reader: Reader, key: bytes) -> tuple[Log, ...]:
    """The logs of this vault, the current one last. Raises ChainBroken when a key was changed."""
    found = [_open_key(row, key) for row in await reader.fetch(_KEYS, {"purpose": PURPOSE})]
    logs: dict[str, Log] = {}
    for _, log in sorted(found, key=lambda one: one[0]):
        known = logs.get(log.origin)
        logs[log.origin] = log if known is None else replace(known, keys=known.keys + log.keys)
    return tuple(logs.values())


async def find_log(database: Database) -> Log | None:
    """The current log, without beginning one: None before the first, and after a restore until the next one begins.

    Raises ChainBroken when a key was changed.
    """
    logs = await load_logs(database, event_key(database))
    return logs[-1] if logs and await restarted_after(database, logs[-1]) is None else None


async def begin_log(database: Database, *, place: str, now: int) -> Log:
    """The current log; creates the first one, and another one after a restore. Its name begins with `place`."""
    key = event_key(database)
    logs = await load_logs(database, key)
    if logs and await restarted_after(database, logs[-1]) is None:
        return await _begin_after_pruned(database, key, logs[-1])
    origin = f"{place}/{secrets.token_hex(4)}"
    async with database.transaction() as transaction:
        row = await transaction.fetch_one(  # locks the row, so that no other process begins one in between
            "update event_heads set height = height where tenant = :tenant returning sequence", {"tenant": TENANT}
        )
        known = await load_logs(transaction, key)
        if len(known) != len(logs):
            return known[-1]
        after = 0 if row is None else integer(row, "sequence")
        base = logs[0].base if logs else await _last_pruned(transaction)
        restarts = {one.name: one.known for one in await _list_restarts(transaction)}
        log = Log(origin, base, after, (), ordinal=len(logs), restarts=restarts)
        made = await _store_key(transaction, key, log, now=now)
        if logs:
            details = {"origin": origin, "key": str(made), "former": logs[-1].origin}
            await append(transaction, Event("activity.log_begun", details=details), now=now)
    return (await load_logs(database, key))[-1]


async def _begin_after_pruned(database: Database, key: bytes, log: Log) -> Log:
    """An earlier release, which doesn't know the tree, may prune events before the tree has them: the log then begins
    after them."""
    if await count_leaves(database) or await _last_pruned(database) <= log.base:
        return log
    async with database.transaction() as transaction:
        await transaction.execute("update event_heads set height = height where tenant = :tenant", {"tenant": TENANT})
        pruned = await _last_pruned(transaction)
        if await count_leaves(transaction):
            return log
        for row in await transaction.fetch(_KEYS, {"purpose": PURPOSE}):
            identity = text(row, "id")
            facts = json.loads(open_sealed(binary(row, "sealed"), key=key, context=_context(identity)))
            sealed = _seal_facts({**facts, "base": pruned}, key=key, identity=identity)
            await transaction.execute(
                "update keys.ring set sealed = :sealed where purpose = :purpose and id = :id",
                {"sealed": sealed, "purpose": PURPOSE, "id": identity},
            )
    return (await load_logs(database, key))[-1]


async def rotate_log_key(database: Database, log: Log, *, now: int) -> Verifier:
    """Sign with a new key from now on; the previous key also signs for `OVERLAP`, so that readers can follow."""
    key = event_key(database)
    async with database.transaction() as transaction:
        for one in log.keys:
            await transaction.execute(
                "update keys.ring set retired_at = :end where purpose = :purpose and id = :id and retired_at is null",
                {"end": now + OVERLAP, "purpose": PURPOSE, "id": _row_id(one.verifier)},
            )
        made = await _store_key(transaction, key, log, now=now)
        details = {"origin": log.origin, "key": str(made), "previous": str(log.keys[-1].verifier)}
        await append(transaction, Event("activity.key_rotated", details=details), now=now)
    return made


async def extend(database: Database, log: Log, *, limit: int = EXTEND_LIMIT) -> Tree:
    """Verify the events appended since the tree last grew, and add them. Raises ChainBroken, and then adds nothing."""
    while True:
        before = await pruned_to(database)
        try:
            tree, is_all = await _extend_once(database, log, limit=limit)
        except ChainBroken:
            if await pruned_to(database) == before:
                raise
            continue
        if is_all:
            return tree


async def _extend_once(database: Database, log: Log, *, limit: int) -> tuple[Tree, bool]:
    """Up to the head or, if that is far away, up to a sealed checkpoint before it."""
    key, stored = event_key(database), await count_leaves(database)
    reached = log.base + stored
    end, start = await load_end(database), await load_start(database)
    last = await last_checkpoint(database, key, up_to=reached)
    run = LeafRun(database, key, base=log.base, stored=stored)
    walk = Walk(database, key=key, start=start, link=link_after(last))
    walk.follower = run
    stop = await last_checkpoint(database, key, up_to=reached + limit)
    if end.link.sequence - reached > limit and stop is not None and stop.link.sequence > reached:
        await walk.go(stop.link.height)
        walk.confirm(stop)
    else:
        stop = None
        await walk.go(end.link.height)
        check_end(walk, end, start)
    _check_length(end, log, stored)
    if run.fresh:
        async with database.transaction() as transaction:
            await store_leaves(transaction, base=log.base, stored=stored, fresh=bytes(run.fresh))
    return Tree(database, log.base, stored, bytes(run.fresh)), stop is None


def _check_length(end: End, log: Log, stored: int) -> None:
    if stored and end.link.sequence < log.base + stored:
        raise ChainBroken(end.link.sequence + 1, f"the tree has hashes of events up to {log.base + stored}")


async def issue(database: Database, log: Log, *, now: int) -> SignedCheckpoint | None:
    """Sign the current tree, unless it is signed; returns the newest checkpoint, None without events.

    Raises ChainBroken, and signs nothing, when the tree doesn't continue the one that was signed last.
    """
    last = await newest_note(database, log)  # read first: another process may sign a later one concurrently
    tree = await extend(database, log)
    if last is not None:
        await check_consistent(tree, last.head)
        if last.head.size == tree.size:
            return last
    if not tree.size:
        return None
    made = await sign_head(tree, log, now=now)
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into event_notes (tenant, origin, size, created_at, note) "
            "values (:tenant, :origin, :size, :now, :note) on conflict (tenant, origin, size) do nothing",
            {"tenant": TENANT, "origin": log.origin, "size": tree.size, "now": now, "note": str(made.note)},
        )
        await _forget_old_notes(transaction, log)
    return await newest_note(database, log)


async def sign_head(tree: Tree, log: Log, *, now: int) -> SignedCheckpoint:
    """A checkpoint of the current tree, which isn't stored. Raises ChainBroken where hashes are missing."""
    made = TreeHead(log.origin, tree.size, await tree.root_at(tree.size))
    signers = [one for one in log.keys if one.signs(now)]
    signatures = tuple(
        sign(str(made), name=log.origin, key=Ed25519PrivateKey.from_private_bytes(one.seed)) for one in signers
    )
    return SignedCheckpoint(made, Note(str(made), signatures), now)


async def _forget_old_notes(transaction: Transaction, log: Log) -> None:
    which: dict[str, Value] = {"tenant": TENANT, "origin": log.origin, "kept": NOTES_KEPT}
    row = await transaction.fetch_one(
        "select size from event_notes where tenant = :tenant and origin = :origin "
        "order by size desc limit 1 offset :kept",
        which,
    )
    if row is not None:
        await transaction.execute(
            "delete from event_notes where tenant = :tenant and origin = :origin and size <= :size",
            {**which, "size": integer(row, "size")},
        )


async def check_consistent(tree: Tree, signed: TreeHead) -> None:
    """Check that the tree begins with this checkpoint's. Raises ChainBroken."""
    if signed.size > tree.size:
        first = tree.base + tree.size + 1
        raise ChainBroken(first, f"a signed checkpoint vouches for events up to {tree.base + signed.size}")
    if await tree.root_at(signed.size) != signed.root:
        raise ChainBroken(tree.base + 1, f"events up to {tree.base + signed.size} differ from a signed checkpoint")


async def newest_note(reader: Reader, log: Log) -> SignedCheckpoint | None:
    """The newest checkpoint of a log that this vault keeps. Raises ChainBroken when its row was changed."""
    row = await reader.fetch_one(_NEWEST, {"tenant": TENANT, "origin": log.origin})
    if row is None:
        return None
    try:
        note = Note.parse(text(row, "note"))
        signed = check_note(note, log)
    except NoteRefused as error:
        raise ChainBroken(log.base + integer(row, "size"), "a checkpoint of the vault was changed") from error
    stamp = row["stamp"]
    return SignedCheckpoint(signed, note, integer(row, "created_at"), stamp if isinstance(stamp, bytes) else None)


def check_note(note: Note, log: Log) -> TreeHead:
    """What a checkpoint of this log says, its signature verified. Raises NoteRefused."""
    signed = TreeHead.parse(note.text)
    if signed.origin != log.origin:
        raise NoteRefused(f"it's a checkpoint of another log: {signed.origin}")
    if not note.signed_by(log.verifiers):
        raise NoteRefused("it isn't signed by a key of this vault")
    return signed


async def keep_note(database: Database, issued: SignedCheckpoint) -> None:
    """Keep a checkpoint's cosignatures and time stamp with it."""
    async with database.transaction() as transaction:
        await transaction.execute(
            "update event_notes set note = :note, stamp = :stamp "
            "where tenant = :tenant and origin = :origin and size = :size",
            {
                "tenant": TENANT,
                "origin": issued.head.origin,
                "size": issued.head.size,
                "note": str(issued.note),
                "stamp": issued.stamp,
            },
        )


@immutable
class Restart:
    """A restore, or an accepted return in time: its event, its name, and the last event before it.

    `sequence` and `at` are 0 where the event was pruned.
    """

    sequence: int
    at: int
    name: str
    known: int


async def _list_restarts(reader: Reader) -> list[Restart]:
    names: Mapping[str, Value] = dict(zip(("restored", "quarantined", "accepted"), RESTARTS, strict=True))
    return [_restart_of(row) for row in await reader.fetch(_RESTARTED, {**names, "tenant": TENANT})]


def _restart_of(row: Row) -> Restart:
    sequence, at, details = integer(row, "sequence"), integer(row, "at"), text(row, "details")
    line = f"{sequence},{at},{text(row, 'kind')},{details}"
    facts = json.loads(details)
    known = facts.get("known", sequence - 1 - int(facts.get("quarantined", 0)))  # earlier releases didn't record it
    return Restart(sequence, at, hashlib.sha256(line.encode()).hexdigest()[:32], min(int(known), sequence - 1))


async def restarted_after(reader: Reader, log: Log, *, later: Sequence[Log] = ()) -> int | None:
    """The last event before the restore that ended a log, up to which its checkpoints count; None if it continues."""
    found = await restart_after(reader, log, later=later)
    return None if found is None else found.known


async def restart_after(reader: Reader, log: Log, *, later: Sequence[Log] = ()) -> Restart | None:
    """The restore that ended a log: of several, the one that went back furthest. None while the log continues.

    Logs in `later` remember restores whose events were pruned.
    """
    found = await _list_restarts(reader)
    if log.restarts is None:
        ending = [one for one in found if one.sequence > log.after]
    else:
        named = {one.name: one for one in found}
        for one in later:
            named = {name: Restart(0, 0, name, known) for name, known in (one.restarts or {}).items()} | named
        ending = [named[name] for name in named.keys() - log.restarts.keys()]
    return min(ending, key=lambda one: (one.known, one.sequence), default=None)


async def _last_pruned(reader: Reader) -> int:
    """The last deleted event: a log that begins later has no hash of it."""
    (row,) = await reader.fetch(
        "select coalesce(max(sequence), 0) as sequence from event_checkpoints"
        " where tenant = :tenant and pruned_at is not null",
        {"tenant": TENANT},
    )
    return integer(row, "sequence")


def _open_key(row: Row, key: bytes) -> tuple[tuple[int, int, int], Log]:
    """A key's place in the order of all keys, and its log with only this key."""
    identity = text(row, "id")
    try:
        facts = json.loads(open_sealed(binary(row, "sealed"), key=key, context=_context(identity)))
        seed = bytes.fromhex(facts["seed"])
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        verifier = Verifier(str(facts["origin"]), public)
        base, after, number = int(facts["base"]), int(facts["after"]), int(facts["number"])
        ordinal, restarts = int(facts.get("ordinal", 0)), facts.get("restarts")
    except (CiphertextRejected, ValueError, KeyError, TypeError) as error:
        raise ChainBroken(1, f"the key {identity} of the activity's log wasn't made by this vault") from error
    made = LogKey(verifier, seed, integer(row, "active_at"), integer_or_none(row, "retired_at"))
    log = Log(verifier.name, base, after, (made,), ordinal, None if restarts is None else dict(restarts))
    return (ordinal, after, number), log


async def _store_key(transaction: Transaction, key: bytes, log: Log, *, now: int) -> Verifier:
    seed = secrets.token_bytes(32)
    verifier = Verifier(log.origin, Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
    facts = {
        "origin": log.origin,
        "base": log.base,
        "after": log.after,
        "number": len(log.keys),
        "ordinal": log.ordinal,
        "restarts": None if log.restarts is None else dict(log.restarts),
        "seed": seed.hex(),
    }
    identity = _row_id(verifier)
    await transaction.execute(
        "insert into keys.ring (id, purpose, sealed, kek_id, created_at, active_at) "
        "values (:id, :purpose, :sealed, :kek_id, :now, :now)",
        {
            "id": identity,
            "purpose": PURPOSE,
            "sealed": _seal_facts(facts, key=key, identity=identity),
            "kek_id": "root",
            "now": now,
        },
    )
    return verifier


def _seal_facts(facts: Mapping[str, object], *, key: bytes, identity: str) -> bytes:
    content = json.dumps(facts, separators=(",", ":")).encode()
    return seal(content, key=key, key_id=_KEY_ID, context=_context(identity))


def _row_id(verifier: Verifier) -> str:
    return f"{PURPOSE}:{verifier.name}:{verifier.id.hex()}"


def _context(identity: str) -> Context:
    return Context(purpose="activity_log_key", tenant=TENANT, record_id=identity)


def event_key(database: Database) -> bytes:
    """The vault's key for the activity. Raises ChainBroken while it isn't open."""
    key = database.event_key
    if key is None:
        raise ChainBroken(1, "the vault's key isn't open")
    return key
