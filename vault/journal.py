"""The answer journal: the first durable copy of a provider's answer, before the database has it.

A rotated refresh token exists once: in the answer. One write and one sync to a preallocated file of this host take a
fraction of a millisecond and need no database. Files stand in `journal/` of the data directory, mode 0600; a process
locks the first that nobody has and goes on in it, so there are as many as processes at once. A slot holds the newest
answer of one connection, for seven days as redo should the database come back older.

    journal.reserve(connection_id, now=)   before the claim: room on the disk, or the refresh is refused unsent
    journal.append(entry)                  durable when it returns
    journal.find(connection_id)            what any process of this host wrote, living or dead; newest first
    journal.entries()                      the newest of each connection; read at start
    journal.sweep(now=)                    wipe what is older than seven days

A slot is `TVJ1`, the body's length (4 bytes), a tag of the connection (16), the SHA-256 of the body (32), the body:
JSON with what is not secret, and the answer sealed by the connection's key, so that it is destroyed with that key.
Torn writes fail the checksum and count as not written. Committing an entry is `vault.adoption`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vault.keysources.private_file import sync_folder
from vault.records import format_scope, parse_scope
from vault.refusals import StorageUnavailable
from vault.upstream import TokenAnswer

log = logging.getLogger("token_vault.rotation")

FOLDER = "journal"
JOURNAL = "journal"  # the purpose under which an answer is sealed
SLOT = 8192  # bytes: an answer with two large tokens
GROWTH = 64  # slots that are allocated at once
KEEP = 7 * 86400  # seconds
_HEADER = struct.Struct(">4sI16s32s")
_MAGIC = b"TVJ1"
_FILES = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer: what `owner` was given for the refresh token of `generation`."""

    connection_id: str
    generation: int
    owner: str
    fence: int
    at: int
    sealed: bytes = field(repr=False)


def encode(entry: Entry) -> bytes:
    """The bytes of a slot. Raises StorageUnavailable when the answer is too large."""
    facts = {
        "connection_id": entry.connection_id,
        "generation": entry.generation,
        "owner": entry.owner,
        "fence": entry.fence,
        "at": entry.at,
        "sealed": base64.b64encode(entry.sealed).decode(),
    }
    body = json.dumps(facts, separators=(",", ":")).encode()
    if _HEADER.size + len(body) > SLOT:
        raise StorageUnavailable("the answer is too large for the journal")
    return _HEADER.pack(_MAGIC, len(body), _tag(entry.connection_id), hashlib.sha256(body).digest()) + body


