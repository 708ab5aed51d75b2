"""Verify the activity: recompute both chains from the events and compare them with the values that the vault's key
sealed.

Without the key (`Database.event_key`) only the hash chain is checked. `vault.audit.segments` makes checkpoints and
prunes; `vault.storage.event_chain` defines the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.records import LAST, TENANT, Tell, tell_nobody
from vault.refusals import CiphertextRejected, VaultError
from vault.storage.database import Database, Reader, Row, binary, binary_or_none, integer, integer_or_none
from vault.storage.event_chain import EMPTY, Link, begin, digest, entry_of, fold, mac_and_tag, tail

BATCH_PAGE = 200  # batches read at a time
EVENT_PAGE = 2000  # events read at a time
CHECKPOINT_PAGE = 500
SPANS_SHOWN = 20
BEFORE_KEPT = "it was inserted before the first event that is kept"
_KEY_ID = "events"
_NEWEST = 1000  # batches to examine: release 0.1.0 had no key, so there can be millions of unkeyed ones


class ChainBroken(VaultError):
    """The activity was changed. `sequence` is the first event that does not fit or is missing.

    `after` is the last event that a checkpoint under the vault's key vouches for.
    """

    code = "chain_broken"

    def __init__(self, sequence: int, why: str = "it was changed, removed, or inserted", *, after: int = 0) -> None:
        super().__init__(f"the activity was tampered with at event {sequence}: {why}")
        self.sequence = sequence
        self.reason = why
        self.after = after


@immutable
class Head:
    """The end of the chain: number of batches, of events, and the hash of the last batch (32 bytes)."""

    height: int
    sequence: int
    hash: bytes


@immutable
class ChainStart:
    """Where the vault's key was first used: after this batch and event."""

    height: int
    sequence: int


@immutable
class Checkpoint:
    """A segment of the chain that was verified and sealed; `pruned_at` is set once its events are deleted.

    `retention_days` is the rule under which they were pruned; `unkeyed` counts its events without the vault's key.
    """

    first_height: int
    first_sequence: int
    first_at: int
    last_at: int
    link: Link
    unkeyed: int
    pruned_at: int | None = None
    retention_days: int | None = None

    def seal(self, key: bytes) -> bytes:
        """Seal every field, so that none can be changed, and hide the keyed head, so that no head can be reset to
        it."""
        facts = {
            "first_height": self.first_height,
            "height": self.link.height,
            "first_sequence": self.first_sequence,
            "sequence": self.link.sequence,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "hash": self.link.hash.hex(),
            "keyed": None if self.link.keyed is None else self.link.keyed.hex(),
            "unkeyed": self.unkeyed,
            "pruned_at": self.pruned_at,
            "retention_days": self.retention_days,
        }
        content = json.dumps(facts, separators=(",", ":")).encode()
        return seal(content, key=key, key_id=_KEY_ID, context=_CONTEXT)

    @classmethod
    def open(cls, row: Row, key: bytes) -> Checkpoint:
        """The checkpoint in a row. Raises ChainBroken when another key sealed it or its row was changed."""
        where = integer(row, "first_sequence")
        try:
            facts = json.loads(open_sealed(binary(row, "sealed"), key=key, context=_CONTEXT))
            keyed = facts["keyed"]
            link = Link(
                int(facts["height"]),
                int(facts["sequence"]),
                bytes.fromhex(facts["hash"]),
                None if keyed is None else bytes.fromhex(keyed),
            )
            checkpoint = cls(
                int(facts["first_height"]),
                int(facts["first_sequence"]),
                int(facts["first_at"]),
                int(facts["last_at"]),
                link,
                int(facts["unkeyed"]),
                facts["pruned_at"],
                facts["retention_days"],
            )
        except (CiphertextRejected, ValueError, KeyError, TypeError) as error:
            raise ChainBroken(where, "a checkpoint wasn't made by this vault") from error
        shown = (
            checkpoint.first_height,
            link.height,
            checkpoint.first_sequence,
            link.sequence,
            checkpoint.first_at,
            checkpoint.last_at,
            checkpoint.pruned_at,
        )
        if shown != tuple(integer_or_none(row, name) for name in _SHOWN):
            raise ChainBroken(where, "a checkpoint was changed")
        return checkpoint


