"""The stored hashes of the Merkle tree over the activity: how they grow, are compared, and prove.

Leaf `index` is event `base + index + 1`. Its data is a salt of 16 bytes that only the vault's key gives, then the
event's line as the chain has it; so the hashes that stay when events are pruned, and those in a proof of another event,
reveal nothing. Hashes are stored in tiles of 256 (https://c2sp.org/tlog-tiles), and grow by events that were verified
along their chain. `vault.audit.log` signs the roots.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from vault.audit.audit import event_of
from vault.audit.merkle import (
    HASH_LENGTH,
    consistency_proof,
    fold_complete,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
)
from vault.audit.proof import BEFORE_KEPT, ChainBroken
from vault.classes.immutable import immutable
from vault.records import TENANT, Event
from vault.storage.database import Reader, Transaction, Value, binary, integer
from vault.storage.event_chain import entry_of, line_start, tail

TILE: Final = 256  # hashes
TILE_BITS: Final = 8
TILE_LENGTH: Final = TILE * HASH_LENGTH  # bytes of a full tile
NARROW_LIMIT: Final = 500  # events: no batch has more
SALT_LENGTH: Final = 16  # bytes
_SALT_LABEL = b"token-vault events salt 1\x00"

_TILE = "select hashes from event_tiles where tenant = :tenant and level = :level and number = :number"
_LEAVES = (
    "select number, hashes from event_tiles where tenant = :tenant and level = 0 and number >= :first "
    "and number <= :last order by number"
)
_LAST = "select number, hashes from event_tiles where tenant = :tenant and level = 0 order by number desc limit 1"
# Two processes can grow the tree at once: both write the same hashes, and the longer row stays.
_STORE = (
    "insert into event_tiles (tenant, level, number, hashes) values (:tenant, :level, :number, :hashes) "
    "on conflict (tenant, level, number) do update set hashes = excluded.hashes "
    "where length(event_tiles.hashes) < length(excluded.hashes)"
)


def leaf_data(key: bytes, *, sequence: int, tail: str) -> bytes:
    """What is hashed for an event: its salt, and its line."""
    salt = hmac.digest(key, _SALT_LABEL + sequence.to_bytes(8, "big"), "sha256")[:SALT_LENGTH]
    return salt + f"{line_start()}{sequence},{tail}".encode()


async def count_leaves(reader: Reader) -> int:
    """The number of leaves in the stored tree."""
    row = await reader.fetch_one(_LAST, {"tenant": TENANT})
    return 0 if row is None else integer(row, "number") * TILE + len(binary(row, "hashes")) // HASH_LENGTH


class LeafRun:
    """Follows a walk along the chain: hashes each event's leaf and compares it with the stored one, if there is one.

    After the walk, `fresh` has the hashes that aren't stored yet: those of the events from `stored` on. It is empty if
    the walk starts later than that.
    """

    def __init__(self, reader: Reader, key: bytes, *, base: int, stored: int) -> None:
        self._reader = reader
        self._key = key
        self._base = base
        self._first = 0  # index of the first leaf that is still to be compared
        self._waiting = bytearray()
        self.stored = stored
        self.fresh = bytearray()

    def take(self, sequence: int, tails: Sequence[str]) -> None:
        """Hash a batch whose events come after `sequence`."""
        for number, rest in enumerate(tails, start=sequence + 1):
            index = number - self._base - 1
            if index < 0:
                continue
            hashed = leaf_hash(leaf_data(self._key, sequence=number, tail=rest))
            if index < self.stored:
                if not self._waiting:
                    self._first = index
                self._waiting += hashed
            elif index == self.stored + len(self.fresh) // HASH_LENGTH:
                self.fresh += hashed

    async def settle(self) -> None:
        """Compare the collected hashes with the stored tiles. Raises ChainBroken."""
        if not self._waiting:
            return
        known = await load_leaves(self._reader, self._first, self._first + len(self._waiting) // HASH_LENGTH)
        found, self._waiting = bytes(self._waiting), bytearray()
        if known != found:
            at = next(
                one
                for one in range(0, len(found), HASH_LENGTH)
                if known[one : one + HASH_LENGTH] != found[one : one + HASH_LENGTH]
            )
            sequence = self._base + 1 + self._first + at // HASH_LENGTH
            raise ChainBroken(sequence, "it, or its hash in the tree, was changed")


async def load_leaves(reader: Reader, begin: int, end: int) -> bytes:
    """The stored hashes of leaves `begin` to `end`, the second excluded; fewer where tiles are missing or short."""
    first, last = begin // TILE, (end - 1) // TILE
    rows = await reader.fetch(_LEAVES, {"tenant": TENANT, "first": first, "last": last})
    tiles = {integer(row, "number"): binary(row, "hashes") for row in rows}
    found = bytearray()
    for number in range(first, last + 1):
        tile = tiles.get(number, b"")
        found += tile
        if len(tile) < TILE_LENGTH:
            break
    start = (begin - first * TILE) * HASH_LENGTH
    return bytes(found[start : start + (end - begin) * HASH_LENGTH])


@immutable
class Tree:
    """The tree of the stored leaves and, after them, `fresh` ones. Leaf 0 is event `base + 1`."""

    reader: Reader
    base: int
    stored: int
    fresh: bytes = b""

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.stored + len(self.fresh) // HASH_LENGTH

    async def lookup(self, level: int, number: int) -> bytes:
        """The hash of a complete subtree; see `merkle.Lookup`. Raises ChainBroken where its tile is missing."""
        begin, end = number << level, (number + 1) << level
        if begin >= self.stored:
            start, stop = (begin - self.stored) * HASH_LENGTH, (end - self.stored) * HASH_LENGTH
            if stop > len(self.fresh):
                raise ChainBroken(self.base + begin + 1, "the tree is shorter")
            return fold_complete(_split(self.fresh[start:stop]))
        if end > self.stored:
            return node_hash(await self.lookup(level - 1, number * 2), await self.lookup(level - 1, number * 2 + 1))
        tiles, within = divmod(level, TILE_BITS)
        tile, at = divmod(number << within, TILE)
        size = HASH_LENGTH << within
        hashes = (await _load_tile(self.reader, tiles, tile))[at * HASH_LENGTH :][:size]
        if len(hashes) < size:
            raise ChainBroken(self.base + begin + 1, "hashes of the tree were removed")
        return fold_complete(_split(hashes))

    async def root_at(self, size: int) -> bytes:
        """The root of the tree when it had `size` leaves. Raises ChainBroken where hashes are missing."""
        return await root(self.lookup, size)

    async def prove(self, index: int, size: int) -> list[bytes]:
        """The audit path of a leaf in the tree of `size` leaves. Raises ChainBroken where hashes are missing."""
        return await inclusion_proof(self.lookup, index, size)

    async def prove_consistency(self, old: int, size: int) -> list[bytes]:
        """Proof that the tree of `size` leaves continues that of `old`. Raises ChainBroken where hashes are missing."""
        return await consistency_proof(self.lookup, old, size)


async def store_leaves(transaction: Transaction, *, base: int, stored: int, fresh: bytes) -> None:
    """Append leaves to the stored tree of `stored` leaves, and the hashes above them."""
    rows: list[Mapping[str, Value]] = []
    level, first, added = 0, stored, fresh
    while added:
        number, position = divmod(first, TILE)
        before = (await _load_tile(transaction, level, number))[: position * HASH_LENGTH] if position else b""
        if len(before) < position * HASH_LENGTH:
            raise ChainBroken(base + stored + 1, "hashes of the tree before it were removed")
        joined = before + added
        tiles = [joined[at : at + TILE_LENGTH] for at in range(0, len(joined), TILE_LENGTH)]
        rows += [
            {"tenant": TENANT, "level": level, "number": at, "hashes": tile} for at, tile in enumerate(tiles, number)
        ]
        added = b"".join(fold_complete(_split(tile)) for tile in tiles if len(tile) == TILE_LENGTH)
        level, first = level + 1, number
    await transaction.execute_many(_STORE, rows)


async def narrow(reader: Reader, key: bytes, broken: ChainBroken, *, base: int) -> ChainBroken:
    """Identify the changed event by its stored hash, where the chain can only identify its batch."""
    begin = broken.sequence - base - 1
    if begin < 0 or broken.reason == BEFORE_KEPT:
        return broken
    known = _split(await load_leaves(reader, begin, begin + NARROW_LIMIT))
    rows = await reader.fetch(
        "select tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details from events "
        "where tenant = :tenant and sequence >= :first and sequence < :end order by sequence",
        {"tenant": TENANT, "first": broken.sequence, "end": broken.sequence + len(known)},
    )
    found = {integer(row, "sequence"): row for row in rows}
    for sequence, hashed in enumerate(known, start=broken.sequence):
        row = found.get(sequence)
        if row is None:
            return ChainBroken(sequence, "it was removed", after=broken.after)
        rest = tail(entry_of(row), at=integer(row, "at"))
        if leaf_hash(leaf_data(key, sequence=sequence, tail=rest)) != hashed:
            return ChainBroken(sequence, "it was changed", after=broken.after)
    return broken


async def _load_tile(reader: Reader, level: int, number: int) -> bytes:
    row = await reader.fetch_one(_TILE, {"tenant": TENANT, "level": level, "number": number})
    return b"" if row is None else binary(row, "hashes")


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_LENGTH] for at in range(0, len(hashes), HASH_LENGTH)]


async def list_leaves(reader: Reader, key: bytes, *, after: int, limit: int) -> list[tuple[Event, bytes]]:
    """Events after a number, each with its leaf's data."""
    rows = await reader.fetch(
        "select * from events where tenant = :tenant and sequence > :after order by sequence limit :limit",
        {"tenant": TENANT, "after": after, "limit": limit},
    )
    return [
        (
            event_of(row),
            leaf_data(key, sequence=integer(row, "sequence"), tail=tail(entry_of(row), at=integer(row, "at"))),
        )
        for row in rows
    ]
