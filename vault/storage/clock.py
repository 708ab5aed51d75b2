"""Elapsed seconds, including the time that the machine sleeps.

`time.monotonic` stands still while a laptop or a virtual machine is suspended: on Linux (CLOCK_MONOTONIC), and on
macOS, where Python uses the uptime clock. CLOCK_BOOTTIME on Linux and CLOCK_MONOTONIC on macOS keep running.
"""

from __future__ import annotations

import sys
import time


def boot_time() -> float:
    """Seconds since some moment, sleep included; only differences are meaningful."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()
