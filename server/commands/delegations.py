"""`delegations ...`: the accounts that people allow agents to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.suggestions import did_you_mean
from server.event_texts import when
from server.terminal.completion import complete_tools
from server.terminal.context import Setup, UserOption, command, fail, note
from server.terminal.names import ClientName, ConnectionName, check_tool, client_called, connection_called, user_named

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.records import Connection, Delegation, User

_NO_ACCESS = "that agent has no access to that connection. See token-vault delegations list"
app = typer.Typer(no_args_is_help=True, help="What users allow agents to use.")


@command(app, "list")
def list_(setup: Setup, *, user: UserOption = None) -> None:
    """List what a user's agents can use."""

    async def read() -> list[dict[str, object]]:
        from vault import clients, company_permissions, delegations, shared_connections

        async with setup.open(uses_accounts=False) as deployment:
            owner = await user_named(deployment.database, user)
            usable = await shared_connections.usable_by(deployment.database, owner.id, now=deployment.now())
            known = {one.id: one for one in usable}
            held = await delegations.list_for_user(deployment.database, owner.id)
            live = [one for one in held if one.is_live(deployment.now()) and one.connection_id in known]
            names: dict[str, str] = {}
            for client_id in {one.client_id for one in live}:
                if (client := await clients.get_client(deployment.database, client_id)) is not None:
                    names[client_id] = client.name
            givers = await company_permissions.list_givers(deployment.database, owner.id)
            return [
                _delegation_fields(one, known[one.connection_id], name=names.get(one.client_id))
                | {"company": givers.get((one.client_id, one.connection_id))}
                for one in live
            ]

    columns = ("agent", "provider", "account", "scopes", "expires_at", "company")
    setup.show(setup.run(read()), columns=columns, empty="No agent can use any account.")


def _delegation_fields(found: Delegation, connection: Connection, *, name: str | None) -> dict[str, object]:
    return {
        "agent": name,
        "provider": connection.provider,
        "account": connection.label,
        "scopes": sorted(found.scopes),
        "expires_at": when(found.expires_at),
        "client_id": found.client_id,
        "connection_id": found.connection_id,
    }


@command(app, "ask")
def ask(
    setup: Setup,
    client: ClientName,
    connection: ConnectionName,
    *,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="Require approval for everything with this scope.")
    ] = None,
    tool: Annotated[
        list[str] | None, typer.Option("--tool", help="Require approval for this tool.", autocompletion=complete_tools)
    ] = None,
    user: UserOption = None,
) -> None:
    """Set which actions need approval. Without --scope and --tool, none do."""
    entries = frozenset(scope or ()) | {f"tool:{name}" for name in tool or ()}

    async def change() -> tuple[str, str, list[str]]:
        from server.administration import access
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            for name in tool or ():
                check_tool(deployment.tools, name)
            held = await _find_delegation(deployment, owner, client, connection)
            for unknown in sorted(frozenset(scope or ()) - held.scopes):
                near = did_you_mean(unknown, held.scopes)
                fail(f"the agent doesn't have {unknown} there.{near} See token-vault delegations list")
            actor = Actor(deployment, None, "command_line")
            before = await access.set_ask(actor, held, scopes=frozenset(scope or ()), tools=tool or ())
            return held.client_id, held.connection_id, sorted(before)

    client_id, connection_id, asked = setup.run(change())
    row = {"client_id": client_id, "connection_id": connection_id, "ask": sorted(entries)}
    said = "No action there needs the user's approval now."
    if entries:
        said = f"Each use of these now needs the user's approval: {', '.join(sorted(entries))}."
    setup.show_one(row, sentence=said)
    before = [f"--tool {one.removeprefix('tool:')}" if one.startswith("tool:") else f"--scope {one}" for one in asked]
    note(f"To undo: token-vault delegations ask {' '.join((client_id, connection_id, *before))}")


@command(app, "revoke")
def revoke(
    setup: Setup,
    client: ClientName,
    connection: ConnectionName,
    *,
    user: UserOption = None,
) -> None:
    """Remove an agent's access to a connection."""

    async def end() -> tuple[str, str]:
        from server.administration import access
        from server.administration.actor import Actor

        async with setup.open(uses_accounts=False) as deployment:
            owner = await user_named(deployment.database, user)
            held = await _find_delegation(deployment, owner, client, connection)
            await access.revoke(Actor(deployment, None, "command_line"), held)
            return held.client_id, held.connection_id

    client_id, connection_id = setup.run(end())
    setup.show_one(
        {"client_id": client_id, "connection_id": connection_id}, sentence="The agent no longer has access to it."
    )


async def _find_delegation(deployment: Deployment, owner: User, client: str, connection: str) -> Delegation:
    """The permission of the named agent for the named connection."""
    from vault import delegations

    held = [one for one in await delegations.list_for_user(deployment.database, owner.id) if one.revoked_at is None]
    clients = {one.client_id for one in held}
    client_id = client if client in clients else (await client_called(deployment.database, client, among=clients)).id
    connection_id = (await connection_called(deployment, owner, connection, has_groups=True)).id
    found = [one for one in held if (one.client_id, one.connection_id) == (client_id, connection_id)]
    return found[0] if found else fail(_NO_ACCESS)
