"""`activity`: list events."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from server.event_texts import event_fields, in_a_line, names_of
from server.terminal.completion import complete_users
from server.terminal.context import Setup, say
from server.terminal.names import user_named

_LOOK = 0.5  # seconds between reads with --follow


def list_events(
    setup: Setup,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing new events.")] = False,
    user: Annotated[
        str | None, typer.Option("--user", help="Only events of this user.", autocompletion=complete_users)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many recent events to show.")] = 50,
) -> None:
    """Show who did what: agents, scopes, and outcomes."""
    setup.run(_activity(setup, follow=follow, user=user, limit=limit))


async def _activity(setup: Setup, *, follow: bool, user: str | None, limit: int) -> None:
    from vault.audit import audit

    async with setup.open() as deployment:
        user_id = None if user is None else (await user_named(deployment.database, user)).id
        latest = await audit.list_events(deployment.database, user_id=user_id, limit=limit, newest_first=True)
        names = await names_of(deployment, latest)
        rows = [event_fields(event, names=names) for event in reversed(latest)]
        if setup.as_json and not follow:
            setup.show_json(rows)
            return
        last = latest[0].sequence if latest else 0
        _print(setup, rows)
        while follow:
            new = await audit.list_events(deployment.database, user_id=user_id, after=last, limit=limit)
            if new:
                names = await names_of(deployment, new)
                last = new[-1].sequence
                _print(setup, [event_fields(event, names=names) for event in new])
            else:
                await asyncio.sleep(_LOOK)


def _print(setup: Setup, rows: list[dict[str, object]]) -> None:
    for row in rows:
        say(json.dumps(row, ensure_ascii=False) if setup.as_json else in_a_line(row))
