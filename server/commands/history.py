"""`activity` and `keys rotate-signing`: what happened, and the keys that tokens are signed with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.setup import Setup, command, say, user_named, when

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.records import Event

keys_app = typer.Typer(no_args_is_help=True, help="Keys.")
_LOOK = 0.5  # seconds between two looks with --follow


@keys_app.callback()
def keys_() -> None:
    """Keys."""


def described(event: Event, *, names: Mapping[str, str]) -> dict[str, object]:
    """An event as printed, with the names of user and agent where they are known."""
    return {
        "sequence": event.sequence,
        "at": when(event.at),
        "kind": event.kind,
        "outcome": event.outcome,
        "user": names.get(event.user_id or "", event.user_id),
        "agent": names.get(event.client_id or "", event.client_id),
        "connection_id": event.connection_id,
        "details": dict(event.details),
    }


def in_a_line(row: Mapping[str, object]) -> str:
    """An event as one line for a person."""
    from server.portal import words

    details = row["details"]
    rest = words.in_a_line(details) if isinstance(details, dict) else ""  # pyright: ignore[reportUnknownArgumentType] -- of `described`
    who = " ".join(str(row[part]) for part in ("user", "agent") if row[part] is not None)
    line = f"{row['at']}  {row['kind']:24} {row['outcome']:8} {who}  {rest}".rstrip()
    # Names come from agents and providers: none of them may start a line of its own or speak to the terminal.
    return words.visible(line.replace("\n", " ").replace("\t", " "))


async def names_of(deployment: Deployment) -> dict[str, str]:
    """Names of users and clients by id."""
    from vault import clients, users

    people = {user.id: user.name for user in await users.list_users(deployment.database)}
    return people | {client.id: client.name for client in await clients.list_clients(deployment.database)}


def register_activity(root: typer.Typer) -> None:
    """Add `activity` to the program."""

    @command(root, "activity")
    def activity(
        setup: Setup,
        *,
        follow: Annotated[bool, typer.Option("--follow", help="Go on as things happen.")] = False,
        user: Annotated[str | None, typer.Option("--user", help="Only this person.")] = None,
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many of the latest.")] = 50,
    ) -> None:
        """Print what happened: who, which agent, with which scopes and outcome."""
        setup.run(_activity(setup, follow=follow, user=user, limit=limit))


async def _activity(setup: Setup, *, follow: bool, user: str | None, limit: int) -> None:
    from vault import audit

    async with setup.open() as deployment:
        user_id = None if user is None else (await user_named(deployment.database, user)).id
        names = await names_of(deployment)
        latest = await audit.list_events(deployment.database, user_id=user_id, limit=limit, newest_first=True)
        rows = [described(event, names=names) for event in reversed(latest)]
        if setup.as_json and not follow:
            setup.show_json(rows)
            return
        last = latest[0].sequence if latest else 0
        _print(setup, rows)
        while follow:
            new = await audit.list_events(deployment.database, user_id=user_id, after=last, limit=limit)
            if new:
                names = await names_of(deployment)
                last = new[-1].sequence
                _print(setup, [described(event, names=names) for event in new])
            else:
                await asyncio.sleep(_LOOK)


def _print(setup: Setup, rows: list[dict[str, object]]) -> None:
    for row in rows:
        say(json.dumps(row, ensure_ascii=False) if setup.as_json else in_a_line(row))


@command(keys_app, "rotate-signing")
def rotate_signing(setup: Setup) -> None:
    """Make a new signing key; it is published now, used in an hour, and the old one stays until its tokens end."""

    async def rotate() -> str:
        from vault import audit
        from vault.records import Event

        async with setup.open() as deployment:
            now = deployment.now()
            kid = await deployment.keys.signing.rotate(deployment.database, now=now)
            async with deployment.transaction() as transaction:
                await audit.append(transaction, Event(kind="signing_key.rotated", details={"kid": kid}), now=now)
            return kid

    kid = setup.run(rotate())
    setup.show_one({"kid": kid}, sentence=f"The key {kid} is published; tokens are signed with it from in an hour on.")
