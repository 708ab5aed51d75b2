"""Systems that differ from Linux: Windows without file locks, and macOS, whose fsync doesn't flush the drive."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vault.storage import host_files
from vault.storage.sqlite import connect
from vault.storage.sqlite_files import SqliteFiles, prepare

ROOT = Path(__file__).parents[3]
# What our modules find on Windows. Other packages, and ours for `resource`, check sys.platform, which stays unchanged.
WITHOUT = """
import asyncio, builtins, os, signal, sys
import aiohttp, platformdirs, mcp.server.stdio

there = builtins.__import__

def without(name, names=None, *rest):
    ours = ((names or {}).get("__name__") or "").partition(".")[0] in {"providers", "server", "vault"}
    if ours and name in {"fcntl", "pwd", "grp", "termios", "uvloop"}:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return there(name, names, *rest)

builtins.__import__ = without
for name in (
    "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "pread", "pwrite", "fdatasync", "getuid", "geteuid",
    "fchmod", "fork", "register_at_fork",
):
    if hasattr(os, name):
        delattr(os, name)
def unsupported(self, number, callback, *args):
    raise NotImplementedError
asyncio.AbstractEventLoop.add_signal_handler = unsupported
"""
IMPORT_ALL = """
import importlib, pkgutil
import providers, server, vault
count = 0
for package in (vault, providers, server):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__") and ".launcher" not in found.name:
            importlib.import_module(found.name)
            count += 1
print(count)
"""


# Each command in turn, with its exit code, output, and errors.
RUN_EACH = """
import contextlib, io, json
from server.cli import app

def run(arguments):
    sys.argv, out, err = ["token-vault", *arguments], io.StringIO(), io.StringIO()
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app()
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()

print(json.dumps([run(arguments) for arguments in {commands}]))
"""


def run_without(program: str, *, data: Path) -> subprocess.CompletedProcess[str]:
    """Run a program where these names are missing."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program],
        cwd=ROOT,
        env={**os.environ, "TOKEN_VAULT_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_commands(*commands: Sequence[str], data: Path) -> list[tuple[int, str, str]]:
    """Exit code, output, and errors of each command, one after the other in one process."""
    done = run_without(RUN_EACH.replace("{commands}", repr(commands)), data=data)
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def test_every_module_imports_where_files_have_no_locks(tmp_path: Path) -> None:
    done = run_without(IMPORT_ALL, data=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 300


def test_a_system_without_locks_is_told_at_the_start_what_to_do_instead(tmp_path: Path) -> None:
    local = ("stdio", "--client", "x")
    for code, out, err in run_commands(
        local, (*local, "--url", "https://vault.example"), ("serve",), data=tmp_path / "data"
    ):
        assert code == 1
        assert "WSL 2 or in a Linux container" in err
        assert "Traceback" not in err and not out
    assert not (tmp_path / "data").exists()


def test_client_config_offers_no_entry_that_such_a_system_cannot_start(tmp_path: Path) -> None:
    entry = ("client-config", "cursor")
    refused, printed = run_commands(entry, (*entry, "--transport", "http"), data=tmp_path)
    assert refused[0] == 1 and "--transport http" in refused[2]
    assert printed[0] == 0, printed[2]
    assert "/mcp" in printed[1]


async def test_sqlite_empties_the_drives_cache_at_commits_and_checkpoints(tmp_path: Path) -> None:
    stores = SqliteFiles.beside(tmp_path / "vault.sqlite")
    prepare(stores)
    connection = await connect(stores, read_only=False)
    try:
        for pragma in ("fullfsync", "checkpoint_fullfsync"):  # set everywhere, effective on macOS
            (row,) = await connection.execute_fetchall(f"pragma {pragma}")
            assert row[0] == 1, pragma
    finally:
        await connection.close()


def test_where_the_kernel_can_empty_the_drives_cache_it_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def control(descriptor: int, command: int) -> int:
        asked.append(command)
        if len(asked) == 2:
            raise OSError(45, "this file system has none")
        return 0

    synced: list[int] = []
    with (tmp_path / "file").open("wb") as file:
        host_files.sync(file.fileno())
        host_files.sync_data(file.fileno())
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", control)
        monkeypatch.setattr(os, "fsync", synced.append)
        host_files.sync(file.fileno())
        assert (asked, synced) == ([51], [])
        host_files.sync_data(file.fileno())
        assert (asked, synced) == ([51, 51], [file.fileno()])
