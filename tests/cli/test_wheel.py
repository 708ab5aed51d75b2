"""The installed wheel takes one name in site-packages, and works beside strangers' packages of the same names."""

from __future__ import annotations

import site
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.support.processes import free_port

ROOT = Path(__file__).parent.parent.parent
STRANGERS = ("server", "providers", "vault")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel installed and the suite's libraries at hand."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", place, cwd=place)
    programs = place / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=place)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))  # its own .pth files are not read
    return programs


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A working directory in which all our general names are taken."""
    for name in STRANGERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the stranger {name} was imported')\n")
    return tmp_path


def test_the_wheel_takes_one_name_in_site_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"token_vault"}


def test_the_wheel_has_no_part_of_the_simulator_that_only_tests_use(
    wheel: Path, programs: Path, tmp_path: Path
) -> None:
    users = "server.demo.story, server.lifecycle.sandbox, providers.check.check"
    program = f"import sys, token_vault; token_vault.claim_names(); import {users}; print(*sys.modules)"
    loaded = run(programs / "python", "-c", program, cwd=tmp_path).split()
    with zipfile.ZipFile(wheel) as archive:
        shipped = {
            name.removeprefix("token_vault/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for name in archive.namelist()
            if name.startswith("token_vault/providers/simulator/") and name.endswith(".py")
        }
    assert shipped - set(loaded) == {"providers.simulator.__main__"}


@pytest.mark.parametrize("name", STRANGERS)
def test_an_installed_wheel_does_not_answer_to_general_names(programs: Path, tmp_path: Path, name: str) -> None:
    found = run(
        programs / "python", "-c", f"import importlib.util; print(importlib.util.find_spec({name!r}))", cwd=tmp_path
    )
    assert found.strip() == "None"


@pytest.mark.parametrize("command", [("token-vault",), ("python", "-m", "token_vault")], ids=" ".join)
def test_the_program_starts_in_a_folder_with_packages_of_the_same_names(
    programs: Path, strangers: Path, command: Sequence[str]
) -> None:
    program, *rest = command
    listed = run(programs / program, *rest, "providers", "list", "--data", strangers / "data", cwd=strangers)
    assert "slack" in listed


def test_the_strangers_would_stop_a_program_that_imports_them(programs: Path, strangers: Path) -> None:
    done = subprocess.run([programs / "python", "-c", "import server"], cwd=strangers, capture_output=True, check=False)
    assert b"the stranger server was imported" in done.stderr


async def test_a_client_starts_the_installed_program_over_stdio_in_such_a_folder(
    programs: Path, strangers: Path
) -> None:
    arguments = ["-m", "token_vault", "stdio", "--client", "Wheel", "--data", str(strangers / "data")]
    (strangers / "data").mkdir(mode=0o700)
    (strangers / "data" / "config.toml").write_text(f"[server]\nport = {free_port()}\n")
    server = StdioServerParameters(command=str(programs / "python"), args=arguments, cwd=strangers)
    async with Client(server) as client:
        listed = await client.list_tools()
    assert "slack_post" in {tool.name for tool in listed.tools}
