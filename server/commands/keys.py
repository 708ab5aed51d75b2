"""`keys ...`: the keys that tokens are signed with."""

from __future__ import annotations

import typer

from server.commands.context import Setup, command

app = typer.Typer(no_args_is_help=True, help="Keys.")


@app.callback()
def keys_() -> None:
    """Keys."""


@command(app, "rotate-signing")
def rotate_signing(setup: Setup) -> None:
    """Make a new signing key; it is published now, used in an hour, and the old one stays until its tokens end."""

    async def rotate() -> str:
        from vault.audit import audit
        from vault.records import Event

        async with setup.open() as deployment:
            now = deployment.now()
            kid = await deployment.keys.signing.rotate(deployment.database, now=now)
            async with deployment.transaction() as transaction:
                await audit.append(transaction, Event(kind="signing_key.rotated", details={"kid": kid}), now=now)
            return kid

    kid = setup.run(rotate())
    setup.show_one({"kid": kid}, sentence=f"The key {kid} is published; tokens are signed with it from in an hour on.")
