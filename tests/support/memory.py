"""Keep the tests' temporary files in memory, so that no commit of a test waits for a disk."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
NEEDED: Final = 4 << 30  # bytes; a whole run needs less


def use_memory() -> None:
    """Let `tempfile` and pytest use it, unless TMPDIR is set, or the memory is small or runs no programs."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return
    place = os.statvfs(MEMORY)
    available = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    free = min(place.f_bavail * place.f_frsize, int(available[1]) << 10 if available else 0)
    if free >= NEEDED and not place.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # the folder may already have been looked up


def short_folder() -> str:
    """A folder where a socket's path stays short and others have access: not below a private TMPDIR."""
    return str(MEMORY) if tempfile.gettempdir() == str(MEMORY) else "/tmp"
