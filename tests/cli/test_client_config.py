"""`client-config`: the printed entry works unchanged, and other programs' files are not damaged."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from typer.testing import CliRunner, Result

from server.cli import app
from server.setup.client_config import CLIENTS, TRANSPORTS, Machine, Program, VaultLocation, client_config
from server.setup.client_files import ClientFileRefused, backup_of, put, take_out
from tests.support.processes import Place, free_port

HOME = Path("/home/alice")
VAULT = VaultLocation(Program("/opt/bin/token-vault"), ("--data", "/srv/v"), "http://localhost:8765", is_loopback=True)
OURS = {"type": "http", "url": "http://localhost:8765/mcp"}


@pytest.fixture
def place(tmp_path: Path, prepared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    data = tmp_path / "data with a blank"
    shutil.copytree(prepared_data, data)
    data.chmod(0o700)
    made = Place(data, free_port())
    made.configure()
    (tmp_path / "home").mkdir()
    for name in ("APPDATA", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MCP_CATALOG_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return made


async def run(place: Place, *command: str) -> Result:
    arguments = ["client-config", *command, "--data", str(place.data)]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def content(place: Place, *command: str) -> dict[str, object]:
    result = await run(place, *command, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def listed(command: str, arguments: list[str], *, folder: Path) -> set[str]:
    """The tools of a stdio command that is started with no environment at all."""
    started = StdioServerParameters(command="/usr/bin/env", args=["-i", command, *arguments], cwd=folder)
    async with asyncio.timeout(30), Client(started) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_printed_command_works_from_another_folder_without_any_environment(
    place: Place, tmp_path: Path, client: str
) -> None:
    printed = await run(place, client)
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    text = "\n".join(lines[: lines.index("}") + 1])
    entry = next(iter(json.loads(text).values()))["token-vault"]
    assert Path(entry["command"]).is_absolute()
    assert "slack_post" in await listed(entry["command"], entry["args"], folder=tmp_path)


async def test_the_line_for_claude_code_starts_the_same_program(place: Place, tmp_path: Path) -> None:
    words = shlex.split((await run(place, "claude-code")).stdout.splitlines()[-1])
    assert words[:3] == ["claude", "mcp", "add"]
    name, dashes, command, *arguments = words[words.index("token-vault") :]
    assert (name, dashes) == ("token-vault", "--")
    assert "slack_post" in await listed(command, arguments, folder=tmp_path)


async def test_a_settings_file_that_was_named_is_named_again(place: Place, tmp_path: Path) -> None:
    settings = tmp_path / "elsewhere.toml"
    (place.data / "config.toml").rename(settings)
    made = await content(place, "cursor", "--config", str(settings))
    arguments = made["entry"]["args"]
    assert arguments[-4:] == ["--data", str(place.data), "--config", str(settings)]
    over_http = await content(place, "cursor", "--transport", "http", "--config", str(settings))
    assert over_http["entry"] == {"url": f"{place.url}/mcp"}


async def test_a_program_that_is_not_installed_as_a_script_is_started_as_a_module(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    made = await content(place, "cursor")
    assert (made["entry"]["command"], made["entry"]["args"][:2]) == (str(python), ["-m", "token_vault"])


async def test_settings_that_the_client_will_not_see_are_named_without_their_values(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [one for one in (await content(place, "cursor"))["notes"] if "won't pass" in one]
    monkeypatch.setenv("TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_SECRET", "canary")
    printed = await run(place, "cursor")
    assert "won't pass TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_SECRET" in printed.stderr
    assert "canary" not in printed.output


async def test_whom_this_shell_trusts_for_tls_goes_along_to_a_program_and_nothing_else_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "env" not in (await content(place, "claude-code"))["entry"]
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/with-our-own.pem")
    monkeypatch.setenv("SOME_SECRET", "canary")
    made = await content(place, "claude-code")
    assert made["entry"]["env"] == {"SSL_CERT_FILE": "/etc/ssl/with-our-own.pem"}
    words = shlex.split(str(made["command_line"]))
    # Claude Code 2.1.197 takes every word after --env for another variable, up to an option or `--`
    assert words[words.index("--env") : words.index("--") + 1] == [
        "--env",
        "SSL_CERT_FILE=/etc/ssl/with-our-own.pem",
        "--",
    ]
    assert words.index("token-vault") < words.index("--env")
    assert "canary" not in json.dumps(made)
    assert "env" not in (await content(place, "claude-code", "--transport", "http"))["entry"]


@pytest.mark.parametrize(
    ("platform", "client", "path"),
    [
        ("linux", "claude-code", ".claude.json"),
        ("linux", "claude-desktop", ".config/Claude/claude_desktop_config.json"),
        ("linux", "cursor", ".cursor/mcp.json"),
        ("linux", "vscode", ".config/Code/User/mcp.json"),
        ("linux", "inspector", ".mcp-inspector/mcp.json"),
        ("darwin", "claude-desktop", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("darwin", "vscode", "Library/Application Support/Code/User/mcp.json"),
        ("darwin", "cursor", ".cursor/mcp.json"),
        ("win32", "claude-desktop", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("win32", "vscode", "AppData/Roaming/Code/User/mcp.json"),
    ],
)
def test_each_client_has_its_file_on_each_platform(platform: str, client: str, path: str) -> None:
    machine = Machine(platform, HOME, {})
    assert client_config(client, "stdio", vault=VAULT, machine=machine).file == HOME / path


def test_every_client_and_transport_has_an_entry_of_its_kind() -> None:
    machine = Machine("darwin", HOME, {}, npx="/opt/node/bin/npx")
    for client in CLIENTS:
        for transport in TRANSPORTS:
            made = client_config(client, transport, vault=VAULT, machine=machine)
            assert made.section == ("servers" if client == "vscode" else "mcpServers")
            address = "http://localhost:8765" + ("/sse" if transport == "sse" else "/mcp")
            assert (address in json.dumps(made.entry)) is (transport != "stdio")
            assert json.loads(made.text)[made.section]["token-vault"] == made.entry
            assert (made.command_line is not None) is (client in {"claude-code", "inspector"})


def test_claude_desktop_reaches_loopback_through_mcp_remote_and_is_told_about_connectors() -> None:
    machine = Machine("darwin", HOME, {}, npx="/opt/node/bin/npx")
    made = client_config("claude-desktop", "sse", vault=VAULT, machine=machine)
    assert made.entry["command"] == "/opt/node/bin/npx"
    assert made.entry["args"][-3:] == ["http://localhost:8765/sse", "--transport", "sse-only"]
    assert made.entry["env"]["PATH"].startswith("/opt/node/bin:")
    assert any("public https URL" in note and "a loopback address doesn't work" in note for note in made.notes)
    public = VaultLocation(VAULT.program, (), "https://vault.example.com", is_loopback=False)
    made = client_config("claude-desktop", "http", vault=public, machine=machine)
    assert any("https://vault.example.com/mcp" in note for note in made.notes)


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["nobody"], "claude-code"),
        (["cursor", "--transport", "carrier-pigeon"], "stdio, http, sse"),
        (["cursor", "--write", "--undo"], "use either"),
        (["cursor", "--undo"], "nothing to undo"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(place: Place, arguments: list[str], fix: str) -> None:
    refused = await run(place, *arguments)
    assert refused.exit_code == 1
    assert fix in refused.stderr
    assert refused.stderr.count("\n") == 1


async def test_sse_is_not_offered_where_it_is_switched_off(place: Place) -> None:
    assert (await run(place, "cursor", "--transport", "sse")).exit_code == 0
    with (place.data / "config.toml").open("a") as settings:
        settings.write("[transports]\nsse = false\n")
    refused = await run(place, "cursor", "--transport", "sse")
    assert refused.exit_code == 1
    assert "transports.sse" in refused.stderr


async def test_writing_keeps_everything_else_and_undoing_gives_the_very_file_back(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "home" / ".cursor" / "mcp.json"
    file.parent.mkdir()
    before = b'{"other":  true,\n "mcpServers": {"theirs": {"url": "https://a.example/", "x": "\xc3\xa9"}}}'
    file.write_bytes(before)
    file.chmod(0o640)
    for transport in ("http", "stdio"):  # the second one takes the first one's place
        assert (await content(place, "cursor", "--transport", transport, "--write"))["outcome"] == "written"
    now = json.loads(file.read_text())
    assert now["other"] is True
    assert list(now["mcpServers"]) == ["theirs", "token-vault"]
    assert now["mcpServers"]["token-vault"]["args"][0] == "stdio"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert backup_of(file).read_bytes() == before
    assert (await content(place, "cursor", "--undo"))["outcome"] == "restored"
    assert file.read_bytes() == before
    assert not backup_of(file).exists()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("client", "still"),
    [("claude-desktop", ["Then restart Claude Desktop."]), ("cursor", []), ("inspector", [])],
)
async def test_what_concerns_an_entry_is_not_said_when_it_is_taken_out(
    place: Place, monkeypatch: pytest.MonkeyPatch, client: str, still: list[str]
) -> None:
    monkeypatch.setenv("TOKEN_VAULT_SERVER__PORT", "8799")
    for transport in ("stdio", "sse"):
        written = await content(place, client, "--transport", transport, "--write")
        assert set(written["notes"]) > set(still)
        undone = await content(place, client, "--transport", transport, "--undo")
        assert undone["notes"] == still


async def test_a_file_that_was_made_is_removed_again(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "home" / ".config" / "Code" / "User" / "mcp.json"
    written = await run(place, "vscode", "--write")
    assert f"Written to {file}; the file is new" in written.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await run(place, "vscode", "--undo")).exit_code == 0
    assert not file.exists()


def test_undoing_after_the_file_has_changed_takes_only_our_entry_out(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"mcpServers": {"token-vault": {"url": "an older one"}}}')
    put(file, section="mcpServers", name="token-vault", entry=OURS)
    changed = json.loads(file.read_text()) | {"new": 1}
    file.write_text(json.dumps(changed))
    assert take_out(file, section="mcpServers", name="token-vault") == "removed"
    assert json.loads(file.read_text()) == {"mcpServers": {"token-vault": {"url": "an older one"}}, "new": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n  // mine\n  "servers": {}\n}', "line 2 isn't plain JSON"),
        ('{"servers": {},}', "isn't plain JSON"),
        ("[]", "doesn't contain a JSON object"),
        ('{"servers": []}', "servers isn't an object"),
        (b"\xff\xfe{", "isn't UTF-8"),
    ],
)
def test_a_file_that_cannot_be_merged_is_left_alone(tmp_path: Path, text: str | bytes, why: str) -> None:
    file = tmp_path / "mcp.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = file.read_bytes()
    with pytest.raises(ClientFileRefused, match=why):
        put(file, section="servers", name="token-vault", entry=OURS)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    file.write_text('{"servers": {}}')
    put(file, section="servers", name="token-vault", entry=OURS)
    assert json.loads(file.read_text())["servers"]["token-vault"] == OURS


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "mcp.json"
    real.write_text("{}")
    link.symlink_to(real)
    put(link, section="mcpServers", name="token-vault", entry=OURS)
    assert link.is_symlink()
    assert json.loads(real.read_text())["mcpServers"]["token-vault"] == OURS
    assert take_out(link, section="mcpServers", name="token-vault") == "restored"
    assert real.read_text() == "{}"


def test_a_file_in_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ClientFileRefused, match=r"can.t read"):
        put(tmp_path / "taken" / "mcp.json", section="mcpServers", name="token-vault", entry=OURS)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_vault_elsewhere_is_reached_by_the_bridge(place: Place, client: str) -> None:
    made = await content(place, client, "--url", "https://vault.example")
    entry = made["entry"]
    wanted = ["stdio", "--client", client, "--url", "https://vault.example/mcp", "--data", str(place.data)]
    assert entry["args"][-len(wanted) :] == wanted
    assert any("--sign-in" in note for note in made["notes"])
    over_http = await run(place, client, "--url", "https://vault.example", "--transport", "http")
    assert over_http.exit_code == 1
    assert "use https://vault.example/mcp directly" in over_http.stderr
    plain = await run(place, client, "--url", "http://vault.example")
    assert (plain.exit_code, "use https for --url" in plain.stderr) == (1, True)
