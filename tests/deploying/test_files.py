"""What the files in `deploy/` promise: no root, nothing writable except the data, a health check, and no secret."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.conftest import unavailable
from tests.generating.documentation import ROOT, leaves

DEPLOY = ROOT / "deploy"
CONTAINER = DEPLOY / "container"
COMPOSE = sorted(CONTAINER.glob("compose*.yaml"))
USER = 10001
EXPOSURE = 2.0  # of 10, as systemd-analyze rates it
RATED_BY = "257"  # the release whose rating the documentation has
SECRETS = ("postgres-password", "database-url", "master-key")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile: keyword and rest, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (CONTAINER / "Containerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(word, re.sub(r"\s+", " ", rest)) for word, _, rest in (line.partition(" ") for line in lines)]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(at for at, (word, _) in enumerate(found) if word == "FROM") :]


def instruction_arguments(word: str) -> list[str]:
    return [rest for one, rest in final_stage() if one == word]


def compose(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def vaults(path: Path) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in compose(path)["services"].items() if name.startswith("vault")}


def settings_of(variables: object) -> set[str]:
    """The settings that the variables stand for."""
    assert isinstance(variables, dict)
    other = {"TOKEN_VAULT_CONFIG", "TOKEN_VAULT_DATA", "TOKEN_VAULT_KEY"}
    return {
        name.removeprefix("TOKEN_VAULT_").lower().replace("__", ".")
        for name in variables
        if name.startswith("TOKEN_VAULT_") and name not in other
    }


def test_the_image_runs_as_a_user_without_rights_and_writes_to_its_data_only() -> None:
    assert instruction_arguments("USER") == [f"{USER}:{USER}"]
    assert instruction_arguments("VOLUME") == ["/data"]
    assert "TOKEN_VAULT_DATA=/data" in instruction_arguments("ENV")[0]
    assert f"install -d -m 700 -o {USER} -g {USER} /data" in instruction_arguments("RUN")[0]
    order = [word for word, _ in final_stage()]
    assert max(at for at, word in enumerate(order) if word in {"RUN", "COPY"}) < order.index("USER")


def test_the_image_is_built_in_two_stages_from_the_hashed_lock() -> None:
    text = " ".join(rest for word, rest in instructions() if word == "RUN")
    assert [word for word, _ in instructions()].count("FROM") == 2
    assert "pip install --no-cache-dir --no-compile --no-deps --require-hashes -r requirements.txt" in text
    assert instruction_arguments("COPY") == ["--from=build /opt/token-vault /opt/token-vault"]
    copied = {rest.split()[0] for word, rest in instructions() if word == "COPY"}
    assert not copied & {".", "tests", ".venv", "deploy"}


def test_what_runs_in_the_image_needs_no_shell() -> None:
    for word in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(instruction_arguments(word)[0]), list)
    health = instruction_arguments("HEALTHCHECK")[0]
    program, option, code = json.loads(health.partition(" CMD ")[2])
    assert (program, option) == ("python", "-c")
    compile(code, "health", "exec")
    assert "/readyz" in code


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_each_vault_of_a_compose_file_is_closed_in(path: Path) -> None:
    assert vaults(path)
    for one in vaults(path).values():
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in one["security_opt"]
        assert not one.get("privileged")
        assert "ports" not in one  # reachable only through the proxy
        written = [mount for mount in one["volumes"] if not mount.endswith(":ro")]
        assert len(written) == 1
        assert written[0].endswith(":/data")
    disks = [one["volumes"][0] for one in vaults(path).values()]
    assert len(set(disks)) == len(disks)  # each has its own journal


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_holds_settings_that_exist_and_no_secret(path: Path) -> None:
    known = {".".join(name) for name, _ in leaves(Settings)}
    content = compose(path)
    for one in vaults(path).values():
        assert settings_of(one["environment"]) <= known
        assert set(one["secrets"]) <= set(content["secrets"])
        proxied = content["services"]["proxy"]["networks"]["front"]["ipv4_address"]
        assert json.loads(one["environment"]["TOKEN_VAULT_SERVER__TRUSTED_PROXIES"]) == [proxied]
    assert set(SECRETS) <= set(content["secrets"])
    assert all(set(one) == {"file"} for one in content["secrets"].values())
    assert not re.search(r"PASSWORD:|TOKEN_VAULT_KEY:|://[^/\s]+:[^/\s]+@", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_files_that_a_compose_file_mounts_exist(path: Path) -> None:
    for one in compose(path)["services"].values():
        for mount in one.get("volumes", ()):
            if mount.startswith("."):
                assert (CONTAINER / mount.split(":")[0]).is_file(), mount
        if "build" in one:
            assert (CONTAINER / one["build"]["context"] / one["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_health_checks_of_a_compose_file_are_in_the_form_that_podman_compose_runs(path: Path) -> None:
    checks = {name: one["healthcheck"]["test"] for name, one in compose(path)["services"].items() if name != "proxy"}
    assert {*vaults(path), "postgres"} == set(checks)
    assert all(isinstance(one, str) for one in checks.values())  # podman-compose 1.3 breaks a list's arguments


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_the_health_check_of_a_vault_is_its_readiness(path: Path, status: int, *, is_healthy: bool) -> None:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as answering:
        Thread(target=answering.serve_forever, daemon=True).start()
        for one in vaults(path).values():
            asked.clear()
            check = one["healthcheck"]["test"].replace("127.0.0.1:8765", f"127.0.0.1:{answering.server_port}")
            environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
            ran = subprocess.run(["sh", "-c", check], capture_output=True, check=False, env=environment)
            assert asked == ["/readyz"]
            assert (ran.returncode == 0) is is_healthy
        answering.shutdown()


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_addresses_that_a_proxy_keeps_stay_when_a_container_restarts(path: Path) -> None:
    """podman gives a restarted container another address, and HAProxy looks names up only when it starts."""
    content = compose(path)
    front = {
        name: one["networks"]["front"]["ipv4_address"]
        for name, one in content["services"].items()
        if "front" in one["networks"]
    }
    assert set(front) == {"proxy", *vaults(path)}
    assert len(set(front.values())) == len(front)
    subnet = ip_network(content["networks"]["front"]["ipam"]["config"][0]["subnet"])
    assert all(ip_address(one) in subnet for one in front.values())
    named = {
        value for name, value in content["services"]["proxy"]["environment"].items() if re.match(r"VAULT_\d", name)
    }
    assert named == ({f"{front[name]}:8765" for name in vaults(path)} if len(vaults(path)) > 1 else set())


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_names_the_options_that_doctor_asks_for(path: Path) -> None:
    source = (ROOT / "server/programs/hosted/sandbox.py").read_text(encoding="utf-8")
    options = re.findall(r"--security-opt ([\w=]+)", source)
    assert options == ["seccomp=unconfined", "systempaths=unconfined"]
    written = path.read_text(encoding="utf-8")
    assert f"for local_servers, add {' and '.join(options)}" in written
    assert not any(option in one["security_opt"] for one in vaults(path).values() for option in options)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_each_container_starts_again_after_a_reboot(path: Path) -> None:
    """podman-restart.service starts those whose policy is `always`, and no others."""
    assert {one["restart"] for one in compose(path)["services"].values()} == {"always"}
    assert "systemctl enable podman-restart" in path.read_text(encoding="utf-8")


def test_replicas_share_one_key_and_one_database() -> None:
    both = list(vaults(CONTAINER / "compose.replicas.yaml").values())
    assert len(both) == 2
    assert both[0]["environment"] == both[1]["environment"]
    assert both[0]["secrets"] == both[1]["secrets"]


def make_secrets(folder: Path) -> None:
    subprocess.run(["sh", CONTAINER / "make-secrets.sh", folder], check=True, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="handing files to the image's user needs root")
def test_secrets_are_made_once_for_the_user_of_the_image(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    made = {name: (tmp_path / "secrets" / name).read_text(encoding="utf-8") for name in SECRETS}
    make_secrets(tmp_path / "secrets")
    assert made == {name: (tmp_path / "secrets" / name).read_text(encoding="utf-8") for name in SECRETS}
    assert len(base64.b64decode(made["master-key"], validate=False)) == 32
    assert f":{made['postgres-password']}@" in made["database-url"]
    assert len(made["postgres-password"]) >= 32
    for name in SECRETS:
        facts = (tmp_path / "secrets" / name).stat()
        assert stat.S_IMODE(facts.st_mode) == 0o600
        assert facts.st_uid == (0 if name == "postgres-password" else USER)
    make_secrets(tmp_path / "others")
    assert made["master-key"] != (tmp_path / "others" / "master-key").read_text(encoding="utf-8")


def test_the_unit_is_hardly_exposed() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        unavailable("tests of the unit need: apt-get install systemd")
    unit = DEPLOY / "systemd" / "token-vault.service"
    done = subprocess.run(
        [str(analyze), "security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    rated = re.search(r"Overall exposure level for token-vault.service: ([0-9.]+)", done.stdout)
    assert rated is not None, done.stdout + done.stderr
    assert float(rated[1]) <= EXPOSURE
    assert done.returncode == 0
    page = (ROOT / "docs/operate/install.md").read_text(encoding="utf-8")
    told = re.search(r"`systemd-analyze security` \(([0-9.]+) of 10\)", page)
    version = subprocess.run([str(analyze), "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert told is not None
    assert f"systemd {RATED_BY}" in " ".join(page.split())
    assert version != RATED_BY or rated[1] == told[1]


def in_force(*names: str) -> tuple[dict[str, str], set[str]]:
    """The values that a unit's files, read in this order, set last, and the system calls that they allow."""
    if shutil.which("systemd-analyze") is None:
        unavailable("tests of the unit need: apt-get install systemd")
    once: dict[str, str] = {}
    allowed: set[str] = set()
    for name in names:
        for line in (DEPLOY / "systemd" / name).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            once[key] = value
            if key == "SystemCallFilter":
                calls = {call for word in value.removeprefix("~").split() for call in system_calls(word)}
                allowed = allowed - calls if value.startswith("~") else allowed | calls
    return once, allowed


