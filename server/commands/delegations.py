"""`delegations ...`: what people let agents use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.clients import ClientId
from server.commands.context import Setup, UserOption, command, fail, user_named
from server.event_texts import when

if TYPE_CHECKING:
    from vault.records import Connection, Delegation

app = typer.Typer(no_args_is_help=True, help="What users allow agents to use.")


@command(app, "list")
def list_(setup: Setup, *, user: UserOption = None) -> None:
    """List what a user's agents can use."""

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
            return [_delegation_fields(one, known[one.connection_id], name=names.get(one.client_id)) for one in live]

    columns = ("agent", "provider", "account", "scopes", "expires_at", "client_id", "connection_id")
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
    client_id: ClientId,
    connection_id: Annotated[str, typer.Argument(help="The connection's ID.", show_default=False)],
    *,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="Require approval for everything with this scope.")
    ] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Require approval for this tool.")] = None,
    user: UserOption = None,
) -> None:
    """Set which actions need the user's approval. Without --scope and --tool, none do."""
    entries = frozenset(scope or ()) | {f"tool:{name}" for name in tool or ()}

    async def change() -> None:
        from vault import delegations
        from vault.audit import audit
        from vault.records import Event

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            for name in tool or ():
                if deployment.tool(name) is None:
                    fail(f"no tool {name}; see token-vault tools list")
            held = await delegations.get(
                deployment.database, user_id=owner.id, client_id=client_id, connection_id=connection_id
            )
            if held is None or held.revoked_at is not None:
                fail("That agent has no access to that connection. See token-vault delegations list")
            unknown = frozenset(scope or ()) - held.scopes
            if unknown:
                fail(f"the agent doesn't have {', '.join(sorted(unknown))} there; see token-vault delegations list")
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
    said = f"before: {', '.join(sorted(entries))}" if entries else "nothing"
    setup.show_one(row, sentence=f"The user is now asked to approve {said}.")


@command(app, "revoke")
def revoke(
    setup: Setup,
    client_id: ClientId,
    connection_id: Annotated[str, typer.Argument(help="The connection's ID.", show_default=False)],
    *,
    user: UserOption = None,
) -> None:
    """Remove an agent's access to a connection."""

    async def end() -> None:
        from vault import delegations
        from vault.audit import audit
        from vault.records import Event

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            now = deployment.now()
            async with deployment.transaction() as transaction:
                if not await delegations.revoke(
                    transaction, user_id=owner.id, client_id=client_id, connection_id=connection_id, now=now
                ):
                    fail("That agent has no access to that connection. See token-vault delegations list")
                event = Event(
                    kind="delegation.revoked", user_id=owner.id, client_id=client_id, connection_id=connection_id
                )
                await audit.append(transaction, event, now=now)

    setup.run(end())
    setup.show_one(
        {"client_id": client_id, "connection_id": connection_id}, sentence="The agent no longer has access to it."
    )
