"""Finds what a person typed: the ID or name of a person, agent, account, provider, or tool.

An ambiguous name ends the command with the candidates, an unknown one with a suggestion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from providers.definitions.suggestions import did_you_mean
from server.event_texts import when
from server.terminal.completion import complete_clients, complete_connections, complete_providers, complete_users
from server.terminal.context import fail

if TYPE_CHECKING:
    from providers.definitions.catalog import Catalog
    from providers.definitions.model import Provider
    from providers.tools.spec import ToolSpec
    from server.deployment import Deployment
    from vault.approvals.approvals import Approval
    from vault.approvals.standing_approvals import StandingApproval
    from vault.records import Client, Connection, User
    from vault.storage.database import Reader

A = TypeVar("A", "Approval", "StandingApproval")
SHORTEST: Final = 6  # the shortest prefix of an approval's ID that is accepted
NEAR: Final = 2000  # names to compare with a mistyped one


async def user_called(reader: Reader, named: str) -> User:
    """The user with that name or ID."""
    found, near = await find_user(reader, named)
    return found or fail(f"no user {named!r}.{near} See token-vault users list")


async def find_user(reader: Reader, named: str) -> tuple[User | None, str]:
    """Like `user_called`, but None with a suggestion if there is none."""
    from vault import users

    found = await users.find_user(reader, named) or await users.get_user(reader, named)
    if found is not None:
        return found, ""
    return None, did_you_mean(named, [one.name for one in await users.list_users(reader, limit=NEAR)])


async def client_called(reader: Reader, named: str, *, among: Iterable[str] | None = None) -> Client:
    """The client with that ID or name; `among`: a name can mean only clients with these IDs."""
    found, near = await find_client(reader, named, among=among)
    return found or fail(f"no agent {named!r}.{near} See token-vault clients list")


async def find_client(reader: Reader, named: str, *, among: Iterable[str] | None = None) -> tuple[Client | None, str]:
    """Like `client_called`, but None with a suggestion if there is none. An ambiguous name ends the command."""
    from vault import clients

    exact = await clients.get_client(reader, named)
    if exact is not None:
        return exact, ""
    wanted = None if among is None else frozenset(among)
    matching: list[Client] = []
    known: set[str] = set()
    async for page in clients.walk_clients(reader):
        mine = [one for one in page if wanted is None or one.id in wanted]
        matching += [one for one in mine if one.name.casefold() == named.casefold()]
        known |= {one.name for one in mine} if len(known) < NEAR else set()
    if len(matching) > 1:
        used = [f"{one.id} (last used {when(one.last_used_at) or 'never'})" for one in matching]
        fail(_several("agents", named, used))
    return (matching[0], "") if matching else (None, did_you_mean(named, known))


async def connection_called(deployment: Deployment, owner: User, named: str, *, has_groups: bool = False) -> Connection:
    """The user's connection with that ID, account, or provider; with `has_groups`, or one of their groups'."""
    found, near = await find_connection(deployment, owner, named, has_groups=has_groups)
    return found or fail(
        f"no such connection: {owner.name} has no account {named!r}.{near} See token-vault connections list"
    )


async def find_connection(
    deployment: Deployment, owner: User, named: str, *, has_groups: bool = False
) -> tuple[Connection | None, str]:
    """Like `connection_called`, but None with a suggestion if there is none. An ambiguous name ends the command."""
    from vault import connections, shared_connections

    exact = await connections.get_connection(deployment.database, named, user_id=owner.id)
    if exact is not None:
        return exact, ""
    if has_groups:
        mine = await shared_connections.usable_by(deployment.database, owner.id, now=deployment.now())
    else:
        mine = await connections.list_connections(deployment.database, owner.id)
    matching = [
        one for one in mine if connections.names_account(named, id=one.id, account=one.account, label=one.label)
    ]
    if not matching and (provider := deployment.catalog.get(named)) is not None:
        matching = [one for one in mine if one.provider == provider.name]
    if len(matching) > 1:
        fail(_several("accounts", named, [f"{one.id} ({one.provider} {one.label})" for one in matching]))
    near = [*(one.label for one in mine), *(one.provider for one in mine)]
    return (matching[0], "") if matching else (None, did_you_mean(named, near))


async def approval_called(deployment: Deployment, owner: User, named: str) -> Approval:
    """The owner's open approval, by its ID or the beginning of it, or by tool or agent."""
    from server.connecting import approvals as asked
    from vault.approvals import approvals

    pending = await approvals.list_pending(deployment.database, deployment.keys, owner.id, now=deployment.now())
    found, words = await _one_of_agents(deployment.database, pending, named, what="open requests")
    if found is not None:
        return found
    try:
        over = await asked.load(deployment, named, user=owner)
    except asked.ApproveRefused as refused:
        if refused.kind == "forbidden":
            fail(f"this request is for another person, who can answer it at {deployment.url('/approvals')}")
        near = did_you_mean(named, words)
        return fail(f"no open request {named!r}.{near} See token-vault approvals list")
    return fail(f"this request is {over.status(deployment.now())}. If you still want it, have the agent try again")