_CONTEXT = Context(purpose="event_checkpoint", tenant=TENANT)
_SHOWN = ("first_height", "height", "first_sequence", "sequence", "first_at", "last_at", "pruned_at")


@immutable
class PrunedEvents:
    """Events that were deleted under a retention of this many days; the last deletion was at `at`."""

    first: int
    last: int
    first_at: int
    last_at: int
    at: int
    retention_days: int | None


@immutable
class Report:
    """What was proved: events `first` to `last` (none when `first` is greater).

    `trusted` is the last event taken from a checkpoint without reading it again, 0 for none. `keyed_from` is the first
    event that the vault's key covers, None when the key was not in use. `unkeyed` are the first spans of later events
    without the key, `unkeyed_count` is the number of all of them: written by a previous release, or by someone with
    access to the database.
    """

    first: int
    last: int
    trusted: int
    pruned: tuple[PrunedEvents, ...]
    keyed_from: int | None
    unkeyed: tuple[tuple[int, int], ...]
    unkeyed_count: int
    link: Link
    is_complete: bool


async def head(reader: Reader) -> Head:
    """The committed head. It only grows: a head lower than an earlier one means that the database went back in time."""
    row = await reader.fetch_one(
        "select height, sequence, hash from event_heads where tenant = :tenant", {"tenant": TENANT}
    )
    if row is None:
        return Head(EMPTY.height, EMPTY.sequence, EMPTY.hash)
    return Head(integer(row, "height"), integer(row, "sequence"), binary(row, "hash"))


async def load_start(reader: Reader) -> ChainStart | None:
    """Where the key was first used, from the key store."""
    row = await reader.fetch_one(
        "select height, sequence from keys.event_starts where tenant = :tenant", {"tenant": TENANT}
    )
    return None if row is None else ChainStart(integer(row, "height"), integer(row, "sequence"))


async def is_keyed(reader: Reader) -> bool:
    """Whether the activity shows use of the key: in its head, its newest batches, or a checkpoint."""
    rows = await reader.fetch(
        "select h.tenant from event_heads h where h.tenant = :tenant and (h.keyed is not null"
        " or exists (select 1 from event_checkpoints c where c.tenant = h.tenant)"
        " or exists (select 1 from event_batches b where b.tenant = h.tenant"
        " and b.height > h.height - :newest and b.tag is not null))",
        {"tenant": TENANT, "newest": _NEWEST},
    )
    return bool(rows)


async def load_checkpoints(reader: Reader, key: bytes, *, after: int) -> Sequence[Checkpoint]:
    """A page of checkpoints that begin after batch `after`, oldest first. Raises ChainBroken."""
    rows = await reader.fetch(
        "select * from event_checkpoints where tenant = :tenant and first_height > :after "
        "order by first_height limit :limit",
        {"tenant": TENANT, "after": after, "limit": CHECKPOINT_PAGE},
    )
    return [Checkpoint.open(row, key) for row in rows]


async def last_checkpoint(
    reader: Reader, key: bytes, *, before: int | None = None, up_to: int | None = None
) -> Checkpoint | None:
    """The newest checkpoint; optionally only of events that are all older than a time, or that end at `up_to` at the
    latest.

    Raises ChainBroken.
    """
    row = await reader.fetch_one(
        "select * from event_checkpoints where tenant = :tenant and last_at < :before and sequence <= :up_to "
        "order by first_height desc limit 1",
        {"tenant": TENANT, "before": LAST if before is None else before, "up_to": LAST if up_to is None else up_to},
    )
    return None if row is None else Checkpoint.open(row, key)


def link_after(checkpoint: Checkpoint | None) -> Link:
    """The end of the chain at this checkpoint; None stands for the beginning."""
    return EMPTY if checkpoint is None else checkpoint.link


class Follower(Protocol):
    """Follows a walk: it gets each batch that fits the chain, and a pause after each page."""

    def take(self, sequence: int, tails: Sequence[str]) -> None:
        """A batch whose events come after `sequence`."""
        ...

    async def settle(self) -> None:
        """Do the work that needs the database. Raises ChainBroken."""
        ...


