"""`demo`: connect, call, and revoke against the sandbox."""

from __future__ import annotations

from typing import Annotated

import typer

from server.terminal.context import Setup


def demo(
    setup: Setup,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running and print how to use it.")] = False,
    enterprise: Annotated[bool, typer.Option("--enterprise", help="Show a company with seven services.")] = False,
) -> None:
    """Show the whole flow against the sandbox with an unmodified MCP client."""
    if enterprise:
        from server.demo.enterprise import play as play_company

        playing = play_company(data=setup.data)
    else:
        from server.demo.story import play

        playing = play(keep=keep, data=setup.data)
    if not setup.run(playing):
        raise typer.Exit(1)
