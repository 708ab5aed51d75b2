"""What to write into an MCP client's configuration so that it reaches this vault. Pure; `client_files` writes files.

The formats come from the clients' own documentation, read on 2026-11-25 (docs/evidence/clients.md names the pages, and
which of the clients were run).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ClientName = Literal["claude-code", "claude-desktop", "cursor", "vscode", "inspector"]
TransportName = Literal["stdio", "http", "sse"]
CLIENTS: Final[tuple[ClientName, ...]] = ("claude-code", "claude-desktop", "cursor", "vscode", "inspector")
TRANSPORTS: Final[tuple[TransportName, ...]] = ("stdio", "http", "sse")
ENTRY_NAME: Final = "token-vault"
MCP_REMOTE: Final = "mcp-remote@0.15.1"  # the version that the tests run
INSPECTOR: Final = "@modelcontextprotocol/inspector@2.12.0"


@dataclass(frozen=True, slots=True)
class Program:
    """How to start this installation, independent of the client's folder and environment."""

    command: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where clients keep their files on this machine, and `npx` if present."""

    platform: str  # as sys.platform
    home: Path
    environment: Mapping[str, str]
    npx: str | None = None


@dataclass(frozen=True, slots=True)
class VaultLocation:
    """How clients reach the vault: the program over stdio, an origin over HTTP. `options`: --data and --config."""

    program: Program
    options: tuple[str, ...]
    public_url: str
    is_loopback: bool
    remote_url: str | None = None  # a remote vault, which `stdio` bridges to


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """One entry: its content, and the file and section that it belongs in."""

    client: ClientName
    transport: TransportName
    file: Path
    section: str
    entry: Mapping[str, object]
    command_line: str | None
    notes: tuple[str, ...]
    file_notes: tuple[str, ...]  # what to know whenever the file changes, also when the entry is removed

    @property
    def text(self) -> str:
        """The exact text of a file that holds nothing else."""
        return json.dumps({self.section: {ENTRY_NAME: self.entry}}, indent=2, ensure_ascii=False)


def client_named(text: str) -> ClientName | None:
    """The client of that name."""
    for name in CLIENTS:
        if name == text:
            return name
    return None


def transport_named(text: str) -> TransportName | None:
    """The transport of that name."""
    for name in TRANSPORTS:
        if name == text:
            return name
    return None


def client_config(
    client: ClientName, transport: TransportName, *, vault: VaultLocation, machine: Machine
) -> ClientConfig:
    """The entry of a client for one transport."""
    file = client_file(client, machine)
    entry = _entry(client, transport, vault=vault, machine=machine)
    return ClientConfig(
        client=client,
        transport=transport,
        file=file,
        section="servers" if client == "vscode" else "mcpServers",
        entry=entry,
        command_line=_command_line(client, transport, vault=vault, file=file),
        notes=tuple(_notes(client, transport, vault=vault, machine=machine)),
        file_notes=tuple(_file_notes(client)),
    )


def client_file(client: ClientName, machine: Machine) -> Path:
    """The person's file (not a project's) that the client reads on this platform."""
    match client:
        case "claude-code":
            return machine.home / ".claude.json"
        case "claude-desktop":
            return _application_data(machine) / "Claude" / "claude_desktop_config.json"
        case "cursor":
            return machine.home / ".cursor" / "mcp.json"
        case "vscode":
            return _application_data(machine) / "Code" / "User" / "mcp.json"
        case "inspector":
            chosen = machine.environment.get("MCP_CATALOG_PATH")
            return Path(chosen) if chosen else machine.home / ".mcp-inspector" / "mcp.json"


def _application_data(machine: Machine) -> Path:
    if machine.platform == "darwin":
        return machine.home / "Library" / "Application Support"
    if machine.platform == "win32":
        return Path(machine.environment.get("APPDATA") or machine.home / "AppData" / "Roaming")
    return Path(machine.environment.get("XDG_CONFIG_HOME") or machine.home / ".config")


def _entry(
    client: ClientName, transport: TransportName, *, vault: VaultLocation, machine: Machine
) -> Mapping[str, object]:
    if transport == "stdio":
        typed = {} if client == "claude-desktop" else {"type": "stdio"}
        return {**typed, **_stdio_entry(vault.program, _stdio_arguments(client, vault))}
    url = _url(vault, transport)
    match client:
        case "claude-desktop":
            return _stdio_entry(_npx(machine), ("-y", MCP_REMOTE, url, "--transport", f"{transport}-only"))
        case "cursor":
            return {"url": url}  # it detects the transport itself
        case "claude-code" | "vscode":
            return {"type": transport, "url": url}
        case "inspector":
            return {"type": "streamable-http" if transport == "http" else "sse", "url": url}


def _stdio_entry(program: Program, arguments: Sequence[str]) -> Mapping[str, object]:
    entry: dict[str, object] = {"command": program.command, "args": [*program.arguments, *arguments]}
    if program.environment:
        entry["env"] = dict(program.environment)
    return entry


def _npx(machine: Machine) -> Program:
    """npx with its own folder on the path: desktop programs do not see a shell's path."""
    if machine.npx is None:
        return Program("npx")
    folder = str(Path(machine.npx).parent)
    rest = () if machine.platform == "win32" else ("/usr/local/bin", "/usr/bin", "/bin")
    if not rest:
        return Program(machine.npx)
    return Program(machine.npx, environment={"PATH": ":".join(dict.fromkeys((folder, *rest)))})


