"""`keys ...`: the keys that tokens are signed with."""

from __future__ import annotations

import typer

from server.terminal.context import Setup, command

app = typer.Typer(no_args_is_help=True, help="Manage keys.")


@app.callback()
def keys_() -> None:
    """Keys."""


@command(app, "rotate-signing")
def rotate_signing(setup: Setup) -> None:
    """Create a signing key. It's published now and used in one hour; the old one stays until its tokens expire."""

    async def rotate() -> str:
        from server.administration import signing_keys
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            return await signing_keys.rotate(Actor(deployment, None, "command_line"))

    kid = setup.run(rotate())
    setup.show_one(
        {"kid": kid}, sentence=f"Published key {kid}. New tokens will be signed with it starting in one hour."
    )
