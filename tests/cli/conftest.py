"""The wheel of this checkout, and packages that `uv` resolves from it without a network."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.test_installing import make_wheel
from tests.support.documented import ROOT, required


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def index(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, and packages without code of the releases that are installed here; their code is the suite's."""
    folder = tmp_path_factory.mktemp("index")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in required(project["dependencies"]):
        stub = make_wheel(folder, name.replace("-", "_"), version(name))
    with zipfile.ZipFile(stub, "a") as last:  # behind our own code on the path
        last.writestr("libraries.pth", "\n".join(site.getsitepackages()))
    shutil.copy(wheel, folder)
    return folder
