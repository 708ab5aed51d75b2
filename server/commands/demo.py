"""`demo`: the whole story, played against the sandbox."""

from __future__ import annotations

from typing import Annotated

import typer

from server.terminal.context import Setup


def demo(
    setup: Setup,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep it running and print how to use it.")] = False,
) -> None:
    """Show the whole flow against the sandbox with an unmodified MCP client."""
    from server.demo.story import play

    if not setup.run(play(keep=keep, data=setup.data)):
        raise typer.Exit(1)
