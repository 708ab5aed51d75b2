"""Programs of another operating-system user on this machine: `nobody`, where the tests run as root.

Otherwise, the tests that need one are skipped; the neighboring tests without one then check the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="a process of another user can be started by root only"
)
_MODULES = "import encodings.idna, http.client, json, os, socket, sys, time\n"
_DROP = _MODULES + f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
_LISTEN = (
    "listener = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n"
    "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
    "listener.bind((sys.argv[1], int(sys.argv[2]))); listener.listen(8)\n"
    "print('listening', flush=True)\n"
    "while True:\n"
    "    one = listener.accept()[0]; one.recv(65536); one.sendall(sys.argv[3].encode()); one.close()\n"
)
_ASK = (
    "asked = json.loads(sys.argv[1])\n"
    "connection = http.client.HTTPConnection('127.0.0.1', asked['port'], timeout=10)\n"
    "connection.request(asked['method'], asked['path'], asked['body'], asked['headers'])\n"
    "answer = connection.getresponse()\n"
    "print(json.dumps([answer.status, answer.getheaders(), answer.read().decode()]))\n"
)


def _code(program: str, *, other: bool) -> str:
    return (_DROP if other else _MODULES) + program


@asynccontextmanager
async def listener_program(
    host: str, port: int, answer: str = "", *, other: bool = True, stays: bool = False
) -> AsyncGenerator[None]:
    """A program that answers every connection there with the same bytes, until the block ends.

    `stays`: it keeps them open, so that they have an owner.
    """
    code = _code(
        _LISTEN.replace("one.close()", "held = [*globals().get('held', []), one]") if stays else _LISTEN, other=other
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, host, str(port), answer, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.kill()
        await process.wait()


async def can_bind(host: str, port: int, *, other: bool = True) -> bool:
    """Whether a program can listen there."""
    code = _code(_LISTEN.partition("while")[0], other=other)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, host, str(port), "", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert out or b"Address already in use" in err, err
    return bool(out)


async def ask(
    port: int, path: str, *, method: str = "GET", body: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, list[tuple[str, str]], str]:
    """Send one request from another user's program to this machine; return status, headers, and body."""
    asked = {"port": port, "path": path, "method": method, "body": body, "headers": dict(headers or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DROP + _ASK, json.dumps(asked), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    status, fields, text = json.loads(out)
    return status, [(name.lower(), value) for name, value in fields], text
