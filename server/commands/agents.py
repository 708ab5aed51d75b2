"""`clients ...` and `delegations ...`: which agents are known, and what people let them use.

Registering one by hand is `server.commands.adding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.setup import Setup, command, fail, user_named, when

if TYPE_CHECKING:
    from vault.database import Reader
    from vault.records import Client, Connection, Delegation

clients_app = typer.Typer(no_args_is_help=True, help="Agents (OAuth clients).")
delegations_app = typer.Typer(no_args_is_help=True, help="What people let agents use.")
ClientId = Annotated[str, typer.Argument(help="The client's id.", show_default=False)]
UserOption = Annotated[
    str | None, typer.Option("--user", help="Whose; default: the owner of the data directory or the only user.")
]


def described(client: Client) -> dict[str, object]:
    """A client as printed; never the secret's hash."""
    from server.oauth import release, workers

    rules = workers.rules_of(client)
    return {
        "client_id": client.id,
        "name": client.name,
        "kind": client.kind.value,
        "auth_method": client.auth_method,
        "redirect_uris": list(client.redirect_uris),
        "grant_types": sorted(client.grant_types),
        "resources": list(client.resources),
        "release": {name: chosen.value for name, chosen in release.policies_of(client).items()},
        "worker": None if rules is None else workers.stored_rules(rules),
        "created_at": when(client.created_at),
        "last_used_at": when(client.last_used_at),
    }


@command(clients_app, "list")
def list_(setup: Setup) -> None:
    """List all agents."""

    async def read() -> list[dict[str, object]]:
        from vault import clients

        async with setup.open() as deployment:
            return [described(client) for client in await clients.list_clients(deployment.database)]

    columns = ("client_id", "name", "kind", "auth_method", "last_used_at")
    setup.show(setup.run(read()), columns=columns, empty="No agent is registered yet.")


@command(clients_app, "show")
def show(setup: Setup, client_id: ClientId) -> None:
    """Show one agent."""

    async def read() -> dict[str, object]:
        async with setup.open() as deployment:
            return described(await client_of(deployment.database, client_id))

    setup.show_fields(setup.run(read()))


@command(clients_app, "remove")
def remove(setup: Setup, client_id: ClientId) -> None:
    """Forget an agent; all its grants and tokens end at once."""

    async def end() -> Client:
        from vault import audit, clients
        from vault.records import Event

        async with setup.open() as deployment:
            client = await client_of(deployment.database, client_id)
            now = deployment.now()
            async with deployment.transaction() as transaction:
                await clients.remove_client(transaction, client.id, now=now)
                await audit.append(transaction, Event(kind="client.removed", client_id=client.id), now=now)
            return client

    client = setup.run(end())
    setup.show_one(described(client), sentence=f"{client.name} is removed; its tokens no longer work.")


async def client_of(reader: Reader, client_id: str) -> Client:
    """The client of that id, or the end of the command."""
    from vault import clients

    found = await clients.get_client(reader, client_id)
    return found if found is not None else fail(f"there is no client {client_id!r}: token-vault clients list")


@command(delegations_app, "list")
def list_delegations(setup: Setup, *, user: UserOption = None) -> None:
    """List what a person's agents may use."""

    async def read() -> list[dict[str, object]]:
        from vault import clients, connections, delegations

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            known = {one.id: one for one in await connections.list_connections(deployment.database, owner.id)}
            held = await delegations.list_for_user(deployment.database, owner.id)
            live = [one for one in held if one.is_live(deployment.now()) and one.connection_id in known]
            names: dict[str, str] = {}
            for client_id in {one.client_id for one in live}:
                if (client := await clients.get_client(deployment.database, client_id)) is not None:
                    names[client_id] = client.name
            return [_delegated(one, known[one.connection_id], name=names.get(one.client_id)) for one in live]

    columns = ("agent", "provider", "account", "scopes", "expires_at", "client_id", "connection_id")
    setup.show(setup.run(read()), columns=columns, empty="No agent may use anything.")


def _delegated(found: Delegation, connection: Connection, *, name: str | None) -> dict[str, object]:
    return {
        "agent": name,
        "provider": connection.provider,
        "account": connection.label,
        "scopes": sorted(found.scopes),
        "expires_at": when(found.expires_at),
        "client_id": found.client_id,
        "connection_id": found.connection_id,
    }


@command(delegations_app, "ask")
def ask(
    setup: Setup,
    client_id: ClientId,
    connection_id: Annotated[str, typer.Argument(help="The connection's id.", show_default=False)],
    *,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="Ask before anything with this scope.")] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Ask before this tool.")] = None,
    user: UserOption = None,
) -> None:
    """Set what the person is asked about each time; without --scope and --tool, nothing."""
    entries = frozenset(scope or ()) | {f"tool:{name}" for name in tool or ()}

    async def change() -> None:
        from vault import audit, delegations
        from vault.records import Event

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            for name in tool or ():
                if deployment.tool(name) is None:
                    fail(f"there is no tool {name}: token-vault tools list")
            held = await delegations.get(
                deployment.database, user_id=owner.id, client_id=client_id, connection_id=connection_id
            )
            if held is None or held.revoked_at is not None:
                fail("that agent may not use that connection: token-vault delegations list")
            unknown = frozenset(scope or ()) - held.scopes
            if unknown:
                fail(f"the agent has no {', '.join(sorted(unknown))} there: token-vault delegations list")
            now = deployment.now()
            async with deployment.transaction() as transaction:
                await delegations.set_ask(
                    transaction,
                    user_id=owner.id,
                    client_id=client_id,
                    connection_id=connection_id,
                    ask=entries,
                    now=now,
                )
                event = Event(
                    kind="delegation.asks",
                    user_id=owner.id,
                    client_id=client_id,
                    connection_id=connection_id,
                    details={"ask": sorted(entries)},
                )
                await audit.append(transaction, event, now=now)

    setup.run(change())
    row = {"client_id": client_id, "connection_id": connection_id, "ask": sorted(entries)}
    said = f"before: {', '.join(sorted(entries))}" if entries else "about nothing"
    setup.show_one(row, sentence=f"The person is now asked each time {said}.")


@command(delegations_app, "revoke")
def revoke(
    setup: Setup,
    client_id: ClientId,
    connection_id: Annotated[str, typer.Argument(help="The connection's id.", show_default=False)],
    *,
    user: UserOption = None,
) -> None:
    """Take a connection away from an agent."""

    async def end() -> None:
        from vault import audit, delegations
        from vault.records import Event

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            now = deployment.now()
            async with deployment.transaction() as transaction:
                if not await delegations.revoke(
                    transaction, user_id=owner.id, client_id=client_id, connection_id=connection_id, now=now
                ):
                    fail("that agent may not use that connection anyway: token-vault delegations list")
                event = Event(
                    kind="delegation.revoked", user_id=owner.id, client_id=client_id, connection_id=connection_id
                )
                await audit.append(transaction, event, now=now)

    setup.run(end())
    setup.show_one({"client_id": client_id, "connection_id": connection_id}, sentence="The agent may not use it now.")
