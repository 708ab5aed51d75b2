"""The bytes of the answer journal: slots, their contents, and a file's index built from the heads of answers.

A file is a row of slots of `SLOT` bytes, zero when free. An answer takes as many adjacent slots as it needs. The first
begins with a head: `TVJ1` when one slot is enough, else `TVJ2`; the length of the body (4 bytes), a tag of the
connection (16), the SHA-256 of the whole body (32); then the body. Each further slot begins with `TVJ+`, so that it is
never read as a head. The body is JSON with the facts that aren't secret, then the sealed answer, so that the first
bytes identify the connection and the age. A torn write fails the checksum and counts as not written. Byte format in
`FORMATS.md`; `vault.refresh.journal` owns the files and writes them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import struct
from array import array
from collections.abc import Collection, Iterator
from dataclasses import field
from typing import NamedTuple

from vault.classes.immutable import immutable
from vault.refusals import StorageUnavailable
from vault.storage.host_files import sync

SLOT = 8192  # bytes: an answer with two ordinary tokens
LONGEST = 32  # most slots for one answer: 64 KiB of new tokens and 64 KiB of used ones
_HEADER = struct.Struct(">4sI16s32s")
_SHORT, _LONG, _MORE = b"TVJ1", b"TVJ2", b"TVJ+"
_FIRST, _NEXT = SLOT - _HEADER.size, SLOT - len(_MORE)  # bytes of body in the first slot and in each further slot
_GLANCE = 512  # bytes for the head and the facts before the sealed answer
_FACTS = re.compile(
    rb'\{"connection_id":"([ !#-\[\]-~]*)","generation":(\d{1,18}),"owner":"[^"\\]*",'
    rb'"fence":(\d{1,18}),"at":(\d{1,18}),"sealed":"'
)


@immutable
class JournalEntry:
    """One answer: what `owner` received for the refresh token of `generation`."""

    connection_id: str
    generation: int
    owner: str
    fence: int
    at: int
    sealed: bytes = field(repr=False)

    @property
    def age(self) -> tuple[int, int]:
        """Sort key for the answers of one connection, newest last."""
        return self.generation, self.fence


def slots_for(body: int) -> int:
    """The number of slots for a body of this many bytes."""
    return 1 if body <= _FIRST else 1 - (_FIRST - body) // _NEXT


def slots_for_answer(tokens: int) -> int:
    """The number of slots for an answer with tokens of this many bytes: sealed, in base64, with the facts."""
    return min(LONGEST, slots_for(tokens * 4 // 3 + 1024))


def encode(entry: JournalEntry) -> bytes:
    """The bytes of an answer, for slots from the first on. Raises StorageUnavailable when it is too large."""
    facts = {
        "connection_id": entry.connection_id,
        "generation": entry.generation,
        "owner": entry.owner,
        "fence": entry.fence,
        "at": entry.at,
        "sealed": base64.b64encode(entry.sealed).decode(),
    }
    body = json.dumps(facts, separators=(",", ":")).encode()
    slots = slots_for(len(body))
    if slots > LONGEST:
        raise StorageUnavailable("the answer is too large for the journal")
    magic = _SHORT if slots == 1 else _LONG
    parts = [_HEADER.pack(magic, len(body), _tag(entry.connection_id), hashlib.sha256(body).digest()), body[:_FIRST]]
    for start in range(_FIRST, len(body), _NEXT):
        parts += (_MORE, body[start : start + _NEXT])
    return b"".join(parts)


def decode(record: bytes) -> JournalEntry | None:
    """The answer that begins with these bytes; None for an empty, torn or unknown one."""
    magic, length, tag, checksum = _HEADER.unpack_from(record.ljust(_HEADER.size, b"\0"))
    slots = slots_for(length)
    if magic != (_SHORT if slots == 1 else _LONG) or slots > LONGEST:
        return None
    parts = [record[_HEADER.size : min(SLOT, _HEADER.size + length)]]
    for start in range(SLOT, slots * SLOT, SLOT):
        if not record.startswith(_MORE, start):
            return None
        parts.append(record[start + len(_MORE) : start + SLOT])
    body = b"".join(parts)[:length]
    if len(body) != length or hashlib.sha256(body).digest() != checksum:
        return None
    try:
        facts = json.loads(body)
        entry = JournalEntry(
            connection_id=facts["connection_id"],
            generation=facts["generation"],
            owner=facts["owner"],
            fence=facts["fence"],
            at=facts["at"],
            sealed=base64.b64decode(facts["sealed"]),
        )
        return entry if tag == _tag(entry.connection_id) else None
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return None


def _tag(connection_id: str) -> bytes:
    return hashlib.sha256(connection_id.encode()).digest()[:16]


class JournalPlace(NamedTuple):
    """The position of an answer, and its stated age. Reading it shows whether it is complete."""

    slot: int
    slots: int
    generation: int
    fence: int
    at: int

    @property
    def age(self) -> tuple[int, int]:
        """Like `JournalEntry.age`."""
        return self.generation, self.fence


def read(descriptor: int, place: JournalPlace) -> JournalEntry | None:
    """The whole answer; None if it is damaged, or the slot now has other content."""
    return decode(os.pread(descriptor, place.slots * SLOT, place.slot * SLOT))


class Index:
    """The position of each connection's newest answer in one file; takes about 250 bytes of memory each."""

    def __init__(self) -> None:
        self.count = 0  # slots of the file
        self._places: dict[str, array[int]] = {}  # the parts of a `JournalPlace`, without an object for each number

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def get(self, connection_id: str) -> JournalPlace | None:
        """The position of this connection's answer."""
        place = self._places.get(connection_id)
        return None if place is None else JournalPlace(*place)

    def places(self) -> Iterator[tuple[str, JournalPlace]]:
        """Every connection and the position of its answer."""
        return ((name, JournalPlace(*place)) for name, place in self._places.items())

    def put(self, connection_id: str, place: JournalPlace) -> None:
        """Add an answer, replacing the earlier one."""
        self._places[connection_id] = array("q", place)

    def touch(self, connection_id: str, *, at: int) -> None:
        """Keep an answer as if it had been written now."""
        self._places[connection_id][-1] = at

    def drop(self, connection_id: str) -> None:
        """Remove an answer."""
        del self._places[connection_id]

    def free(self) -> list[int]:
        """The slots without a known answer, in order."""
        taken = [False] * self.count
        for _, place in self.places():
            for slot in range(place.slot, min(self.count, place.slot + place.slots)):
                taken[slot] = True
        return [slot for slot, is_taken in enumerate(taken) if not is_taken]

    @classmethod
    def of(cls, descriptor: int) -> Index:
        """Read the heads of a file, one by one. Blocking: about 0.2 s for 50,000 answers."""
        made = cls()
        made.count = os.fstat(descriptor).st_size // SLOT
        for slot in range(made.count):
            found = _glance(descriptor, slot)
            if found is not None:
                made._keep_newer(descriptor, *found)
        return made

    def _keep_newer(self, descriptor: int, connection_id: str, place: JournalPlace) -> None:
        known = self.get(connection_id)
        if known is not None:  # a larger answer was written elsewhere, and its writer ended before wiping the old one
            newer, older = (place, known) if place.age > known.age else (known, place)
            place = older if read(descriptor, newer) is None else newer
        self.put(connection_id, place)


