"""Build the bundle that Claude Desktop installs with a double click (`make bundle`): dist/token-vault-VERSION.mcpb.

Its server type is `uv` (MCPB manifest 0.4): the host provides uv, which provides Python. Bundled libraries would need
one bundle per system, because some of ours are compiled. Our own code is included as a wheel; the libraries come from
the package index in exactly the releases of requirements.txt.

    python -m tests.generating.bundle FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANDBOX_PORT = 8775  # as in mcp.json
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same content makes the same file
ENTRY = f'''\
"""Starts Token Vault as the bundle's settings say. A setting that is empty or was not filled in counts as not given."""

import os
import sys

from token_vault import main


def setting(name):
    value = os.environ.pop(name, "").strip()
    return "" if value.startswith("${{") else value


url, data, sandbox = setting("BUNDLE_URL"), setting("BUNDLE_DATA"), setting("BUNDLE_SANDBOX") == "true"
sys.argv[1:] = ["stdio", "--client", "claude-desktop"]
if url:
    sys.argv += ["--url", url]
elif sandbox:
    sys.argv += ["--sandbox"]
    os.environ.setdefault("TOKEN_VAULT_SERVER__PORT", "{SANDBOX_PORT}")
if data:
    sys.argv += ["--data", data]
main()
'''


def manifest(version: str, description: str) -> dict[str, object]:
    """The content of manifest.json, MCPB 0.4."""
    return {
        "manifest_version": "0.4",
        "name": "token-vault",
        "display_name": "Token Vault",
        "version": version,
        "description": description,
        "author": {"name": "The Token Vault project"},
        "license": "Apache-2.0",
        "keywords": ["mcp", "oauth", "token-vault"],
        "server": {
            "type": "uv",
            "entry_point": "main.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "main.py"],
                "env": {
                    "BUNDLE_URL": "${user_config.url}",
                    "BUNDLE_DATA": "${user_config.data}",
                    "BUNDLE_SANDBOX": "${user_config.sandbox}",
                },
            },
        },
        "tools_generated": True,
        "user_config": {
            "url": {
                "type": "string",
                "title": "Vault address",
                "description": "The https address of a vault on another machine. Empty: a vault on this machine.",
                "required": False,
                "default": "",
            },
            "data": {
                "type": "directory",
                "title": "Data directory",
                "description": "Where the vault on this machine keeps its data. Empty: the usual place.",
                "required": False,
            },
            "sandbox": {
                "type": "boolean",
                "title": "Sandbox",
                "description": "Use built-in stand-ins for Slack and Google, with their own data.",
                "required": False,
                "default": False,
            },
        },
        "compatibility": {"platforms": ["darwin", "linux"]},
    }


def project(version: str, wheel: str, locked: list[str]) -> str:
    """The content of pyproject.toml: the wheel, and the pinned releases of its libraries."""
    pins = "".join(f"    {json.dumps(one)},\n" for one in locked)
    return (
        f'[project]\nname = "token-vault-bundle"\nversion = "{version}"\nrequires-python = ">=3.11"\n'
        f'dependencies = ["mcp-token-vault"]\n\n[tool.uv]\npackage = false\nconstraint-dependencies = [\n{pins}]\n\n'
        f'[tool.uv.sources]\nmcp-token-vault = {{ path = "{wheel}" }}\n'
    )


def locked_releases(lock: str) -> list[str]:
    """The pins of a requirements file, with their markers and without their hashes."""
    lines = [line.removesuffix("\\").strip() for line in lock.splitlines() if line and not line[0].isspace()]
    return [line for line in lines if "==" in line and not line.startswith("#")]


def build(folder: Path) -> Path:
    """Build wheel and bundle in the folder; return the bundle's path."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder.resolve())],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wheel = folder / f"mcp_token_vault-{about['version']}-py3-none-any.whl"
    locked = locked_releases((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    files = {
        "manifest.json": json.dumps(manifest(about["version"], about["description"]), indent=2).encode(),
        "pyproject.toml": project(about["version"], wheel.name, locked).encode(),
        "main.py": ENTRY.encode(),
        **{name: (ROOT / name).read_bytes() for name in ("LICENSE", "NOTICE")},
        wheel.name: wheel.read_bytes(),
    }
    bundle = folder / f"token-vault-{about['version']}.mcpb"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), content, zipfile.ZIP_DEFLATED)
    return bundle


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(build(target))