def _stdio_arguments(client: ClientName, vault: VaultLocation) -> tuple[str, ...]:
    # The agent's name without blanks: some clients on Windows do not quote arguments.
    remote = () if vault.remote_url is None else ("--url", vault.remote_url)
    return ("stdio", "--client", client, *remote, *vault.options)


def _url(vault: VaultLocation, transport: TransportName) -> str:
    return vault.public_url + ("/sse" if transport == "sse" else "/mcp")


def _command_line(client: ClientName, transport: TransportName, *, vault: VaultLocation, file: Path) -> str | None:
    """A command line that does the same, or that tries it out."""
    if client == "claude-code":
        # `--` keeps the program's own options from being taken for claude's. `--env` takes every word up to the next
        # option, so it comes after the name.
        line = ["claude", "mcp", "add", "--scope", "user", "--transport", transport, ENTRY_NAME]
        if transport != "stdio":
            return shlex.join([*line, _url(vault, transport)])
        for name, value in (vault.program.environment or {}).items():
            line += ["--env", f"{name}={value}"]
        program = [vault.program.command, *vault.program.arguments, *_stdio_arguments(client, vault)]
        return shlex.join([*line, "--", *program])
    if client == "inspector":
        where = ["--cli", "--catalog", str(file), "--server", ENTRY_NAME, "--method", "tools/list"]
        return shlex.join(["npx", "-y", INSPECTOR, *where])
    return None


def _notes(client: ClientName, transport: TransportName, *, vault: VaultLocation, machine: Machine) -> Sequence[str]:
    notes: list[str] = []
    if vault.remote_url is not None:
        notes.append(
            "It signs in through the browser when it first starts. To sign in before that: "
            + shlex.join(["token-vault", *_stdio_arguments(client, vault), "--sign-in"])
        )
    if transport != "stdio" and vault.is_loopback:
        notes.append("Keep `token-vault serve` running: this client connects to it and doesn't start it.")
    if transport == "sse":
        notes.append("SSE is the legacy transport: use http if the client supports it.")
    if client == "claude-desktop":
        if transport != "stdio":
            notes.append(
                "It runs mcp-remote, which needs Node.js, because Claude Desktop doesn't read URLs from this file."
            )
        notes.append(
            "Its custom connectors (Customize > Connectors) need a public https URL that Anthropic's servers can reach"
            + (": a loopback address doesn't work." if vault.is_loopback else f": {_url(vault, 'http')}")
        )
        if machine.platform not in {"darwin", "win32"}:
            notes.append("Claude Desktop documents macOS and Windows only; Linux builds look here.")
    if client == "vscode":
        notes.append("For a single project, put the same text in .vscode/mcp.json.")
    if client == "cursor":
        notes.append("For a single project, put the same text in .cursor/mcp.json.")
    return notes


def _file_notes(client: ClientName) -> Sequence[str]:
    match client:
        case "claude-desktop":
            return ["Then restart Claude Desktop."]
        case "claude-code":
            return [
                (
                    "Claude Code writes this file itself: quit it before --write and --undo. `claude mcp add` "
                    "works while it runs."
                )
            ]
        case "cursor" | "vscode" | "inspector":
            return []
