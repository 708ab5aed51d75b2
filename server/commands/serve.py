"""`serve`: serve the vault to agents and people over HTTP."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from server.terminal.context import Setup, fail, note

if TYPE_CHECKING:
    from server.deployment import Deployment
    from server.lifecycle.loopback import Companion
    from server.runtime.deferred_app import DeferredApp
    from server.settings import Settings

NoBrowserOption = Annotated[bool, typer.Option("--no-browser", help="Never open a browser.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Log more, to standard error.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="Use the running vault at this address.", show_default=False)
]
ClientIdOption = Annotated[
    str | None,
    typer.Option("--client-id", help="With --url: the ID of a client that an admin added.", show_default=False),
]
DeviceOption = Annotated[bool, typer.Option("--device", help="With --url: sign in with a code on any device.")]
DATABASE_PATIENCE = 60.0  # seconds; after a reboot, the database's server may start later
SandboxOption = Annotated[bool, typer.Option("--sandbox", help="Use simulated Slack and Google, with their own data.")]


def serve(
    setup: Setup,
    *,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", show_default="8765")] = None,
    sandbox: SandboxOption = False,
    verbose: VerboseOption = False,
    log_format: Annotated[
        Literal["auto", "json", "console"] | None,
        typer.Option("--log-format", help="Format of log records.", show_default="JSON unless on a terminal"),
    ] = None,
) -> None:
    """Serve agents and users over HTTP."""
    from server.runtime.logs import configure

    configure(verbose=verbose, form=log_format or setup.settings().logs.format)
    server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if port is not None:
        note("--port applies to this run only. Set server.port so that sign-in, connect, and stdio use it too.")
    try:
        setup.run(_serve(setup, {"server": server} if server else {}, sandbox=sandbox))
    except asyncio.CancelledError:  # by SIGTERM, before it listened
        raise typer.Exit from None


async def _serve(setup: Setup, overrides: dict[str, object], *, sandbox: bool) -> None:
    from server.app import build_late_app, open_deployment
    from server.lifecycle.maintenance import upkeep
    from server.oauth.backchannel import notification_step
    from server.portal import notice_delivery
    from server.remote import renewal_step
    from server.runtime.browser import browser_opener

    starting = asyncio.current_task()
    if starting is not None:  # a container's first process ignores SIGTERM unless it handles it
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, starting.cancel)
    async with (
        place_data(setup, overrides, sandbox=sandbox) as (settings, data),
        open_deployment(
            settings,
            data=data,
            open_browser=browser_opener(data) if settings.is_loopback else None,
            is_measured=True,
            database_patience=DATABASE_PATIENCE,
        ) as deployment,
        upkeep(deployment, further=(notice_delivery.STEP, notification_step.STEP, renewal_step.STEP)),
        nullcontext() if deployment.telemetry is None else deployment.telemetry.run(deployment),
    ):
        from server.lifecycle.loopback import Companion, address_of
        from server.runtime.uvicorn_server import warn_if_slow

        note(f"Token Vault, data in {deployment.data}")
        say_move(deployment)
        _say_who_comes_in(deployment)
        warn_if_slow()
        app = build_late_app(deployment)
        await _until_told(Companion(app, address_of(deployment)), app, deployment)


@asynccontextmanager
async def place_data(
    setup: Setup, overrides: Mapping[str, object], *, sandbox: bool
) -> AsyncGenerator[tuple[Settings, Path]]:
    """Settings and data directory; with --sandbox, those of the sandbox, with simulated providers during the block."""
    settings = setup.settings(overrides)
    if not sandbox:
        yield settings, setup.directory()
        return
    from server.lifecycle.sandbox import place, standing_in
    from server.runtime.data_directory import prepare_data_directory

    prepare_data_directory(setup.directory())  # the parent of the sandbox's folder must be private, too
    port = settings.server.port + 1
    placed = place(setup.directory(), settings, port=port)
    async with standing_in(port=port, issuer=settings.issuer):
        yield setup.settings({**overrides, **placed.overrides}), placed.data


def say_move(deployment: Deployment) -> None:
    """Tell the operator, once, that the public URL changed and what to update."""
    from server.lifecycle.address_change import notice_move

    moved = notice_move(deployment)
    if moved is not None:
        note(moved)


def _say_who_comes_in(deployment: Deployment) -> None:
    for name, one in deployment.settings.sign_in.openid.items():
        if one.create_users:
            note(
                f"Everyone with an account at {one.issuer} can use this vault: sign_in.openid.{name}.create_users "
                "is on."
            )


async def _say_first_run(deployment: Deployment) -> None:
    """Print the text as soon as the address in it answers."""
    from server.sign_in.password import first_admin_secret

    secret = await first_admin_secret(deployment)
    if secret is not None:
        note(
            f"This vault has no admin yet. Open {deployment.url('/first-run')} and enter this one-time secret:\n"
            f"  {secret}"
        )


async def _until_told(companion: Companion, app: DeferredApp, deployment: Deployment) -> None:
    """Serve until SIGINT or SIGTERM. Waits for another process of this vault to free the address, but not for other
    programs.

    Listens before loading the application, because supervisors and other processes wait for the address.
    """
    from server.app import HEAD_START
    from server.lifecycle.loopback import Holder
    from server.runtime.garbage import tune

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
                note(
                    f"Another process of this vault is serving {deployment.public_url}; this one takes over "
                    "when it ends."
                )
            case _:
                note(f"MCP {deployment.url('/mcp')}   portal {deployment.public_url}   Press Ctrl+C to stop")
        await app.load()
        await _say_first_run(deployment)
        await asyncio.wait({running, ending}, timeout=HEAD_START, return_when=asyncio.FIRST_COMPLETED)
        await deployment.http.load()  # so that the first call doesn't wait for it
        tune()
        await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        await asyncio.sleep(notice)  # /readyz fails and load balancers notice; calls that still arrive are answered
    finally:
        ending.cancel()
        running.cancel()
        await asyncio.gather(running, ending, deployment.drain.finish(), return_exceptions=True)
        await app.end()
