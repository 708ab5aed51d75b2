"""An MCP client's configuration for this vault. `client_files` writes files.

The clients are in `client_kinds` (those with a file) and `client_code` (SDKs, and n8n).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from server.setup.client_code import CODE, CodeClient
from server.setup.client_files import FORMATS, Place
from server.setup.client_kinds import ALL, CLIENTS, FileClient, Machine, Program, TransportName
from server.setup.client_links import install_link

NAMES: Final = (*CLIENTS, *CODE)
ENTRY_NAME: Final = "token-vault"
SANDBOX_PORTS: Final = 10  # offset of its ports from the vault's, so that one client can use both
INSPECTOR: Final = "@modelcontextprotocol/inspector@2.12.0"
SIGN_IN: Final = {  # to sign in over HTTP, followed by the entry's name
    "claude-code": "claude mcp login",
    "codex": "codex mcp login",
    "gemini-cli": "in its chat, /mcp auth",
    "opencode": "opencode mcp auth",
}


class ConfigRefused(Exception):
    """There is no such configuration. The one-line message explains what to do instead."""


@dataclass(frozen=True, slots=True)
class VaultLocation:
    """How clients reach the vault: by the program over stdio, or by an origin over HTTP. `options`: --data and
    --config."""

    program: Program
    options: tuple[str, ...]
    public_url: str
    is_loopback: bool
    remote_url: str | None = None  # a remote vault that `stdio` bridges to
    sandbox_port: int | None = None  # the simulated providers; over stdio, on a separate port


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What one client needs. `place` and `entry` are None for code, which goes into a program."""

    client: str
    transport: TransportName
    text: str  # the whole file if it has only this entry, or the code
    place: Place | None
    entry: Mapping[str, object] | None
    command_line: str | None
    link: str | None  # adds the entry with one click
    notes: tuple[str, ...]
    file_notes: tuple[str, ...]  # notes for every change of the file, including removal of the entry


def transport_named(text: str) -> TransportName | None:
    """The transport of that name."""
    return next((name for name in ALL if name == text), None)


def client_config(client: str, transport: TransportName, *, vault: VaultLocation, machine: Machine) -> ClientConfig:
    """The configuration of a client for one transport. Raises ConfigRefused."""
    kind = CLIENTS.get(client) or CODE.get(client)
    if kind is None:
        raise ConfigRefused(f"no client {client!r}; choose one of: {', '.join(NAMES)}")
    if transport not in kind.transports:
        raise ConfigRefused(f"{kind.title} doesn't support {transport}; use --transport {' or '.join(kind.transports)}")
    notes = tuple(_notes(client, transport, kind, vault=vault, machine=machine))
    program, url = _program(client, vault), _url(vault, transport)
    if isinstance(kind, CodeClient):
        text = kind.local(program) if transport == "stdio" and kind.local is not None else kind.remote(transport, url)
        return ClientConfig(client, transport, text.rstrip(), None, None, None, None, notes, ())
    name = _name(vault)
    entry = kind.local(program) if transport == "stdio" else kind.remote(transport, url, machine)
    if "name" in entry:
        entry = {**entry, "name": name}
    place = Place(client_file(kind, machine), kind.format, kind.section, name)
    return ClientConfig(
        client=client,
        transport=transport,
        text=FORMATS[kind.format].render(kind.section, name, entry),
        place=place,
        entry=entry,
        command_line=_command_line(client, transport, program=program, url=url, place=place),
        link=install_link(client, name, entry),
        notes=notes,
        file_notes=tuple(_file_notes(client)),
    )


def _name(vault: VaultLocation) -> str:
    return ENTRY_NAME if vault.sandbox_port is None else f"{ENTRY_NAME}-sandbox"


def client_file(kind: FileClient, machine: Machine) -> Path:
    """The person's file (not a project's) that the client reads: the existing one, or the one to create."""
    files = kind.files(machine)
    return next((file for file in files if file.exists()), files[0])


def _program(client: str, vault: VaultLocation) -> Program:
    """This program as the client starts it. Its agent's name is without blanks: some clients do not quote arguments."""
    remote = () if vault.remote_url is None else ("--url", vault.remote_url)
    sandbox = () if vault.sandbox_port is None else ("--sandbox",)
    arguments = (*vault.program.arguments, "stdio", "--client", client, *remote, *sandbox, *vault.options)
    environment = dict(vault.program.environment or {})
    if vault.sandbox_port is not None:
        environment["TOKEN_VAULT_SERVER__PORT"] = str(vault.sandbox_port)
    return replace(vault.program, arguments=arguments, environment=environment or None)


