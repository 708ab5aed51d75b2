"""The answer journal: the first durable copy of a provider's answer, before the database has it.

A rotated refresh token exists once: in the answer. One write and one sync to a preallocated file of this host take a
fraction of a millisecond and need no database. Files are in `journal/` of the data directory, mode 0600. A process
locks the first file that is free and continues in it, so there are as many files as processes at once. The journal
keeps each connection's newest answer for seven days, to redo it if the database comes back older.

    journal.reserve(connection_id, now=)   before the claim: reserve disk space, or refuse the refresh before it is sent
    journal.append(entry)                  durable when it returns
    journal.is_ahead(id, generation=)      whether an answer for that or a later generation is known; from memory
    journal.find(connection_id)            answers to any process of this host, running or ended; newest first
    journal.newest()                       how new the newest answer of each connection is; read at start
    journal.sweep(now=)                    wipe what is older than seven days, and free the space

The connection's key seals the answer, so destroying the key destroys the answer. `vault.refresh.journal_slots` defines
the bytes and their in-memory index; `vault.refresh.journal_recovery` commits entries.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EBADF, EMFILE, ENOSPC
from pathlib import Path
from typing import NamedTuple

from vault.classes.immutable import immutable
from vault.keys.sources.private_file import sync_folder
from vault.records import DAY, format_scope, parse_scope
from vault.refresh.journal_slots import (
    SLOT,
    Index,
    JournalEntry,
    JournalPlace,
    decode,
    encode,
    read,
    slots_for_answer,
    wipe_remains,
)
from vault.refusals import StorageUnavailable
from vault.storage.host_files import lock, sync, sync_data
from vault.upstream import TokenAnswer

__all__ = ["FOLDER", "GROWTH", "JOURNAL", "KEEP", "SLOT", "Journal", "JournalEntry", "decode", "encode"]

log = logging.getLogger("token_vault.rotation")

FOLDER = "journal"
JOURNAL = "journal"  # the purpose under which an answer is sealed
GROWTH = 64  # slots that are allocated at once
KEEP = 7 * DAY  # seconds
LOOK_EVERY = 1.0  # seconds between reads of other processes' files when nothing requires one
MOVES = 500  # answers that one sweep moves together
_SHARE = 100  # reads may take at most one part in this many of the time
_SETTLED = 50_000_000  # nanoseconds after which rewriting a file changes its modification time
_FILES = 1000
_NO_HEAD = b"\0\0\0\0"  # over the first bytes of an answer, which then counts as not written


def write_answer(spent: str, scopes: frozenset[str] | None, answer: TokenAnswer) -> str:
    """The part of an answer that the journal keeps, before it is sealed."""
    return json.dumps(
        {
            "spent": spent,
            "wish": None if scopes is None else format_scope(scopes),
            "access_token": answer.access_token,
            "refresh_token": answer.refresh_token,
            "scope": None if answer.scopes is None else format_scope(answer.scopes),
            "expires_in": answer.expires_in,
            **({"leaves_earlier": True} if answer.leaves_earlier else {}),
        },
        separators=(",", ":"),
    )


def read_answer(opened: str) -> tuple[str, frozenset[str] | None, TokenAnswer]:
    """The used refresh token, the requested scopes, and the answer."""
    kept = json.loads(opened)
    answer = TokenAnswer(
        access_token=kept["access_token"],
        refresh_token=kept["refresh_token"],
        scopes=None if kept["scope"] is None else parse_scope(kept["scope"]),
        expires_in=kept["expires_in"],
        leaves_earlier=kept.get("leaves_earlier", False),
    )
    return kept["spent"], None if kept["wish"] is None else parse_scope(kept["wish"]), answer


class _Room(NamedTuple):
    """A place that is reserved and still empty, and since when."""

    slot: int
    slots: int
    at: int


def _slots_of(place: _Room | JournalPlace) -> range:
    return range(place.slot, place.slot + place.slots)


def _is_over(place: _Room | JournalPlace, *, now: int) -> bool:
    return now - place.at > KEEP


def _put(descriptor: int, slot: int, data: bytes) -> None:
    if os.pwrite(descriptor, data, slot * SLOT) != len(data):
        raise OSError(ENOSPC, "the disk is full")


def _erase(descriptor: int, place: JournalPlace) -> None:
    _put(descriptor, place.slot, bytes(place.slots * SLOT))


def _write(descriptor: int, slot: int, data: bytes) -> None:
    _put(descriptor, slot, data.ljust(-(-len(data) // SLOT) * SLOT, b"\0"))  # overwrites all of an earlier answer
    sync_data(descriptor)


@immutable
class _IndexState:
    """The index of a file as of the last read; `state` None: the file may have been written since."""

    index: Index
    state: tuple[int, ...] | None


def _state(descriptor: int) -> tuple[int, ...]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Journal:
    """The journal of one host as one process sees it. It opens its file when it first has something to keep."""

    def __init__(self, data: Path) -> None:
        self.data = data  # the host's folder that contains `journal/`
        self._folder = data / FOLDER
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._index = Index()  # of our file
        self._rooms: dict[str, _Room] = {}
        self._free: list[int] = []  # a heap
        self._writing: Counter[str] = Counter()
        self._turn = asyncio.Lock()  # held while the set of free slots changes
        self._is_moving = False
        self._others: dict[Path, _IndexState] = {}
        self._look = asyncio.Lock()
        self._era: int | None = None
        self._look_at = time.monotonic()  # nothing is reread before this time
        self._lost: list[int] = []  # files that are gone from the folder; a process may still be writing to them

    # Writing

    async def reserve(self, connection_id: str, *, now: int, tokens: int = 0) -> None:
        """Reserve disk space for this connection's answer. Raises StorageUnavailable when there is none.

        `tokens`: the expected bytes of its tokens, including the used one.
        """
        await self._reserve(connection_id, slots=slots_for_answer(tokens), now=now)

    async def append(self, entry: JournalEntry) -> None:
        """Keep an answer; durable on return. Raises StorageUnavailable."""
        data = encode(entry)
        name, slots = entry.connection_id, -(-len(data) // SLOT)
        slot = await self._reserve(name, slots=slots, now=entry.at)
        index = self._index
        self._writing[name] += 1
        try:
            await asyncio.to_thread(_write, self._own_descriptor(), slot, data)
        except OSError as error:
            raise StorageUnavailable("the journal can't be written", detail=str(error)) from error
        finally:
            self._writing[name] -= 1
            if not self._writing[name]:
                del self._writing[name]
        if self._index is index:  # otherwise someone deleted the folder in the meantime, and our file with it
            self._settle(name, JournalPlace(slot, slots, entry.generation, entry.fence, entry.at))

    def _settle(self, name: str, place: JournalPlace) -> None:
        """Record which answers are durable now, and free the slots that are no longer needed."""
        before = self._index.get(name)
        room = self._rooms.pop(name, None)
        self._index.put(name, place)
        unused = {slot for held in (before, room) if held is not None for slot in _slots_of(held)}
        unused.difference_update(_slots_of(place))
        if before is not None and before.slot in unused:
            with suppress(OSError):  # not synced: an answer older than the durable one changes nothing
                _put(self._own_descriptor(), before.slot, _NO_HEAD)
        self._release(unused)

    def _release(self, slots: Iterable[int]) -> None:
        """Make these slots free."""
        for slot in slots:
            heapq.heappush(self._free, slot)

    async def _reserve(self, name: str, *, slots: int, now: int) -> int:
        """The first slot of the reserved place; doesn't await."""
        slot = None if self._is_moving else self._place(name, slots=slots, now=now)
        if slot is not None:
            return slot
        async with self._turn:
            slot = self._place(name, slots=slots, now=now)
            if slot is not None:
                return slot
            try:
                if not self._is_in_place():
                    self._leave()
                    await asyncio.to_thread(self._take_file)
                slot = self._take_slots(slots)
                while slot is None:
                    await asyncio.to_thread(self._grow)
                    slot = self._take_slots(slots)
            except OSError as error:
                raise StorageUnavailable(
                    f"can't write to {self._folder}: {error.strerror}", detail=str(error)
                ) from error
            before = self._rooms.get(name)
            if before is not None:  # too small
                self._release(_slots_of(before))
            self._rooms[name] = _Room(slot, slots, now)
            return slot

    def _place(self, name: str, *, slots: int, now: int) -> int | None:
        """The first slot of this connection's existing place, which is kept from now on."""
        if not self._is_in_place():
            return None
        room = self._rooms.get(name)
        if room is not None and room.slots >= slots:
            self._rooms[name] = room._replace(at=now)
            return room.slot
        known = self._index.get(name)
        if room is None and known is not None and known.slots >= slots:
            self._index.touch(name, at=now)
            return known.slot
        return None

    def _take_slots(self, slots: int) -> int | None:
        """The first run of this many free adjacent slots; None: the file has to grow."""
        if slots == 1:
            return heapq.heappop(self._free) if self._free else None
        self._free.sort()  # a sorted list is a heap
        for position, (first, last) in enumerate(zip(self._free, self._free[slots - 1 :], strict=False)):
            if last - first < slots:
                del self._free[position : position + slots]
                return first
        return None

    def _is_in_place(self) -> bool:
        """Whether our file exists and the next process will find it: someone may have deleted the folder."""
        try:
            return self._path is not None and os.path.samestat(self._path.lstat(), os.fstat(self._own_descriptor()))
        except OSError:
            return False

    # Reading

    async def is_ahead(self, connection_id: str, *, generation: int, era: int) -> bool:
        """Whether an answer for this generation or a later one is known. From memory, sometimes after rereading the
        files.

        `era` counts the database's servers: a new one may have lost what others committed a moment ago.
        """
        if era != self._era or time.monotonic() >= self._look_at:
            self._era = era
            await self.look()
        return any(place.generation >= generation for place in self._places(connection_id))

    def _places(self, connection_id: str) -> Iterator[JournalPlace]:
        for index in (self._index, *(seen.index for seen in self._others.values())):
            place = index.get(connection_id)
            if place is not None:
                yield place

    async def find(self, connection_id: str, *, anew: bool = True) -> tuple[JournalEntry, ...]:
        """This host's answers for one connection, newest first.

        `anew` False: as of the last look at the files.
        """
        if anew:
            await self.look()
        return await asyncio.to_thread(self._read_entries, connection_id)

    async def newest(self) -> Mapping[str, tuple[int, int]]:
        """Generation and fence of every connection's newest answer, as stated in that answer."""
        await self.look()
        newest: dict[str, tuple[int, int]] = {}
        for index in (self._index, *(seen.index for seen in self._others.values())):
            for name, place in index.places():
                newest[name] = max(place.age, newest.get(name, place.age))
        return newest

    async def entries(self) -> tuple[JournalEntry, ...]:
        """The newest complete answer of every connection that this host knows."""
        names = await self.newest()
        found = await asyncio.to_thread(lambda: [self._read_entries(name) for name in names])
        return tuple(entries[0] for entries in found if entries)

    async def look(self) -> None:
        """Update the index of the other files; unchanged files are not read."""
        async with self._look:
            started = time.monotonic()
            self._others = await asyncio.to_thread(self._index_others, self._path, self._others)
            now = time.monotonic()
            self._look_at = now + max(LOOK_EVERY, _SHARE * (now - started))

    def _index_others(self, mine: Path | None, known: Mapping[Path, _IndexState]) -> dict[Path, _IndexState]:
        seen: dict[Path, _IndexState] = {}
        for path in self._paths():
            if path == mine:
                continue
            with self._open_for_reading(path) as descriptor:
                if descriptor is not None:
                    seen[path] = _index_file(descriptor, known.get(path))
        return seen

    @contextmanager
    def _open_for_reading(self, path: Path) -> Generator[int | None]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            descriptor = None  # it was empty, so it was removed
        except OSError as error:
            log.warning("journal not read", extra={"detail": str(error)})
            descriptor = None
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _read_entries(self, connection_id: str) -> tuple[JournalEntry, ...]:
        found: list[JournalEntry | None] = []
        mine = self._index.get(connection_id)
        if mine is not None and self._descriptor is not None:
            found.append(read(self._descriptor, mine))
        for path, seen in self._others.items():
            place = seen.index.get(connection_id)
            if place is not None:
                with self._open_for_reading(path) as descriptor:
                    found.append(None if descriptor is None else read(descriptor, place))
        whole = [entry for entry in found if entry is not None and entry.connection_id == connection_id]
        return tuple(sorted(whole, key=lambda entry: entry.age, reverse=True))

    def _paths(self) -> Sequence[Path]:
        return sorted(self._folder.glob("*.journal"))

    # Deleting

    async def sweep(self, *, now: int) -> None:
        """Wipe expired answers in our file and in files without a process, and free the space."""
        async with self._turn:
            if self._descriptor is not None:
                try:
                    await self._wipe_over(now=now)
                    await self._shrink()
                except OSError as error:
                    log.warning("journal not swept", extra={"detail": str(error)})
        await asyncio.to_thread(self._sweep_unowned, self._path, now)

    async def _wipe_over(self, *, now: int) -> None:
        for name, room in list(self._rooms.items()):
            if _is_over(room, now=now):
                del self._rooms[name]
                self._release(_slots_of(room))
        for name in list(self._index):
            place = self._index.get(name)
            if place is not None and name not in self._writing and _is_over(place, now=now):
                await self._wipe(name, place)

    async def _wipe(self, name: str, place: JournalPlace) -> None:
        """Overwrite an answer and free its slots. Raises OSError, and then the answer stays known."""
        self._index.drop(name)  # a reservation made after this gets another place
        try:
            await asyncio.to_thread(_write, self._own_descriptor(), place.slot, bytes(place.slots * SLOT))
        except OSError:
            if self._index.get(name) is None:
                self._index.put(name, place)
            raise
        self._release(_slots_of(place))

    async def forget(self, names: Collection[str]) -> None:
        """Overwrite these connections' answers, in our file and in those without a process.

        Other running processes do so in theirs. Raises StorageUnavailable.
        """
        if not names:
            return
        async with self._turn:
            try:
                if self._descriptor is not None:
                    for name in names:
                        place = self._index.get(name)
                        if place is not None and name not in self._writing:
                            await self._wipe(name, place)
                    await asyncio.to_thread(wipe_remains, self._own_descriptor(), tuple(self._free), names)
                await asyncio.to_thread(self._forget_unowned, self._path, names)
            except OSError as error:
                raise StorageUnavailable("the journal can't be written", detail=str(error)) from error

    def _forget_unowned(self, mine: Path | None, names: Collection[str]) -> None:
        for _, descriptor in self._open_unowned(mine):
            index = Index.of(descriptor)
            for name in names:
                place = index.get(name)
                if place is not None:
                    _erase(descriptor, place)
            wipe_remains(descriptor, Index.of(descriptor).free(), names)

    def _open_unowned(self, mine: Path | None) -> Iterator[tuple[Path, int]]:
        """The files whose processes have ended, each locked and open while the caller uses it."""
        for path in self._paths():
            if path == mine:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                lock(descriptor)
            except OSError:
                continue  # its process is running
            else:
                yield path, descriptor
            finally:
                os.close(descriptor)

    async def _shrink(self) -> None:
        """Move answers from the end of a mostly free file to its free slots, and truncate it."""
        if len(self._free) < max(2 * GROWTH, self._index.count // 2):
            return
        self._is_moving = True  # writers wait for their turn from here on
        try:
            for _ in range(100):
                if not self._writing:
                    break
                await asyncio.sleep(0.01)
            else:
                return  # the disk is slow now: leave it to the next sweep
            moved = await asyncio.to_thread(self._copy_from_end)
            left = [place for name in moved if (place := self._index.get(name)) is not None]
            for name, place in moved.items():
                self._index.put(name, place)
            self._free += [slot for place in left for slot in _slots_of(place)]
            free, end = set(self._free), self._index.count
            while end - 1 in free:
                end -= 1
            end = max(GROWTH, -(-end // GROWTH) * GROWTH)
            await asyncio.to_thread(self._cut, end, left)
            self._free = [slot for slot in self._free if slot < end]
            heapq.heapify(self._free)
            self._index.count = end
        finally:
            self._is_moving = False

    def _copy_from_end(self) -> dict[str, JournalPlace]:
        """Copy answers into free slots nearer the start; on return both copies exist and are durable."""
        descriptor = self._own_descriptor()
        moved: dict[str, JournalPlace] = {}
        for name, place in heapq.nlargest(MOVES, self._index.places(), key=lambda one: one[1].slot):
            target = self._take_slots(place.slots)
            if target is None:
                continue  # no space for a multi-slot answer until smaller ones have moved
            new = place._replace(slot=target)
            if target > place.slot:
                self._free += _slots_of(new)
                continue
            _put(descriptor, target, os.pread(descriptor, place.slots * SLOT, place.slot * SLOT))
            moved[name] = new
        sync_data(descriptor)
        return moved

    def _cut(self, end: int, left: Sequence[JournalPlace]) -> None:
        """Wipe the former places of moved answers, and truncate the file."""
        for place in left:
            _erase(self._own_descriptor(), place)
        os.ftruncate(self._own_descriptor(), end * SLOT)

    def _sweep_unowned(self, mine: Path | None, now: int) -> None:
        """Sweep files whose processes have ended; removes those without an answer."""
        for path, descriptor in self._open_unowned(mine):
            with suppress(OSError):  # the file is gone by now
                index = Index.of(descriptor)
                over = [place for _, place in index.places() if _is_over(place, now=now)]
                for place in over:
                    _erase(descriptor, place)
                if len(over) == len(index):
                    path.unlink()
                elif over:
                    sync_data(descriptor)

    # The file

    def close(self) -> None:
        """Release the file; the next process continues in it."""
        self._leave()
        while self._lost:
            os.close(self._lost.pop())

    def _leave(self) -> None:
        """Continue without the file."""
        if self._descriptor is not None:
            self._lost.append(self._descriptor)
        self._descriptor = self._path = None
        self._index = Index()
        self._rooms.clear()
        self._free.clear()

    def _take_file(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_FILES):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            path = self._folder / f"{number:03}.journal"
            descriptor = os.open(path, flags, 0o600)
            try:
                lock(descriptor)
                if not os.path.samestat(path.lstat(), os.fstat(descriptor)):
                    raise FileNotFoundError  # swept after it was opened
            except OSError:
                os.close(descriptor)
                continue
            index = _index_file(descriptor, self._others.get(path)).index
            self._free = index.free()
            self._index, self._path, self._descriptor = index, path, descriptor
            return
        raise OSError(EMFILE, "all journal files are in use")

    def _grow(self) -> None:
        """Allocate by writing: space that is only promised may be missing when an answer arrives."""
        descriptor, count = self._own_descriptor(), self._index.count
        _put(descriptor, count, bytes(SLOT * GROWTH))
        sync(descriptor)
        sync_folder(self._folder)  # if the file is new, a power failure must not lose its name
        self._index.count = count + GROWTH
        self._release(range(count, self._index.count))

    def _own_descriptor(self) -> int:
        if self._descriptor is None:
            raise OSError(EBADF, "the journal is closed")
        return self._descriptor


def _index_file(descriptor: int, known: _IndexState | None) -> _IndexState:
    """The index of a file: the known one if the file has not changed."""
    state = _state(descriptor)
    if known is not None and known.state == state:
        return known
    is_settled = time.time_ns() - state[3] > _SETTLED
    return _IndexState(Index.of(descriptor), state if is_settled else None)
