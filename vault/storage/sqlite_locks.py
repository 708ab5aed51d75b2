"""Which process holds the lock to write of a vault's SQLite files, by what Linux says in `/proc/locks`.

SQLite's locks are the kernel's, on bytes of a file: whoever holds one keeps it until it ends, also while it is stopped.
Nobody can take it away, so that all that is left is to say who it is. Opening the file to ask the kernel would not do:
closing it again would drop the locks of this process (POSIX).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LOCKS: Final = Path("/proc/locks")
_WRITE: Final = 120  # the byte of the `-shm` file that stands for the right to write (sqlite.org/walformat.html §2.3.1)


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Another process; `is_stopped`: it does not run until somebody continues it."""

    pid: int
    is_stopped: bool

    def __str__(self) -> str:
        if self.is_stopped:
            return (
                f"process {self.pid} holds its lock and is stopped: continue it with kill -CONT {self.pid}, or end it"
            )
        return f"process {self.pid} holds its lock"


def find_lock_holder(files: Sequence[Path]) -> LockHolder | None:
    """Who else may write in one of these SQLite files just now; None where nobody does, or nothing tells."""
    places: set[str] = set()
    for path in files:
        try:
            status = path.with_name(f"{path.name}-shm").stat()
        except OSError:
            continue
        places.add(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        match line.split():
            case [_, "POSIX", _, "WRITE", pid, place, first, last] if place in places and _holds(first, last):
                if int(pid) > 0 and int(pid) != os.getpid():  # others are of another container
                    return LockHolder(int(pid), _is_stopped(pid))
            case _:  # a lock of another kind or file, or somebody who waits
                pass
    return None


def _holds(first: str, last: str) -> bool:
    return int(first) <= _WRITE and (last == "EOF" or int(last) >= _WRITE)


def _is_stopped(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in {"T", "t"}