class Walk:
    """Walks along the chain batch by batch and recomputes it."""

    def __init__(self, reader: Reader, *, key: bytes | None, start: ChainStart | None, link: Link) -> None:
        self.follower: Follower | None = None
        self.tell: Callable[[int], None] = lambda sequence: None  # called with the last verified event
        self._reader = reader
        self._key = key
        self._start = start
        self.link = self._begin_keyed_head(link)
        self.first = link.sequence + 1  # the first event to read
        self.confirmed = link.sequence  # the last event that a checkpoint vouches for
        self.unkeyed: list[tuple[int, int]] = []
        self.unkeyed_count = 0

    def jump(self, checkpoint: Checkpoint) -> None:
        """Skip a segment of pruned events."""
        self.link = self._begin_keyed_head(checkpoint.link)
        self.first, self.confirmed = self.link.sequence + 1, self.link.sequence
        self.unkeyed_count += checkpoint.unkeyed

    def _begin_keyed_head(self, link: Link) -> Link:
        if self._key is None or self._start is None or link.height != self._start.height:
            return link
        return replace(link, keyed=begin(self._key, height=link.height, sequence=link.sequence, hash=link.hash))

    async def go(self, until: int, *, events: int | None = None) -> tuple[int, int]:
        """Advance to batch `until`, or past `events` events; times of the first and last batch. Raises ChainBroken."""
        began, times = self.link.sequence, (0, 0)
        while self.link.height < until and (events is None or self.link.sequence - began < events):
            batches = await self._reader.fetch(
                "select height, first_sequence, last_sequence, previous_hash, hash, at, tag from event_batches "
                "where tenant = :tenant and height > :height and height <= :until order by height limit :limit",
                {"tenant": TENANT, "height": self.link.height, "until": until, "limit": BATCH_PAGE},
            )
            if not batches:
                raise self._fault(self.link.sequence + 1)
            taken = [
                batch for batch in batches if integer(batch, "first_sequence") <= self.link.sequence + EVENT_PAGE
            ] or batches[:1]
            rows = await self._reader.fetch(
                "select tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details from events "
                "where tenant = :tenant and sequence > :sequence and sequence <= :last order by sequence",
                {"tenant": TENANT, "sequence": self.link.sequence, "last": integer(taken[-1], "last_sequence")},
            )
            start = self.link.sequence
            for batch in taken:
                if events is not None and self.link.sequence - began >= events:
                    break
                self._step(batch, rows[self.link.sequence - start : integer(batch, "last_sequence") - start])
                times = (times[0] or integer(batch, "at"), integer(batch, "at"))
            if self.follower is not None:
                await self.follower.settle()
            self.tell(self.link.sequence)
        return times

    def _step(self, batch: Row, rows: Sequence[Row]) -> None:
        height, sequence, at = self.link.height + 1, self.link.sequence, integer(batch, "at")
        is_next = integer(batch, "height") == height and integer(batch, "first_sequence") == sequence + 1
        if not is_next or binary(batch, "previous_hash") != self.link.hash:
            raise self._fault(sequence + 1)
        for expected, row in enumerate(rows, start=sequence + 1):
            if integer(row, "sequence") != expected:
                raise self._fault(expected)
            if integer(row, "at") != at:
                raise self._fault(expected)
        tails = [tail(entry_of(row), at=at) for row in rows]
        found = digest(self.link.hash, height=height, sequence=sequence, at=at, tails=tails)
        is_complete = sequence + len(rows) == integer(batch, "last_sequence")
        if not rows or not is_complete or found != binary(batch, "hash"):
            raise self._fault(sequence + 1)  # the chain is per batch: only its batch can identify a changed event
        end = sequence + len(rows)
        keyed = self.link.keyed
        if keyed is not None and self._key is not None:
            mac, tag = mac_and_tag(self._key, tails=tails)
            tagged = binary_or_none(batch, "tag")
            if tagged is None:
                self._note_unkeyed(sequence + 1, end)
            elif tagged != tag:
                raise self._fault(sequence + 1, "it wasn't written with the vault's key")
            else:
                keyed = fold(keyed, previous=self.link.hash, mac=mac)
        self.link = self._begin_keyed_head(Link(height, end, found, keyed))
        if self.follower is not None:
            self.follower.take(sequence, tails)

    def _note_unkeyed(self, first: int, last: int) -> None:
        self.unkeyed_count += last - first + 1
        if self.unkeyed and self.unkeyed[-1][1] == first - 1:
            self.unkeyed[-1] = (self.unkeyed[-1][0], last)
        elif len(self.unkeyed) < SPANS_SHOWN:
            self.unkeyed.append((first, last))

    def confirm(self, checkpoint: Checkpoint) -> None:
        """Compare with the values sealed when this batch ended a segment. Raises ChainBroken."""
        sealed = checkpoint.link
        same = (sealed.sequence, sealed.hash) == (self.link.sequence, self.link.hash)
        if not same or (sealed.keyed is not None and sealed.keyed != self.link.keyed):
            raise self._fault(
                checkpoint.first_sequence, f"events up to {sealed.sequence} differ from their sealed record"
            )
        self.confirmed = self.link.sequence

    def end(self, keyed: bytes | None) -> None:
        """Compare with the head's keyed value. Raises ChainBroken."""
        if self.link.keyed is not None and keyed != self.link.keyed:
            raise self._fault(
                self.link.sequence + 1,
                f"it's missing, or events after {self.confirmed} were removed, moved, or inserted by "
                "someone without the vault's key",
            )

    def _fault(self, sequence: int, why: str = "it was changed, removed, or inserted") -> ChainBroken:
        return ChainBroken(sequence, why, after=self.confirmed)