async def standing_called(deployment: Deployment, owner: User, named: str) -> StandingApproval:
    """The owner's standing approval, by its ID or the beginning of it, or by tool or agent."""
    from vault.approvals import standing_approvals

    live = await standing_approvals.list_live(deployment.database, deployment.keys, owner.id, now=deployment.now())
    found, words = await _one_of_agents(deployment.database, live, named, what="standing approvals")
    near = did_you_mean(named, words)
    return found or fail(f"no standing approval {named!r}.{near} See token-vault approvals list")


async def _one_of_agents(reader: Reader, asked: Sequence[A], named: str, *, what: str) -> tuple[A | None, list[str]]:
    """The item with that ID, beginning of an ID, tool, or agent; and the names of all tools and agents."""
    from vault import clients

    agents = {one.client_id: await clients.get_client(reader, one.client_id) for one in asked}
    names = {client_id: "" if client is None else client.name for client_id, client in agents.items()}
    wanted = named.casefold()
    matching = [
        one
        for one in asked
        if one.id == named
        or (len(named) >= SHORTEST and one.id.startswith(named))
        or wanted in (one.tool.casefold(), names[one.client_id].casefold())
    ]
    if len(matching) > 1:
        fail(_several(what, named, [f"{one.id} ({one.tool} of {names[one.client_id]})" for one in matching]))
    return matching[0] if matching else None, [*(one.tool for one in asked), *names.values()]


def provider_called(catalog: Catalog, named: str) -> Provider:
    """The provider with that name or alias."""
    found = catalog.get(named)
    if found is not None:
        return found
    known = [name for one in catalog.all_providers() for name in (one.name, *one.aliases)]
    return fail(f"no provider {named!r}.{did_you_mean(named, known)} See token-vault providers list")


def check_tool(tools: Iterable[ToolSpec], named: str) -> None:
    """End the command unless there is a tool of that name."""
    known = [one.name for one in tools]
    if named not in known:
        fail(f"no tool {named!r}.{did_you_mean(named, known)} See token-vault tools list")


def _several(what: str, named: str, candidates: Sequence[str]) -> str:
    return f"several {what} are called {named!r}. Pass one of these IDs: {', '.join(candidates)}"


ClientName = Annotated[str, typer.Argument(help="ID or name.", show_default=False, autocompletion=complete_clients)]
ConnectionName = Annotated[
    str, typer.Argument(help="Account or ID.", show_default=False, autocompletion=complete_connections)
]
ProviderName = Annotated[
    str, typer.Argument(help="The provider.", show_default=False, autocompletion=complete_providers)
]
UserName = Annotated[str, typer.Argument(help="Name or ID.", show_default=False, autocompletion=complete_users)]


async def user_named(reader: Reader, name: str | None) -> User:
    """The named user; without a name, the owner of the data directory or the only user."""
    from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
    from vault import users

    if name is not None:
        return await user_called(reader, name)
    owner = await users.find_by_identity(reader, issuer=OWNER_ISSUER, subject=OWNER_SUBJECT)
    everybody = await users.list_users(reader, limit=2)
    if owner is None and len(everybody) != 1:
        fail(
            "Several users exist. Pick one with --user NAME (see `users list`)."
            if everybody
            else "no users yet. Start your MCP client once, or run token-vault serve and follow its instructions"
        )
    return everybody[0] if owner is None else owner


async def owner_here(reader: Reader) -> User | None:
    """The operator's own user: the owner of the data directory, or the only user if that is an admin.

    If the only user isn't an admin, a sign-in provider may have admitted them.
    """
    from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
    from vault import users

    owner = await users.find_by_identity(reader, issuer=OWNER_ISSUER, subject=OWNER_SUBJECT)
    first = await users.list_users(reader, limit=2)
    return first[0] if owner is None and len(first) == 1 and first[0].is_admin else owner


async def user_at_browser(deployment: Deployment, name: str | None) -> User:
    """The user whom a printed link signs in: like `user_named`, but an unused vault gets its owner, as with stdio."""
    from server.mcp.local_owner import find_owner
    from vault import users

    if name is None and await users.count_users(deployment.database) == 0:
        return await find_owner(deployment)
    owner = await owner_here(deployment.database) if name is None else None
    if owner is not None:
        return owner
    found = await user_named(deployment.database, name)
    if name is None:
        fail(f"the only user, {found.name}, is neither the owner nor an admin. Pick a user with --user NAME")
    return found
