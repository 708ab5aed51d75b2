"""`client-config`: the printed entry works unchanged, and other programs' files aren't damaged."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import shutil
import stat
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from fastmcp.cli.install.cursor import generate_cursor_deeplink
from fastmcp.mcp_config import StdioMCPServer
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from typer.testing import CliRunner, Result

from server.cli import app
from server.oauth.clients.commands import KNOWN
from server.setup.client_config import NAMES, ConfigRefused, VaultLocation, client_config
from server.setup.client_files import ClientFileRefused, Place, backup_of, put, take_out
from server.setup.client_kinds import ALL, CLIENTS, Machine, Program
from tests.support.processes import Place as VaultPlace
from tests.support.processes import free_port

HOME = Path("/home/alice")
VAULT = VaultLocation(Program("/opt/bin/token-vault"), ("--data", "/srv/v"), "http://localhost:8765", is_loopback=True)
FOLDERS = (
    "APPDATA",
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "GEMINI_CLI_HOME",
    "MCP_CATALOG_PATH",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)
REFUSED = {*((name, "sse") for name in ("codex", "opencode", "zed", "goose")), ("n8n", "stdio")}
OURS = {"type": "http", "url": "http://localhost:8765/mcp"}


@pytest.fixture
def place(tmp_path: Path, prepared_data: Path, monkeypatch: pytest.MonkeyPatch) -> VaultPlace:
    data = tmp_path / "data with a blank"
    shutil.copytree(prepared_data, data)
    data.chmod(0o700)
    made = VaultPlace(data, free_port())
    made.configure()
    (tmp_path / "home").mkdir()
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", *FOLDERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return made


def entry_in(file: Path) -> Place:
    return Place(file, "json", "mcpServers", "token-vault")


async def run(place: VaultPlace, *command: str) -> Result:
    arguments = ["client-config", *command, "--data", str(place.data)]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def content(place: VaultPlace, *command: str) -> dict[str, object]:
    result = await run(place, *command, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def list_tools(command: str, arguments: list[str], *, folder: Path) -> set[str]:
    """The tools of a stdio command that is started with an empty environment."""
    started = StdioServerParameters(command="/usr/bin/env", args=["-i", command, *arguments], cwd=folder)
    async with asyncio.timeout(30), Client(started) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


def started_by(client: str, text: str) -> tuple[str, list[str]]:
    """The command that the client starts, read from the printed text with the format's own parser."""
    kind = CLIENTS[client]
    read = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[kind.format]
    entry = read(text)[kind.section]["token-vault"]
    command = entry.get("command") or entry["cmd"]
    command, *arguments = [command, *entry.get("args", ())] if isinstance(command, str) else command
    return command, arguments


@pytest.mark.long
async def test_the_printed_command_works_from_another_folder_without_any_environment(
    place: VaultPlace, tmp_path: Path
) -> None:
    for client in CLIENTS:
        printed = (await content(place, client))["text"]
        assert printed in (await run(place, client)).stdout
        command, arguments = started_by(client, printed)
        assert Path(command).is_absolute()
        assert arguments == ["stdio", "--client", client, "--data", str(place.data)]
        if client in {"claude-code", "opencode", "codex", "goose"}:  # one of each form
            assert "slack_post" in await list_tools(command, arguments, folder=tmp_path)


async def test_a_sandbox_has_an_entry_of_its_own_beside_the_vaults(place: VaultPlace, tmp_path: Path) -> None:
    for options in ((), ("--sandbox",)):
        assert (await content(place, "cursor", "--write", *options))["outcome"] == "written"
    entries = json.loads((tmp_path / "home" / ".cursor" / "mcp.json").read_text())["mcpServers"]
    assert list(entries) == ["token-vault", "token-vault-sandbox"]
    made = entries["token-vault-sandbox"]
    assert "--sandbox" in made["args"]
    ports = {int(made["env"]["TOKEN_VAULT_SERVER__PORT"]) + step for step in (0, 1)}
    assert ports.isdisjoint({place.port, place.port + 1})  # both can be in one client at once
    over_http = await content(place, "goose", "--transport", "http", "--sandbox")
    assert (over_http["name"], over_http["entry"]["name"]) == ("token-vault-sandbox", "token-vault-sandbox")
    assert any("serve --sandbox" in note for note in over_http["notes"])
    refused = await run(place, "cursor", "--sandbox", "--url", "https://vault.example")
    assert (refused.exit_code, "either --sandbox or --url" in refused.stderr) == (1, True)


