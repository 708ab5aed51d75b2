"""`scim ...`: tokens for a company's directory (SCIM 2.0), and existing users that it takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.context import Setup, command, note
from server.terminal.names import UserName, user_called

if TYPE_CHECKING:
    from vault.directory import DirectoryToken

app = typer.Typer(no_args_is_help=True, help="A company's directory (SCIM 2.0) that manages users and groups.")
Name = Annotated[str, typer.Argument(help="The token's name, such as okta.", show_default=False)]
HOUR = 3600


def _fields(token: DirectoryToken) -> dict[str, object]:
    return {
        "name": token.name,
        "created_at": when(token.created_at),
        "expires_at": when(token.expires_at),
        "used_at": when(token.used_at),
        "previous_until": when(token.previous_until),
    }


@command(app, "token")
def make_token(
    setup: Setup,
    name: Name,
    *,
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=3650, help="Days until it ends.", show_default="never")
    ] = None,
    keep_hours: Annotated[
        int, typer.Option("--keep-hours", min=0, max=168, help="Hours that the previous token still works.")
    ] = 24,
) -> None:
    """Create or rotate a directory's token. It's shown once."""

    async def make() -> tuple[str, bool, str]:
        from server.administration import provisioning
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            actor = Actor(deployment, None, "command_line")
            secret, is_rotation = await provisioning.make_token(actor, name, days=days, grace=keep_hours * HOUR)
            return secret, is_rotation, deployment.url("/scim/v2")

    secret, is_rotation, url = setup.run(make())
    setup.show_one({"name": name, "url": url, "token": secret}, sentence=secret)
    note(f"Enter it at your directory as the bearer token for {url}. It isn't shown again.")
    if is_rotation:
        note(f"The old token works for {keep_hours} more hours.")


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the directories' tokens, without their secrets."""

    async def read() -> list[dict[str, object]]:
        from vault import directory

        async with setup.open() as deployment:
            return [_fields(one) for one in await directory.list_tokens(deployment.database)]

    columns = ("name", "created_at", "expires_at", "used_at", "previous_until")
    setup.show(setup.run(read()), columns=columns, empty="No directory. Run token-vault scim token NAME")


@command(app, "end")
def end_token(setup: Setup, name: Name) -> None:
    """End a directory's token at once. Users and groups stay."""

    async def end() -> None:
        from server.administration import provisioning
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            await provisioning.end_token(Actor(deployment, None, "command_line"), name)

    setup.run(end())
    setup.show_one({"name": name}, sentence=f"The directory {name} can no longer change anything.")


@command(app, "adopt")
def adopt(
    setup: Setup,
    user: UserName,
    *,
    external_id: Annotated[
        str | None, typer.Option("--external-id", help="The user's ID in the directory.", show_default=False)
    ] = None,
) -> None:
    """Let the directory manage an existing user."""

    async def take() -> dict[str, object]:
        from server.administration import provisioning
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            found = await user_called(deployment.database, user)
            actor = Actor(deployment, None, "command_line")
            taken = await provisioning.take_over(actor, found, external_id=external_id)
            return {"name": taken.name, "id": taken.user_id, "external_id": taken.external_id}

    row = setup.run(take())
    setup.show_one(row, sentence=f"The directory can now change, disable, and delete {row['name']}.")
