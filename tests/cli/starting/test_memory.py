"""A started process keeps no memory that only its start needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

# Free all of many blocks but the last one, so that the C library keeps what lies below it.
_FREED = """
from pathlib import Path
from server.runtime.garbage import tune

def kilobytes():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

blocks = [bytes(2000) for _ in range(20_000)]
full = kilobytes()
blocks = blocks[-1:]
kept = kilobytes()
tune()
print(full - kept, full - kilobytes())
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="other C libraries have no malloc_trim")
def test_memory_of_the_start_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _FREED], stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60)
    freed, given_back = map(int, done.stdout.split())
    assert freed < 10_000
    assert given_back > 30_000
