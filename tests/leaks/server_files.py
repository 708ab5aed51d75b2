"""What a PostgreSQL server writes: tables, write-ahead log, and a log with each statement and all of its parameters.

Temporary files, which exist only during a statement, contain nothing else.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

# A server whose administrator logs everything; by default, only statements that fail are logged, without parameters.
TALKATIVE: Final = {
    "log_statement": "all",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "log_error_verbosity": "verbose",
    "log_temp_files": "0",
}


def data_of(url: str) -> Path:
    """The data directory of a server that the suite started: its socket is there."""
    (folder,) = parse_qs(urlsplit(url).query)["host"]
    return Path(folder)


async def make_talkative(url: str) -> None:
    """Let the server log each statement from now on, also in sessions that are open."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        for name, value in TALKATIVE.items():
            await connection.execute(f"alter system set {name} = '{value}'")
        await connection.execute("select pg_reload_conf()")
    finally:
        await connection.close()


@dataclass
class ServerFiles:
    """The files of one server. With `is_only_log`, its log, whose disk space is freed after each search."""

    data: Path
    is_only_log: bool = False
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict)  # when each file was changed, and its size

    def __post_init__(self) -> None:
        for path in self._paths():
            self._seen[path] = _state(path)

    def _paths(self) -> Iterator[Path]:
        if self.is_only_log:
            yield self.data / "log"
            return
        for where, _, names in os.walk(self.data):
            yield from (path for name in names if (path := Path(where, name)).is_file())

    def changes(self) -> Iterator[tuple[str, bytes]]:
        """The part of the data directory and the content of each file that changed; of the log, what was added."""
        for path in self._paths():
            with suppress(FileNotFoundError):  # the server may remove it
                before, now = self._seen.get(path, (0, 0)), _state(path)
                if before == now:
                    continue
                self._seen[path] = now
                part = path.relative_to(self.data).parts[0]
                with path.open("rb") as file:
                    file.seek(before[1] if part == "log" else 0)
                    content = file.read()
                if not content:
                    continue
                yield part, content
                if self.is_only_log:
                    _free(path, until=now[1])


def _free(path: Path, *, until: int) -> None:
    """Free the disk space of this part of a file, on Linux. Truncating it could lose lines that are being written."""
    if sys.platform != "linux":
        return
    punch_hole, keep_size = 0x02, 0x01
    with path.open("rb+") as file:
        size = ctypes.c_int64
        ctypes.CDLL(None).fallocate(file.fileno(), punch_hole | keep_size, size(0), size(until))


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
