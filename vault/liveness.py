"""Which processes of this host live: one lock file per process, freed by the kernel at its end, however it ends.

A pause frees nothing, so that a stopped process is told from a dead one. Files stand in the data directory; processes
of other hosts are the database driver's matter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from vault.refusals import StorageUnavailable

FOLDER = "owners"
KEEP = 3600  # seconds from when a death is first noticed: until then the file is kept, as the proof of it


class OwnerLocks:
    """The lock files of one data directory. Blocking, for microseconds."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER
        self._held: dict[str, int] = {}

    def hold(self, owner: str) -> None:
        """Show that this process uses the name `owner`, until it ends. Holding twice is holding once."""
        if owner in self._held:
            return
        path = self._path(owner)
        unseen = path.with_name("." + path.name)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                unseen.rename(path)  # locked before anybody can see it
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StorageUnavailable(f"cannot write in {self._folder}: {error.strerror}", detail=str(error)) from error
        self._held[owner] = descriptor

    def is_gone(self, owner: str) -> bool | None:
        """Whether the process of this name has ended; None when this host knows nothing of it."""
        path = self._path(owner)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def close(self) -> None:
        """Let go of every name. The files stay as proof until they are swept."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _path(self, owner: str) -> Path:
        return self._folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.lock"

    def _sweep(self) -> None:
        """Remove files of the long dead. Names are random and never used again.

        A file is as old as its process; how long that is dead is told by the mark that the first to notice leaves.
        """
        for path in self._folder.glob("*.lock"):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as `is_gone`: nobody looks alive by it
                    status = os.fstat(descriptor)
                    if status.st_size == 0 and not path.name.startswith("."):  # else its owner is about to lock it
                        os.write(descriptor, b"gone\n")
                    elif time.time() - status.st_mtime > KEEP:
                        path.unlink()
                finally:
                    os.close(descriptor)


def is_anybody_alive(data: Path) -> bool:
    """Whether any process holds a name in this data directory, also one of an earlier release."""
    for path in (data / FOLDER).glob("*.lock"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(descriptor)
    return False
