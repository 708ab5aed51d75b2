"""`sign-in`: a link that signs one browser in."""

from __future__ import annotations

from typing import Annotated

import typer

from server.commands.context import Setup, check_pages, note, user_at_browser


def sign_in(
    setup: Setup,
    *,
    user: Annotated[str | None, typer.Option("--user", help="Whom; default: the owner of the data directory.")] = None,
) -> None:
    """Print a link that signs one browser in, once, within two minutes."""

    async def make() -> tuple[str, str]:
        async with setup.open() as deployment:
            found = await user_at_browser(deployment, user)
            from server.sign_in.password import owner_link

            await check_pages(deployment)
            return await owner_link(deployment, found.id), found.name

    url, name = setup.run(make())
    note("Open it on this machine; `token-vault serve` or a stdio client must be running. Give it to nobody.")
    setup.show_one({"url": url, "user": name}, sentence=url)
