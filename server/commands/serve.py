"""`serve`, `stdio`, `demo` and `version`: the program as a process that stays."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import Setup, command, fail, note, say

if TYPE_CHECKING:
    from server.deployment import Deployment
    from server.lifecycle.loopback import Companion
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
        from server.runtime.logs import configure

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
        from server.runtime.logs import configure

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

        wish = BridgeOptions(url, client, client_id, device, not no_browser, sign_in, sign_out)
        setup.run(bridge(setup, wish))

    @command(root, "demo")
    def demo(
        setup: Setup,
        *,
        keep: Annotated[bool, typer.Option("--keep", help="Leave it running and say how to use it.")] = False,
    ) -> None:
        """Play the whole story against the sandbox with an unmodified MCP client, and show each step."""
        from server.demo.story import play

        if not setup.run(play(keep=keep, data=setup.data)):
            raise typer.Exit(1)

    @command(root, "version")
    def version(setup: Setup) -> None:
        """Print the version."""
        from server.runtime.version import VERSION

        setup.show_one({"version": VERSION}, sentence=VERSION)


@asynccontextmanager
async def _place(
    setup: Setup, overrides: Mapping[str, object], *, sandbox: bool
) -> AsyncGenerator[tuple[Settings, Path]]:
    """Settings and data directory; with --sandbox those of the sandbox, whose upstreams run as long as the block."""
    settings = setup.settings(overrides)
    if not sandbox:
        yield settings, setup.directory()
        return
    from server.lifecycle.sandbox import place, standing_in
    from server.runtime.data_directory import prepare_data_directory

    prepare_data_directory(setup.directory())  # the folder above the sandbox's own must be closed, too
    port = settings.server.port + 1
    placed = place(setup.directory(), settings, port=port)
    async with standing_in(port=port, issuer=settings.public_url):
        yield setup.settings({**overrides, **placed.overrides}), placed.data


async def _serve(setup: Setup, overrides: dict[str, object], *, sandbox: bool) -> None:
    from server.app import build_app, open_deployment
    from server.lifecycle.maintenance import upkeep
    from server.runtime.browser import browser_opener

    async with (
        _place(setup, overrides, sandbox=sandbox) as (settings, data),
        open_deployment(
            settings, data=data, open_browser=browser_opener(data) if settings.is_loopback else None
        ) as deployment,
        upkeep(deployment),
    ):
        from server.lifecycle.loopback import Companion, address_of
        from server.runtime.serving import tune, warn_if_slow

        note(f"Token Vault, data in {deployment.data}")
        _say_move(deployment)
        _say_who_comes_in(deployment)
        warn_if_slow()
        tune()
        await _until_told(Companion(build_app(deployment), address_of(deployment)), deployment)


def _say_move(deployment: Deployment) -> None:
    from server.lifecycle.moved import notice_move

    moved = notice_move(deployment)
    if moved is not None:
        note(moved)


def _say_who_comes_in(deployment: Deployment) -> None:
    for name, one in deployment.settings.sign_in.openid.items():
        if one.create_users:
            note(f"Everybody whom {one.issuer} knows may use this vault: sign_in.openid.{name}.create_users is on.")


async def _say_first_run(deployment: Deployment) -> None:
    """Once somebody answers at the address that it names."""
    from server.sign_in.password import first_admin_secret

    secret = await first_admin_secret(deployment)
    if secret is not None:
        note(f"There is no admin yet. Open {deployment.url('/first-run')} and enter this secret, once:\n  {secret}")


async def _until_told(companion: Companion, deployment: Deployment) -> None:
    """Serve until SIGINT or SIGTERM. Another process of this vault at the address is waited for; a stranger is not."""
    from server.lifecycle.loopback import Holder

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
    from server.lifecycle.maintenance import upkeep
    from server.runtime.browser import browser_opener

    async with _place(setup, {}, sandbox=sandbox) as (settings, data):
        opener = browser_opener(data) if may_open and settings.stdio.open_browser else None
        async with (
            open_deployment(settings, data=data, open_browser=opener) as deployment,
            upkeep(deployment),
        ):
            from server.stdio import serve_stdio

            _say_move(deployment)
            await serve_stdio(deployment, client)


if TYPE_CHECKING:
    from server.bridge.access import Access
    from server.bridge.background_sign_in import SignInProcess


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What stands on the command line beside `--url`."""

    url: str
    agent: str
    client_id: str | None = None
    by_code: bool = False
    may_open: bool = True
    sign_in: bool = False
    sign_out: bool = False


async def bridge(setup: Setup, wish: BridgeOptions) -> None:
    """Forward until the client closes standard input; or only sign in, or out."""
    from server.bridge.access import Access, sign_out
    from server.bridge.address import remote_vault
    from server.bridge.authority import AuthorizationServer, plain_client
    from server.bridge.credentials import credential_store
    from server.bridge.sign_in import SignInFlow, Way
    from server.runtime.browser import browser_opener, forget
    from server.runtime.data_directory import prepare_data_directory

    vault = remote_vault(wish.url, agent=wish.agent)
    may_open = wish.may_open and setup.settings().stdio.open_browser
    data = prepare_data_directory(setup.directory())
    store = credential_store(data, vault)
    async with plain_client(vault) as plain:
        authority = AuthorizationServer(plain, vault)
        if wish.sign_out:
            was_in = await sign_out(authority, store, vault=vault, data=data)
            done = f"Signed out of {vault.origin}: its access is revoked, nothing is left here."
            say(done if was_in else f"Nobody is signed in to {vault.origin} here.")
            return
        access = Access(authority, store, vault=vault, data=data, say=_tell)
        if wish.sign_in:
            opener = browser_opener(data)
            way = Way(opener, partial(forget, data), by_code=wish.by_code, may_open=may_open, client_id=wish.client_id)
            async with access.open(SignInFlow(authority, vault, way, tell=access.tell)):
                await _sign_in(setup, access, wish, origin=vault.origin)
            return
        from server.bridge.relay import Relay
        from server.bridge.remote import RemoteClient

        async with (
            access.open(_sign_in_process(setup, wish, resource=vault.resource)),
            RemoteClient(vault, access) as remote,
        ):
            await Relay(vault, remote).run()


async def _sign_in(setup: Setup, access: Access, wish: BridgeOptions, *, origin: str) -> None:
    from server.bridge.refusals import SignInNeeded

    try:
        await access.sign_in()
    except SignInNeeded as refusal:
        if setup.as_json:
            setup.show_json({"signed_in": False, "why": refusal.description})
        raise
    setup.show_one({"signed_in": True, "vault": origin}, sentence=f"{wish.agent} is signed in to {origin}.")


def _sign_in_process(setup: Setup, wish: BridgeOptions, *, resource: str) -> SignInProcess:
    """This program again, to sign in."""
    from server.bridge.background_sign_in import SignInProcess
    from server.commands.client_config import program

    started = program()
    command = [started.command, *started.arguments, "stdio", "--url", resource, "--client", wish.agent]
    command += ["--sign-in", "--json", "--data", str(setup.directory())]
    command += ["--config", str(setup.config)] if setup.config is not None else []
    command += ["--client-id", wish.client_id] if wish.client_id is not None else []
    command += [name for name, is_on in (("--device", wish.by_code), ("--no-browser", not wish.may_open)) if is_on]
    return SignInProcess(command, {**os.environ, **(started.environment or {})})


def _tell(text: str) -> None:
    """To the person on standard error; the bridge that a sign-in process belongs to may be gone by now."""
    with suppress(OSError):
        note(text)
