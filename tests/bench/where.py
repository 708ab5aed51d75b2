"""Where one contender spends its time: its main thread is sampled every 2 ms of CPU time, and counted by package.

The standard library counts for its caller, and the event loop's C code for the callback that it runs next.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

VARIABLE: Final = "BENCH_WHERE"  # where the counts go; unset while measuring
_INTERVAL: Final = 0.002
_PACKAGES: Final = frozenset(
    {"aiohttp", "aiosqlite", "anyio", "mcp", "mcp_types", "opentelemetry", "providers", "pydantic", "server"}
    | {"starlette", "tests", "uvicorn", "vault"}
)


def listen() -> None:
    """Start counting on SIGUSR1; write the counts and stop on the next one. Does nothing unless the variable is set."""
    target = os.environ.get(VARIABLE)
    if target is None:
        return
    counts: Counter[str] = Counter()

    def take(_number: int, frame: FrameType | None) -> None:
        counts[_package(frame)] += 1

    def toggle(_number: int, _frame: FrameType | None) -> None:
        if signal.getitimer(signal.ITIMER_PROF)[1]:
            signal.setitimer(signal.ITIMER_PROF, 0)
            Path(target).write_text(json.dumps(counts), encoding="utf-8")
        else:
            signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    signal.signal(signal.SIGPROF, take)
    signal.signal(signal.SIGUSR1, toggle)


def _package(frame: FrameType | None) -> str:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name in _PACKAGES:
            return "mcp" if name == "mcp_types" else name
        frame = frame.f_back
    return "event loop"
