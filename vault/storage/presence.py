"""Who has a vault open: a lock that all share, on one file beside the database, and that a restore takes alone.

The kernel frees it when its process ends, however it ends. Processes of other hosts are the database driver's matter.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.liveness import is_anybody_alive

FILE = "in-use.lock"


class Presence:
    """This process's part in the lock of one vault."""

    def __init__(self, url: str, *, data: Path) -> None:
        parts = urlsplit(url)
        is_elsewhere = parts.scheme == "sqlite" and parts.path
        self._folder = Path(unquote("/" + parts.path.lstrip("/"))).parent if is_elsewhere else data
        self._descriptor: int | None = None

    def enter(self) -> None:
        """Have the vault open from now on. Raises StorageBusy while it is being replaced.

        A place that takes no writes says so when the database is opened, in better words.
        """
        with suppress(OSError):
            if not self._lock(fcntl.LOCK_SH):
                raise StorageBusy("this vault is being restored: start again when that has ended", retry_after=5)

    def take_alone(self) -> bool:
        """Keep everybody else of this host out from now on; False while somebody has the vault open.

        Raises StorageUnavailable where the place takes no writes.
        """
        try:
            return self._lock(fcntl.LOCK_EX) and not is_anybody_alive(self._folder)
        except OSError as error:
            raise StorageUnavailable(f"cannot write in {self._folder}: {error.strerror}", detail=str(error)) from error

    def close(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, how: int) -> bool:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, how | fcntl.LOCK_NB)
        except OSError:
            self.close()
            return False
        return True
