"""`connections ...`, `providers ...` and `tools ...`: accounts, and what the vault can do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.clients import UserOption
from server.commands.context import Setup, check_pages, command, fail, note, say, user_at_browser, user_named
from server.event_texts import when

if TYPE_CHECKING:
    from providers.tools.spec import ToolSpec
    from server.deployment import Deployment
    from vault.records import Connection

connections_app = typer.Typer(no_args_is_help=True, help="Connected accounts.")
providers_app = typer.Typer(no_args_is_help=True, help="Services that accounts can be connected to.")
tools_app = typer.Typer(no_args_is_help=True, help="What agents can call.")


def connection_fields(connection: Connection, *, now: int) -> dict[str, object]:
    """A connection as printed; its tokens are not in the record."""
    return {
        "id": connection.id,
        "provider": connection.provider,
        "account": connection.label,
        "status": connection.status(now),
        "scopes": sorted(connection.scopes),
        "connected_at": when(connection.created_at),
        "refreshed_at": when(connection.refreshed_at),
        "ends_at": when(connection.ends_at),
    }


@command(connections_app, "list")
def list_connections(setup: Setup, *, user: UserOption = None) -> None:
    """List a person's connected accounts."""

    async def read() -> list[dict[str, object]]:
        from vault import connections

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            found = await connections.list_connections(deployment.database, owner.id)
            return [connection_fields(connection, now=deployment.now()) for connection in found]

    columns = ("provider", "account", "status", "scopes", "id")
    setup.show(setup.run(read()), columns=columns, empty="Nothing is connected.")


@command(connections_app, "connect")
def connect(
    setup: Setup,
    provider: Annotated[str, typer.Argument(help="For example slack, google or google-calendar.", show_default=False)],
    *,
    user: UserOption = None,
) -> None:
    """Print a link that signs one browser in, once, and shows the page that connects an account."""

    async def make() -> str:
        from urllib.parse import urlencode

        from server.sign_in.password import owner_link

        async with setup.open() as deployment:
            found = deployment.catalog.get(provider)
            if found is None:
                fail(f"there is no provider {provider!r}: token-vault providers list")
            if not deployment.vault.upstreams[found.name].is_configured:  # a note: only --sandbox knows the stand-ins
                note(
                    f"{found.title} is not set up in the settings: token-vault providers setup {found.name}, "
                    "unless the vault runs with --sandbox."
                )
            owner = await user_at_browser(deployment, user)
            await check_pages(deployment)
            path = "/connections/connect?" + urlencode({"provider": provider})
            return await owner_link(deployment, owner.id, return_to=path)

    url = setup.run(make())
    note("Open it on this machine within two minutes; `token-vault serve` or a stdio client must be running.")
    setup.show_one({"url": url}, sentence=url)


@command(connections_app, "disconnect")
def disconnect(
    setup: Setup,
    connection_id: Annotated[str, typer.Argument(help="The connection's id.", show_default=False)],
    *,
    user: UserOption = None,
) -> None:
    """End a connection here and at the provider, and destroy its key."""

    async def end() -> dict[str, object]:
        from vault import connections

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            found = await connections.get_connection(deployment.database, connection_id, user_id=owner.id)
            if found is None:
                fail("there is no such connection: token-vault connections list")
            outcome = await end_connection(deployment, found)
            return connection_fields(found, now=deployment.now()) | {"status": "revoked", "at_provider": outcome}

    row = setup.run(end())
    setup.show_one(
        row, sentence=f"{row['provider']} {row['account']} is disconnected (at the provider: {row['at_provider']})."
    )


async def end_connection(deployment: Deployment, connection: Connection) -> str:
    """Disconnect, then try once to revoke at the provider; what is left is tried again by a running server."""
    from vault import connections, revocations

    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now())
    return await revocations.revoke_upstream(deployment.vault, connection.id) or "pending"


@tools_app.callback()
def tools_() -> None:
    """What agents can call."""


@command(tools_app, "list")
def list_tools(setup: Setup) -> None:
    """List the tools, the service each acts on and the least scopes it needs."""
    from server.mcp.connections_tool import SPEC
    from server.mcp.registry import load_tools

    rows = [_tool(spec) for spec in (*load_tools(setup.settings(), setup.catalog()), SPEC)]
    setup.show(rows, columns=("name", "provider", "scopes", "changes_something", "title"), empty="There are no tools.")


@command(tools_app, "check")
def check_tools(
    setup: Setup, file: Annotated[Path, typer.Argument(help="A tool file (TOML).", show_default=False)]
) -> None:
    """Check a tool file against its provider; the first problem on a line."""
    from providers.tools.declarations import ToolFileRefused, read_tool_file
    from providers.tools.declared import data_tools

    try:
        found = data_tools([(file, read_tool_file(file))], setup.catalog())
    except ToolFileRefused as refused:
        if setup.as_json:
            setup.show_json({"file": str(file), "problems": [str(refused)]})
        else:
            say(str(refused))
        raise typer.Exit(1) from refused
    rows = [_tool(spec) for spec in found]
    if setup.as_json:
        setup.show_json({"file": str(file), "problems": [], "tools": rows})
        return
    say(f"{file}: no problem found: {', '.join(spec.name for spec in found)}")


def _tool(spec: ToolSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "title": spec.title,
        "provider": spec.provider,
        "scopes": sorted(spec.scopes),
        "changes_something": not spec.read_only,
        "asks_each_time": spec.approval,
        "description": spec.description,
        "input_schema": spec.input_schema,
        "output_schema": spec.output_schema,
    }