@immutable
class End:
    """The head, and the outermost rows, as one statement sees them; `pruned` is the last event that was deleted."""

    link: Link
    first_event: int
    last_event: int
    last_batch: int
    pruned: int


async def load_end(reader: Reader) -> End:
    """The committed head and the outermost rows."""
    (row,) = await reader.fetch(
        "select h.height, h.sequence, h.hash, h.keyed, "
        "coalesce((select min(sequence) from events where tenant = :tenant), :last) as first_event, "
        "coalesce((select max(sequence) from events where tenant = :tenant), 0) as last_event, "
        "coalesce((select max(height) from event_batches where tenant = :tenant), 0) as last_batch, "
        "coalesce((select max(sequence) from event_checkpoints"
        " where tenant = :tenant and pruned_at is not null), 0) as pruned "
        "from (select cast(:tenant as text) as tenant) as t left join event_heads h on h.tenant = t.tenant",
        {"tenant": TENANT, "last": LAST},
    )
    height, link = integer_or_none(row, "height"), EMPTY
    if height is not None:
        link = Link(height, integer(row, "sequence"), binary(row, "hash"), binary_or_none(row, "keyed"))
    return End(
        link,
        integer(row, "first_event"),
        integer(row, "last_event"),
        integer(row, "last_batch"),
        integer(row, "pruned"),
    )


async def prove(
    database: Database,
    *,
    since: Checkpoint | None = None,
    limit: int | None = None,
    tell: Tell = tell_nobody,
    follow: Callable[[], Follower] | None = None,
) -> Report:
    """Recompute the chain up to the current head. Raises ChainBroken.

    `since`: trust what this checkpoint seals, because it is pruned or was already verified. `limit`: stop after this
    many events; the report is then incomplete and doesn't cover the head. `follow` makes the follower of the walk.
    Events pruned in the meantime aren't an error.
    """
    while True:
        pruned = await pruned_to(database)
        try:
            return await _prove(
                database, since=since, limit=limit, tell=tell, follower=None if follow is None else follow()
            )
        except ChainBroken:
            if await pruned_to(database) == pruned:
                raise


async def pruned_to(reader: Reader) -> int:
    """The last batch whose events are pruned, 0 for none."""
    (row,) = await reader.fetch(
        "select coalesce(max(height), 0) as height from event_checkpoints"
        " where tenant = :tenant and pruned_at is not null",
        {"tenant": TENANT},
    )
    return integer(row, "height")


