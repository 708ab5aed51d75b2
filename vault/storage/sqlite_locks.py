"""Which process holds the write lock of a vault's SQLite files, according to Linux's `/proc/locks`.

SQLite's locks are kernel locks on bytes of a file: a process keeps one until it ends, even while it is stopped. No one
can take it away, so all we can do is name the process. We can't open the file to ask the kernel, because closing it
again would drop this process's locks (POSIX).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vault.classes.immutable import immutable

_LOCKS: Final = Path("/proc/locks")
_WRITE: Final = 120  # the byte of the `-shm` file that represents the right to write (sqlite.org/walformat.html §2.3.1)


@immutable
class LockHolder:
    """Another process; `is_stopped`: it doesn't run until someone resumes it."""

    pid: int
    is_stopped: bool

    def __str__(self) -> str:
        if self.is_stopped:
            return f"process {self.pid} holds its lock but is stopped: resume it with kill -CONT {self.pid}, or stop it"
        return f"process {self.pid} holds its lock"


def find_lock_holder(files: Sequence[Path]) -> LockHolder | None:
    """The other process that holds the right to write to one of these SQLite files; None if there is none or it can't
    be determined."""
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
                if int(pid) > 0 and int(pid) != os.getpid():  # other lines belong to another container
                    return LockHolder(int(pid), _is_stopped(pid))
            case _:  # a lock of another kind or file, or a waiting process
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