async def test_the_line_for_claude_code_starts_the_same_program(place: VaultPlace, tmp_path: Path) -> None:
    words = shlex.split((await run(place, "claude-code")).stdout.splitlines()[-1])
    assert words[:3] == ["claude", "mcp", "add"]
    name, dashes, command, *arguments = words[words.index("token-vault") :]
    assert (name, dashes) == ("token-vault", "--")
    assert "slack_post" in await list_tools(command, arguments, folder=tmp_path)


async def test_a_settings_file_that_was_named_is_named_again(place: VaultPlace, tmp_path: Path) -> None:
    settings = tmp_path / "elsewhere.toml"
    (place.data / "config.toml").rename(settings)
    made = await content(place, "cursor", "--config", str(settings))
    arguments = made["entry"]["args"]
    assert arguments[-4:] == ["--data", str(place.data), "--config", str(settings)]
    over_http = await content(place, "cursor", "--transport", "http", "--config", str(settings))
    assert over_http["entry"] == {"url": f"{place.url}/mcp"}


async def test_a_program_that_is_not_installed_as_a_script_is_started_as_a_module(
    place: VaultPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    made = await content(place, "cursor")
    assert (made["entry"]["command"], made["entry"]["args"][:2]) == (str(python), ["-m", "token_vault"])


async def test_settings_that_the_client_will_not_see_are_named_without_their_values(
    place: VaultPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [one for one in (await content(place, "cursor"))["notes"] if "won't pass" in one]
    monkeypatch.setenv("TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_SECRET", "canary")
    printed = await run(place, "cursor")
    assert "won't pass TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_SECRET" in printed.stderr
    assert "canary" not in printed.output


async def test_whom_this_shell_trusts_for_tls_goes_along_to_a_program_and_nothing_else_does(
    place: VaultPlace, monkeypatch: pytest.MonkeyPatch
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
        *(
            (platform, client, path)
            for platform in ("linux", "darwin", "win32")
            for client, path in (
                ("codex", ".codex/config.toml"),
                ("gemini-cli", ".gemini/settings.json"),
                ("opencode", ".config/opencode/opencode.jsonc"),
                ("windsurf", ".codeium/windsurf/mcp_config.json"),
            )
        ),
        ("linux", "zed", ".config/zed/settings.json"),
        ("darwin", "zed", ".config/zed/settings.json"),
        ("win32", "zed", "AppData/Roaming/Zed/settings.json"),
        ("linux", "goose", ".config/goose/config.yaml"),
        ("darwin", "goose", ".config/goose/config.yaml"),
        ("win32", "goose", "AppData/Roaming/Block/goose/config/config.yaml"),
    ],
)
def test_each_client_has_its_file_on_each_platform(platform: str, client: str, path: str) -> None:
    made = client_config(client, "stdio", vault=VAULT, machine=Machine(platform, HOME, {}))
    assert made.place is not None
    assert made.place.file == HOME / path


@pytest.mark.parametrize(
    ("client", "variable", "path"),
    [
        ("claude-code", "CLAUDE_CONFIG_DIR", ".claude.json"),
        ("codex", "CODEX_HOME", "config.toml"),
        ("gemini-cli", "GEMINI_CLI_HOME", ".gemini/settings.json"),
        ("opencode", "XDG_CONFIG_HOME", "opencode/opencode.jsonc"),
        ("zed", "XDG_CONFIG_HOME", "zed/settings.json"),
    ],
)
def test_a_folder_that_a_variable_moves_is_followed(client: str, variable: str, path: str) -> None:
    made = client_config(client, "stdio", vault=VAULT, machine=Machine("linux", HOME, {variable: "/moved"}))
    assert made.place is not None
    assert made.place.file == Path("/moved") / path


async def test_the_file_that_is_there_is_the_one_to_change(place: VaultPlace, tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".config" / "opencode"
    assert (await content(place, "opencode"))["file"] == str(folder / "opencode.jsonc")
    folder.mkdir(parents=True)
    (folder / "opencode.json").write_text("{}")
    assert (await content(place, "opencode"))["file"] == str(folder / "opencode.json")


def test_every_client_and_transport_has_an_entry_or_says_what_to_use() -> None:
    machine = Machine("darwin", HOME, {}, npx="/opt/node/bin/npx")
    for client in NAMES:
        for transport in ALL:
            try:
                made = client_config(client, transport, vault=VAULT, machine=machine)
            except ConfigRefused as refused:
                assert f"doesn't support {transport}; use --transport " in str(refused)
                assert (client, transport) in REFUSED
                continue
            assert (client, transport) not in REFUSED
            address = "http://localhost:8765" + ("/sse" if transport == "sse" else "/mcp")
            assert (address in made.text) is (transport != "stdio")
            assert (made.place is None) is (client not in CLIENTS)
            if transport == "stdio" and client in CLIENTS:
                assert started_by(client, made.text)[0] == "/opt/bin/token-vault"
            assert (made.command_line is not None) is (client in {"claude-code", "codex", "inspector"})
            assert (made.link is not None) is (client in {"cursor", "vscode"})


@pytest.mark.parametrize(
    ("client", "http", "sse"),
    [
        ("claude-code", {"type": "http", "url": "U/mcp"}, {"type": "sse", "url": "U/sse"}),
        ("cursor", {"url": "U/mcp"}, {"url": "U/sse"}),
        ("vscode", {"type": "http", "url": "U/mcp"}, {"type": "sse", "url": "U/sse"}),
        ("codex", {"url": "U/mcp"}, None),
        ("gemini-cli", {"httpUrl": "U/mcp"}, {"url": "U/sse"}),
        ("opencode", {"type": "remote", "url": "U/mcp", "enabled": True}, None),
        ("windsurf", {"serverUrl": "U/mcp"}, {"serverUrl": "U/sse"}),
        ("zed", {"url": "U/mcp"}, None),
        (
            "goose",
            {"enabled": True, "type": "streamable_http", "name": "token-vault", "uri": "U/mcp", "timeout": 300},
            None,
        ),
        ("inspector", {"type": "streamable-http", "url": "U/mcp"}, {"type": "sse", "url": "U/sse"}),
    ],
)
def test_an_address_stands_under_the_keys_that_the_client_reads(
    client: str, http: dict[str, object], sse: dict[str, object] | None
) -> None:
    vault = VaultLocation(VAULT.program, (), "U", is_loopback=True)
    machine = Machine("linux", HOME, {})
    for transport, wanted in (("http", http), ("sse", sse)):
        if wanted is not None:
            assert client_config(client, transport, vault=vault, machine=machine).entry == wanted


@pytest.mark.parametrize(
    ("client", "product", "where"),
    [("claude-code", "Claude Code", ""), ("codex", "Codex", ""), ("opencode", "opencode", ""),
     ("gemini-cli", "Gemini CLI", "in its chat, ")],
)  # fmt: skip
def test_the_sign_in_command_names_the_entry(client: str, product: str, where: str) -> None:
    command = next(one.command for one in KNOWN if one.client == product)
    machine = Machine("linux", HOME, {})
    for vault, name in ((VAULT, "token-vault"), (replace(VAULT, sandbox_port=8775), "token-vault-sandbox")):
        made = client_config(client, "http", vault=vault, machine=machine)
        assert f"Then sign in: {where}{command.replace('NAME', name)}" in made.notes
        assert made.place.name == name
        local = client_config(client, "stdio", vault=vault, machine=machine)
        assert not any("sign in" in note for note in local.notes)  # nobody signs in over stdio


def test_a_program_for_the_sandbox_gets_its_token_there() -> None:
    machine = Machine("linux", HOME, {})
    for vault, trial in ((VAULT, "token-vault try-exchange"), (replace(VAULT, sandbox_port=8775), " --sandbox")):
        made = client_config("langgraph", "http", vault=vault, machine=machine)
        assert made.notes[-1].startswith("ACCESS_TOKEN") and made.notes[-1].endswith(trial)


def test_links_hold_the_entry() -> None:
    machine = Machine("linux", HOME, {})
    for transport in ALL:
        cursor = client_config("cursor", transport, vault=VAULT, machine=machine)
        parts = urlsplit(str(cursor.link))
        assert (parts.scheme, parts.netloc, parts.path) == ("cursor", "anysphere.cursor-deeplink", "/mcp/install")
        query = parse_qs(parts.query)
        assert query["name"] == ["token-vault"]
        assert json.loads(base64.b64decode(query["config"][0], validate=True)) == cursor.entry
        vscode = client_config("vscode", transport, vault=VAULT, machine=machine)
        scheme, _, config = str(vscode.link).partition("?")
        assert scheme == "vscode:mcp/install"
        assert json.loads(unquote(config)) == {"name": "token-vault", **dict(vscode.entry or {})}


def test_fastmcp_makes_the_same_link_for_cursor() -> None:
    """FastMCP 4 installs servers in Cursor; it encodes with the URL-safe alphabet."""
    made = client_config("cursor", "stdio", vault=VAULT, machine=Machine("linux", HOME, {}))
    entry = {name: value for name, value in dict(made.entry or {}).items() if name != "type"}
    theirs = urlsplit(generate_cursor_deeplink("token-vault", StdioMCPServer.model_validate(entry)))
    ours = urlsplit(str(made.link))
    assert (ours.scheme, ours.netloc, ours.path) == (theirs.scheme, theirs.netloc, theirs.path)
    config = json.loads(base64.urlsafe_b64decode(parse_qs(theirs.query)["config"][0]))
    assert {name: config[name] for name in entry} == entry
    assert parse_qs(theirs.query)["name"] == parse_qs(ours.query)["name"]


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
        (["codex", "--transport", "sse"], "use --transport stdio or http"),
        (["n8n", "--transport", "stdio"], "use --transport http or sse"),
        (["langgraph", "--write"], "no configuration file"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(place: VaultPlace, arguments: list[str], fix: str) -> None:
    refused = await run(place, *arguments)
    assert refused.exit_code == 1
    assert fix in refused.stderr
    assert refused.stderr.count("\n") == 1


async def test_sse_is_not_offered_where_it_is_switched_off(place: VaultPlace) -> None:
    assert (await run(place, "cursor", "--transport", "sse")).exit_code == 0
    with (place.data / "config.toml").open("a") as settings:
        settings.write("[transports]\nsse = false\n")
    refused = await run(place, "cursor", "--transport", "sse")
    assert refused.exit_code == 1
    assert "transports.sse" in refused.stderr


async def test_writing_keeps_everything_else_and_undoing_gives_the_very_file_back(
    place: VaultPlace, tmp_path: Path
) -> None:
    file = tmp_path / "home" / ".cursor" / "mcp.json"
    file.parent.mkdir()
    before = b'{"other":  true,\n "mcpServers": {"theirs": {"url": "https://a.example/", "x": "\xc3\xa9"}}}'
    file.write_bytes(before)
    file.chmod(0o640)
    for transport in ("http", "stdio"):  # the second entry replaces the first
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
    place: VaultPlace, monkeypatch: pytest.MonkeyPatch, client: str, still: list[str]
) -> None:
    monkeypatch.setenv("TOKEN_VAULT_SERVER__PORT", "8799")
    for transport in ("stdio", "sse"):
        written = await content(place, client, "--transport", transport, "--write")
        assert set(written["notes"]) > set(still)
        undone = await content(place, client, "--transport", transport, "--undo")
        assert undone["notes"] == still


async def test_a_file_that_was_made_is_removed_again(place: VaultPlace, tmp_path: Path) -> None:
    file = tmp_path / "home" / ".config" / "Code" / "User" / "mcp.json"
    written = await run(place, "vscode", "--write")
    assert f"Written to {file}; the file is new" in written.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await run(place, "vscode", "--undo")).exit_code == 0
    assert not file.exists()


def test_undoing_after_the_file_has_changed_takes_only_our_entry_out(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"mcpServers": {"token-vault": {"url": "an older one"}}}')
    put(entry_in(file), OURS)
    changed = json.loads(file.read_text()) | {"new": 1}
    file.write_text(json.dumps(changed))
    assert take_out(entry_in(file)) == "removed"
    assert json.loads(file.read_text()) == {"mcpServers": {"token-vault": {"url": "an older one"}}, "new": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "it doesn't contain a JSON object"),
        ('{"mcpServers": []}', "mcpServers isn't an object"),
        (b"\xff\xfe{", "it isn't UTF-8"),
    ],
)
def test_a_file_that_cannot_be_merged_is_left_alone(tmp_path: Path, text: str | bytes, why: str) -> None:
    file = tmp_path / "mcp.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = file.read_bytes()
    with pytest.raises(ClientFileRefused, match=f"safely: {why}. Add the printed entry by hand"):
        put(entry_in(file), OURS)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    file.write_text('{"mcpServers": {}}')
    put(entry_in(file), OURS)
    assert json.loads(file.read_text())["mcpServers"]["token-vault"] == OURS


