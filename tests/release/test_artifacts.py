"""The files of a release have the same bytes each time, and contain what they should; `make release` tries them all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.generating.documentation import ROOT
from tests.release import audit, client_packages, debian
from tests.release.artifacts import build_packages, write_sums
from tests.release.signing import sign_all
from tests.release.trials import trials

EPOCH = 1_800_000_000
LOCK = """\
editables==0.5 \\
    --hash=sha256:aaa
mcp==2.3 ; python_version > '3.10' \\
    --hash=sha256:bbb \\
    --hash=sha256:ccc
pluggy==1.6 \\
    --hash=sha256:ddd
"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two copies of what is built, in different places, with different times and modes."""
    names = ["pyproject.toml", "README.md", "LICENSE", "NOTICE", ".gitignore", "SECURITY.md", "CHANGELOG.md"]
    names += ["mcp.json", "server.json", "vault", "tests/release"]
    made: list[Path] = []
    for number in (1, 2):
        folder = tmp_path_factory.mktemp(f"copy-{number}") / ("x" * number)
        folder.mkdir()
        for path in ("providers", "server"):
            (folder / path).mkdir()
        (folder / "server/launcher/token_vault").mkdir(parents=True)
        subprocess.run(["cp", "-r", "--parents", *names, folder], cwd=ROOT, check=True)
        for path in folder.rglob("*"):
            os.utime(path, (number * 1000, number * 1000))
            path.chmod(0o755 if path.is_dir() else (0o664 if number == 1 else 0o600))
        made.append(folder)
    return made[0], made[1]


def test_the_same_sources_make_the_same_bytes(copies: tuple[Path, Path], tmp_path: Path) -> None:
    hashes: list[tuple[str, ...]] = []
    for number, copy in enumerate(copies):
        folder = tmp_path / str(number)
        built = build_packages(copy, folder, epoch=EPOCH)
        hashes.append(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in built))
    assert hashes[0] == hashes[1]
    wheel, archive = build_packages(copies[0], tmp_path / "later", epoch=EPOCH + 86400)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() != hashes[0][0]  # only the time differs
    with zipfile.ZipFile(wheel) as files:
        assert {one.date_time[:3] for one in files.infolist()} == {(2027, 1, 16)}
    with tarfile.open(archive) as files:
        assert {one.mtime for one in files.getmembers()} == {EPOCH + 86400}


@pytest.fixture
def client_sources(tmp_path: Path) -> Path:
    """A copy of the clients' sources."""
    folder = tmp_path / "sources"
    folder.mkdir()
    shutil.copy(ROOT / "LICENSE", folder)
    left_out = shutil.ignore_patterns("dist", "node_modules", "__pycache__")
    return shutil.copytree(ROOT / "clients", folder / "clients", ignore=left_out).parent


def test_the_python_clients_wheel_has_every_module_and_its_types(client_sources: Path, tmp_path: Path) -> None:
    wheel = client_packages.build_python(client_sources, tmp_path, epoch=EPOCH)
    with zipfile.ZipFile(wheel) as files:
        held = {name.removeprefix("token_vault_client/") for name in files.namelist()}
    assert {path.name for path in (ROOT / "clients/python/token_vault_client").glob("*.py")} | {"py.typed"} <= held


@pytest.mark.group("node")
def test_the_npm_package_has_every_file_that_it_exports(client_sources: Path, tmp_path: Path) -> None:
    package = client_packages.build_typescript(client_sources, tmp_path)
    with tarfile.open(package) as files:
        held = set(files.getnames())
    exported = json.loads((ROOT / "clients/typescript/package.json").read_text(encoding="utf-8"))["exports"]
    wanted = {f"package/{path.removeprefix('./')}" for one in exported.values() for path in one.values()}
    assert len(wanted) == 8
    assert wanted | {"package/LICENSE", "package/README.md"} <= held
    assert not [name for name in held if name.startswith("package/src")]


LOCK_FILES = ("requirements*.txt", "deploy/*/requirements.txt", "tests/*/requirements.txt", "tests/release/tools.txt")
LOCKS = sorted(
    path.relative_to(ROOT).as_posix() for shape in (*LOCK_FILES, "tests/sdks/*.txt") for path in ROOT.glob(shape)
)


@pytest.mark.requirement("V-13")
@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_of_a_lock_has_its_version_and_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    wanted = [part.strip() for part in text.replace("\\\n", " ").splitlines() if part.strip() and part[0] != "#"]
    loose = [line.split()[0] for line in wanted if "--hash=sha256:" not in line or "==" not in line.split(";")[0]]
    assert wanted
    assert not loose


