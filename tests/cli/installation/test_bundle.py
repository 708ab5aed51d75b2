"""The MCPB bundle: valid according to the format's own tool, and started as a host starts it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from uv import find_uv_bin

from tests.generating.bundle import SANDBOX_PORT, build
from tests.generating.documentation import ROOT
from tests.support.foreign.foreign import FOLDER, MODULES, environment, node
from tests.support.processes import free_port
from tests.support.stdio_programs import data_directory, list_tools

pytestmark = pytest.mark.group("node")
# what a host does with the settings, with the format package's own function
CONFIGURE = (
    "import { getMcpConfigForManifest as make } from '@anthropic-ai/mcpb/node';"
    "const [manifest, extensionPath, userConfig] = JSON.parse(process.argv[1]);"
    "console.log(JSON.stringify(await make("
    "{ manifest, extensionPath, userConfig, systemDirs: {}, pathSeparator: '/' })));"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    node()
    return build(tmp_path_factory.mktemp("bundle"))


def mcpb(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    program = [node(), str(MODULES / "@anthropic-ai" / "mcpb" / "dist" / "cli" / "cli.js"), *map(str, words)]
    return subprocess.run(program, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def unpacked_once(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, unpacked with the format's own tool."""
    folder = tmp_path_factory.mktemp("unpacked")
    done = mcpb("unpack", bundle, folder / "extension", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "extension"


@pytest.fixture
def extension_folder(unpacked_once: Path, tmp_path: Path) -> Path:
    """A copy of the unpacked bundle, in which a host may write."""
    return shutil.copytree(unpacked_once, tmp_path / "extension")


def configure_extension(unpacked: Path, **chosen: object) -> dict[str, object]:
    """The command line and environment variables for these settings."""
    manifest = json.loads((unpacked / "manifest.json").read_text(encoding="utf-8"))
    given = json.dumps([manifest, str(unpacked), chosen])
    command = [node(), "--input-type=module", "-e", CONFIGURE, given]
    return json.loads(subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True).stdout)


def start_extension(unpacked: Path, index: Path, cache: Path, folder: Path, **chosen: object) -> StdioServerParameters:
    """Start it as the host does, with its own uv, but without a network."""
    made = configure_extension(unpacked, **chosen)
    offline = {
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(index),
        "UV_CACHE_DIR": str(cache),
        "UV_PYTHON": sys.executable,
        "HOME": str(folder),
        "PATH": os.pathsep.join((str(Path(find_uv_bin()).parent), "/usr/bin", "/bin")),
        "TOKEN_VAULT_SERVER__PORT": str(free_port()),
    }
    return StdioServerParameters(
        command=str(made["command"]), args=list(made["args"]), env={**offline, **dict(made["env"])}, cwd=folder
    )


def test_the_bundle_is_valid_by_the_formats_own_tool(extension_folder: Path, bundle: Path, tmp_path: Path) -> None:
    assert mcpb("validate", extension_folder / "manifest.json", folder=tmp_path).returncode == 0
    manifest = json.loads((extension_folder / "manifest.json").read_text(encoding="utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "server": {**manifest["server"], "type": "snake"}}))
    assert mcpb("validate", tmp_path / "manifest.json", folder=tmp_path).returncode != 0
    assert f"token-vault-{manifest['version']}.mcpb" in mcpb("info", bundle, folder=tmp_path).stdout


def test_the_bundle_holds_our_code_and_names_the_locked_releases(extension_folder: Path, bundle: Path) -> None:
    (wheel,) = extension_folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as ours:
        assert "token_vault/server/cli.py" in ours.namelist()
    pins = (extension_folder / "pyproject.toml").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for line in lock.splitlines():
        if "==" in line:
            assert json.dumps(line.removesuffix("\\").strip()) in pins
    assert "://" not in pins
    assert bundle.read_bytes() == build(bundle.parent).read_bytes()  # the same content makes the same file


async def test_the_bundle_starts_with_no_setting_filled_in(
    extension_folder: Path, index: Path, uv_cache: Path, tmp_path: Path
) -> None:
    assert "slack_post" in await list_tools(start_extension(extension_folder, index, uv_cache, tmp_path))


async def test_the_bundle_starts_a_sandbox_in_the_chosen_folder(
    extension_folder: Path, index: Path, uv_cache: Path, tmp_path: Path
) -> None:
    data = data_directory(tmp_path)
    server = start_extension(extension_folder, index, uv_cache, tmp_path, data=str(data), sandbox=True, url="")
    async with asyncio.timeout(60), Client(server) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        while not (data / "sandbox").is_dir():  # tools are listed before the rest has started
            await asyncio.sleep(0.05)
    assert "stock_trade" in names  # a tool that only the sandbox has
    entry = json.loads((ROOT / "mcp.json").read_text(encoding="utf-8"))["mcpServers"]["token-vault-sandbox"]
    assert entry["env"]["TOKEN_VAULT_SERVER__PORT"] == str(SANDBOX_PORT)


async def test_the_bundle_goes_to_the_vault_whose_address_was_given(
    extension_folder: Path, index: Path, uv_cache: Path, tmp_path: Path
) -> None:
    server = start_extension(extension_folder, index, uv_cache, tmp_path, url="http://vault.example", sandbox=True)
    process = await asyncio.create_subprocess_exec(
        server.command,
        *server.args,
        cwd=tmp_path,
        env=server.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, told = await process.communicate()
    assert process.returncode == 1
    assert b"use https for --url" in told
