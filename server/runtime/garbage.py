"""When Python searches for unreachable cycles: rarely while a program loads, and not among what it has loaded."""

from __future__ import annotations

import gc


def put_off() -> None:
    """For a start, which makes fewer objects than this: scanning them would cost a tenth of it."""
    gc.set_threshold(400_000, 50, 100)


def tune() -> None:
    """After everything is imported and open: keep it out of garbage collection (which causes long pauses)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
