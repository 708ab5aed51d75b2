"""`client-config`: how to configure an MCP client for this vault."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.serve import SandboxOption
from server.terminal.context import Setup, check_host, fail, note, say

if TYPE_CHECKING:
    from server.setup.client_config import ClientConfig, TransportName, VaultLocation
    from server.setup.client_kinds import Machine, Program


def client_config(
    setup: Setup,
    client: Annotated[
        str,
        typer.Argument(
            help="claude-code, claude-desktop, cursor, vscode, codex, gemini-cli, opencode, windsurf, zed, goose, n8n, "
            "langgraph, openai-agents, pydantic-ai, or inspector.",
            show_default=False,
        ),
    ],
    *,
    transport: Annotated[
        str | None,
        typer.Option("--transport", help="stdio, http, or sse.", show_default="stdio; n8n: http"),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Add the entry to the client's file and keep a backup.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last --write.")] = False,
    url: Annotated[
        str | None,
        typer.Option("--url", help="For a vault on another machine, over stdio.", show_default=False),
    ] = None,
    sandbox: SandboxOption = False,
) -> None:
    """Print an MCP client's configuration for this vault, and its file."""
    kind = _choose_transport(client, transport)
    if url is not None or kind == "stdio":
        check_host()  # an entry that starts this program on this machine
    if url is not None and sandbox:
        fail("use either --sandbox or --url")
    if write and undo:
        fail("use either --write or --undo")
    vault = _vault(setup, kind, sandbox=sandbox) if url is None else _remote_vault(setup, client, kind, url=url)
    made = _make(client, kind, vault)
    _show(setup, made, outcome=_change_file(made, undo=undo) if write or undo else "printed")


def _choose_transport(client: str, transport: str | None) -> TransportName:
    from server.setup.client_config import CODE, transport_named

    if transport is None:
        return CODE[client].transports[0] if client in CODE else "stdio"
    return transport_named(transport) or fail(f"no transport {transport!r}; choose one of: stdio, http, sse")


def _make(client: str, transport: TransportName, vault: VaultLocation) -> ClientConfig:
    from server.setup.client_config import ConfigRefused
    from server.setup.client_config import client_config as make

    try:
        return make(client, transport, vault=vault, machine=_machine())
    except ConfigRefused as refused:
        fail(str(refused))


def _machine() -> Machine:
    from server.setup.client_kinds import Machine

    return Machine(sys.platform, Path.home(), os.environ, npx=shutil.which("npx"))


def _remote_vault(setup: Setup, client: str, transport: TransportName, *, url: str) -> VaultLocation:
    """The vault that the bridge connects to; it uses no settings except the data directory."""
    from server.bridge.address import remote_vault
    from server.setup.client_config import VaultLocation

    remote = remote_vault(url, agent=client)
    if transport != "stdio":
        fail(f"--url works with stdio only. For a client that supports {transport}, use {remote.resource} directly")
    options = _options(setup)
    return VaultLocation(program(), options, remote.origin, is_loopback=remote.is_loopback, remote_url=remote.resource)


def _vault(setup: Setup, transport: TransportName, *, sandbox: bool) -> VaultLocation:
    from server.setup.client_config import SANDBOX_PORTS, VaultLocation

    settings = setup.settings()
    if transport == "sse" and not settings.transports.sse:
        fail("SSE is off. Set transports.sse = true, or use --transport http")
    port = settings.server.port + SANDBOX_PORTS if sandbox else None
    return VaultLocation(
        program(), _options(setup), settings.public_url, is_loopback=settings.is_loopback, sandbox_port=port
    )


def _options(setup: Setup) -> tuple[str, ...]:
    options: list[str] = []
    # Clients don't see this shell's variables; XDG_DATA_HOME changes the default directory.
    if setup.data is not None or "XDG_DATA_HOME" in os.environ:
        options += ["--data", str(setup.directory())]
    if setup.config is not None:
        options += ["--config", str(setup.config.expanduser().absolute())]
    return tuple(options)


def program() -> Program:
    """The absolute path of the installed program."""
    from server.setup.client_kinds import Program

    # Clients start programs without this shell's variables, but TLS trust must not depend on who starts the program.
    trusted = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)}
    script = Path(sys.executable).with_name("token-vault.exe" if sys.platform == "win32" else "token-vault")
    if script.is_file():
        return Program(str(script), environment=trusted or None)
    return Program(sys.executable, ("-m", "token_vault"), environment={**_source_folder(), **trusted} or None)


def _source_folder() -> Mapping[str, str]:
    """The package's folder if it runs from its sources without being installed."""
    try:
        metadata.distribution("mcp-token-vault")
    except metadata.PackageNotFoundError:
        root = Path(__file__).resolve().parents[2]
        return {"PYTHONPATH": os.pathsep.join((str(root / "server" / "launcher"), str(root)))}
    return {}


def _change_file(made: ClientConfig, *, undo: bool) -> str:
    from server.setup.client_files import ClientFileRefused, put, take_out

    if made.place is None or made.entry is None:
        fail(f"{made.client} has no configuration file: use the printed text")
    try:
        if undo:
            return take_out(made.place)
        put(made.place, made.entry)
    except ClientFileRefused as refused:
        fail(str(refused))
    return "written"


def _show(setup: Setup, made: ClientConfig, *, outcome: str) -> None:
    from server.setup.client_files import backup_of

    unseen = sorted(
        name
        for name in os.environ
        if name.startswith("TOKEN_VAULT_") and name not in {"TOKEN_VAULT_CONFIG", "TOKEN_VAULT_DATA"}
    )
    is_there = outcome in {"printed", "written"}
    notes = [*made.notes, *made.file_notes] if is_there else list(made.file_notes)
    if unseen and made.transport == "stdio" and is_there:
        notes.append(f"The client won't pass {', '.join(unseen)} to the vault: put these settings in a settings file.")
    if "archive-v0" in Path(sys.prefix).parts and made.transport == "stdio" and is_there:  # uv's cache
        notes.append(
            "uvx runs this program from its cache, which uv can delete: use `uv tool install` for a permanent "
            "installation."
        )
    backup = None if made.place is None else backup_of(made.place.file)
    kept = str(backup) if outcome == "written" and backup is not None and backup.exists() else None
    if setup.as_json:
        setup.show_json(
            {
                "client": made.client,
                "transport": made.transport,
                "file": None if made.place is None else str(made.place.file),
                "format": "code" if made.place is None else made.place.format,
                "section": None if made.place is None else made.place.section,
                "name": None if made.place is None else made.place.name,
                "entry": made.entry,
                "text": made.text,
                "command_line": made.command_line,
                "link": made.link,
                "notes": notes,
                "outcome": outcome,
                "backup": kept,
            }
        )
        return
    if made.place is None:
        say(made.text)
    elif outcome == "printed":
        note(f"In {made.place.file}:")
        say(made.text)
        if made.command_line is not None:
            note("Try it:" if made.client == "inspector" else "Or with one line:")
            say(made.command_line)
        if made.link is not None:
            note("Or open this link:")
            say(made.link)
    elif outcome == "written":
        say(f"Written to {made.place.file}" + (f"; the previous version is in {kept}" if kept else "; the file is new"))
    else:
        say(
            f"{made.place.file}: "
            + {"restored": "restored to its previous state", "removed": "entry removed", "deleted": "deleted"}[outcome]
        )
    for text in notes:
        note(text)
