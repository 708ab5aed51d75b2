"""Which processes have a vault open: a lock on one file next to the database, shared by all and taken exclusively by a
restore.

The kernel releases it however its process ends. The database driver covers processes of other hosts.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.database import sqlite_path
from vault.storage.host_files import lock
from vault.storage.liveness import is_anybody_alive

FILE = "in-use.lock"


class Presence:
    """This process's share of the lock of one vault."""

    def __init__(self, url: str, *, data: Path) -> None:
        path = sqlite_path(url, data=data)
        self._folder = data if path is None else path.parent
        self._descriptor: int | None = None

    def enter(self) -> None:
        """Hold the vault open from now on. Raises StorageBusy while it is being replaced.

        A read-only location gets a better error when the database is opened.
        """
        with suppress(OSError):
            if not self._lock(is_shared=True):
                raise StorageBusy("a restore of this vault is running: restart when it's done", retry_after=5)

    def take_alone(self) -> bool:
        """Lock out all other processes of this host from now on; False while one has the vault open.

        Raises StorageUnavailable if the location is read-only.
        """
        try:
            return self._lock(is_shared=False) and not is_anybody_alive(self._folder)
        except OSError as error:
            raise StorageUnavailable(f"can't write to {self._folder}: {error.strerror}", detail=str(error)) from error

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, *, is_shared: bool) -> bool:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(self._descriptor, is_shared=is_shared)
        except OSError:
            self.close()
            return False
        return True
