"""`import ...`: accounts that people connected in another vault."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.terminal.context import Setup, command, note

app = typer.Typer(no_args_is_help=True, help="Take over accounts from another vault.")


@command(app, "csv")
def csv_(
    setup: Setup,
    file: Annotated[
        Path,
        typer.Argument(
            help="Columns: user, provider, account, refresh_token, scopes, and optionally label.", show_default=False
        ),
    ],
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Store them. Otherwise only say what would be done.")] = False,
) -> None:
    """Take over refresh tokens from a CSV file. First stop whatever used them."""

    async def work() -> list[dict[str, object]]:
        from server.administration.actor import Actor
        from server.administration.importing import NEW, judge, read_csv, take_over

        rows = read_csv(file)
        async with setup.open() as deployment:
            actor = Actor(deployment, None, "command_line")
            judged = await judge(actor, rows)
            shown: list[dict[str, object]] = []
            for number, one in enumerate(judged, start=1):
                outcome = one.outcome
                if apply and outcome == NEW:
                    outcome = await take_over(actor, one.row)
                    if number % 1000 == 0:
                        note(f"{number} of {len(judged)}")
                row = one.row
                shown.append(
                    {
                        "line": row.line,
                        "user": row.user,
                        "provider": row.provider,
                        "account": row.label,
                        "outcome": "imported" if apply and outcome == NEW else outcome,
                    }
                )
            return shown

    shown = setup.run(work())
    setup.show(shown, columns=("line", "user", "provider", "account", "outcome"), empty="The file has no rows.")
    done = sum(one["outcome"] in {"imported", "new"} for one in shown)
    refused = sum(one["outcome"] not in {"imported", "new", "already connected"} for one in shown)
    if apply:
        note(f"{done} imported, {refused} refused. Each refreshes at its first use.")
    else:
        note(f"{done} would be imported, {refused} refused. To store them, run the same with --apply")
    if refused:
        raise typer.Exit(1)
