"""The folders on disk that sandboxes read from: each is locked while its vault's process lives.

Folders that a killed process left behind are removed at the next start. The kernel releases the lock when the process
ends, however it ends; a folder that another live vault has locked stays.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vault.storage.host_files import lock

_PREFIX: Final = "token-vault-server-"
_LOCK: Final = "lock"
_UNLOCKED: Final = 600  # seconds after which a folder without a lock counts as abandoned


@contextmanager
def locked_folder() -> Generator[Path]:
    """A new folder, locked until the block ends; the caller removes its contents."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    held = _lock_new(folder)
    try:
        yield folder
    finally:
        os.close(held)


def _lock_new(folder: Path) -> int:
    """Lock a folder that is still empty; closing the descriptor unlocks it. Without a lock, the folder is removed."""
    unseen = folder / "unlocked"
    try:
        held = os.open(unseen, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            lock(held)
            unseen.rename(folder / _LOCK)  # so that `remove_left` never finds it unlocked
        except OSError:
            os.close(held)
            raise
    except OSError:
        unseen.unlink(missing_ok=True)
        folder.rmdir()
        raise
    return held


def remove_left() -> int:
    """Remove this user's folders whose processes are gone; returns how many."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _is_left(folder):
                shutil.rmtree(folder)
                removed += 1
    return removed


def _is_left(folder: Path) -> bool:
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        return False
    try:
        held = os.open(folder / _LOCK, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:  # another process may be about to lock it
        return time.time() - facts.st_mtime > _UNLOCKED
    try:
        lock(held)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True