def _glance(descriptor: int, slot: int) -> tuple[str, JournalPlace] | None:
    """The connection whose answer begins in a slot, by its first bytes."""
    start = os.pread(descriptor, _GLANCE, slot * SLOT)
    if not start.startswith((_SHORT, _LONG)):
        return None
    slots = slots_for(int.from_bytes(start[4:8], "big"))
    if slots > LONGEST or (slots == 1) is not start.startswith(_SHORT):
        return None
    facts = _FACTS.match(start, _HEADER.size)
    if facts is not None:
        name, generation, fence, at = facts.groups()
        return name.decode(), JournalPlace(slot, slots, int(generation), int(fence), int(at))
    entry = decode(os.pread(descriptor, slots * SLOT, slot * SLOT))  # a longer name than any of ours
    if entry is None:
        return None
    return entry.connection_id, JournalPlace(slot, slots, entry.generation, entry.fence, entry.at)


def wipe_remains(descriptor: int, free: Collection[int], names: Collection[str]) -> None:
    """Overwrite the remains of answers for these connections in free slots.

    (Writing a newer answer elsewhere wipes only the first bytes of the old one.)
    """
    tags, known = {_tag(name) for name in names}, frozenset(free)
    for slot in free:
        start = os.pread(descriptor, _HEADER.size, slot * SLOT)
        if len(start) == _HEADER.size and start[8:24] in tags:
            _, length, _, _ = _HEADER.unpack(start)
            for further in range(slot, slot + slots_for(min(length, LONGEST * SLOT))):
                if further in known:
                    os.pwrite(descriptor, bytes(SLOT), further * SLOT)
    sync(descriptor)
