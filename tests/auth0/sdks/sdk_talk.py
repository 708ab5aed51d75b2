"""Run a program that uses Auth0's Python SDKs, and answer its questions."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tests.auth0.tenant import Tenant

SDKS = Path(__file__).parents[3] / ".venv" / "sdks"
PYTHON, LLAMAINDEX = (SDKS / name / "bin" / "python" for name in ("auth0", "clients"))
PATIENCE = 120.0  # seconds


async def talk(
    place: Tenant, program: Path, settings: Mapping[str, str], answer: Callable[[str], Awaitable[str]]
) -> Any:  # parsed JSON
    """Return the program's result, which is its last line. Each line before it is a question."""
    authority = str(place.authority.authority)
    environment = {**os.environ, "DOMAIN": place.domain, "SSL_CERT_FILE": authority, "REQUESTS_CA_BUNDLE": authority}
    process = await asyncio.create_subprocess_exec(
        str(PYTHON), "-W", "ignore", str(program), env={**environment, **settings},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode().strip():
            said = line
            if line.startswith("{"):
                break
            process.stdin.write(f"{await answer(line)}\n".encode())
            await process.stdin.drain()
        errors = (await process.stderr.read()).decode()
        await process.wait()
    assert process.returncode == 0, errors
    return json.loads(said)