def system_calls(name: str) -> set[str]:
    """The system calls in a systemd set, or this single one."""
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    words = [line.strip() for line in done.stdout.splitlines()[1:] if line.strip() and "#" not in line]
    return {call for word in words for call in system_calls(word)}


def test_with_its_drop_in_the_unit_allows_what_a_sandbox_needs() -> None:
    needed = {"capset", "mount", "openat2", "pivot_root", "prctl", "setpriority", "sethostname", "umount2", "unshare"}
    once, allowed = in_force("token-vault.service", "local-servers.conf")
    assert needed - allowed == set()
    assert (once["RestrictSUIDSGID"], once["RestrictNamespaces"]) == ("no", "no")
    assert not allowed & {"bpf", "init_module", "reboot", "setuid", "swapon"}
    once, allowed = in_force("token-vault.service")
    assert needed - allowed == {"capset", "mount", "pivot_root", "setpriority", "sethostname", "umount2"}
    assert (once["RestrictSUIDSGID"], once["RestrictNamespaces"]) == ("yes", "yes")


def test_the_unit_names_settings_that_exist_and_runs_as_its_own_user() -> None:
    lines = (DEPLOY / "systemd" / "token-vault.service").read_text(encoding="utf-8").splitlines()
    entries = [line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#")]
    variables = dict(value.split("=", 1) for name, value in entries if name == "Environment")
    assert variables == {
        "TOKEN_VAULT_DATA": "/var/lib/token-vault",
        "TOKEN_VAULT_CONFIG": "/etc/token-vault/config.toml",
    }
    once = dict(entries)
    assert (once["User"], once["StateDirectory"], once["CapabilityBoundingSet"]) == ("token-vault", "token-vault", "")
    assert int(once["TimeoutStopSec"]) > 60 + 30  # the longest server.drain_notice, then calls in flight


def test_nothing_in_the_folder_looks_like_a_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text(encoding="utf-8")
            assert "PRIVATE KEY" not in text, path
            assert not re.search(r"[A-Za-z0-9+/]{43}=", text), path
