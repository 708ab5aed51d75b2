"""The `token-vault` program: assembles the commands of `server.commands`. `--help` loads nothing of the product."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from server.commands import (
    activity,
    apis,
    approvals,
    backup,
    client_config,
    clients,
    connections,
    delegations,
    demo,
    doctor,
    explain,
    init,
    keys,
    openid,
    providers,
    quarantine,
    restore,
    serve,
    sign_in,
    stdio,
    tools,
    try_exchange,
    users,
    version,
)
from server.terminal.context import command

app = typer.Typer(
    name="token-vault",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables could show secrets
)


def _version(asked: bool) -> None:
    if asked:
        from server.runtime.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A self-hosted MCP server whose tools act on a person's own accounts through a token vault."""


command(app, "serve")(serve.serve)
command(app, "stdio")(stdio.stdio)
command(app, "demo")(demo.demo)
command(app, "init")(init.init)
command(app, "version")(version.version)
command(app, "client-config")(client_config.client_config)
command(app, "doctor")(doctor.doctor)
command(app, "explain")(explain.explain)
command(app, "sign-in")(sign_in.sign_in)
command(app, "try-exchange")(try_exchange.try_exchange)
command(app, "backup")(backup.backup)
command(app, "restore")(restore.restore)
command(app, "quarantine")(quarantine.quarantine)
app.add_typer(activity.app, name="activity")
app.add_typer(users.app, name="users")
app.add_typer(clients.app, name="clients")
app.add_typer(apis.app, name="apis")
app.add_typer(connections.app, name="connections")
app.add_typer(approvals.app, name="approvals")
app.add_typer(delegations.app, name="delegations")
app.add_typer(providers.app, name="providers")
app.add_typer(openid.app, name="openid")
app.add_typer(tools.app, name="tools")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the program."""
    gc.set_threshold(50_000, 50, 100)  # loaded objects stay: scanning them for garbage costs a tenth of a start
    app(prog_name="token-vault")
