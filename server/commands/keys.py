"""`keys ...`: which keys this vault has, and a new one for signing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from server.event_texts import when
from server.terminal.context import Setup, command

if TYPE_CHECKING:
    from vault.keys.inventory import MasterKey, RingKey

app = typer.Typer(no_args_is_help=True, help="Manage keys.")


@app.callback()
def keys_() -> None:
    """Keys."""


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the master and signing keys, with what each does now."""

    async def read() -> list[dict[str, object]]:
        from vault.keys.inventory import list_keys

        async with setup.open() as deployment:
            found = await list_keys(deployment.database, now=deployment.now())
            return [*map(_master_fields, found.masters), *map(_signing_fields, found.signing)]

    columns = ("kind", "state", "created_at", "active_at", "retired_at", "id")
    setup.show(setup.run(read()), columns=columns, empty="No keys.")


def _master_fields(one: MasterKey) -> dict[str, object]:
    state = "in use" if one.has_root else "people only"
    times: dict[str, object] = {"created_at": when(one.since), "active_at": None, "retired_at": None}
    return {"kind": "master", "state": state, **times, "people": one.people, "id": one.id}


def _signing_fields(one: RingKey) -> dict[str, object]:
    times = {"created_at": when(one.created_at), "active_at": when(one.active_at), "retired_at": when(one.retired_at)}
    return {"kind": "signing", "state": one.state, **times, "people": None, "id": one.id}


@command(app, "rotate-signing")
def rotate_signing(setup: Setup) -> None:
    """Create a signing key: published now, used in one hour; the old one stays until its tokens expire."""

    async def rotate() -> str:
        from server.administration import signing_keys
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            return await signing_keys.rotate(Actor(deployment, None, "command_line"))

    kid = setup.run(rotate())
    setup.show_one(
        {"kid": kid}, sentence=f"Published key {kid}. New tokens will be signed with it starting in one hour."
    )
