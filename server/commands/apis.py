"""`apis ...`: a developer's own APIs, which this vault issues access tokens for, and the clients that are those
APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.suggestions import did_you_mean
from server.event_texts import when
from server.terminal.completion import complete_apis, complete_clients
from server.terminal.context import Setup, command, fail
from server.terminal.names import client_called

if TYPE_CHECKING:
    from vault.apis import Api
    from vault.records import Client
    from vault.storage.database import Reader

app = typer.Typer(no_args_is_help=True, help="Your own APIs: audiences of access tokens.")
Url = Annotated[
    str,
    typer.Argument(help="The API's identifier, an absolute URL.", show_default=False, autocompletion=complete_apis),
]


async def _api_fields(reader: Reader, api: Api) -> dict[str, object]:
    from vault import apis

    return {
        "resource": api.resource,
        "name": api.name,
        "scopes": sorted(api.scopes),
        "clients": list(await apis.linked_clients(reader, api.resource)),
        "created_at": when(api.created_at),
    }


@command(app, "add")
def add(
    setup: Setup,
    url: Url,
    *,
    client: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            help="A client that is this API; it can exchange the tokens it receives.",
            autocompletion=complete_clients,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name shown to users.", show_default="the URL")] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="A scope of the API. Repeat for several.")] = None,
) -> None:
    """Register an API, or extend a registered one."""
    row = setup.run(_add(setup, url, named=client or [], name=name, scopes=scope))
    setup.show_one(row, sentence=f"Clients can now request access tokens for {url}.")


async def _add(
    setup: Setup, url: str, *, named: list[str], name: str | None, scopes: list[str] | None
) -> dict[str, object]:
    from server.administration import own_apis
    from server.administration.actor import Actor

    async with setup.open() as deployment:
        linked = [await client_called(deployment.database, one) for one in named]
        actor = Actor(deployment, None, "command_line")
        api = await own_apis.save(actor, url, name=name, scopes=scopes, linked=linked)
        return await _api_fields(deployment.database, api)


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the registered APIs."""

    async def read() -> list[dict[str, object]]:
        from vault import apis

        async with setup.open() as deployment:
            known = await apis.list_apis(deployment.database)
            return [await _api_fields(deployment.database, api) for api in known]

    setup.show(setup.run(read()), columns=("resource", "name", "scopes", "clients"), empty="No APIs registered.")


@command(app, "show")
def show(setup: Setup, url: Url) -> None:
    """Show one API."""

    async def read() -> dict[str, object]:
        from vault import apis

        async with setup.open() as deployment:
            api = await apis.find_api(deployment.database, url)
            if api is None:
                fail(await _no_api(deployment.database, url))
            return await _api_fields(deployment.database, api)

    setup.show_fields(setup.run(read()))


@command(app, "remove")
def remove(
    setup: Setup,
    url: Url,
    *,
    client: Annotated[
        str | None,
        typer.Option(
            "--client",
            help="Only unlink this client from the API; keep the API.",
            show_default=False,
            autocompletion=complete_clients,
        ),
    ] = None,
) -> None:
    """Remove an API and revoke every grant for it."""

    async def end() -> Client | None:
        from server.administration import own_apis
        from server.administration.actor import Actor
        from vault import apis

        async with setup.open() as deployment:
            reader, actor = deployment.database, Actor(deployment, None, "command_line")
            if await apis.find_api(reader, url) is None:
                fail(await _no_api(reader, url))
            linked = None if client is None else await client_called(reader, client)
            if linked is None:
                await own_apis.remove(actor, url)
            elif not await own_apis.unlink(actor, url, linked):
                fail(f"{linked.name} isn't linked to {url}. See token-vault apis list")
            return linked

    unlinked = setup.run(end())
    sentence = f"Removed {url}; its tokens no longer work."
    if unlinked is not None:
        sentence = f"Unlinked {unlinked.name} from {url}; it can no longer exchange the tokens that it receives."
    setup.show_one({"resource": url, "client": None if unlinked is None else unlinked.id}, sentence=sentence)


async def _no_api(reader: Reader, url: str) -> str:
    from vault import apis

    near = did_you_mean(url, [one.resource for one in await apis.list_apis(reader)])
    return f"no API {url!r}.{near} See token-vault apis list"
