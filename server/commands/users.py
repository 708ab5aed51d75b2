"""`users ...`: the people who can use this vault."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.context import Setup, command, fail, note
from server.terminal.names import UserName, user_called

if TYPE_CHECKING:
    from vault.records import User
    from vault.users import Deletion

app = typer.Typer(no_args_is_help=True, help="Users of this vault.")
Name = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]


def user_fields(user: User) -> dict[str, object]:
    """A user as printed; never includes the password hash."""
    return {
        "name": user.name,
        "id": user.id,
        "admin": user.is_admin,
        "role": user.role.value,
        "created_at": when(user.created_at),
        "disabled_at": when(user.disabled_at),
        "stopped_at": when(user.stopped_at),
        "deletion": None,
    }


@command(app, "add")
def add(
    setup: Setup,
    name: Name,
    *,
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="Read the password from standard input."),
    ] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Make the user an admin. A vault needs at least one.")] = False,
) -> None:
    """Add a user who signs in with a password."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = typer.prompt("Password, at least 15 characters", hide_input=True, confirmation_prompt=True)
    else:
        fail("pass the password on standard input: users add NAME --password-stdin < FILE")
    user = setup.run(_add(setup, name, password, is_admin=admin))
    setup.show_one(user_fields(user), sentence=f"{user.name} can sign in now.")


async def _add(setup: Setup, name: str, password: str, *, is_admin: bool) -> User:
    from server.administration import people
    from server.administration.actor import Actor

    async with setup.open() as deployment:
        actor = Actor(deployment, None, "command_line")
        return (await people.add_person(actor, name, is_admin=is_admin, password=password)).user


@command(app, "list")
def list_(setup: Setup) -> None:
    """List all users."""

    columns = ("name", "role", "created_at", "disabled_at", "stopped_at", "deletion")
    listing = setup.listing(columns=columns, empty="No users yet.")

    async def read() -> None:
        from vault import users

        async with setup.open(uses_accounts=False) as deployment:
            async for page in users.walk_users(deployment.database):
                listing.add([user_fields(user) for user in page])
            for one in await users.list_deletions(deployment.database):
                facts: dict[str, object] = {"name": one.name, "id": one.user_id, "admin": False, "role": "member"}
                waiting = f"{one.grants} grants still to be revoked"
                listing.add(
                    [facts | {"created_at": None, "disabled_at": None, "stopped_at": None, "deletion": waiting}]
                )
        listing.end()

    setup.run(read())


@command(app, "role")
def change_role(
    setup: Setup,
    name: UserName,
    role: Annotated[str, typer.Argument(help="owner, administrator, auditor, or member.", show_default=False)],
) -> None:
    """Change a user's role. An auditor can read what admins can read, but can't change anything."""
    user = setup.run(_change_role(setup, name, role))
    setup.show_one(user_fields(user), sentence=f"{user.name} is now {user.role.value}.")


async def _change_role(setup: Setup, name: str, role: str) -> User:
    from server.administration import people
    from server.administration.actor import Actor
    from vault import users
    from vault.records import Role

    if role not in set(Role):
        fail(f"no role {role!r}; use owner, administrator, auditor, or member")
    async with setup.open() as deployment:
        user = await user_called(deployment.database, name)
        await people.set_role(Actor(deployment, None, "command_line"), user, Role(role))
        return await users.get_user(deployment.database, user.id) or user


@command(app, "disable")
def disable(setup: Setup, name: UserName) -> None:
    """Disable a user and end all their sessions and agents."""
    user = setup.run(_change(setup, name, what="disabled"))
    setup.show_one(user_fields(user), sentence=f"Disabled {user.name}: all their sessions and agents have ended.")
    note(f"To let them sign in again: token-vault users enable {shlex.quote(user.name)}")


@command(app, "enable")
def enable(setup: Setup, name: UserName) -> None:
    """Enable a disabled user, or let a stopped user's agents continue."""
    user = setup.run(_change(setup, name, what="enabled"))
    setup.show_one(user_fields(user), sentence=f"{user.name} can sign in again.")


@command(app, "remove")
def remove(setup: Setup, name: UserName) -> None:
    """Remove a user: revoke their connections at the providers, then destroy their keys."""
    user = setup.run(_change(setup, name, what="removed"))
    waiting = next((one for one in setup.run(_deletions(setup)) if one.user_id == user.id), None)
    row = user_fields(user) | {"deletion": None if waiting is None else "waiting"}
    sentence = f"Removed {user.name}."
    if waiting is not None:
        sentence += (
            f" {waiting.grants} of their grants aren't revoked at their providers yet. A running server "
            "keeps trying and then destroys the key; token-vault users list shows when it's done."
        )
    setup.show_one(row, sentence=sentence)


async def _deletions(setup: Setup) -> tuple[Deletion, ...]:
    from vault import users

    async with setup.open() as deployment:
        return await users.list_deletions(deployment.database)


@command(app, "link")
def link(
    setup: Setup,
    name: UserName,
    *,
    issuer: Annotated[str, typer.Option("--issuer", help="The identity provider's issuer.", show_default=False)],
    subject: Annotated[str, typer.Option("--subject", help="The user's `sub` claim there.", show_default=False)],
) -> None:
    """Link a user to an external identity, for sign-in and trusted issuers' JWTs."""

    async def make() -> User:
        from server.administration import people
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            user = await user_called(deployment.database, name)
            actor = Actor(deployment, None, "command_line")
            await people.link_identity(actor, user, issuer=issuer, subject=subject)
            return user

    user = setup.run(make())
    setup.show_one({**user_fields(user), "issuer": issuer, "subject": subject}, sentence=f"Linked {user.name}.")


async def _change(setup: Setup, name: str, *, what: str) -> User:
    from server.administration import people
    from server.administration.actor import Actor
    from vault import users

    async with setup.open(uses_accounts=False) as deployment:
        user = await user_called(deployment.database, name)
        actor = Actor(deployment, None, "command_line")
        if what == "removed":
            await people.delete(actor, user)
            return user
        await people.set_disabled(actor, user, is_disabled=what == "disabled")
        return await users.get_user(deployment.database, user.id) or user
