"""What the host's kernel does for files: locks that end with their process, and writes that outlive a power cut.

Linux and macOS have these. Where they are missing (Windows), modules still import, and commands say so at start.
"""

from __future__ import annotations

import os


def is_supported() -> bool:
    """Whether this host can keep a vault's data: with locks, and opening files without following links."""
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


def sync(descriptor: int, *, is_new: bool = True) -> None:
    """Put a file's bytes on the disk; without `is_new`, those of a file whose size and name are there already.

    On macOS `fsync` leaves them in the drive's cache, where a power cut takes them; F_FULLFSYNC empties that, too
    (fcntl(2) of macOS). File systems without it, such as network ones, get `fsync`.
    """
    import fcntl

    full: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError:
            os.fsync(descriptor)
    elif is_new:
        os.fsync(descriptor)
    else:
        getattr(os, "fdatasync", os.fsync)(descriptor)
