"""PgBouncer in front of a PostgreSQL server of the suite, in transaction mode, with its default settings otherwise."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.processes import free_port, until_listening

HINT = "PgBouncer tests need: apt-get install pgbouncer"
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@asynccontextmanager
async def pgbouncer(url: str, lines: Mapping[str, object] | None = None) -> AsyncGenerator[str]:
    """The URL of the same database through a PgBouncer with these lines; skips if it isn't installed."""
    if PROGRAM is None:
        pytest.skip(HINT)
    parts = urlsplit(url)
    (behind,) = parse_qs(parts.query)["host"]
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="tvpb", dir="/tmp"))
    chosen: dict[str, object] = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        **(lines or {}),
    }
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = host={behind} user={parts.username}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in chosen.items())
    )
    arguments = [PROGRAM, "--quiet"]
    if os.geteuid() == 0:  # it doesn't run as root, and the socket belongs to its owner
        owner = Path(behind).stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        arguments += ["--user", pwd.getpwuid(owner.st_uid).pw_name]
    process = await asyncio.create_subprocess_exec(*arguments, str(ini), stderr=asyncio.subprocess.DEVNULL)
    try:
        await until_listening(process, port, patience=60)
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)
