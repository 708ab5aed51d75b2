"""`keys ...`: list this vault's keys and rotate them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

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
    """List master and signing keys, with their state and what still needs them."""

    async def read() -> list[dict[str, object]]:
        from vault.keys.inventory import list_keys
        from vault.upkeep.key_rotation import list_without

        async with setup.open() as deployment:
            found = await list_keys(deployment.database, now=deployment.now())
            rows: list[dict[str, object]] = []
            for one in found.masters:
                without = await list_without(deployment.database, one.id, now=deployment.now())
                rows.append(_master_fields(one, () if one.state == "retired" else [each.host for each in without]))
            return [*rows, *map(_signing_fields, found.signing)]

    columns = ("kind", "state", "people", "uses", "created_at", "active_at", "retired_at", "missing_on", "id")
    setup.show(setup.run(read()), columns=columns, empty="No keys.")


@command(app, "add")
def add(setup: Setup) -> None:
    """Add a master key to rotate to; nothing uses it yet."""

    async def work() -> tuple[str, str]:
        from server.administration import master_keys
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            made = await master_keys.add(Actor(deployment, None, "command_line"))
            return made, deployment.keys.held.source.describe()

    key_id, where = setup.run(work())
    setup.show_one(
        {"id": key_id, "source": where},
        sentence=f"Added {key_id} (source: {where}). Give it to every process of the vault, keep a copy, and then run "
        "token-vault keys rotate.",
    )


@command(app, "rotate")
def rotate(
    setup: Setup,
    key: Annotated[
        str | None, typer.Argument(help="ID of the key. Default: the added one.", show_default=False)
    ] = None,
    *,
    wait: Annotated[
        int, typer.Option("--wait", min=0, help="Seconds to wait for processes that don't have the key yet.")
    ] = 120,
) -> None:
    """Switch to the added master key and rewrap everyone's keys, or continue an earlier run."""

    async def work() -> tuple[str, int]:
        from server.administration import master_keys
        from server.administration.actor import Actor
        from server.terminal.progress import show_progress

        async with setup.open() as deployment:
            with show_progress() as tell:
                actor = Actor(deployment, None, "command_line")
                return await master_keys.rotate(actor, key, patience=wait, tell=tell)

    key_id, count = setup.run(work())
    setup.show_one(
        {"id": key_id, "wrapped_again": count},
        sentence=f"{key_id} is now the master key, and this command wrapped people's keys under it ({count:,}). "
        "Retire the old one in a minute: token-vault keys retire ID.",
    )


@command(app, "retire")
def retire(setup: Setup, key: Annotated[str, typer.Argument(help="ID of the key.", show_default=False)]) -> None:
    """Retire a master key that nothing needs anymore."""

    async def work() -> None:
        from server.administration import master_keys
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            await master_keys.retire(Actor(deployment, None, "command_line"), key)

    setup.run(work())
    setup.show_one(
        {"id": key, "state": "retired"},
        sentence=f"Retired {key}. Backups made under it still need it: keep a separate copy as long as you keep "
        "them, and "
        "remove it from every process.",
    )


def _master_fields(one: MasterKey, without: Sequence[str]) -> dict[str, object]:
    return {
        "kind": "master",
        "state": one.state,
        "people": one.people,
        "uses": one.uses,
        "created_at": when(one.created_at),
        "active_at": when(one.active_at),
        "retired_at": when(one.retired_at),
        "missing_on": ", ".join(without) or None,
        "root": one.has_root,
        "source": one.described or None,
        "id": one.id,
    }


def _signing_fields(one: RingKey) -> dict[str, object]:
    times = {"created_at": when(one.created_at), "active_at": when(one.active_at), "retired_at": when(one.retired_at)}
    only_masters = dict.fromkeys(("people", "uses", "missing_on", "root", "source"))
    return {"kind": "signing", "state": one.state, **times, **only_masters, "id": one.id}


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
