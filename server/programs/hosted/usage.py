"""How much memory, processes, and disk space a program and its descendants use, according to the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST: Final = 20_000  # processes that are examined
_LEAST: Final = 4096  # bytes that every file counts as, even an empty one


@dataclass(frozen=True, slots=True)
class Usage:
    """`memory` in bytes; `processes` with their threads."""

    memory: int = 0
    processes: int = 0


def usage_of(pid: int) -> Usage:
    """What the descendants of this process use together."""
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


def fills(folder: Path, most: int) -> bool:
    """Whether what is in this folder takes at least `most` bytes of disk. What can't be looked at counts as too much.

    A program owns the folder and may be changing it: no link is followed, and what is gone meanwhile isn't counted.
    """
    waiting, used, seen = [str(folder)], 0, set[int]()
    while waiting and used < most:
        try:
            with os.scandir(waiting.pop()) as entries:
                for one in entries:
                    with suppress(FileNotFoundError):
                        facts = one.stat(follow_symlinks=False)
                        if facts.st_ino not in seen:  # another name of the same file takes no space
                            seen.add(facts.st_ino)
                            used += max(facts.st_blocks * 512, _LEAST)
                        if one.is_dir(follow_symlinks=False):
                            waiting.append(one.path)
                    if used >= most:
                        break
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return used >= most
