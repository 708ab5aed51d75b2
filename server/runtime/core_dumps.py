"""Prevent memory images of a process that opens tokens: core dumps, and reads by a debugger of the same user.

On Linux a process that isn't dumpable has none, also where the kernel pipes core dumps into a program, which the limit
doesn't stop (core(5)). Elsewhere only the limit of the file is set.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_SET_DUMPABLE: Final = 4  # PR_SET_DUMPABLE of prctl(2)


def forbid() -> None:
    """Leave no core dump from now on. Programs that this process starts can leave theirs, within the limit."""
    _limit(is_allowed=False)
    _set_dumpable(is_dumpable=False)


def allow() -> None:
    """Leave core dumps again, within the limit that the process was started with."""
    _limit(is_allowed=True)
    _set_dumpable(is_dumpable=True)


def _limit(*, is_allowed: bool) -> None:
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most if is_allowed else 0, most))


def _set_dumpable(*, is_dumpable: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, int(is_dumpable), 0, 0, 0)
