"""The Merkle tree over the activity: roots, inclusion and consistency proofs (RFC 6962 §2.1). Pure, except for the
lookup.

Hashes are 32 bytes (SHA-256). `Lookup` returns the hash of a complete subtree: the `number`-th one that has `2 **
level` leaves. `vault.audit.tree` stores what it reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

HASH_LENGTH = 32
EMPTY_ROOT = hashlib.sha256().digest()

Lookup = Callable[[int, int], Awaitable[bytes]]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold_complete(hashes: Sequence[bytes]) -> bytes:
    """The root over neighboring subtrees of one size; their number is a power of two."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


async def root(lookup: Lookup, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return await _range_hash(lookup, 0, size) if size else EMPTY_ROOT


async def inclusion_proof(lookup: Lookup, index: int, size: int) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size` leaves, from the leaf's sibling on (RFC 6962 §2.1.1)."""
    if not 0 <= index < size:
        raise ValueError("the leaf isn't in the tree")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(await _range_hash(lookup, middle, end))
            end = middle
        else:
            path.append(await _range_hash(lookup, begin, middle))
            begin = middle
    return path[::-1]


async def consistency_proof(lookup: Lookup, old: int, size: int) -> list[bytes]:
    """Proof that the tree of `size` leaves begins with the tree of `old` (RFC 6962 §2.1.2); empty for 0 and `size`."""
    if not 0 <= old <= size:
        raise ValueError("the older tree is the larger one")
    path: list[bytes] = []
    if old in {0, size}:
        return path
    begin, end, is_known = 0, size, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(await _range_hash(lookup, middle, end))
            end = middle
        else:
            path.append(await _range_hash(lookup, begin, middle))
            begin, is_known = middle, False
    if not is_known:
        path.append(await _range_hash(lookup, begin, end))
    return path[::-1]


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that an audit path leads to; None when its length doesn't fit (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        return None
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return found if last == 0 else None


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


async def _range_hash(lookup: Lookup, begin: int, end: int) -> bytes:
    """The root over leaves `begin` to `end`; `begin` is a multiple of every subtree in it."""
    size = end - begin
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return await lookup(level, begin >> level)
    middle = begin + _split(size)
    return node_hash(await _range_hash(lookup, begin, middle), await _range_hash(lookup, middle, end))
