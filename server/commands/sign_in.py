"""`sign-in`: a link that signs one browser in."""

from __future__ import annotations

from typing import Annotated

import typer

from server.terminal.completion import complete_users
from server.terminal.context import Setup, check_pages, note
from server.terminal.names import user_at_browser


def sign_in(
    setup: Setup,
    *,
    user: Annotated[
        str | None,
        typer.Option(
            "--user", help="The user. Default: the owner of the data directory.", autocompletion=complete_users
        ),
    ] = None,
) -> None:
    """Print a link that signs in a browser once, within two minutes."""

    async def make() -> tuple[str, str]:
        async with setup.open() as deployment:
            found = await user_at_browser(deployment, user)
            from server.sign_in.password import owner_link

            await check_pages(deployment)
            return await owner_link(deployment, found.id), found.name

    url, name = setup.run(make())
    note("Open it on this machine, while `token-vault serve` or a stdio client is running. Don't share it with anyone.")
    setup.show_one({"url": url, "user": name}, sentence=url)
