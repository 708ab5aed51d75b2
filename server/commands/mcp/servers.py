"""`mcp ...`: put external MCP servers behind the vault, and review their tools."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, command, fail, say
from server.terminal.registration_options import SecretInputOption

if TYPE_CHECKING:
    from server.remote.servers import NewServer, ToolChange
    from vault.mcp.servers import McpServer

app = typer.Typer(no_args_is_help=True, help="MCP servers behind the vault.")
Name = Annotated[str, typer.Argument(help="The name of the MCP server.", show_default=False)]


@app.callback()
def mcp_() -> None:
    """MCP servers behind the vault."""


@command(app, "add")
def add(
    setup: Setup,
    name: Annotated[str, typer.Argument(help="Your name for it; its tools are named NAME_tool.", show_default=False)],
    url: Annotated[
        str,
        typer.Argument(help="Its address (streamable HTTP), or `program:NAME` of `local_servers`.", show_default=False),
    ],
    *,
    title: Annotated[str, typer.Option(help="Name shown to people.", show_default="NAME")] = "",
    client_id: Annotated[
        str | None,
        typer.Option("--client-id", help="A client that you registered there. Default: the vault registers itself."),
    ] = None,
    client_secret_stdin: SecretInputOption = False,
    issuer: Annotated[
        str | None,
        typer.Option(
            "--issuer", help="Its authorization server, if that is at another host.", show_default="as it says"
        ),
    ] = None,
    key_header: Annotated[
        str | None,
        typer.Option(
            "--key-header",
            help="It accepts a key that people enter, in this header: `NAME`, or `NAME: SCHEME`.",
            show_default="OAuth",
        ),
    ] = None,
    is_open: Annotated[bool, typer.Option("--open", help="It needs no sign-in and no key.")] = False,
) -> None:
    """Put an MCP server behind the vault. Its tools can be called once you accept them."""
    from server.remote.servers import NewServer, key_of

    if client_secret_stdin and client_id is None:
        fail("--client-secret-stdin needs --client-id")
    if len([one for one in (client_id or issuer, key_header, is_open) if one]) > 1:
        fail("use one of --client-id or --issuer, --key-header, and --open")
    secret = sys.stdin.readline().strip() if client_secret_stdin else None
    key = key_of("open" if is_open else "key" if key_header else "oauth", key_header or "")
    wanted = NewServer(name, url, title, issuer=issuer, key=key)
    row = setup.run(_add(setup, wanted, client_id=client_id, secret=secret))
    setup.show_one(
        row,
        sentence=f"Added {name}; {_way_in(row)}. Connect an account at {row['connect']}, "
        f"let an agent call {name.replace('-', '_')}_tools, then run: token-vault mcp review {name}",
    )


async def _add(setup: Setup, wanted: NewServer, *, client_id: str | None, secret: str | None) -> dict[str, object]:
    from server.administration.actor import Actor
    from server.remote import servers

    async with setup.open() as deployment:
        client = None
        if client_id is not None:
            client = servers.EnteredClient(client_id, secret)
        actor = Actor(deployment, None, "command_line")
        added = await servers.add(actor, replace(wanted, client=client))
        connect = servers.connect_url(deployment, wanted.name)
        return {**servers.state_of(deployment, added), "connect": connect, **_authorization(added)}


def _way_in(row: Mapping[str, object]) -> str:
    if row["authorize_url"]:
        return f"people sign in at {row['authorize_url']}"
    return f"people enter a key, sent in {row['header']}" if row["header"] else "it needs no sign-in"


def _authorization(server: McpServer) -> dict[str, object]:
    return {name: server.facts.get(name) for name in ("authorize_url", "token_url", "resource", "scopes", "header")}


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the MCP servers behind the vault."""

    async def read() -> list[dict[str, object]]:
        from server.remote import servers
        from vault.mcp.servers import list_servers

        async with setup.open() as deployment:
            return [servers.state_of(deployment, one) for one in await list_servers(deployment.database)]

    setup.show(
        setup.run(read()),
        columns=("name", "url", "usable", "held", "absent", "disabled", "problem"),
        empty="No MCP servers.",
    )


