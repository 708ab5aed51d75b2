"""`status`: the state of the vault, on a screen that refreshes itself."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.terminal.context import Setup

if TYPE_CHECKING:
    from server.lifecycle.status import StatusReader

_EVERY: Final = 2.0  # seconds


def status(
    setup: Setup,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Print it once. This is the default without a terminal.")
    ] = False,
) -> None:
    """Show the state of the vault, renewed until Ctrl+C."""
    with suppress(KeyboardInterrupt):
        setup.run(_show(setup, is_live=not (once or setup.as_json) and sys.stdout.isatty()))


async def _show(setup: Setup, *, is_live: bool) -> None:
    from rich.console import Console

    from server.lifecycle.status import StatusReader
    from server.terminal.status_screen import draw

    async with setup.open() as deployment:
        reader = StatusReader(deployment)
        if is_live:
            await _renew(reader, deployment.public_url)
            return
        found = await reader.read()
        if setup.as_json:
            setup.show_json(found.content())
        else:
            Console(highlight=False).print(draw(found, deployment.public_url))


async def _renew(reader: StatusReader, url: str) -> None:
    """Redraw repeatedly; while the storage is unavailable, keep the last state and show a note."""
    from rich.console import Console
    from rich.live import Live

    from server.terminal.status_screen import draw
    from vault.refusals import VaultError

    shown = await reader.read()
    with Live(draw(shown, url), console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        while True:
            problem = ""
            try:
                shown = await reader.read()
            except VaultError as refused:
                problem = refused.description
            live.update(draw(shown, url, problem=problem), refresh=True)
            await asyncio.sleep(_EVERY)
