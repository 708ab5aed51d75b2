"""Rate counters in the database, shared by all processes. Callers define what is limited, and to how much.

A sliding window over two fixed ones: the previous window counts for the part that the sliding window still covers.
Call `spend` in a separate transaction: if the refusal rolled it back, the attempt wouldn't count.
"""

from __future__ import annotations

from vault.records import DAY
from vault.storage.database import SWEEP_BATCH, Reader, Transaction, integer

LONGEST_WINDOW = DAY  # seconds
USUAL_WINDOWS = (60, 600, 900, 3600)  # seconds; swept within minutes of their end, other windows within days


async def spend(transaction: Transaction, bucket: str, *, limit: int, window: int, now: int, cost: int = 1) -> bool:
    """Count `cost` against the bucket; False, with nothing counted, when that would exceed the limit."""
    key, start = _key(bucket, window), _start(window, now)
    left = limit - await _carry_over(transaction, key, window=window, now=now)
    if cost > left:
        return False
    row = await transaction.fetch_one(
        "insert into limits (bucket, window_start, spent) values (:bucket, :start, :cost) "
        "on conflict (bucket, window_start) do update set spent = limits.spent + :cost "
        "where limits.spent + :cost <= :left returning spent",
        {"bucket": key, "start": start, "cost": cost, "left": left},
    )
    return row is not None


async def peek(reader: Reader, bucket: str, *, limit: int, window: int, now: int) -> bool:
    """Whether `spend` of 1 would succeed now."""
    key = _key(bucket, window)
    spent = await _count_spent(reader, key, start=_start(window, now))
    return spent + await _carry_over(reader, key, window=window, now=now) < limit


async def sweep(transaction: Transaction, now: int) -> int:
    """Delete windows that no longer count, in a few batches; returns how many. Each address that ever called has
    one."""
    batches = [(f"{window}:%", now - 2 * window) for window in USUAL_WINDOWS]  # keys begin with the window's length
    forgotten = 0
    for prefix, before in (*batches, ("%", now - 2 * LONGEST_WINDOW)):
        forgotten += await transaction.execute(
            "delete from limits where (bucket, window_start) in (select bucket, window_start from limits"
            " where window_start < :before and bucket like :prefix limit :batch)",
            {"prefix": prefix, "before": before, "batch": SWEEP_BATCH},
        )
    return forgotten


def _key(bucket: str, window: int) -> str:
    if not 0 < window <= LONGEST_WINDOW:
        raise ValueError("a window must be from 1 second to 1 day")
    return f"{window}:{bucket}"


def _start(window: int, now: int) -> int:
    return now - now % window


async def _carry_over(reader: Reader, key: str, *, window: int, now: int) -> int:
    """The share of the previous window that still counts, rounded up."""
    start = _start(window, now)
    before = await _count_spent(reader, key, start=start - window)
    return -(-before * (window - (now - start)) // window)


async def _count_spent(reader: Reader, key: str, *, start: int) -> int:
    row = await reader.fetch_one(
        "select spent from limits where bucket = :bucket and window_start = :start", {"bucket": key, "start": start}
    )
    return 0 if row is None else integer(row, "spent")
