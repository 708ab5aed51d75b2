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

from server.commands.context import Setup, check_host, fail, note, say

if TYPE_CHECKING:
    from server.setup.client_config import ClientConfig, ClientName, Machine, Program, TransportName, VaultLocation


def client_config(
    setup: Setup,
    client: Annotated[
        str,
        typer.Argument(help="claude-code, claude-desktop, cursor, vscode, or inspector.", show_default=False),
    ],
    *,
    transport: Annotated[str, typer.Option("--transport", help="stdio, http, or sse.")] = "stdio",
    write: Annotated[
        bool, typer.Option("--write", help="Add the entry to the client's configuration file and keep a backup of it.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last --write.")] = False,
    url: Annotated[
        str | None,
        typer.Option("--url", help="For a vault on another machine, over stdio.", show_default=False),
    ] = None,
) -> None:
    """Print the MCP client configuration for this vault, and the file to put it in."""
    if url is not None or transport == "stdio":
        check_host()  # an entry that starts this program here
    made = (
        _make_config(setup, client, transport) if url is None else _made_for_remote(setup, client, transport, url=url)
    )
    outcome = "printed"
    if write and undo:
        fail("use either --write or --undo")
    if write or undo:
        outcome = _change_file(made, undo=undo)
    _show(setup, made, outcome=outcome)


def _choose_client(client: str, transport: str) -> tuple[ClientName, TransportName]:
    from server.setup.client_config import CLIENTS, TRANSPORTS, client_named, transport_named

    name, kind = client_named(client), transport_named(transport)
    if name is None:
        fail(f"no client {client!r}; choose one of: {', '.join(CLIENTS)}")
    if kind is None:
        fail(f"no transport {transport!r}; choose one of: {', '.join(TRANSPORTS)}")
    return name, kind


def _machine() -> Machine:
    from server.setup.client_config import Machine

    return Machine(sys.platform, Path.home(), os.environ, npx=shutil.which("npx"))


def _made_for_remote(setup: Setup, client: str, transport: str, *, url: str) -> ClientConfig:
    """The entry for the bridge; of the settings, only the data directory matters to it."""
    from server.bridge.address import remote_vault
    from server.setup.client_config import VaultLocation
    from server.setup.client_config import client_config as make

    name, kind = _choose_client(client, transport)
    remote = remote_vault(url, agent=name)
    if kind != "stdio":
        fail(f"--url works with stdio only. For a client that supports {kind}, use {remote.resource} directly")
    options = _options(setup)
    vault = VaultLocation(program(), options, remote.origin, is_loopback=remote.is_loopback, remote_url=remote.resource)
    return make(name, kind, vault=vault, machine=_machine())


def _make_config(setup: Setup, client: str, transport: str) -> ClientConfig:
    from server.setup.client_config import client_config as make

    name, kind = _choose_client(client, transport)
    settings = setup.settings()
    if kind == "sse" and not settings.transports.sse:
        fail("SSE is off. Set transports.sse = true, or use --transport http")
    vault = _vault(setup, settings.public_url, is_loopback=settings.is_loopback)
    return make(name, kind, vault=vault, machine=_machine())


def _vault(setup: Setup, public_url: str, *, is_loopback: bool) -> VaultLocation:
    from server.setup.client_config import VaultLocation

    return VaultLocation(program(), _options(setup), public_url, is_loopback=is_loopback)


def _options(setup: Setup) -> tuple[str, ...]:
    options: list[str] = []
    # A client does not see this shell's variables; XDG_DATA_HOME moves the default directory.
    if setup.data is not None or "XDG_DATA_HOME" in os.environ:
        options += ["--data", str(setup.directory())]
    if setup.config is not None:
        options += ["--config", str(setup.config.expanduser().absolute())]
    return tuple(options)


def program() -> Program:
    """The program as installed here, by absolute path."""
    from server.setup.client_config import Program

    # Clients start programs without this shell's variables, but TLS trust must not depend on who starts us.
    trusted = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)}
    script = Path(sys.executable).with_name("token-vault.exe" if sys.platform == "win32" else "token-vault")
    if script.is_file():
        return Program(str(script), environment=trusted or None)
    return Program(sys.executable, ("-m", "token_vault"), environment={**_source_folder(), **trusted} or None)


def _source_folder() -> Mapping[str, str]:
    """The package's folder when it runs from its sources and is not installed."""
    try:
        metadata.distribution("mcp-token-vault")
    except metadata.PackageNotFoundError:
        root = Path(__file__).resolve().parents[2]
        return {"PYTHONPATH": os.pathsep.join((str(root / "server" / "launcher"), str(root)))}
    return {}


def _change_file(made: ClientConfig, *, undo: bool) -> str:
    from server.setup.client_config import ENTRY_NAME
    from server.setup.client_files import ClientFileRefused, put, take_out

    try:
        if undo:
            return take_out(made.file, section=made.section, name=ENTRY_NAME)
        put(made.file, section=made.section, name=ENTRY_NAME, entry=made.entry)
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
    backup = backup_of(made.file)
    kept = str(backup) if outcome == "written" and backup.exists() else None
    if setup.as_json:
        setup.show_json(
            {
                "client": made.client,
                "transport": made.transport,
                "file": str(made.file),
                "section": made.section,
                "entry": made.entry,
                "text": made.text,
                "command_line": made.command_line,
                "notes": notes,
                "outcome": outcome,
                "backup": kept,
            }
        )
        return
    if outcome == "printed":
        note(f"In {made.file}:")
        say(made.text)
        if made.command_line is not None:
            note("Or with one line:" if made.client == "claude-code" else "Try it:")
            say(made.command_line)
    elif outcome == "written":
        say(f"Written to {made.file}" + (f"; the previous version is in {kept}" if kept else "; the file is new"))
    else:
        say(
            f"{made.file}: "
            + {"restored": "restored to its previous state", "removed": "entry removed", "deleted": "deleted"}[outcome]
        )
    for text in notes:
        note(text)
