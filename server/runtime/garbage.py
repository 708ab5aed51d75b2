"""When Python searches for unreachable cycles: rarely while a program loads, and not among what it has loaded.

After that, memory that only loading needed is given back.
"""

from __future__ import annotations

import ctypes
import gc
import sys


def put_off() -> None:
    """For a start, which makes fewer objects than this: scanning them would cost a tenth of it."""
    gc.set_threshold(400_000, 50, 100)


def tune() -> None:
    """After everything is imported and open: keep it out of garbage collection (which causes long pauses)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    _give_back()


def _give_back() -> None:
    """Give memory that only the start needed back to the system, where the C library can do that (malloc_trim(3))."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
