"""`connections ...`: accounts that people have connected."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.file_errors import reason_of
from providers.outbound.json_values import parse_object
from server.event_texts import when
from server.terminal.completion import complete_providers
from server.terminal.context import Setup, UserOption, check_pages, command, fail, note
from server.terminal.names import ConnectionName, connection_called, provider_called, user_at_browser, user_named

if TYPE_CHECKING:
    from vault.records import Connection

app = typer.Typer(no_args_is_help=True, help="Connected accounts.")


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


@command(app, "list")
def list_(setup: Setup, *, user: UserOption = None) -> None:
    """List a user's connected accounts."""

    async def read() -> list[dict[str, object]]:
        from vault import connections

        async with setup.open(uses_accounts=False) as deployment:
            owner = await user_named(deployment.database, user)
            found = await connections.list_connections(deployment.database, owner.id)
            return [connection_fields(connection, now=deployment.now()) for connection in found]

    columns = ("provider", "account", "status", "scopes", "id")
    setup.show(setup.run(read()), columns=columns, empty="No accounts connected.")


@command(app, "connect")
def connect(
    setup: Setup,
    provider: Annotated[
        str,
        typer.Argument(
            help="For example slack, google, or google-calendar.",
            show_default=False,
            autocompletion=complete_providers,
        ),
    ],
    *,
    credential: Annotated[
        Path | None,
        typer.Option(
            "--credential",
            help="File with an API key, or with JSON for several fields; - reads standard input.",
            show_default=False,
            allow_dash=True,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="The account's name, if the service doesn't report it.", show_default=False),
    ] = None,
    ends: Annotated[
        str | None,
        typer.Option("--ends", help="Its last day, such as 2031-05-01.", show_default=False),
    ] = None,
    replaces: Annotated[
        str | None,
        typer.Option("--replaces", help="The connection whose credential this replaces.", show_default=False),
    ] = None,
    user: UserOption = None,
) -> None:
    """Print a one-time link to the page that connects an account, or connect it with a credential."""
    if credential is not None:
        form = {"label": label or "", "last_day": ends or ""}
        _connect_by_credential(setup, provider, credential, form=form, replaces=replaces, user=user)
        return

    async def make() -> str:
        from urllib.parse import urlencode

        from server.lifecycle.sandbox import is_sandbox
        from server.sign_in.password import owner_link

        async with setup.open() as deployment:
            found = provider_called(deployment.catalog, provider)
            is_set_up = deployment.vault.upstreams[found.name].is_configured
            if not is_set_up and not is_sandbox(deployment.data):  # a running sandbox knows its simulated providers
                fail(
                    f"{found.title} isn't set up. Run token-vault providers setup {found.name}, then restart the "
                    f"vault, or set it up at {deployment.url(f'/administration/providers/{found.name}')}"
                )
            owner = await user_at_browser(deployment, user)
            await check_pages(deployment)
            path = "/connections/connect?" + urlencode({"provider": provider})
            return await owner_link(deployment, owner.id, return_to=path)

    url = setup.run(make())
    note("Open it on this machine within two minutes, while `token-vault serve` or a stdio client is running.")
    setup.show_one({"url": url}, sentence=url)


def _connect_by_credential(
    setup: Setup, provider: str, file: Path, *, form: Mapping[str, str], replaces: str | None, user: str | None
) -> None:
    from server.administration import access
    from server.administration.actor import Actor

    async def make() -> dict[str, object]:
        async with setup.open() as deployment:
            found = provider_called(deployment.catalog, provider)
            if found.credential is None:
                fail(f"{found.title} connects on its own page: omit --credential")
            values = _values_in(file, tuple(found.credential.fields))
            owner = await user_named(deployment.database, user)
            actor = Actor(deployment, None, "command_line")
            held = None if replaces is None else await connection_called(deployment, owner, replaces)
            entered = access.EnteredValues(values, **form)
            which = "" if held is None else held.id
            made = await access.connect_by_credential(actor, owner, found, entered=entered, replaces=which)
            return connection_fields(made, now=deployment.now())

    row = setup.run(make())
    known = "No agent may use it yet." if replaces is None else "Agents keep their permissions."
    setup.show_one(row, sentence=f"Connected {row['provider']} {row['account']}. {known}")


def _values_in(file: Path, fields: Sequence[str]) -> dict[str, str]:
    """The values of the fields: a JSON object, or just the value if there is only one field."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"can't read {file}: {reason_of(error)}")
    content = parse_object(text.encode())
    if content is None and len(fields) > 1:
        fail(f"write a JSON object with {', '.join(fields)} into {'standard input' if str(file) == '-' else file}")
    return {fields[0]: text.strip()} if content is None else {name: str(value) for name, value in content.items()}


@command(app, "disconnect")
def disconnect(
    setup: Setup,
    connection: ConnectionName,
    *,
    user: UserOption = None,
) -> None:
    """Disconnect an account: revoke access at the provider and destroy its key."""

    async def end() -> tuple[dict[str, object], str]:
        from server.administration import access
        from server.administration.actor import Actor

        async with setup.open(uses_accounts=False) as deployment:
            owner = await user_named(deployment.database, user)
            found = await connection_called(deployment, owner, connection)
            ended = await access.disconnect(Actor(deployment, None, "command_line"), found)
            row = connection_fields(found, now=deployment.now()) | {
                "status": "revoked",
                "at_provider": ended.at_provider,
            }
            said = f"Disconnected {row['provider']} {row['account']} (at the provider: {ended.at_provider})."
            if ended.is_left_open:
                row["remove_at"] = list(ended.pages)
                said = " ".join((said, "Also remove the app in the account's settings there.", *ended.pages))
            return row, said

    row, said = setup.run(end())
    setup.show_one(row, sentence=said)
