"""`delegations ...`: what people let agents use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.clients import ClientId
from server.commands.context import Setup, UserOption, command, fail, user_named
from server.event_texts import when

if TYPE_CHECKING:
    from vault.records import Connection, Delegation

app = typer.Typer(no_args_is_help=True, help="What people let agents use.")


@command(app, "list")
def list_(setup: Setup, *, user: UserOption = None) -> None:
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
            return [_delegation_fields(one, known[one.connection_id], name=names.get(one.client_id)) for one in live]

    columns = ("agent", "provider", "account", "scopes", "expires_at", "client_id", "connection_id")
    setup.show(setup.run(read()), columns=columns, empty="No agent may use anything.")


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
    connection_id: Annotated[str, typer.Argument(help="The connection's id.", show_default=False)],
    *,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="Ask before anything with this scope.")] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Ask before this tool.")] = None,
    user: UserOption = None,
) -> None:
    """Set what the person is asked about each time; without --scope and --tool, nothing."""
    entries = frozenset(scope or ()) | {f"tool:{name}" for name in tool or ()}

    async def change() -> None:
        from vault import delegations
        from vault.audit import audit
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


@command(app, "revoke")
def revoke(
    setup: Setup,
    client_id: ClientId,
    connection_id: Annotated[str, typer.Argument(help="The connection's id.", show_default=False)],
    *,
    user: UserOption = None,
) -> None:
    """Take a connection away from an agent."""

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
                    fail("that agent may not use that connection anyway: token-vault delegations list")
                event = Event(
                    kind="delegation.revoked", user_id=owner.id, client_id=client_id, connection_id=connection_id
                )
                await audit.append(transaction, event, now=now)

    setup.run(end())
    setup.show_one({"client_id": client_id, "connection_id": connection_id}, sentence="The agent may not use it now.")
