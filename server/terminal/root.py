"""The program without its commands: its name, `--version`, and what it is."""

from __future__ import annotations

from typing import Annotated

import typer


def make_app() -> typer.Typer:
    """A program that has no command yet."""
    app = typer.Typer(
        name="token-vault",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # a traceback with local variables could show secrets
    )
    app.callback()(_program)
    return app


def _version(asked: bool) -> None:
    if asked:
        from server.runtime.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


def _program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A self-hosted MCP server whose tools act on a person's own accounts through a token vault."""
