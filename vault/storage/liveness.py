"""Which processes of this host are running: one lock file per process, released by the kernel however the process ends.

A pause releases nothing, so a stopped process differs from a dead one. Only the file that the process itself locked
proves its death, once its lock can be taken: a missing file may mean that someone deleted the folder of a running
process, and a restored copy has no lock. The file records its own inode number, which no other file gets while the
process holds it open. Files are in the data directory; the database driver covers processes of other hosts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from vault.records import DAY
from vault.refusals import StorageUnavailable
from vault.storage.host_files import lock

FOLDER = "owners"
KEEP = 30 * DAY  # seconds to keep a dead process's file as proof, from when its death was first noticed

_GONE = b"gone\n"
_LONGEST = 64  # bytes of a file


class OwnerLocks:
    """The lock files of one data directory. Blocking, for microseconds."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER
        self._held: dict[str, int] = {}

    def hold(self, owner: str) -> None:
        """Show that this process uses the name `owner` until it ends; creates the file again if it is gone."""
        path = self._path(owner)
        if self._is_in_place(owner, path):
            return
        unseen = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                lock(descriptor, waits=True)
                os.write(descriptor, _identity(descriptor))
                unseen.rename(path)  # locked before others can see it
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StorageUnavailable(f"can't write to {self._folder}: {error.strerror}", detail=str(error)) from error
        before, self._held[owner] = self._held.get(owner), descriptor
        if before is not None:
            os.close(before)

    def _is_in_place(self, owner: str, path: Path) -> bool:
        """Whether our lock is on the same file that others see."""
        descriptor = self._held.get(owner)
        if descriptor is None:
            return False
        try:
            return os.path.samestat(path.lstat(), os.fstat(descriptor))
        except OSError:
            return False

    def is_gone(self, owner: str) -> bool | None:
        """Whether the process with this name has ended; None if that can't be determined here."""
        path = self._path(owner)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            lock(descriptor, is_shared=True)
            return True if _is_original(descriptor) else None
        except BlockingIOError:
            return False
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Release every name. The files stay as proof until they are swept."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _path(self, owner: str) -> Path:
        return self._folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.lock"

    def _sweep(self) -> None:
        """Remove files of processes that died long ago. Names are random and never used again.

        A file is as old as its process; a mark left by the first process to notice shows how long it has been dead.
        """
        for path in self._folder.glob("*.lock"):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    lock(descriptor, is_shared=True)  # as in `is_gone`, this makes no process look alive
                    status = os.fstat(descriptor)
                    is_noticed = os.pread(descriptor, _LONGEST, 0).endswith(_GONE)
                    if not is_noticed and not path.name.startswith("."):  # otherwise its owner is about to lock it
                        os.pwrite(descriptor, _GONE, status.st_size)
                    elif time.time() - status.st_mtime > KEEP:
                        path.unlink()
                finally:
                    os.close(descriptor)


def _identity(descriptor: int) -> bytes:
    return f"{os.fstat(descriptor).st_ino}\n".encode()


def _is_original(descriptor: int) -> bool:
    """Whether this is the file that its owner locked, not a copy; releases before schema 5 don't record that."""
    said = os.pread(descriptor, _LONGEST, 0).removesuffix(_GONE)
    return said in (b"", _identity(descriptor))


def is_anybody_alive(data: Path) -> bool:
    """Whether any process holds a name in this data directory, including one of an earlier release."""
    for path in (data / FOLDER).glob("*.lock"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                lock(descriptor, is_shared=True)
            except OSError:
                return True
            finally:
                os.close(descriptor)
    return False
