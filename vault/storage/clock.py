"""The seconds that have gone by, also while the machine slept: whatever ends by this clock ends in time.

`time.monotonic` stands still while a laptop or a virtual machine is suspended: on Linux (CLOCK_MONOTONIC), and on
macOS, where Python takes the clock of the uptime. CLOCK_BOOTTIME on Linux and CLOCK_MONOTONIC on macOS go on.
"""

from __future__ import annotations

import sys
import time


def boot_time() -> float:
    """Seconds since some moment, sleep included; only differences mean something."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()
