"""The Debian package: the program and its locked libraries below /usr/lib/token-vault, the unit, settings, examples.

Built with dpkg-deb for this machine's architecture and the Python at /usr/bin/python3; installing it needs no network.
Nothing starts by itself: `systemctl enable --now token-vault` starts it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
PARTS = ROOT / "deploy" / "debian"
LIBRARY = Path("usr/lib/token-vault")
MANUAL = Path("usr/share/doc/token-vault")
BUILD_ONLY = frozenset({"editables", "hatchling", "pathspec", "pluggy", "trove-classifiers"})
COMMANDS = ("token-vault", "mcp-token-vault")


def without(lock: str, names: frozenset[str]) -> str:
    """A hashed lock without these packages."""
    kept: list[str] = []
    is_kept = True
    for line in lock.splitlines(keepends=True):
        if line[:1].strip():
            is_kept = re.split(r"[=\[ ]", line, maxsplit=1)[0] not in names
        kept += [line] if is_kept else []
    return "".join(kept)


def debian_version(version: str) -> str:
    """The version as Debian orders it: a release candidate comes before its release."""
    return re.sub(r"(a|b|rc)(?=\d)", r"~\1", version)


def _output(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


def build(wheel: Path, folder: Path, *, epoch: int) -> Path:
    """Build the package in the folder; returns its path. Needs dpkg-deb and /usr/bin/python3."""
    version = wheel.name.split("-")[1]
    architecture = _output("dpkg", "--print-architecture")
    python = _output("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    target = folder / f"token-vault_{debian_version(version)}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="token-vault-deb-") as place:
        tree = Path(place) / "tree"
        _install_libraries(wheel, tree / LIBRARY, scratch=Path(place))
        copy_files(tree)
        _write_control(tree, version=version, architecture=architecture, python=python)
        for path in [tree, *tree.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--build", str(tree), str(target)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return target


def _install_libraries(wheel: Path, library: Path, *, scratch: Path) -> None:
    lock = scratch / "lock.txt"
    lock.write_text(without((ROOT / "requirements.txt").read_text(encoding="utf-8"), BUILD_ONLY), encoding="utf-8")
    install = [find_uv_bin(), "pip", "install", "-q", "--python", "/usr/bin/python3", "--link-mode", "copy"]
    install += ["--no-deps", "--target", str(library)]
    subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True)
    subprocess.run([*install, str(wheel)], check=True)
    shutil.rmtree(library / "bin", ignore_errors=True)  # its scripts contain paths of this machine
    for path in library.rglob("__pycache__"):
        shutil.rmtree(path)
    for name in ("direct_url.json", "uv_cache.json", ".lock"):
        for path in library.rglob(name):
            path.unlink()
    program = (
        "import compileall, sys; from py_compile import PycInvalidationMode as Mode; "
        "sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1, stripdir=sys.argv[2], prependdir='/', "
        "invalidation_mode=Mode.UNCHECKED_HASH))"
    )
    subprocess.run(["/usr/bin/python3", "-c", program, str(library), str(library.parents[2])], check=True)


def copy_files(tree: Path) -> None:
    """Put the files that don't depend on the version into the tree."""
    for name in COMMANDS:
        (tree / "usr/bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(PARTS / "token-vault", tree / "usr/bin" / name)
        (tree / "usr/bin" / name).chmod(0o755)
    for source, place in (
        ("deploy/systemd/token-vault.service", "usr/lib/systemd/system/token-vault.service"),
        ("deploy/systemd/local-servers.conf", MANUAL / "local-servers.conf"),
        ("deploy/debian/config.toml", "etc/token-vault/config.toml"),
        ("deploy/debian/copyright", MANUAL / "copyright"),
        ("README.md", MANUAL / "README.md"),
    ):
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, tree / place)
    for folder in ("deploy/proxy", "docs/operate/monitoring"):
        shutil.copytree(ROOT / folder, tree / MANUAL / "examples", dirs_exist_ok=True)
    changelog = (ROOT / "CHANGELOG.md").read_bytes()
    (tree / MANUAL / "changelog.gz").write_bytes(gzip.compress(changelog, 9, mtime=0))


def _write_control(tree: Path, *, version: str, architecture: str, python: str) -> None:
    control = tree / "DEBIAN"
    control.mkdir()
    minor = int(python.partition(".")[2])
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) // 1024
    text = (PARTS / "control").read_text(encoding="utf-8")
    facts = {"VERSION": debian_version(version), "ARCHITECTURE": architecture, "SIZE": str(size)}
    facts |= {"PYTHON": f"python3 (>= 3.{minor}~), python3 (<< 3.{minor + 1}~)"}
    for name, value in facts.items():
        text = text.replace(f"@{name}@", value)
    (control / "control").write_text(text, encoding="utf-8")
    (control / "conffiles").write_text("/etc/token-vault/config.toml\n", encoding="utf-8")
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(PARTS / name, control / name)
        (control / name).chmod(0o755)
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"
        for path in sorted(tree.rglob("*"))
        if path.is_file() and control not in path.parents and "etc" not in path.relative_to(tree).parts[:1]
    ]
    (control / "md5sums").write_text("".join(sums), encoding="utf-8")