def _url(vault: VaultLocation, transport: TransportName) -> str:
    return vault.public_url + ("/sse" if transport == "sse" else "/mcp")


def _command_line(client: str, transport: TransportName, *, program: Program, url: str, place: Place) -> str | None:
    """A command line that does the same or tries it out."""
    environment = [f"{name}={value}" for name, value in (program.environment or {}).items()]
    started = ["--", program.command, *program.arguments]
    match client:
        case "claude-code":
            # `--` keeps the program's own options from being taken for claude's. `--env` takes every word up to the
            # next option, so it comes after the name.
            line = ["claude", "mcp", "add", "--scope", "user", "--transport", transport, place.name]
            variables = [word for one in environment for word in ("--env", one)]
            return shlex.join([*line, *((*variables, *started) if transport == "stdio" else (url,))])
        case "codex":
            variables = [word for one in environment for word in ("--env", one)]
            way = [*variables, place.name, *started] if transport == "stdio" else [place.name, "--url", url]
            return shlex.join(["codex", "mcp", "add", *way])
        case "inspector":
            where = ["--cli", "--catalog", str(place.file), "--server", place.name, "--method", "tools/list"]
            return shlex.join(["npx", "-y", INSPECTOR, *where])
        case _:
            return None


def _notes(
    client: str, transport: TransportName, kind: FileClient | CodeClient, *, vault: VaultLocation, machine: Machine
) -> Sequence[str]:
    notes: list[str] = []
    if vault.remote_url is not None:
        words = ["token-vault", "stdio", "--client", client, "--url", vault.remote_url, *vault.options, "--sign-in"]
        notes.append(
            "It signs in through the browser when it first starts. To sign in before that: " + shlex.join(words)
        )
    if transport != "stdio" and vault.is_loopback:
        serve = "token-vault serve" + (" --sandbox" if vault.sandbox_port is not None else "")
        notes.append(f"Keep `{serve}` running: this client connects to it and doesn't start it.")
    if transport == "sse":
        notes.append("SSE is the legacy transport: use http if the client supports it.")
    if isinstance(kind, CodeClient):
        return [*notes, *_code_notes(client, transport, kind, vault)]
    match client:
        case "claude-desktop":
            if transport != "stdio":
                notes.append(
                    "It runs mcp-remote, which needs Node.js, because Claude Desktop doesn't read URLs from this file."
                )
            notes.append(
                "Its custom connectors (Customize > Connectors) need a public https URL that Anthropic's servers can "
                "reach" + (": a loopback address doesn't work." if vault.is_loopback else f": {_url(vault, 'http')}")
            )
            if machine.platform not in {"darwin", "win32"}:
                notes.append("Claude Desktop documents macOS and Windows only; Linux builds look here.")
        case "vscode":
            notes.append("For a single project, put the same text in .vscode/mcp.json.")
        case "cursor":
            notes.append("For a single project, put the same text in .cursor/mcp.json.")
        case _:
            pass
    if transport != "stdio" and client in SIGN_IN:
        notes.append(f"Then sign in: {SIGN_IN[client]} {_name(vault)}")
    return notes


def _code_notes(client: str, transport: TransportName, kind: CodeClient, vault: VaultLocation) -> Sequence[str]:
    if client == "n8n":
        return [
            "Copy this and paste it into a workflow.",
            "In the node, create an MCP OAuth2 credential: n8n registers itself and you sign in at the vault.",
            "n8n must be able to reach this address; in a container, localhost is the container itself.",
        ]
    notes = [f"Install: pip install {kind.install}"]
    if transport != "stdio":
        trial = "token-vault try-exchange" + (" --sandbox" if vault.sandbox_port is not None else "")
        notes.append(f"ACCESS_TOKEN is the person's access token for this vault. To try it: {trial}")
    return notes


def _file_notes(client: str) -> Sequence[str]:
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
        case "goose":
            return ["Goose writes this file itself: quit it before --write and --undo."]
        case _:
            return []