def decode(slot: bytes) -> Entry | None:
    """The entry of a slot; None for an empty, torn or foreign one."""
    if len(slot) < _HEADER.size:
        return None
    magic, length, _, checksum = _HEADER.unpack_from(slot)
    body = slot[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(body) != length or hashlib.sha256(body).digest() != checksum:
        return None
    try:
        facts = json.loads(body)
        return Entry(
            connection_id=facts["connection_id"],
            generation=facts["generation"],
            owner=facts["owner"],
            fence=facts["fence"],
            at=facts["at"],
            sealed=base64.b64decode(facts["sealed"]),
        )
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None


def write_answer(spent: str, scopes: frozenset[str] | None, answer: TokenAnswer) -> str:
    """What the journal keeps of an answer, before it is sealed."""
    return json.dumps(
        {
            "spent": spent,
            "wish": None if scopes is None else format_scope(scopes),
            "access_token": answer.access_token,
            "refresh_token": answer.refresh_token,
            "scope": None if answer.scopes is None else format_scope(answer.scopes),
            "expires_in": answer.expires_in,
        },
        separators=(",", ":"),
    )


def read_answer(opened: str) -> tuple[str, frozenset[str] | None, TokenAnswer]:
    """The spent refresh token, the scopes that were asked for, and the answer."""
    kept = json.loads(opened)
    answer = TokenAnswer(
        access_token=kept["access_token"],
        refresh_token=kept["refresh_token"],
        scopes=None if kept["scope"] is None else parse_scope(kept["scope"]),
        expires_in=kept["expires_in"],
    )
    return kept["spent"], None if kept["wish"] is None else parse_scope(kept["wish"]), answer


def _tag(connection_id: str) -> bytes:
    return hashlib.sha256(connection_id.encode()).digest()[:16]


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _write(descriptor: int, slot: int, data: bytes) -> None:
    if os.pwrite(descriptor, data, slot * SLOT) != len(data):
        raise OSError(0, "the disk is full")
    _sync(descriptor)


class Journal:
    """The journal of one host as one process sees it. Opens its file when it first has something to keep."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._slots: dict[str, tuple[int, int]] = {}  # connection -> its slot in our file, and when it was written
        self._free: list[int] = []
        self._count = 0
        self._turn = asyncio.Lock()
        self._lost: list[int] = []  # files that are gone from the folder; somebody may still be writing in them

    async def reserve(self, connection_id: str, *, now: int) -> None:
        """Have a place on the disk for this connection's answer. Raises StorageUnavailable when there is no room."""
        if self._has_place(connection_id, now=now):
            return
        async with self._turn:
            if self._has_place(connection_id, now=now):
                return
            try:
                if not self._is_in_place():
                    self._leave()
                    await asyncio.to_thread(self._take_file)
                if not self._free:
                    await asyncio.to_thread(self._grow)
            except OSError as error:
                raise StorageUnavailable(
                    f"cannot write in {self._folder}: {error.strerror}", detail=str(error)
                ) from error
            self._slots[connection_id] = (self._free.pop(), now)

    def _has_place(self, connection_id: str, *, now: int) -> bool:
        """Whether there is one; it is kept from now on."""
        if connection_id not in self._slots or not self._is_in_place():
            return False
        self._slots[connection_id] = (self._slots[connection_id][0], now)
        return True

    def _is_in_place(self) -> bool:
        """Whether we have a file and the next process will find it: somebody may have cleared the folder away."""
        if self._descriptor is None or self._path is None:
            return False
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._descriptor))
        except OSError:
            return False

    async def append(self, entry: Entry) -> None:
        """Keep an answer; durable on return. Raises StorageUnavailable."""
        data = encode(entry)
        await self.reserve(entry.connection_id, now=entry.at)
        slot, _ = self._slots[entry.connection_id]
        try:
            await asyncio.to_thread(_write, self._opened(), slot, data)
        except OSError as error:
            raise StorageUnavailable("the journal cannot be written", detail=str(error)) from error

    async def find(self, connection_id: str) -> tuple[Entry, ...]:
        """What the processes of this host were answered for one connection, the newest first."""
        found = await asyncio.to_thread(self._found, connection_id)
        mine = [entry for entry in found if entry.connection_id == connection_id]
        return tuple(sorted(mine, key=lambda entry: (entry.generation, entry.fence), reverse=True))

    async def entries(self) -> tuple[Entry, ...]:
        """The newest answer of every connection that this host knows of."""
        newest: dict[str, Entry] = {}
        for entry in await asyncio.to_thread(lambda: list(self._scan(None))):
            known = newest.get(entry.connection_id)
            if known is None or (known.generation, known.fence) < (entry.generation, entry.fence):
                newest[entry.connection_id] = entry
        return tuple(newest.values())

    async def sweep(self, *, now: int) -> None:
        """Wipe the answers of our file that are over."""
        async with self._turn:
            over = [(name, slot) for name, (slot, at) in self._slots.items() if now - at > KEEP]
            for name, slot in over:
                at = self._slots[name][1]
                if now - at <= KEEP:
                    continue  # reserved anew meanwhile
                del self._slots[name]  # whoever reserves from here on gets another
                try:
                    await asyncio.to_thread(_write, self._opened(), slot, bytes(SLOT))
                except OSError as error:
                    log.warning("journal not swept", extra={"detail": str(error)})
                    self._slots.setdefault(name, (slot, at))
                    return
                self._free.append(slot)

    def close(self) -> None:
        """Let go of the file; the next process goes on in it."""
        self._leave()
        while self._lost:
            os.close(self._lost.pop())

    def _leave(self) -> None:
        """Go on without the file."""
        if self._descriptor is not None:
            self._lost.append(self._descriptor)
        self._descriptor = self._path = None
        self._slots.clear()
        self._free.clear()

    def _take_file(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_FILES):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            path = self._folder / f"{number:03}.journal"
            descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self._read_index(descriptor)
            self._path, self._descriptor = path, descriptor
            return
        raise OSError(0, "all journal files are in use")

    def _read_index(self, descriptor: int) -> None:
        """Know the slots of the file as its last owner left them; torn ones are free."""
        self._count = os.fstat(descriptor).st_size // SLOT
        for slot in range(self._count):
            entry = decode(os.pread(descriptor, SLOT, slot * SLOT))
            if entry is None or entry.connection_id in self._slots:
                self._free.append(slot)
            else:
                self._slots[entry.connection_id] = (slot, entry.at)

    def _grow(self) -> None:
        """Allocate by writing: room that is only promised may not be there when an answer comes."""
        descriptor = self._opened()
        written = os.pwrite(descriptor, bytes(SLOT * GROWTH), self._count * SLOT)
        if written != SLOT * GROWTH:
            raise OSError(0, "the disk is full")
        os.fsync(descriptor)
        sync_folder(self._folder)  # the file may be new: without its name its bytes would be lost with the power
        self._free.extend(range(self._count, self._count + GROWTH))
        self._count += GROWTH

    def _opened(self) -> int:
        if self._descriptor is None:
            raise OSError(0, "the journal is closed")
        return self._descriptor

    def _found(self, connection_id: str) -> list[Entry]:
        """Our own file by what we know of it, the others by looking at every slot."""
        mine, slot = self._path, self._slots.get(connection_id)
        found = list(self._scan(_tag(connection_id), but=mine))
        if mine is not None and slot is not None:
            entry = decode(os.pread(self._opened(), SLOT, slot[0] * SLOT))
            found += [] if entry is None else [entry]
        return found

    def _scan(self, tag: bytes | None, *, but: Path | None = None) -> Iterator[Entry]:
        for path in self._paths():
            if path == but:
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                log.warning("journal not read", extra={"detail": str(error)})
                continue
            try:
                for offset in range(0, os.fstat(descriptor).st_size, SLOT):
                    header = os.pread(descriptor, _HEADER.size, offset)
                    if not header.startswith(_MAGIC) or (tag is not None and header[8:24] != tag):
                        continue
                    entry = decode(os.pread(descriptor, SLOT, offset))
                    if entry is not None:
                        yield entry
            finally:
                os.close(descriptor)

    def _paths(self) -> Sequence[Path]:
        return sorted(self._folder.glob("*.journal"))
