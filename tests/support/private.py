"""Programs in their own namespaces: mounts and networks that no one else on this machine sees."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.conftest import unavailable

HINT = "private mounts and networks need: Linux with unshare (util-linux) and user namespaces"


def private_mounts(*, network: bool = False) -> list[str]:
    """The prefix for a command line; skips if the system doesn't have or allow this."""
    program = shutil.which("unshare")
    if program is None:
        unavailable(HINT)
        raise AssertionError
    words = [program, "--mount", *(["--net"] if network else [])]
    if os.geteuid() != 0:
        words.append("--map-root-user")
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0:
        unavailable(HINT)
    return words
