"""Folders of sandboxes whose vault was killed are removed at the next start; those of a running vault stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from server.programs.hosted.folders import locked_folder, remove_left

HOLD = """
import sys
from server.programs.hosted.folders import locked_folder

with locked_folder() as folder:
    (folder / "shared").mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""

WHILE_LOCKING = """
import sys
from server.programs.hosted.folders import locked_folder, remove_left

seen = []

def another_vault_starts(event, arguments):
    if event == "fcntl.flock" and not seen:
        seen.append(event)
        seen.append(remove_left())

sys.addaudithook(another_vault_starts)
with locked_folder() as folder:
    print(seen, folder.is_dir(), (folder / "lock").is_file())
"""
OUT_OF_FILES = """
import fcntl, os, resource
from pathlib import Path
from server.programs.hosted.folders import locked_folder

for spare in (1, 0):
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, free + 1))
    try:
        with locked_folder() as folder:
            print("locked")
    except OSError as error:
        print(error.strerror)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


def test_what_a_killed_process_left_is_removed_and_what_another_holds_stays(temporary: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with other, locked_folder() as own:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert remove_left() == 0, "both processes live"
        assert theirs.is_dir()
        other.send_signal(signal.SIGKILL)
        other.wait(timeout=30)
        assert remove_left() == 1
        assert not theirs.exists()
        assert own.is_dir()


def run(program: str, temporary: Path) -> str:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_that_is_being_locked_is_not_taken_for_a_left_one(temporary: Path) -> None:
    assert run(WHILE_LOCKING, temporary) == "['fcntl.flock', 0] True True\n"
    assert remove_left() == 1, "once its process has ended"


def test_a_folder_that_cannot_be_locked_is_not_left_behind(temporary: Path) -> None:
    assert run(OUT_OF_FILES, temporary).splitlines() == ["locked", "Too many open files"]
    assert len([*temporary.iterdir()]) == 1, "that of the first, which its user leaves"


def test_only_an_old_folder_without_a_lock_is_removed(temporary: Path) -> None:
    made = temporary / "token-vault-server-unlocked"
    made.mkdir()
    assert remove_left() == 0, "its process may be about to lock it"
    os.utime(made, (1_000_000, 1_000_000))
    assert remove_left() == 1


def test_what_only_looks_like_one_stays(temporary: Path) -> None:
    kept = temporary / "kept"
    kept.mkdir()
    link = temporary / "token-vault-server-link"
    link.symlink_to(kept)
    other = temporary / "token-vault-run-other"
    other.mkdir()
    os.utime(other, (1_000_000, 1_000_000))
    assert remove_left() == 0
    assert kept.is_dir()
    assert other.is_dir()
