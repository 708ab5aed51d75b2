"""A configured vault, the wheel of this checkout, and packages that `uv` resolves without a network."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import AsyncGenerator
from importlib.metadata import version
from pathlib import Path

import pytest

from providers.simulator.local_server import Simulator, running_simulator
from tests.cli.installation.test_installing import make_wheel
from tests.generating.documentation import ROOT, package_names
from tests.support.processes import Place, free_port


@pytest.fixture
def place(tmp_path: Path, prepared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A vault after its first run, with its own port in the settings."""
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    data = tmp_path / "data"
    shutil.copytree(prepared_data, data)
    data.chmod(0o700)
    made = Place(data, free_port())
    made.configure()
    return made


@pytest.fixture(scope="module")
async def simulator() -> AsyncGenerator[Simulator]:
    """The sandbox providers, for the tests of one module."""
    async with running_simulator() as opened:
        yield opened


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
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `uv` keeps what it has unpacked and installed once."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(scope="session")
def index(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, and empty packages of the installed releases; the code comes from the suite's environment."""
    folder = tmp_path_factory.mktemp("index")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in package_names(project["dependencies"]):
        stub = make_wheel(folder, name.replace("-", "_"), version(name))
    with zipfile.ZipFile(stub, "a") as last:  # after our own code on the path
        last.writestr("libraries.pth", "\n".join(site.getsitepackages()))
    shutil.copy(wheel, folder)
    return folder
