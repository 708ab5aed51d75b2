"""`activity ...`: the record of what happened, and proofs of it."""

from __future__ import annotations

import typer
import typer.core

from server.commands.activity.event_list import list_events
from server.commands.activity.export import export
from server.commands.activity.log import checkpoint, list_keys, rotate_key
from server.commands.activity.proof import prove
from server.commands.activity.verification import verify
from server.terminal.context import command


class _Activity(typer.core.TyperGroup):
    """`activity` without a subcommand lists events."""

    default_command = "list"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride] -- the base names typer's private class of it
        if not args or args[0] not in self.commands:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Activity, help="Show who did what: agents, scopes, and outcomes.")

command(app, "list")(list_events)
command(app, "verify")(verify)
command(app, "prove")(prove)
command(app, "export")(export)
command(app, "checkpoint")(checkpoint)
command(app, "keys")(list_keys)
command(app, "rotate-key")(rotate_key)
