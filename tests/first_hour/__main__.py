"""`python -m tests.first_hour`: the whole hour from `git clone`, timed; prints every step and its machine time."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.first_hour.guide import Guide
from tests.first_hour.inside import WAYS
from tests.first_hour.terminal import Terminal, empty_environment
from tests.support.private import private_mounts
from tests.support.processes import ROOT

LIMIT = 300.0  # seconds of machine time
_OF_THIS_MACHINE = ("PIP_", "SSL_CERT_", "UV_")  # for the package index; a new user has none


def _show(step: str, seconds: float) -> None:
    print(f"{seconds:8.1f} s  {step}", flush=True)


async def _get_and_install(home: Path, guide: Guide) -> Terminal:
    """Run steps 1 and 2 of the quick start."""
    network = {name: value for name, value in os.environ.items() if name.startswith(_OF_THIS_MACHINE)}
    path = os.environ.get("PATH", "/usr/bin:/bin")
    window = Terminal(home.parent, empty_environment(home, path=path, more=network), home)
    lines = guide.lines("get-started/quickstart.md", "1. See it work") + guide.lines(
        "get-started/quickstart.md", "2. Install"
    )
    for line in lines:
        began = time.monotonic()
        shown = await window.type(line.replace("REPOSITORY", str(ROOT)))
        if shown.code != 0:
            sys.exit(f"{line}: {shown.text[-3000:]}")
        _show(line, time.monotonic() - began)
    return window


def _follow(window: Terminal, folder: Path, way: str) -> dict[str, object]:
    """Follow the remaining steps, in a network with stand-ins for the providers."""
    arguments = ["--guide", str(window.cwd), "--cwd", str(window.cwd), "--path", window.environment["PATH"]]
    if way == WAYS[0]:
        arguments += ["--home", window.environment["HOME"]]
    there = folder / way
    there.mkdir()
    command = [*private_mounts(network=True), sys.executable, "-m", "tests.first_hour.inside", way]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended: dict[str, object] = {}
    with subprocess.Popen(
        [*command, "--folder", str(there), *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            ended = json.loads(line)
            if "step" in ended:
                _show(str(ended["step"]), float(str(ended["seconds"])))
    if "done" not in ended:
        sys.exit(f"the guide does not lead there: {ended}")
    return ended


def main() -> None:
    """Play everything; the exit code is 1 if a journey took too long."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="first-hour-") as made:
        folder = Path(made)
        home = folder / "home"
        home.mkdir()
        print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
        window = asyncio.run(_get_and_install(home, Guide(ROOT)))
        installed = time.monotonic() - began
        slow = False
        for way in WAYS:
            began = time.monotonic()
            print(f"-- {'on this machine' if way == WAYS[0] else 'behind a TLS proxy'}")
            _follow(window, folder, way)
            taken = installed + time.monotonic() - began
            slow = slow or taken > LIMIT
            print(f"{taken:8.1f} s  from clone to a posted message and a listed calendar")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
