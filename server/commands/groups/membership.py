"""`groups ...`: groups of people, and who is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.context import Setup, UserOption, command, fail
from server.terminal.names import UserName, connection_called, user_called, user_named

if TYPE_CHECKING:
    from vault.groups import Group
    from vault.storage.database import Reader

app = typer.Typer(no_args_is_help=True, help="Groups of users.")
Name = Annotated[str, typer.Argument(help="The group's name.", show_default=False)]
ReadsOnly = Annotated[bool, typer.Option("--reads-only", help="Members' agents only read.")]
AskWrites = Annotated[bool, typer.Option("--ask-writes", help="Members approve each call that may change something.")]


@command(app, "list")
def list_(setup: Setup) -> None:
    """List all groups."""
    listing = setup.listing(columns=("name", "members", "managed_by", "created_at"), empty="No groups yet.")

    async def read() -> None:
        from vault import groups

        async with setup.open() as deployment:
            after, now = "", deployment.now()
            while True:
                found, after = await groups.list_page(deployment.database, after=after, limit=200)
                for one in found:
                    number = await groups.count_members(deployment.database, one.id, now=now)
                    listing.add([_fields(one) | {"members": number}])
                if not after:
                    break
        listing.end()

    setup.run(read())


def _fields(group: Group) -> dict[str, object]:
    return {
        "name": group.name,
        "id": group.id,
        "managed_by": "directory" if group.is_provisioned else "vault",
        "created_at": when(group.created_at),
    }


@command(app, "show")
def show(setup: Setup, name: Name) -> None:
    """Show a group's members and where each comes from."""

    async def read() -> list[dict[str, object]]:
        from vault import groups

        async with setup.open() as deployment:
            group = await _group_called(deployment.database, name)
            return [
                {
                    "user": one.name,
                    "by": list(one.sources),
                    "until": when(one.expires_at),
                    "disabled": one.is_disabled,
                }
                for one in await groups.members(deployment.database, group.id, now=deployment.now())
            ]

    setup.show(setup.run(read()), columns=("user", "by", "until", "disabled"), empty="This group has no members.")


@command(app, "create")
def create(setup: Setup, name: Name) -> None:
    """Create a group."""

    async def make() -> Group:
        from server.administration import groups
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            return await groups.create(Actor(deployment, None, "command_line"), name)

    made = setup.run(make())
    setup.show_one(_fields(made), sentence=f"Created the group {made.name}.")


@command(app, "delete")
def delete(setup: Setup, name: Name) -> None:
    """Delete a group that no directory manages."""

    async def end() -> Group:
        from server.administration import groups
        from server.administration.actor import Actor

        async with setup.open(uses_accounts=False) as deployment:
            group = await _group_called(deployment.database, name)
            await groups.delete(Actor(deployment, None, "command_line"), group)
            return group

    ended = setup.run(end())
    setup.show_one(_fields(ended), sentence=f"Deleted the group {ended.name}.")


@command(app, "add")
def add(setup: Setup, name: Name, user: UserName) -> None:
    """Add a user to a group."""
    group = setup.run(_change(setup, name, user, is_in=True))
    setup.show_one({"group": group, "user": user}, sentence=f"{user} is in {group}.")


@command(app, "remove")
def remove(setup: Setup, name: Name, user: UserName) -> None:
    """Remove a user whom an admin added to a group."""
    group = setup.run(_change(setup, name, user, is_in=False))
    setup.show_one({"group": group, "user": user}, sentence=f"Removed {user} from {group}.")


@command(app, "manage")
def manage(
    setup: Setup,
    name: Name,
    user: UserName,
    *,
    stop: Annotated[bool, typer.Option("--stop", help="No longer.")] = False,
) -> None:
    """Let a user answer access requests about a group."""

    async def change() -> str:
        from server.administration import access_requests
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            group, person = await _group_called(deployment.database, name), await user_called(deployment.database, user)
            actor = Actor(deployment, None, "command_line")
            await access_requests.set_manager(actor, group, person, is_manager=not stop)
            return group.name

    group = setup.run(change())
    sentence = f"{user} {'no longer answers' if stop else 'answers'} access requests about {group}."
    setup.show_one({"group": group, "user": user, "manages": not stop}, sentence=sentence)


