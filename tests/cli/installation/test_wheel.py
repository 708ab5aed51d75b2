"""The installed wheel adds one name to site-packages, and works next to other packages with its inner names."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest
from mcp.client.stdio import StdioServerParameters
from uv import find_uv_bin

from server.settings import OTHER_VARIABLES
from tests.generating.documentation import commands, options_of
from tests.support.processes import free_port
from tests.support.stdio_programs import data_directory, list_tools

ROOT = Path(__file__).parents[3]
STRANGERS = ("server", "providers", "vault")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(wheel: Path, uv_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel installed and the suite's libraries available."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    programs = place / "bin"
    options = ("-q", "--no-deps", "--offline", "--no-index", "--python", programs / "python")
    run(find_uv_bin(), "pip", "install", *options, "--cache-dir", uv_cache, wheel, cwd=place)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))  # Python doesn't read .pth files there
    return programs


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A working directory where all our general names are taken."""
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
    users = "server.demo.story, server.demo.enterprise, server.lifecycle.sandbox, providers.check.check"
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
    data_directory(strangers)
    server = StdioServerParameters(command=str(programs / "python"), args=arguments, cwd=strangers)
    assert "slack_post" in await list_tools(server)


@pytest.mark.parametrize("name", ["token-vault", "token-vault-sandbox"])
async def test_mcp_json_starts_what_the_readme_installed_with_nothing_on_the_path(
    programs: Path, tmp_path: Path, name: str
) -> None:
    entry = json.loads((ROOT / "mcp.json").read_text(encoding="utf-8"))["mcpServers"][name]
    data = data_directory(tmp_path)
    variables = {"HOME": str(tmp_path), "TOKEN_VAULT_DATA": str(data), "PATH": ""}
    if "env" in entry:
        variables["TOKEN_VAULT_SERVER__PORT"] = str(free_port())  # as the entry does, on a free port
    started = StdioServerParameters(
        command="/usr/bin/env",
        args=["-i", *(f"{key}={value}" for key, value in variables.items()), entry["command"], *entry["args"]],
        cwd=tmp_path,
    )
    missing = subprocess.run(
        [started.command, *started.args], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert missing.returncode == 127  # without it, the client shows which program is missing
    assert "token-vault: not found" in missing.stderr
    (tmp_path / "token-vault").symlink_to(programs.parent)
    assert "slack_post" in await list_tools(started)


def uvx(index: Path, *words: str, folder: Path, cache: Path) -> StdioServerParameters:
    """`uvx` without a network."""
    options = ["--offline", "--no-index", "--find-links", str(index), "--cache-dir", str(cache)]
    variables = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    arguments = ["tool", "run", "--python", sys.executable, *options, *words]
    return StdioServerParameters(command=find_uv_bin(), args=arguments, cwd=folder, env=variables)


async def test_uvx_runs_a_wheel_by_the_name_of_the_package(index: Path, uv_cache: Path, tmp_path: Path) -> None:
    (wheel,) = index.glob("mcp_token_vault-*.whl")
    arguments = ["stdio", "--client", "uvx", "--data", str(data_directory(tmp_path))]
    assert "slack_post" in await list_tools(
        uvx(index, "--from", str(wheel), "mcp-token-vault", *arguments, folder=tmp_path, cache=uv_cache)
    )


def test_an_entry_that_uvx_prints_says_that_its_program_can_go(index: Path, uv_cache: Path, tmp_path: Path) -> None:
    words = ("client-config", "cursor", "--data", str(tmp_path))
    started = uvx(index, "mcp-token-vault", *words, folder=tmp_path, cache=uv_cache)
    done = subprocess.run(
        [started.command, *started.args], env=started.env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "uv tool install" in done.stderr


async def test_the_registry_entry_names_this_release_and_starts_it(index: Path, uv_cache: Path, tmp_path: Path) -> None:
    """A client of the MCP registry turns `server.json` into this command line."""
    content = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "tests/data/mcp_server_2025_12_11.schema.json").read_text(encoding="utf-8"))
    assert content["$schema"] == schema["$id"]
    check = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    assert not list(check.iter_errors(content))
    for broken in ({"description": "x" * 101}, {"name": "no-namespace"}, {"packages": [{"identifier": "x"}]}):
        assert list(check.iter_errors(content | broken))
    (package,) = content["packages"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert content["version"] == package["version"] == project["version"]
    assert (package["registryType"], package["identifier"], package["runtimeHint"]) == ("pypi", project["name"], "uvx")
    assert {one["name"] for one in package["environmentVariables"]} <= OTHER_VARIABLES
    arguments: list[str] = []
    for one in package["packageArguments"]:
        value = one.get("value", one.get("default"))
        if value is not None:
            arguments += [one["name"], value] if one["type"] == "named" else [value]
    named = {one["name"] for one in package["packageArguments"] if one["type"] == "named"}
    assert named <= set(options_of(commands()[arguments[0]]))
    name = f"{package['identifier']}@{package['version']}"
    started = uvx(index, name, *arguments, folder=tmp_path, cache=uv_cache)
    variables = {"TOKEN_VAULT_DATA": str(data_directory(tmp_path))}
    assert "slack_post" in await list_tools(started.model_copy(update={"env": {**(started.env or {}), **variables}}))
