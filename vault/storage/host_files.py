"""What the host's kernel provides for files: locks that end with their process, and writes that survive a power
failure.

Linux and macOS have both. Where they are missing (Windows), modules still import, and commands report it at start.
"""

from __future__ import annotations

import os
from collections.abc import Callable


def is_supported() -> bool:
    """Whether this host can keep a vault's data: it has locks, and can open files without following links."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    return hasattr(fcntl, "flock") and hasattr(os, "O_NOFOLLOW") and hasattr(os, "pwrite")


def lock(descriptor: int, *, is_shared: bool = False, waits: bool = False) -> None:
    """Lock a whole file until the descriptor is closed or its process ends, however it ends.

    Raises BlockingIOError while another process holds it, and OSError where the file system has no locks.
    """
    import fcntl

    how = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, how if waits else how | fcntl.LOCK_NB)


def sync(descriptor: int) -> None:
    """Write a file's bytes and size to disk."""
    _sync(descriptor, os.fsync)


def sync_data(descriptor: int) -> None:
    """Write a file's bytes to disk, where its size and name already are."""
    _sync(descriptor, getattr(os, "fdatasync", os.fsync))


def _sync(descriptor: int, write: Callable[[int], None]) -> None:
    """On macOS, `fsync` leaves the bytes in the drive's cache, where a power failure loses them; F_FULLFSYNC also
    flushes that cache (fcntl(2) of macOS). File systems without it, such as network ones, get `fsync`.
    """
    import fcntl

    full: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        write(descriptor)
        return
    try:
        fcntl.fcntl(descriptor, full)
    except OSError:
        os.fsync(descriptor)