def test_what_only_builds_is_left_out_of_a_lock() -> None:
    kept = debian.without(LOCK, frozenset({"editables", "pluggy"}))
    assert kept == "".join(line + "\n" for line in LOCK.splitlines()[2:5])
    names = {line.partition("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert names >= debian.BUILD_ONLY


@pytest.mark.parametrize(("version", "shown"), [("1.2.0", "1.2.0"), ("1.2.0rc1", "1.2.0~rc1"), ("1.2.0b2", "1.2.0~b2")])
def test_debian_sorts_a_candidate_before_its_release(version: str, shown: str) -> None:
    assert debian.debian_version(version) == shown
    if version != shown:
        command = ["dpkg", "--compare-versions", shown, "lt", "1.2.0"]
        assert subprocess.run(command, check=False).returncode == 0


def test_sums_can_be_checked_by_the_usual_program(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"a")
    (tmp_path / "b.deb").write_bytes(b"b")
    sums = write_sums(tmp_path)
    check = ["sha256sum", "--check", "--strict", "--quiet", sums.name]
    assert subprocess.run(check, cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "a.whl").write_bytes(b"changed")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 1


SIGNER = """#!{python}
import pathlib, sys
assert sys.argv[1] == "sign"
for name in sys.argv[2:]:
    pathlib.Path(name + ".sigstore.json").write_text("a bundle")
"""


@pytest.mark.parametrize("has_identity", [True, False])
def test_files_are_signed_where_an_identity_is_and_else_it_is_said_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_identity: bool
) -> None:
    program, folder = tmp_path / "sigstore", tmp_path / "dist"
    program.write_text(SIGNER.format(python=sys.executable))
    program.chmod(0o755)
    folder.mkdir()
    (folder / "a.whl").write_bytes(b"a")
    environment = {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "x"} if has_identity else {}
    bundles = sign_all(folder, program=program, environment=environment)
    assert [path.name for path in bundles] == (["a.whl.sigstore.json"] if has_identity else [])
    assert all(path.exists() for path in bundles)
    assert ("sigstore sign" in capsys.readouterr().out) is not has_identity


def test_the_program_of_the_package_finds_its_libraries_wherever_it_is_unpacked(tmp_path: Path) -> None:
    place = tmp_path / "usr/bin/token-vault"
    place.parent.mkdir(parents=True)
    place.write_bytes((ROOT / "deploy/debian/token-vault").read_bytes())
    library = tmp_path / "usr/lib/token-vault/token_vault"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("import sys\n\n\ndef main():\n    print(sys.argv[1:], sys.flags.isolated)\n")
    stranger = tmp_path / "stranger" / "token_vault.py"
    stranger.parent.mkdir()
    stranger.write_text("raise SystemExit('a stranger')\n")
    variables = {**os.environ, "PYTHONPATH": str(stranger.parent)}
    done = subprocess.run(
        [sys.executable, "-I", place, "serve"], cwd=stranger.parent, env=variables, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['serve'] 1", done.stderr
    assert place.read_text(encoding="utf-8").startswith("#!/usr/bin/python3 -I\n")


def test_the_package_has_what_its_unit_and_the_documentation_name(tmp_path: Path) -> None:
    debian.copy_files(tmp_path)
    unit = (tmp_path / "usr/lib/systemd/system/token-vault.service").read_text(encoding="utf-8")
    (named,) = re.findall(r"^Documentation=file://(.*)$", unit, flags=re.MULTILINE)
    assert (tmp_path / named.lstrip("/")).is_file()
    (program,) = re.findall(r"^ExecStart=(\S+)", unit, flags=re.MULTILINE)
    assert os.access(tmp_path / program.lstrip("/"), os.X_OK)
    examples = {one.name for one in (tmp_path / debian.MANUAL / "examples").iterdir()}
    assert {"nginx.conf", "haproxy.cfg", "Caddyfile", "traefik.yml", "alerts.yml", "dashboard.json"} <= examples


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_scripts_of_the_package_are_sound(name: str) -> None:
    script = ROOT / "deploy/debian" / name
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert "set -e" in script.read_text(encoding="utf-8")
    assert "/var/lib/token-vault" not in code_of(script)  # removing the package keeps the data


def code_of(script: Path) -> str:
    lines = script.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#") and "adduser" not in line)


def test_the_python_client_is_tried_with_packages_that_are_pinned(tmp_path: Path) -> None:
    wheel, client = tmp_path / "mcp_token_vault-1.0-py3-none-any.whl", tmp_path / "token_vault_client-1.0.whl"
    client.touch()
    (trial,) = [one for one in trials(wheel, wheel, wheel) if one.name == "Python client"]
    ran: list[tuple[str, ...]] = []
    trial.run(tmp_path, lambda *words: ran.append(tuple(map(str, words))))
    (installed,) = [words for words in ran if "install" in words]
    lock = Path(installed[installed.index("--constraints") + 1]).read_text(encoding="utf-8")
    named = [word for word in installed[installed.index("--constraints") + 2 :] if word != str(client)]
    assert named == ["fastapi"]
    for name in (*named, "httpx2"):  # and what the client itself needs
        assert f"\n{name}==" in lock


def test_every_lock_is_audited_except_those_of_other_peoples_programs() -> None:
    assert {path for path in LOCKS if not path.startswith("tests/sdks/")} == set(audit.LOCKS)
