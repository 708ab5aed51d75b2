"""A job in a separate Python process, without our environment, folder, or memory."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import suppress


async def run_isolated(program: str, job: Mapping[str, object], *, seconds: float) -> bytes | None:
    """What the program writes to standard output, given the job as JSON; None if it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-B", "-c", program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={},
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate(json.dumps(job).encode())
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return output if process.returncode == 0 else None