@pytest.mark.parametrize(
    ("client", "path", "before"),
    [
        ("zed", ".config/zed/settings.json", b'// mine\n{\n  "theme": "One", // dark\n}\n'),
        ("vscode", ".config/Code/User/mcp.json", b'\xef\xbb\xbf{"inputs": [] /* none */}'),
        ("codex", ".codex/config.toml", b'# mine\r\nmodel = "x" # this\r\n'),
        ("goose", ".config/goose/config.yaml", b"# mine\nGOOSE_MODE: auto # this\n"),
    ],
)
async def test_comments_survive_writing_and_undoing(
    place: VaultPlace, tmp_path: Path, client: str, path: str, before: bytes
) -> None:
    file = tmp_path / "home" / path
    file.parent.mkdir(parents=True)
    file.write_bytes(before)
    for transport in ("http", "stdio"):
        made = await content(place, client, "--transport", transport, "--write")
        assert made["outcome"] == "written"
    now = file.read_bytes()
    assert now.startswith(b"\xef\xbb\xbf") is before.startswith(b"\xef\xbb\xbf")
    assert all(remark in now for remark in (b"mine", b"this", b"dark", b"none") if remark in before)
    assert now.count(b"token-vault") >= 1
    assert (await content(place, client, "--undo"))["outcome"] == "restored"
    assert file.read_bytes() == before


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "mcp.json"
    real.write_text("{}")
    link.symlink_to(real)
    put(entry_in(link), OURS)
    assert link.is_symlink()
    assert json.loads(real.read_text())["mcpServers"]["token-vault"] == OURS
    assert take_out(entry_in(link)) == "restored"
    assert real.read_text() == "{}"


def test_a_file_in_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ClientFileRefused, match=r"can.t read"):
        put(entry_in(tmp_path / "taken" / "mcp.json"), OURS)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_vault_elsewhere_is_reached_by_the_bridge(place: VaultPlace, client: str) -> None:
    made = await content(place, client, "--url", "https://vault.example")
    wanted = ["stdio", "--client", client, "--url", "https://vault.example/mcp", "--data", str(place.data)]
    assert started_by(client, str(made["text"]))[1] == wanted
    assert any("--sign-in" in note for note in made["notes"])
    over_http = await run(place, client, "--url", "https://vault.example", "--transport", "http")
    assert over_http.exit_code == 1
    assert "use https://vault.example/mcp directly" in over_http.stderr
    plain = await run(place, client, "--url", "http://vault.example")
    assert (plain.exit_code, "use https for --url" in plain.stderr) == (1, True)
