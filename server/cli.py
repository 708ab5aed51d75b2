"""The `token-vault` program: assembles the commands of `server.commands`. `--help` loads nothing of the product."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from server.commands import (
    activity,
    apis,
    backups,
    client_config,
    clients,
    connections,
    doctor,
    openid,
    providers,
    serve,
    users,
)

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


serve.register(app)
client_config.register(app)
doctor.register(app)
users.register_sign_in(app)
activity.register_activity(app)
backups.register(app)
app.add_typer(users.app, name="users")
app.add_typer(clients.clients_app, name="clients")
clients.register(clients.clients_app)
app.add_typer(apis.app, name="apis")
app.add_typer(connections.connections_app, name="connections")
app.add_typer(clients.delegations_app, name="delegations")
app.add_typer(providers.providers_app, name="providers")
app.add_typer(openid.openid_app, name="openid")
app.add_typer(connections.tools_app, name="tools")
app.add_typer(activity.keys_app, name="keys")


def main() -> None:
    """Run the program."""
    gc.set_threshold(50_000, 50, 100)  # loading makes objects that stay: looking through them is a tenth of a start
    app(prog_name="token-vault")
