"""One vault with local servers for all of these tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.programs.hosted.hosted_room import CURIOUS, HostedRoom, hosted_room, needs_sandbox
from tests.support.harness import free_socket


@pytest.fixture(scope="package")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[HostedRoom]:
    needs_sandbox()
    folder: Path = tmp_path_factory.mktemp("hosted")
    files = folder / "files"
    files.mkdir()
    named = free_socket()
    hosts = ["named.example:81", f"localhost:{named.getsockname()[1]}"]
    curious = {**CURIOUS, "hosts": hosts, "writable": str(files), "memory_mb": 128, "processes": 24}
    broken = {**CURIOUS, "command": "no-such-program"}
    async with hosted_room(folder / "vault", curious=curious, second=CURIOUS, broken=broken) as opened:
        await opened.add("curious", reads=("look", "peek", "fetch_later", "answers_seen"))
        opened.named = named
        yield opened
    named.close()
