"""`serve`, `stdio`, `demo` and `version`: the program as a process that stays."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.setup import Setup, command, fail, note

if TYPE_CHECKING:
    from server.companion import Companion
    from server.deployment import Deployment
    from server.settings import Settings

SandboxOption = Annotated[
    bool, typer.Option("--sandbox", help="Use the built-in stand-ins for Slack and Google, with data of their own.")
]


def register(root: typer.Typer) -> None:
    """Add the commands to the program."""

    @command(root, "serve")
    def serve(
        setup: Setup,
        *,
        host: Annotated[
            str | None, typer.Option("--host", help="Address to listen on.", show_default="127.0.0.1")
        ] = None,
        port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", show_default="8765")] = None,
        sandbox: SandboxOption = False,
        verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
    ) -> None:
        """Serve agents and people over HTTP: MCP at /mcp and /sse, sign-in, connect pages and portal."""
        from server.logs import configure

        configure(verbose=verbose)
        server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        if port is not None:
            note("sign-in, connect and stdio use the port of the settings: set server.port there to keep this one.")
        setup.run(_serve(setup, {"server": server} if server else {}, sandbox=sandbox))

    @command(root, "stdio")
    def stdio(
        setup: Setup,
        *,
        client: Annotated[str, typer.Option("--client", help="The name of the agent.", show_default=False)],
        sandbox: SandboxOption = False,
        no_browser: Annotated[bool, typer.Option("--no-browser", help="Never open a browser.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", help="Log more, on standard error.")] = False,
        url: Annotated[
            str | None, typer.Option("--url", help="Forward to the token vault at this address.", show_default=False)
        ] = None,
        client_id: Annotated[
            str | None,
            typer.Option("--client-id", help="With --url: a client that its operator added.", show_default=False),
        ] = None,
        device: Annotated[bool, typer.Option("--device", help="With --url: sign in by a code, anywhere.")] = False,
        sign_in: Annotated[bool, typer.Option("--sign-in", help="With --url: only sign in, then end.")] = False,
        sign_out: Annotated[bool, typer.Option("--sign-out", help="With --url: revoke, erase, then end.")] = False,
    ) -> None:
        """Speak MCP on standard input and output, as the owner of the data directory or for a vault elsewhere."""
        from server.logs import configure

        configure(verbose=verbose)
        if url is None:
            if client_id or device or sign_in or sign_out:
                fail("--client-id, --device, --sign-in and --sign-out need --url, the address of a vault elsewhere")
            setup.run(_stdio(setup, client, sandbox=sandbox, may_open=not no_browser))
            return
        if sandbox:
            fail("--sandbox is a vault of this machine: leave it or --url away")
        if sign_in and sign_out:
            fail("--sign-in and --sign-out exclude each other")
        from server.commands.bridging import Wish, bridge

        wish = Wish(url, client, client_id, device, not no_browser, sign_in, sign_out)
        setup.run(bridge(setup, wish))

    @command(root, "demo")
    def demo(
        setup: Setup,
        *,
        keep: Annotated[bool, typer.Option("--keep", help="Leave it running and say how to use it.")] = False,
    ) -> None:
        """Play the whole story against the sandbox with an unmodified MCP client, and show each step."""
        from server.demo import play

        if not setup.run(play(keep=keep, data=setup.data)):
            raise typer.Exit(1)

    @command(root, "version")
    def version(setup: Setup) -> None:
        """Print the version."""
        from server.version import VERSION

        setup.show_one({"version": VERSION}, sentence=VERSION)


@asynccontextmanager
async def _placed(
    setup: Setup, overrides: Mapping[str, object], *, sandbox: bool
) -> AsyncGenerator[tuple[Settings, Path]]:
    """Settings and data directory; with --sandbox those of the sandbox, whose upstreams run as long as the block."""
    settings = setup.settings(overrides)
    if not sandbox:
        yield settings, setup.directory()
        return
    from server.data_folder import prepare_data_directory
    from server.sandbox import place, standing_in

    prepare_data_directory(setup.directory())  # the folder above the sandbox's own must be closed, too
    port = settings.server.port + 1
    placed = place(setup.directory(), settings, port=port)
    async with standing_in(port=port, issuer=settings.public_url):
        yield setup.settings({**overrides, **placed.overrides}), placed.data


async def _serve(setup: Setup, overrides: dict[str, object], *, sandbox: bool) -> None:
    from server.app import build_app, open_deployment
    from server.browser import browser_opener
    from server.upkeep import upkeep

    async with (
        _placed(setup, overrides, sandbox=sandbox) as (settings, data),
        open_deployment(
            settings, data=data, open_browser=browser_opener(data) if settings.is_loopback else None
        ) as deployment,
        upkeep(deployment),
    ):
        from server.companion import Companion, address_of
        from server.serving import tune, warn_if_slow

        note(f"Token Vault, data in {deployment.data}")
        _say_move(deployment)
        _say_who_comes_in(deployment)
        warn_if_slow()
        tune()
        await _until_told(Companion(build_app(deployment), address_of(deployment)), deployment)


def _say_move(deployment: Deployment) -> None:
    from server.moved import notice_move

    moved = notice_move(deployment)
    if moved is not None:
        note(moved)


def _say_who_comes_in(deployment: Deployment) -> None:
    for name, one in deployment.settings.sign_in.openid.items():
        if one.create_users:
            note(f"Everybody whom {one.issuer} knows may use this vault: sign_in.openid.{name}.create_users is on.")


async def _say_first_run(deployment: Deployment) -> None:
    """Once somebody answers at the address that it names."""
    from server.signin import first_admin_secret

    secret = await first_admin_secret(deployment)
    if secret is not None:
        note(f"There is no admin yet. Open {deployment.url('/first-run')} and enter this secret, once:\n  {secret}")


async def _until_told(companion: Companion, deployment: Deployment) -> None:
    """Serve until SIGINT or SIGTERM. Another process of this vault at the address is waited for; a stranger is not."""
    from server.companion import Holder

    server = deployment.settings.server
    told = asyncio.Event()
    notice = 0

    def tell(number: signal.Signals) -> None:
        nonlocal notice
        notice = server.drain_notice if number is signal.SIGTERM else 0
        deployment.drain.begin()
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, tell, number)
    running = asyncio.create_task(companion.run())
    ending = asyncio.create_task(told.wait())
    try:
        match await companion.first_look():
            case Holder.FOREIGN:
                fail(await asyncio.to_thread(companion.who))
            case Holder.OURS:
                note(f"Another process of this vault serves {deployment.public_url}; this one takes over when it ends.")
            case _:
                note(f"MCP {deployment.url('/mcp')}   portal {deployment.public_url}   Ctrl+C ends it")
        await _say_first_run(deployment)
        await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        await asyncio.sleep(notice)  # /readyz says no, load balancers look, calls that still come are answered
    finally:
        ending.cancel()
        running.cancel()
        await asyncio.gather(running, ending, deployment.drain.finish(), return_exceptions=True)


async def _stdio(setup: Setup, client: str, *, sandbox: bool, may_open: bool) -> None:
    from server.app import open_deployment
    from server.browser import browser_opener
    from server.upkeep import upkeep

    async with _placed(setup, {}, sandbox=sandbox) as (settings, data):
        opener = browser_opener(data) if may_open and settings.stdio.open_browser else None
        async with (
            open_deployment(settings, data=data, open_browser=opener) as deployment,
            upkeep(deployment),
        ):
            from server.stdio import serve_stdio

            _say_move(deployment)
            await serve_stdio(deployment, client)
