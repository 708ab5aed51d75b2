"""`connections ...`, `providers ...` and `tools ...`: accounts, and what the vault can do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.agents import UserOption
from server.commands.setup import Setup, command, fail, note, say, user_named, when

if TYPE_CHECKING:
    from providers.provider import Provider
    from providers.tools import ToolSpec
    from server.deployment import Deployment
    from vault.records import Connection

connections_app = typer.Typer(no_args_is_help=True, help="Connected accounts.")
providers_app = typer.Typer(no_args_is_help=True, help="Services that accounts can be connected to.")
tools_app = typer.Typer(no_args_is_help=True, help="What agents can call.")


def described(connection: Connection, *, now: int) -> dict[str, object]:
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
            return [described(connection, now=deployment.now()) for connection in found]

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

        from server.signin import owner_link

        async with setup.open() as deployment:
            if deployment.catalog.get(provider) is None:
                fail(f"there is no provider {provider!r}: token-vault providers list")
            owner = await user_named(deployment.database, user)
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
            return described(found, now=deployment.now()) | {"status": "revoked", "at_provider": outcome}

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


@command(providers_app, "list")
def list_providers(setup: Setup) -> None:
    """List the services this vault knows, and which are set up."""

    async def read() -> list[dict[str, object]]:
        async with setup.open() as deployment:
            return [_provider(deployment, deployment.catalog.provider(name)) for name in deployment.catalog.names]

    columns = ("name", "title", "configured", "aliases", "narrowing")
    setup.show(setup.run(read()), columns=columns, empty="There are no providers.")


def _provider(deployment: Deployment, provider: Provider) -> dict[str, object]:
    return {
        "name": provider.name,
        "title": provider.title,
        "configured": deployment.vault.upstreams[provider.name].is_configured,
        "aliases": sorted(provider.aliases),
        "narrowing": provider.policy().downscope.value,
        "redirect_uri": deployment.url(f"/connect/callback/{provider.name}"),
    }


@command(providers_app, "show")
def show_provider(setup: Setup, name: Annotated[str, typer.Argument(help="The provider.", show_default=False)]) -> None:
    """Show one service: its scopes, and the redirect URI to enter where you register the vault with it."""

    async def read() -> tuple[dict[str, object], list[tuple[str, str]]]:
        async with setup.open() as deployment:
            found = deployment.catalog.get(name)
            if found is None:
                fail(f"there is no provider {name!r}: token-vault providers list")
            return _provider(deployment, found), [(scope, about.title) for scope, about in found.scopes.items()]

    row, scopes = setup.run(read())
    if setup.as_json:
        setup.show_json(row | {"scopes": dict(scopes)})
        return
    for key, value in row.items():
        say(f"{key:14} {' '.join(str(part) for part in value) if isinstance(value, list) else value}")  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- made for print
    for scope, title in scopes:
        say(f"  {scope}: {title}")


@command(providers_app, "check")
def check_provider(
    setup: Setup, file: Annotated[Path, typer.Argument(help="A provider file (TOML).", show_default=False)]
) -> None:
    """Check a provider file; every problem on its own line."""
    from providers.catalog import check_file

    problems = check_file(file)
    if setup.as_json:
        setup.show_json({"file": str(file), "problems": problems})
    elif not problems:
        say(f"{file}: no problem found")
    else:
        for problem in problems:
            say(problem)
    if problems:
        raise typer.Exit(1)


@tools_app.callback()
def tools_() -> None:
    """What agents can call."""


@command(tools_app, "list")
def list_tools(setup: Setup) -> None:
    """List the tools, the service each acts on and the least scopes it needs."""
    from providers.catalog import load_catalog
    from server.connections_tool import SPEC
    from server.toolbox import load_tools

    settings = setup.settings()
    catalog = load_catalog([folder.expanduser() for folder in settings.provider_folders])
    rows = [_tool(spec) for spec in (*load_tools(settings, catalog), SPEC)]
    setup.show(rows, columns=("name", "provider", "scopes", "changes_something", "title"), empty="There are no tools.")


@command(tools_app, "check")
def check_tools(
    setup: Setup, file: Annotated[Path, typer.Argument(help="A tool file (TOML).", show_default=False)]
) -> None:
    """Check a tool file against its provider; the first problem on a line."""
    from providers.catalog import load_catalog
    from providers.data_tools import data_tools
    from providers.tool_files import ToolFileRefused, read_tool_file

    settings = setup.settings()
    catalog = load_catalog([folder.expanduser() for folder in settings.provider_folders])
    try:
        found = data_tools([(file, read_tool_file(file))], catalog)
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
    }