@command(app, "give")
def give(
    setup: Setup,
    name: Name,
    connection: Annotated[str, typer.Argument(help="The account: its ID, name, or service.", show_default=False)],
    *,
    user: UserOption = None,
    reads_only: ReadsOnly = False,
    ask_writes: AskWrites = False,
) -> None:
    """Give a user's account to a group: its members' agents can use it, and the user's no longer."""

    async def run() -> dict[str, object]:
        from server.administration import group_accounts
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            group = await _group_called(deployment.database, name)
            owner = await user_named(deployment.database, user)
            found = await connection_called(deployment, owner, connection)
            actor = Actor(deployment, None, "command_line")
            given = await group_accounts.give(
                actor, owner, found.id, group, reads_only=reads_only, asks_writes=ask_writes
            )
            return {"group": group.name, "provider": given.provider, "account": given.label, "id": given.id}

    row = setup.run(run())
    setup.show_one(row, sentence=f"{row['provider']} {row['account']} belongs to {row['group']} now.")


@command(app, "rule")
def rule(
    setup: Setup,
    name: Name,
    connection_id: Annotated[str, typer.Argument(help="The account's ID.", show_default=False)],
    *,
    reads_only: Annotated[
        bool | None, typer.Option("--reads-only/--no-reads-only", help="Whether members' agents only read.")
    ] = None,
    ask_writes: Annotated[
        bool | None,
        typer.Option(
            "--ask-writes/--no-ask-writes", help="Whether members approve each call that may change something."
        ),
    ] = None,
) -> None:
    """Change what members' agents can do with a group's account, from their next call on. The rest stays."""
    if reads_only is None and ask_writes is None:
        fail("choose what to change: --reads-only, --no-reads-only, --ask-writes, or --no-ask-writes")

    async def run() -> dict[str, object]:
        from server.administration import group_accounts
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            group, actor = await _group_called(deployment.database, name), Actor(deployment, None, "command_line")
            changed = await group_accounts.change_rule(
                actor, group, connection_id, reads_only=reads_only, asks_writes=ask_writes
            )
            return {"group": group.name, "id": connection_id, "scopes": sorted(changed.for_members.scopes)}

    row = setup.run(run())
    setup.show_one(row, sentence=f"Members' agents can use: {' '.join(map(str, row['scopes']))}")  # pyright: ignore[reportArgumentType] -- a list


@command(app, "accounts")
def accounts(setup: Setup, name: Name) -> None:
    """List a group's accounts."""

    async def read() -> list[dict[str, object]]:
        from vault import shared_connections

        async with setup.open() as deployment:
            group = await _group_called(deployment.database, name)
            return [
                {
                    "provider": one.connection.provider,
                    "account": one.connection.label,
                    "status": one.connection.status(deployment.now()),
                    "scopes": sorted(one.for_members.scopes),
                    "given_by": one.given_by,
                    "id": one.connection.id,
                }
                for one in await shared_connections.of_group(deployment.database, group)
            ]

    columns = ("provider", "account", "status", "scopes", "given_by", "id")
    setup.show(setup.run(read()), columns=columns, empty="This group has no accounts.")


@command(app, "disconnect")
def disconnect(
    setup: Setup, name: Name, connection_id: Annotated[str, typer.Argument(help="The account's ID.")]
) -> None:
    """Disconnect a group's account for all its members."""

    async def run() -> str:
        from server.administration import group_accounts
        from server.administration.actor import Actor

        async with setup.open(uses_accounts=False) as deployment:
            group = await _group_called(deployment.database, name)
            await group_accounts.end(Actor(deployment, None, "command_line"), group, connection_id)
            return group.name

    group = setup.run(run())
    setup.show_one({"group": group, "id": connection_id}, sentence=f"Disconnected the account of {group}.")


async def _change(setup: Setup, name: str, user: str, *, is_in: bool) -> str:
    from server.administration import groups
    from server.administration.actor import Actor

    async with setup.open(uses_accounts=False) as deployment:
        actor, reader = Actor(deployment, None, "command_line"), deployment.database
        group, person = await _group_called(reader, name), await user_called(reader, user)
        if is_in:
            await groups.add_member(actor, group, person)
        else:
            await groups.remove_member(actor, group, person)
        return group.name


async def _group_called(reader: Reader, name: str) -> Group:
    from vault import groups

    found = await groups.find_group(reader, name)
    if found is None:
        fail(f"no group {name!r}. See token-vault groups list")
    return found