@command(app, "review")
def review(setup: Setup, name: Name) -> None:
    """Show the tools that wait for a review: new ones, and changes to others."""
    from server.remote import servers

    async def read() -> tuple[McpServer, str]:
        async with setup.open() as deployment:
            return await servers.server_named(deployment, name), servers.connect_url(deployment, name)

    server, connect = setup.run(read())
    changes = servers.changes_of(server)
    if setup.as_json:
        setup.show_json({"name": name, "digest": server.digest, "tools": [_change(one) for one in changes]})
        return
    if not server.tools:
        say(
            f"The tools of {name} haven't been listed yet: connect an account at {connect}, and let an agent call "
            f"{name.replace('-', '_')}_tools."
        )
        return
    for one in changes:
        state = "left out; to accept it, name it with --tool" if one.state == "left" else one.state
        say(f"{one.name}: {state}" + (f" (can't be used: {one.problem})" if one.problem else ""))
        known = server.tool(one.name)
        claims = [] if known is None else [said for said, value in servers.claims_of(known).items() if value]
        if claims:
            say(f"  the server claims: {', '.join(sorted(claims))}")
        if one.decision:
            say(f"  decided before, and kept unless you name it: {one.decision}")
        for line in one.differences:
            say(f"  {line}")
    if all(one.state == "left" for one in changes):
        accepted = sum(one.state == "accepted" for one in server.tools)
        say(f"Nothing to review: {accepted} tools are as you accepted them.")
        return
    say(f"To accept what you saw: token-vault mcp accept {name} {server.digest}")


def _change(one: ToolChange) -> dict[str, object]:
    return {**asdict(one), "differences": list(one.differences)}


@command(app, "accept")
def accept(
    setup: Setup,
    name: Name,
    digest: Annotated[str, typer.Argument(help="The digest that `mcp review` printed.", show_default=False)],
    *,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", help="Only this tool. Repeat for several.", show_default="all new or changed"),
    ] = None,
    leave: Annotated[
        list[str] | None,
        typer.Option("--leave", help="Leave this tool out until it changes. Repeat for several."),
    ] = None,
    read: Annotated[list[str] | None, typer.Option("--read", help="This tool only reads. Repeat for several.")] = None,
    no_approval: Annotated[
        list[str] | None,
        typer.Option("--no-approval", help="This tool needs no approval each time. Repeat for several."),
    ] = None,
    trust_hints: Annotated[
        bool, typer.Option("--trust-hints", help="Trust the server's claims about which tools only read.")
    ] = False,
) -> None:
    """Let agents be offered tools in exactly the form that you reviewed."""

    async def change() -> tuple[str, ...]:
        from server.administration.actor import Actor
        from server.remote import servers

        wanted = servers.ReviewDecision(digest, tool, leave or (), read or (), no_approval or (), trusts=trust_hints)
        async with setup.open() as deployment:
            return await servers.accept(Actor(deployment, None, "command_line"), name, wanted)

    accepted = setup.run(change())
    setup.show_one({"name": name, "accepted": list(accepted)}, sentence=f"Accepted {len(accepted)} tools of {name}.")


@command(app, "disable")
def disable(setup: Setup, name: Name) -> None:
    """Stop offering an MCP server's tools to agents. Accounts, permissions, and decisions stay."""
    _set_disabled(setup, name, is_disabled=True)


@command(app, "enable")
def enable(setup: Setup, name: Name) -> None:
    """Offer agents the accepted tools again."""
    _set_disabled(setup, name, is_disabled=False)


def _set_disabled(setup: Setup, name: str, *, is_disabled: bool) -> None:
    async def change() -> None:
        from server.administration.actor import Actor
        from server.remote import servers

        async with setup.open() as deployment:
            await servers.set_disabled(Actor(deployment, None, "command_line"), name, is_disabled=is_disabled)

    setup.run(change())
    did = "Disabled" if is_disabled else "Enabled"
    setup.show_one({"name": name, "disabled": is_disabled}, sentence=f"{did} {name}.")


@command(app, "remove")
def remove(setup: Setup, name: Name) -> None:
    """Remove an MCP server to which no account is connected."""

    async def change() -> None:
        from server.administration.actor import Actor
        from server.remote import servers

        async with setup.open() as deployment:
            await servers.remove(Actor(deployment, None, "command_line"), name)

    setup.run(change())
    setup.show_one({"name": name}, sentence=f"Removed {name}.")
