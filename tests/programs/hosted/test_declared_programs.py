"""What an operator can declare as a local server, and how each mistake is reported."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import ValidationError

from server.administration.actor import Actor, ChangeRefused
from server.app import open_deployment
from server.doctor.tools import check_local_servers
from server.local_server_settings import LocalServerSettings, overlap_with, shared_writable, shown_file
from server.programs.hosted import sandbox, syscalls
from server.provider_settings import SettingsRefused
from server.remote import servers
from server.settings import load_settings
from tests.conftest import unavailable
from tests.programs.hosted.hosted_room import CURIOUS, HostedRoom, needs_sandbox


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": "bin/server"}, "absolute path"),
        ({"command": "node server.js"}, "name the program only"),
        ({"command": ""}, "at least 1 character"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"hosts": ["https://api.example.com"]}, "without https://"),
        ({"hosts": ["API.example.com"]}, "in lowercase"),
        ({"environment": {"A B": "x"}}, "isn't a valid variable name"),
        ({"environment": {"https_proxy": "x"}}, "the vault sets"),
        ({"environment": {"A": "x\0"}}, "NUL"),
        ({"placeholders": ["HOME"]}, "the vault sets"),
        ({"folders": ["relative"]}, "absolute path"),
        ({"folders": ["/srv/../etc"]}, "absolute path"),
        ({"folders": ["/"]}, "contains more than a program should see"),
        ({"folders": ["/run/docker"]}, "contains more than a program should see"),
        ({"writable": "/home"}, "contains more than a program should see"),
        ({"memory_mb": 1}, "greater than or equal to 32"),
        ({"processes": 0}, "greater than or equal to 1"),
        ({"idle_seconds": 1}, "greater than or equal to 5"),
        ({"shell": True}, "Extra inputs"),
    ],
)
def test_each_wrong_entry_is_named(changes: dict[str, Any], said: str) -> None:
    right: dict[str, Any] = {"command": "node", "hosts": ["api.example.com:8443"], "folders": ["/srv/mcp"]}
    assert LocalServerSettings.model_validate(right).memory_mb == 512
    with pytest.raises(ValidationError, match=said):
        LocalServerSettings.model_validate({**right, **changes})


def test_no_folder_shows_the_vaults_data(tmp_path: Path) -> None:
    data, beside = tmp_path / "vault", tmp_path / "beside"
    for place in (data / "providers", beside):
        place.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(data)

    def find_overlap(folder: Path, **more: Any) -> object:
        return overlap_with(data, {"one": LocalServerSettings(command="node", folders=(folder,), **more)})

    assert find_overlap(beside) is None
    for folder in (data, tmp_path, data / "providers", link):
        assert find_overlap(folder) == ("one", folder)
    assert find_overlap(beside, writable=data) == ("one", data)


def test_no_folder_shows_what_somebody_writes(tmp_path: Path) -> None:
    written, beside = tmp_path / "written", tmp_path / "beside"
    for place in (written / "below", beside):
        place.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(written)

    def find_shared(**other: Any) -> object:
        own = LocalServerSettings(command="node", writable=written)
        return shared_writable({"own": own, "other": LocalServerSettings(command="node", **other)})

    assert find_shared(folders=(beside,), writable=written) is None, "each server has its own part"
    assert find_shared(writable=written / "below") == ("other", written / "below")
    for folder in (written, tmp_path, written / "below", link):
        assert find_shared(folders=(folder,)) == ("other", folder)
    itself = LocalServerSettings(command="node", folders=(written,), writable=link)
    assert shared_writable({"one": itself}) == ("one", written)


def test_no_folder_shows_a_file_with_a_secret(tmp_path: Path) -> None:
    shown, config = tmp_path / "shown", tmp_path / "shown" / "config.toml"
    shown.mkdir()
    secret, authority = shown / "secret", shown / "authority.pem"
    provider = f"client_id = 'x'\nclient_secret_file = '{secret}'\nca_file = '{authority}'\n"
    server = f"[local_servers.one]\ncommand = 'node'\nfolders = ['{shown}']\n"
    config.write_text(f"[keys]\npassphrase_file = '{shown}/passphrase'\n[providers.slack]\n{provider}{server}")
    settings = load_settings(config)
    assert set(settings.secret_files()) == {config, shown / "passphrase", secret}
    for file in settings.secret_files():
        assert shown_file([file], settings.local_servers) == ("one", shown, file)
    assert shown_file([tmp_path / "config.toml"], settings.local_servers) is None


def test_a_secret_in_a_folder_of_the_system_is_hidden(tmp_path: Path) -> None:
    needs_sandbox()
    folder, secret, other = tmp_path / "folder", tmp_path / "folder" / "secret", tmp_path / "folder" / "other"
    folder.mkdir()
    for one in (secret, other):
        one.write_text("canary")
    room = sandbox.Room(Path("/usr/share"), [folder], hidden=[secret])
    command = [sandbox.wrapper(), *sandbox.options(room), "--", "/usr/bin/cat"]
    read = [subprocess.run([*command, str(one)], capture_output=True, check=False).stdout for one in (secret, other)]
    assert read == [b"", b"canary"]


async def test_the_start_refuses_what_can_never_work(tmp_path: Path) -> None:
    async def start(**changes: Any) -> None:
        declared = {"curious": {**CURIOUS, **changes}}
        settings = load_settings(overrides={"server": {"port": 0}, "local_servers": declared})
        async with open_deployment(settings, data=tmp_path / "vault"):
            pass

    await start()
    with pytest.raises(SettingsRefused, match="there is no provider 'slak'"):
        await start(providers=["slak"])
    with pytest.raises(SettingsRefused, match="would give it access to the vault's data directory"):
        await start(folders=[str(tmp_path)])
    secret = tmp_path / "shown" / "secret"
    secret.parent.mkdir()
    with pytest.raises(SettingsRefused, match="would give it access to a `writable` folder"):
        await start(folders=[str(secret.parent)], writable=str(secret.parent))
    refused = {"curious": {**CURIOUS, "folders": [str(secret.parent)]}}
    settings = load_settings(overrides={"local_servers": refused, "keys": {"passphrase_file": str(secret)}})
    with pytest.raises(SettingsRefused, match=f"would give it access to {secret}"):
        async with open_deployment(settings, data=tmp_path / "vault"):
            pass
    with pytest.raises(SettingsRefused, match="use a name of at most 32"):
        load_settings(overrides={"local_servers": {"No Name": CURIOUS}})


def test_what_this_machine_lacks_is_told_with_the_fix(tmp_path: Path) -> None:
    def problem_text(**changes: Any) -> str:
        return str(sandbox.setting_problem(LocalServerSettings.model_validate({**CURIOUS, **changes})))

    assert problem_text() == "None"
    assert problem_text(command="true") == "None"
    assert "isn't in" in problem_text(command="no-such-program")
    assert "isn't a program" in problem_text(command="/usr/no-such-program")
    own = tmp_path / "program"
    own.write_text("#!/bin/sh\n")
    assert "isn't a program" in problem_text(command=str(own))
    own.chmod(0o755)
    assert "add its folder to `folders`" in problem_text(command=str(own))
    assert problem_text(command=str(own), folders=[str(tmp_path)]) == "None"
    assert "isn't a folder" in problem_text(folders=[str(tmp_path / "gone")])
    assert problem_text(writable=str(tmp_path)) == "None"
    with patch.object(sandbox.os, "access", lambda place, mode: place != tmp_path):
        assert "isn't writable" in problem_text(writable=str(tmp_path)), "root may write anything"


def test_without_bubblewrap_or_namespaces_the_fix_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install bubblewrap" in str(sandbox.find_problem())
    for text, fix in (("No permissions to create a new namespace", "kernel."), ("Unknown option --size", "0.8")):
        fake.write_text(f"#!/bin/sh\necho 'bwrap: {text}' >&2\nexit 1\n")
        fake.chmod(0o755)
        told = str(sandbox.find_problem())
        assert text in told
        assert fix in told
    fake.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    with monkeypatch.context() as short:
        short.setattr(sandbox, "_PATIENCE", 0.2)
        told = str(sandbox.find_problem())
    assert "didn't create a sandbox" in told
    assert "local-servers.conf" in told
    assert "/usr/share" not in told, "the command is no part of the answer"
    fake.write_text("#!/bin/sh\nexit 97\n")
    assert "CONFIG_SECCOMP_FILTER" in str(sandbox.find_problem())
    fake.write_text("#!/bin/sh\nexit 0\n")
    assert sandbox.find_problem() is None
    monkeypatch.setattr(sandbox, "_CHILDREN", tmp_path / "children")
    assert "CONFIG_PROC_CHILDREN" in str(sandbox.find_problem())


def test_a_filter_that_refuses_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_sandbox()
    if syscalls.call_filter() is None:
        unavailable("the system call filter needs x86-64 or ARM64")
    assert sandbox.find_problem() is None
    allows_all = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    monkeypatch.setattr(sandbox, "call_filter", lambda: allows_all)
    assert "The system call filter has no effect here" in str(sandbox.find_problem())


async def test_only_declared_programs_are_added(place: HostedRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def new(url: str = "program:second", **more: Any) -> servers.NewServer:
        return servers.NewServer("second", url, **more)

    with pytest.raises(ChangeRefused, match=r"no \[local_servers.other\]; they have: broken, curious, second"):
        await servers.add(place.operator, new("program:other"))
    with pytest.raises(ChangeRefused, match="no sign-in or key"):
        await servers.add(place.operator, new(client=servers.EnteredClient("id")))
    with pytest.raises(ChangeRefused, match="no sign-in or key"):
        await servers.add(place.operator, new(key=servers.key_of("key", "X-Key")))
    with pytest.raises(ChangeRefused, match="no sign-in or key"):
        await servers.add(place.operator, new(issuer="https://issuer.example"))
    with pytest.raises(ChangeRefused, match="broken can't be run here: no-such-program isn't in"):
        await servers.add(place.operator, servers.NewServer("broken", "program:broken"))
    with pytest.raises(ChangeRefused, match="a tool set has this name"):
        await servers.add(place.operator, servers.NewServer("everything", "program:second"))
    await servers.add(place.operator, new())
    await servers.remove(place.operator, "second")
    monkeypatch.setattr(place.hosted_servers, "_is_usable", False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ChangeRefused, match="bubblewrap isn't installed"):
        await servers.add(place.operator, new())
    agent = await place.agent("curious")
    assert "token-vault doctor" in await place.ask(agent, "pid"), "never without a sandbox"
    (told,) = [one async for one in check_local_servers(place.deployment)]
    assert (told.check, told.verdict) == ("sandbox", "problem")
    monkeypatch.undo()
    assert float(await place.ask(agent, "pid")) > 0
    found = [one async for one in check_local_servers(place.deployment)]
    assert [one.verdict for one in found] == ["ok", "problem"]
    assert "local_servers.broken" in found[1].sentence


async def test_a_program_that_left_the_settings_is_unusable(place: HostedRoom) -> None:
    actor: Actor = place.operator
    settings = place.deployment.settings
    less = {name: one for name, one in settings.local_servers.items() if name != "curious"}
    reduced = settings.model_copy(update={"local_servers": less})
    async with open_deployment(reduced, data=actor.deployment.data) as other:
        assert other.live.current.unusable["curious"] == "curious: the settings have no local_servers.curious"
        assert other.catalog.get("curious") is None
    assert place.deployment.catalog.get("curious") is not None


def test_the_sandbox_ends_with_the_vault() -> None:
    needs_sandbox()
    script = (
        "import subprocess, sys; from pathlib import Path; from server.programs.hosted import sandbox as s; "
        "command = ['--', 'sh', '-c', 'echo up; sleep 600']; "
        "p = subprocess.Popen([s.wrapper(), *s.options(s.Room(Path('/usr/share'))), *command]); "
        "print(p.pid, flush=True); p.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(next(line for line in (parent.stdout.readline(), parent.stdout.readline()) if line != "up\n"))
    assert Path(f"/proc/{pid}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait(30)
    parent.stdout.close()
    for _ in range(300):
        if not _is_alive(pid):
            break
        signal.sigtimedwait([], 0.1)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    """A process for which nobody waits remains a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
