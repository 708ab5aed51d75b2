"""A program runs at a lower priority than the vault, and starts even if the machine refuses to lower it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from server.programs.hosted import inside

_PATCH = "import os, runpy\ndef refuse(_):\n    raise PermissionError(1)\n{}\nrunpy.run_path({!r}, run_name='__main__')"


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_program_starts_where_its_priority_cannot_be_lowered(*, is_refused: bool) -> None:
    ours, theirs = socket.socketpair()
    code = _PATCH.format("os.nice = refuse" if is_refused else "", inside.__file__)
    wanted = {"port": 0, "limits": {}, "command": ["/bin/sh", "-c", "nice"], "folder": "/", "environment": {}}
    with ours, theirs:
        ours.sendall(json.dumps(wanted).encode() + b"\n")
        command = [sys.executable, "-I", "-c", code, str(theirs.fileno())]
        done = subprocess.run(
            command, pass_fds=[theirs.fileno()], capture_output=True, text=True, check=False, timeout=30
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == (os.nice(0) if is_refused else min(19, os.nice(0) + 10))