async def _prove(
    database: Database, *, since: Checkpoint | None, limit: int | None, tell: Tell, follower: Follower | None
) -> Report:
    key = database.event_key
    start = None if key is None else await load_start(database)
    if key is not None and start is None and await is_keyed(database):
        raise ChainBroken(1, "the record of when the vault's key came into use was removed")
    end = await load_end(database)
    pruned: list[PrunedEvents] = []
    if key is None:
        walk = Walk(database, key=None, start=None, link=await _after_pruned(database))
    else:
        walk = Walk(database, key=key, start=start, link=link_after(since))
    walk.follower = follower
    walk.tell = lambda sequence: tell("Verifying events", sequence, end.link.sequence)
    if key is not None:
        limit = await _along_checkpoints(database, walk, key=key, end=end, pruned=pruned, limit=limit)
    await walk.go(end.link.height, events=limit)
    is_complete = walk.link.height >= end.link.height
    if is_complete:
        check_end(walk, end, start)
    return Report(
        first=walk.first,
        last=walk.link.sequence,
        trusted=link_after(since).sequence,
        pruned=tuple(pruned),
        keyed_from=None if start is None else start.sequence + 1,
        unkeyed=tuple(walk.unkeyed),
        unkeyed_count=walk.unkeyed_count,
        link=walk.link,
        is_complete=is_complete,
    )


async def _along_checkpoints(
    database: Database, walk: Walk, *, key: bytes, end: End, pruned: list[PrunedEvents], limit: int | None
) -> int | None:
    """Walk the checkpoints up to the last one before the head, or up to the limit; returns what is left of the limit.

    A segment that the limit cuts off isn't compared with its checkpoint, which describes its end.
    """
    while page := await load_checkpoints(database, key, after=walk.link.height):
        for checkpoint in page:
            if checkpoint.first_height != walk.link.height + 1:
                raise ChainBroken(walk.link.sequence + 1, "a checkpoint is missing", after=walk.confirmed)
            if checkpoint.link.height > end.link.height:
                if checkpoint.link.height <= (await head(database)).height:
                    return limit  # sealed just now
                raise ChainBroken(end.link.sequence + 1, "it was sealed and is missing", after=walk.confirmed)
            if checkpoint.pruned_at is None:
                before = walk.link.sequence
                await walk.go(checkpoint.link.height, events=limit)
                limit = None if limit is None else limit - (walk.link.sequence - before)
                if walk.link.height < checkpoint.link.height:
                    return limit
                walk.confirm(checkpoint)
            else:
                walk.jump(checkpoint)
                _join(pruned, checkpoint, at=checkpoint.pruned_at)
    return limit


def _join(pruned: list[PrunedEvents], checkpoint: Checkpoint, *, at: int) -> None:
    """Merge neighbors that were deleted under the same rule."""
    one = PrunedEvents(
        checkpoint.first_sequence,
        checkpoint.link.sequence,
        checkpoint.first_at,
        checkpoint.last_at,
        at,
        checkpoint.retention_days,
    )
    if pruned and pruned[-1].last == one.first - 1 and pruned[-1].retention_days == one.retention_days:
        one = replace(one, first=pruned[-1].first, first_at=pruned[-1].first_at)
        pruned.pop()
    pruned.append(one)


async def _after_pruned(reader: Reader) -> Link:
    """Where the kept events begin according to the tables, for callers that lack the key to read a checkpoint."""
    row = await reader.fetch_one(
        "select c.height, c.sequence, b.previous_hash from event_checkpoints c "
        "join event_batches b on b.tenant = c.tenant and b.height = c.height + 1 "
        "where c.tenant = :tenant and c.pruned_at is not null order by c.height desc limit 1",
        {"tenant": TENANT},
    )
    if row is None:
        return EMPTY
    return Link(integer(row, "height"), integer(row, "sequence"), binary(row, "previous_hash"), None)


def check_end(walk: Walk, end: End, start: ChainStart | None) -> None:
    """Compare a walk up to the head with the head. Raises ChainBroken."""
    beyond = walk.link.sequence + 1
    if (walk.link.height, walk.link.sequence, walk.link.hash) != (end.link.height, end.link.sequence, end.link.hash):
        raise ChainBroken(beyond, "the head doesn't match", after=walk.confirmed)
    if end.last_event > end.link.sequence or end.last_batch > end.link.height:
        raise ChainBroken(beyond, "it comes after the head", after=walk.confirmed)
    if end.first_event <= end.pruned:
        raise ChainBroken(end.first_event, BEFORE_KEPT, after=walk.confirmed)
    if start is not None and end.link.height < start.height:
        raise ChainBroken(beyond, f"there were once {start.sequence} events", after=walk.confirmed)
    walk.end(end.link.keyed)
