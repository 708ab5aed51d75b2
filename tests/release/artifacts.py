"""The files of a release: wheel, source archive, bundle, Debian package, client libraries, bill of materials, hashes.

Wheel and source archive are built from a copy of the commit, so that no unversioned file gets in, and have its time, so
that one commit always makes the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uv import find_uv_bin

from tests.generating import bundle
from tests.release import client_packages, debian

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests" / "release" / "tools.txt"  # hashed lock of what only a release needs
SUMS = "SHA256SUMS"


def commit_time(root: Path = ROOT) -> int:
    """Seconds since 1970 of the commit that is checked out."""
    command = ["git", "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)


@contextmanager
def copy_of_commit() -> Iterator[Path]:
    """A copy of the commit that is checked out, in its own folder."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory(prefix="token-vault-release-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def build_packages(source: Path, folder: Path, *, epoch: int) -> tuple[Path, Path]:
    """Wheel and source archive of a copy of the sources."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, env=environment, stdout=subprocess.DEVNULL)
    (wheel,), (archive,) = folder.glob("mcp_token_vault-*.whl"), folder.glob("mcp_token_vault-*.tar.gz")
    return wheel, archive


def digest(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_twice(folder: Path, *, epoch: int) -> tuple[Path, Path]:
    """Wheel and source archive, built from two copies; exits if their bytes differ."""
    with copy_of_commit() as one, copy_of_commit() as other, tempfile.TemporaryDirectory() as again:
        first = build_packages(one, folder, epoch=epoch)
        for built, repeated in zip(first, build_packages(other, Path(again), epoch=epoch), strict=True):
            if digest(built) != digest(repeated):
                sys.exit(f"{built.name} isn't reproducible: {digest(built)} and {digest(repeated)}")
    return first


def tools() -> Path:
    """The folder with the programs of the release's own lock, installed again when the lock changed."""
    place = ROOT / ".venv" / "release"
    mark = place / digest(TOOLS)
    if not mark.exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([find_uv_bin(), "venv", "-q", "--python", sys.executable, str(place)], check=True)
        install = [find_uv_bin(), "pip", "install", "-q", "--no-deps", "--python", str(place / "bin" / "python")]
        subprocess.run([*install, "--require-hashes", "-r", str(TOOLS)], check=True)
        mark.touch()
    return place / "bin"


def write_sbom(wheel: Path, target: Path) -> Path:
    """CycloneDX 1.6 of an installation with all extras from the hashed lock."""
    with tempfile.TemporaryDirectory(prefix="token-vault-sbom-") as folder:
        place = Path(folder)
        lock = place / "lock.txt"
        text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
        lock.write_text(debian.without(text, debian.BUILD_ONLY), encoding="utf-8")
        subprocess.run([find_uv_bin(), "venv", "-q", "--python", sys.executable, str(place / "venv")], check=True)
        install = [find_uv_bin(), "pip", "install", "-q", "--no-deps", "--python", str(place / "venv/bin/python")]
        subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True)
        subprocess.run([*install, str(wheel)], check=True)
        command = [str(tools() / "cyclonedx-py"), "environment", "--spec-version", "1.6", "--output-reproducible"]
        command += ["--pyproject", str(ROOT / "pyproject.toml"), "-o", str(target), str(place / "venv/bin/python")]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    content = json.loads(target.read_text(encoding="utf-8"))
    for one in content["components"]:  # these say where the wheel was on the build machine
        one.pop("externalReferences", None)
    content["components"] = [one for one in content["components"] if one["name"] != "mcp-token-vault"]
    target.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return target


def write_sums(folder: Path) -> Path:
    """SHA256SUMS of everything in the folder, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    target = folder / SUMS
    target.write_text("".join(f"{digest(path)}  {path.name}\n" for path in files), encoding="utf-8")
    return target


def build_all(folder: Path) -> tuple[Path, Path, Path]:
    """Build everything into an empty folder: wheel, source archive, Debian package."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    epoch = commit_time()
    wheel, archive = build_twice(folder, epoch=epoch)
    bundle.build(folder)
    write_sbom(wheel, folder / f"{wheel.name.partition('-py3')[0]}.cdx.json")
    package = debian.build(wheel, folder, epoch=epoch)
    with copy_of_commit() as source:
        client_packages.build_python(source, folder, epoch=epoch)
        client_packages.build_typescript(source, folder)
    write_sums(folder)
    return wheel, archive, package


def found_in(folder: Path) -> tuple[Path, Path, Path]:
    """What `build_all` put into the folder."""
    (wheel,), (archive,) = folder.glob("mcp_token_vault-*.whl"), folder.glob("mcp_token_vault-*.tar.gz")
    (package,) = folder.glob("token-vault_*.deb")
    return wheel, archive, package
