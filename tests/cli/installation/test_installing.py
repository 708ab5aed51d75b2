"""The locked files install with the pip of each Python, even after a locked package has a newer release."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.conftest import unavailable
from tests.release.trials import OLDEST_PIP, PYTHONS, pythons

ROOT = Path(__file__).parents[3]
HERE = f"3.{sys.version_info.minor}"


def make_wheel(folder: Path, name: str, version: str, *metadata: str) -> Path:
    """Make a wheel without code but with real metadata."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    contents = {
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{one},,\n" for one in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for entry, text in (contents | {f"{info}/RECORD": record}).items():
            wheel.writestr(entry, text)
    return path


def lock(*wheels: Path) -> str:
    pins: list[str] = []
    for wheel in wheels:
        name, version, *_ = wheel.name.split("-")
        pins.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    return "\n".join(pins) + "\n"


def commands_of_make(target: str) -> Sequence[Sequence[str]]:
    """The pip arguments that the Makefile uses for `target` to install a locked file."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "--always-make", "--dry-run", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        re.split(r"\s+", line.partition(" -m pip ")[2].strip())
        for line in shown.stdout.splitlines()
        if " -m pip install " in line and " -r requirements" in line
    ]


def test_ci_begins_with_the_commands_of_the_readme() -> None:
    """Nothing is installed before them, so that they can't rely on it."""
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Try it")[2].split("```")[1]
    told = [line.partition("#")[0].strip() for line in block.splitlines()[1:]]
    assert [one.split()[0] for one in told] == ["make", "make"]
    lines = [line.partition("#")[0].strip() for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()]
    run = [line for line in lines if line and not line.startswith(("set ", "cd ", "unset CI", "step"))]
    assert run[:2] == told


def test_no_locked_file_is_resolved_again() -> None:
    installs = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if " install " in line]
    locked = [line for line in installs if " -r " in line]
    assert len(locked) >= 6
    assert [line for line in locked if not {"--no-deps", "--require-hashes"} <= set(line.split())] == []


@pytest.mark.parametrize(
    ("target", "version", "pip"),
    [
        (".venv/.dev", HERE, ""),
        pytest.param(".venv/.runtime", "3.11", OLDEST_PIP, marks=pytest.mark.long),
        *(pytest.param(".venv/.runtime", one, "", marks=pytest.mark.long) for one in PYTHONS),
    ],
)
def test_a_newer_release_of_a_locked_package_does_not_stop_the_installation(
    tmp_path: Path, target: str, version: str, pip: str
) -> None:
    python = sys.executable if version == HERE else pythons().get(version, "")
    if not python:
        pytest.skip(f"Python {version} is not here")
    bundled = "import ensurepip, glob, venv; print(*glob.glob(ensurepip.__path__[0] + '/_bundled/pip-*.whl'))"
    works = subprocess.run([python, "-c", bundled], capture_output=True, text=True, check=False)
    if not works.stdout.strip():
        assert python != sys.executable  # the one that runs the suite must
        pytest.skip(f"{python} makes no environments")
    index = tmp_path / "index"
    index.mkdir()
    inner = make_wheel(index, "inner", "1.0", "Provides-Extra: fast")
    outer = make_wheel(index, "outer", "1.0", "Requires-Dist: inner[fast]>=1.0")
    make_wheel(index, "inner", "2.0", "Provides-Extra: fast")  # a newer release
    locked = tmp_path / "locked.txt"
    locked.write_text(lock(inner, outer))
    environment = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True, timeout=300)
    variables = {**os.environ, "PYTHONPATH": works.stdout.strip()}  # quicker than installing it
    if pip:
        del variables["PYTHONPATH"]
        words = (find_uv_bin(), "pip", "install", "-q", "--python", environment / "bin" / "python", f"pip=={pip}")
        if subprocess.run(words, check=False, timeout=300).returncode != 0:
            unavailable(f"the package index has to give pip {pip}")

    installs = commands_of_make(target)
    assert installs
    for words in installs:
        written = [str(locked) if word.startswith("requirements") else word for word in words]
        program = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        done = subprocess.run(
            [*program, *written, "--no-index", "--find-links", str(index)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=variables,
        )
        assert done.returncode == 0, done.stderr

    shown = subprocess.run([*program, "freeze"], capture_output=True, text=True, check=True, timeout=300, env=variables)
    assert {"inner==1.0", "outer==1.0"} <= set(shown.stdout.split())
