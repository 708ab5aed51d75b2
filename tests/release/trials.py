"""Each file of a release is installed into an empty place with the program that people use, and runs the demo there.

The client libraries are installed and imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from tests.release import client_packages
from tests.release.artifacts import ROOT, tools
from tests.support.foreign.foreign import node

PYTHONS = tuple(f"3.{minor}" for minor in range(11, 15))
OLDEST_PIP = "22.3"  # that Python 3.11.0 brought
DEMO = 300  # seconds
IMPORTS = "import token_vault_client, token_vault_client.admin, token_vault_client.fastapi"


@dataclass(frozen=True)
class Trial:
    """One way to install. `run` gets an empty folder and a function that runs a command there."""

    name: str
    run: Callable[[Path, Callable[..., str]], None]


class TrialFailed(Exception):
    """A command of a trial failed; has its output."""


def runner(folder: Path) -> Callable[..., str]:
    """Returns a function that runs commands in the folder, which is also the home, and returns their output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VAULT_")}

    def run(*command: str | Path, **more: str) -> str:
        environment: Mapping[str, str] = {**kept, "HOME": str(folder), "BROWSER": "", **more}
        words = [str(word) for word in command]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEMO, check=False
        )
        if done.returncode != 0:
            raise TrialFailed(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    return run


def use(run: Callable[..., str], *program: str | Path, version: str) -> None:
    """Check the version that the program prints, and run the demo."""
    said = run(*program, "version").strip()
    if said != version:
        raise TrialFailed(f"the program says that it is {said}, not {version}")
    run(*program, "demo")


def pythons() -> dict[str, str]:
    """The interpreters of the supported releases on this machine."""
    found: dict[str, str] = {}
    managed = [str(folder) for folder in Path.home().glob(".pyenv/versions/*/bin")]
    path = os.pathsep.join([*managed, os.environ.get("PATH", "")])
    for version in PYTHONS:
        command = [find_uv_bin(), "python", "find", "--no-python-downloads", "--no-project", "--system", version]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", env={**os.environ, "PATH": path}
        )
        if done.returncode == 0:
            found[version] = done.stdout.strip()
    return found


def trials(wheel: Path, archive: Path, package: Path) -> Sequence[Trial]:
    """All trials that can run here."""
    version = wheel.name.split("-")[1]
    lock = ROOT / "requirements.txt"

    def from_wheel(python: str) -> Callable[[Path, Callable[..., str]], None]:
        def install(folder: Path, run: Callable[..., str]) -> None:
            run(find_uv_bin(), "venv", "--python", python, "venv")
            pip = (find_uv_bin(), "pip", "install", "--no-deps", "--python", "venv/bin/python")
            run(*pip, "--require-hashes", "-r", lock)
            run(*pip, wheel)
            run(find_uv_bin(), "pip", "check", "--python", "venv/bin/python")
            run(folder / "venv/bin/python", "-m", "compileall", "-q", "venv/lib")
            use(run, folder / "venv/bin/token-vault", version=version)

        return install

    def from_source(python: str, pip: str = "") -> Callable[[Path, Callable[..., str]], None]:
        def install(folder: Path, run: Callable[..., str]) -> None:
            run(python, "-m", "venv", "venv")
            if pip:
                run(folder / "venv/bin/pip", "install", "-q", f"pip=={pip}")
            run(folder / "venv/bin/pip", "install", "-q", archive)
            use(run, folder / "venv/bin/token-vault", version=version)

        return install

    def by_pipx(folder: Path, run: Callable[..., str]) -> None:
        places = {"PIPX_HOME": str(folder / "pipx"), "PIPX_BIN_DIR": str(folder / "bin")}
        run(tools() / "pipx", "install", "-q", "--python", sys.executable, wheel, **places)
        use(run, folder / "bin/token-vault", version=version)

    def by_uvx(folder: Path, run: Callable[..., str]) -> None:
        program = (find_uv_bin(), "tool", "run", "--python", sys.executable, "--from", wheel, "mcp-token-vault")
        use(run, *program, version=version)

    def try_unpacked(folder: Path, run: Callable[..., str]) -> None:
        run("dpkg-deb", "--extract", package, "root")
        use(run, folder / "root/usr/bin/token-vault", version=version)

    def in_debian(folder: Path, run: Callable[..., str]) -> None:
        """In a separate Debian: apt installs the package and its dependencies, then the package's own user runs it."""
        root = folder / "debian"
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", codename(), root)
        shutil.copy(package, root / "root")
        inside = ("chroot", root, "/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
        run(*inside, "apt-get", "install", "-y", "-q", "--no-install-recommends", f"/root/{package.name}")
        as_user = ("chroot", "--userspec=token-vault:token-vault", root, "/usr/bin/env", "HOME=/tmp")
        use(run, *as_user, "token-vault", version=version)
        run(*inside, "apt-get", "purge", "-y", "-q", "token-vault")
        if (root / "usr/lib/token-vault").exists():
            raise TrialFailed("the package left files behind")

    def python_client(folder: Path, run: Callable[..., str]) -> None:
        (client,) = wheel.parent.glob("token_vault_client-*.whl")
        run(find_uv_bin(), "venv", "--python", sys.executable, "venv")
        pip = (find_uv_bin(), "pip", "install", "--python", "venv/bin/python")
        run(*pip, "--constraints", ROOT / "tests/sdks/clients.txt", client, "fastapi")
        run("venv/bin/python", "-c", IMPORTS)

    def npm_client(folder: Path, run: Callable[..., str]) -> None:
        (client,) = wheel.parent.glob("token-vault-client-*.tgz")
        client_packages.npm(folder, "install", str(client))
        parts = ", ".join(f'import("token-vault-client{part}")' for part in ("", "/admin", "/ai", "/express"))
        run(node(), "-e", f"Promise.all([{parts}])")

    known = [Trial(f"wheel, Python {name}", from_wheel(path)) for name, path in pythons().items()]
    known += [Trial("source archive, pip", from_source(sys.executable))]
    if (oldest := pythons().get(PYTHONS[0])) is not None:
        known += [Trial(f"source archive, pip {OLDEST_PIP}", from_source(oldest, OLDEST_PIP))]
    known += [Trial("pipx", by_pipx), Trial("uvx", by_uvx)]
    known += [Trial("Debian package, unpacked", try_unpacked)]
    known += [Trial("Python client", python_client), Trial("npm client", npm_client)]
    if os.geteuid() == 0 and shutil.which("debootstrap"):
        known += [Trial("Debian package, in a Debian of its own", in_debian)]
    return known


def codename() -> str:
    """The code name of this Debian release."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return dict(line.partition("=")[::2] for line in lines)["VERSION_CODENAME"]


def run_all(wheel: Path, archive: Path, package: Path, *, only: str = "") -> bool:
    """Run them one after the other and print each result; returns whether all worked."""
    works = True
    missing = [name for name in PYTHONS if name not in pythons()]
    if missing:
        print(f"not here, so not tried: Python {', '.join(missing)}")
    for trial in trials(wheel, archive, package):
        if only not in trial.name:
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="token-vault-trial-") as folder:
            try:
                trial.run(Path(folder), runner(Path(folder)))
            except (TrialFailed, subprocess.TimeoutExpired) as failed:
                works = False
                print(f"FAILED  {trial.name}: {failed}", flush=True)
            else:
                print(f"works   {trial.name} ({time.monotonic() - begun:.0f} s, demo included)", flush=True)
    return works
