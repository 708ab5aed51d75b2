"""How much memory, processes, and disk space a program and its descendants use, according to the kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST: Final = 20_000  # processes to examine
_LEAST: Final = 4096  # bytes that every file counts as, even an empty one
_DEEPEST: Final = 100  # nested folders, each of which is kept open


@dataclass(frozen=True, slots=True)
class Usage:
    """`memory` in bytes; `processes` with their threads."""

    memory: int = 0
    processes: int = 0


def usage_of(pid: int) -> Usage:
    """The total that the descendants of this process use."""
    memory = processes = 0
    page = os.sysconf("SC_PAGE_SIZE")
    for place in _descendants(pid):
        with suppress(OSError, ValueError, IndexError):
            memory += int((place / "statm").read_text().split()[1]) * page
            processes += sum(1 for _ in (place / "task").iterdir())
    return Usage(memory, processes)


def _descendants(pid: int) -> Iterator[Path]:
    waiting, seen = [pid], 0
    while waiting and seen < _MOST:
        place = Path("/proc", str(waiting.pop()))
        with suppress(OSError):
            for thread in (place / "task").iterdir():
                with suppress(OSError):
                    children = (thread / "children").read_text().split()
                    waiting += [int(one) for one in children]
                    yield from (Path("/proc", one) for one in children)
                    seen += len(children)


def fills(folder: Path, most: int, *, most_entries: int) -> bool:
    """Whether this folder takes at least `most` bytes of disk, or has at least `most_entries` entries below it.

    A program owns the folder and may be changing it: no link is followed, and files that disappear aren't counted.
    Entries that can't be read or are nested too deep count as too much.
    """
    used, seen = 0, set[int]()
    try:
        with closing(contents(str(folder))) as found:
            for number, facts in enumerate(found, start=1):
                if facts.st_ino not in seen:  # a hard link takes no extra space
                    seen.add(facts.st_ino)
                    used += max(facts.st_blocks * 512, _LEAST)
                if used >= most or number >= most_entries:
                    return True
    except OSError:
        return True
    return False


def contents(name: str, above: int | None = None, *, depth: int = 0) -> Generator[os.stat_result]:
    """Every entry below this folder, which is in the open folder `above`. Raises OSError."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return
        raise
    try:
        below = list[str]()
        with os.scandir(opened) as entries:
            for one in entries:
                try:
                    facts = one.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield facts
                if stat.S_ISDIR(facts.st_mode):
                    below.append(one.name)
        if below and depth == _DEEPEST:
            raise OSError(errno.ENAMETOOLONG, "folders below folders")
        for one in below:
            yield from contents(one, opened, depth=depth + 1)
    finally:
        os.close(opened)
