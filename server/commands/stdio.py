"""`stdio`: serve MCP on standard input and output, for this machine's vault or as a bridge to a remote one."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.commands.serve import (
    ClientIdOption,
    DeviceOption,
    NoBrowserOption,
    SandboxOption,
    UrlOption,
    VerboseOption,
    place_data,
    say_move,
)
from server.terminal.context import Setup, complain, fail, note, say, words_of_refusal

if TYPE_CHECKING:
    from server.bridge.access import Access
    from server.bridge.background_sign_in import SignInProcess

_SETTLED: Final = 5.0  # seconds after which a bridge has loaded everything


def stdio(
    setup: Setup,
    *,
    client: Annotated[str, typer.Option("--client", help="The agent's name.", show_default=False)],
    sandbox: SandboxOption = False,
    no_browser: NoBrowserOption = False,
    verbose: VerboseOption = False,
    url: UrlOption = None,
    client_id: ClientIdOption = None,
    device: DeviceOption = False,
    sign_in: Annotated[bool, typer.Option("--sign-in", help="With --url: sign in, then exit.")] = False,
    sign_out: Annotated[
        bool, typer.Option("--sign-out", help="With --url: revoke access, erase credentials, then exit.")
    ] = False,
) -> None:
    """Serve MCP over stdio, as the owner of the data directory or for a vault on another machine."""
    from server.runtime.logs import configure

    configure(verbose=verbose)
    if url is None:
        if client_id or device or sign_in or sign_out:
            fail(
                "--client-id, --device, --sign-in, and --sign-out require --url, the address of a vault on "
                "another machine"
            )
        _serve_owner(setup, client, sandbox=sandbox, may_open=not no_browser)
        return
    if sandbox:
        fail("use either --sandbox or --url")
    if sign_in and sign_out:
        fail("use either --sign-in or --sign-out")

    options = BridgeOptions(url, client, client_id, device, not no_browser, sign_in, sign_out)
    setup.run(bridge(setup, options))


def _serve_owner(setup: Setup, client: str, *, sandbox: bool, may_open: bool) -> None:
    """Serve the owner's agent; if the vault can't start, a waiting agent gets the reason."""
    from server.mcp.local_names import RULE, is_local_name

    if not is_local_name(client):
        fail(RULE)
    try:
        is_open = setup.run(_stdio(setup, client, sandbox=sandbox, may_open=may_open))
    except Exception as error:
        words = _complain(error)
        if words is None:
            raise
        from server.runtime.refused_stdio import answer_refused

        answer_refused(f"Token Vault couldn't start: {words}")
        is_open = False
    if not is_open:
        raise typer.Exit(1)


async def _stdio(setup: Setup, client: str, *, sandbox: bool, may_open: bool) -> bool:
    from server.runtime.browser import browser_opener
    from server.stdio import StdioOptions, serve_stdio

    async with place_data(setup, {}, sandbox=sandbox) as (settings, data):
        opener = browser_opener(data) if may_open and settings.stdio.open_browser else None
        return await serve_stdio(StdioOptions(settings, data, client, opener, greet=say_move, complain=_complain))


def _complain(error: BaseException) -> str | None:
    words = words_of_refusal(error)
    if words is not None:
        complain(words)
    return words


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """The command-line options other than `--url`."""

    url: str
    agent: str
    client_id: str | None = None
    by_code: bool = False
    may_open: bool = True
    sign_in: bool = False
    sign_out: bool = False


async def bridge(setup: Setup, options: BridgeOptions) -> None:
    """Forward until the client closes standard input, or just sign in or out."""
    from server.bridge.access import Access, sign_out
    from server.bridge.address import remote_vault
    from server.bridge.authority import AuthorizationServer, plain_client
    from server.bridge.credentials import credential_store
    from server.bridge.sign_in import SignInFlow, Way
    from server.runtime.browser import browser_opener, forget
    from server.runtime.data_directory import prepare_data_directory

    vault = remote_vault(options.url, agent=options.agent)
    may_open = options.may_open and setup.settings().stdio.open_browser
    data = prepare_data_directory(setup.directory())
    store = credential_store(data, vault)
    async with plain_client(vault) as plain:
        authority = AuthorizationServer(plain, vault)
        if options.sign_out:
            was_in = await sign_out(authority, store, vault=vault, data=data)
            done = (
                f"Signed out of {vault.origin}: access is revoked, and its credentials are removed from this machine."
            )
            say(done if was_in else f"Not signed in to {vault.origin} on this machine.")
            return
        access = Access(authority, store, vault=vault, data=data, say=_tell)
        if options.sign_in:
            opener = browser_opener(data)
            way = Way(
                opener, partial(forget, data), by_code=options.by_code, may_open=may_open, client_id=options.client_id
            )
            async with access.open(SignInFlow(authority, vault, way, tell=access.tell)):
                await _sign_in(setup, access, options, origin=vault.origin)
            return
        from server.bridge.relay import Relay
        from server.bridge.remote import RemoteClient
        from server.runtime.garbage import tune

        async with (
            access.open(_sign_in_process(setup, options, resource=vault.resource)),
            RemoteClient(vault, access) as remote,
        ):
            asyncio.get_running_loop().call_later(_SETTLED, tune)  # not while the client is waiting
            await Relay(vault, remote).run()


async def _sign_in(setup: Setup, access: Access, options: BridgeOptions, *, origin: str) -> None:
    from server.bridge.refusals import SignInNeeded

    try:
        await access.sign_in()
    except SignInNeeded as refusal:
        if setup.as_json:
            setup.show_json({"signed_in": False, "why": refusal.description})
        raise
    setup.show_one({"signed_in": True, "vault": origin}, sentence=f"{options.agent} is signed in to {origin}.")


def _sign_in_process(setup: Setup, options: BridgeOptions, *, resource: str) -> SignInProcess:
    """The command line of this program that signs in."""
    from server.bridge.background_sign_in import SignInProcess
    from server.commands.client_config import program

    started = program()
    command = [started.command, *started.arguments, "stdio", "--url", resource, "--client", options.agent]
    command += ["--sign-in", "--json", "--data", str(setup.directory())]
    command += ["--config", str(setup.config)] if setup.config is not None else []
    command += ["--client-id", options.client_id] if options.client_id is not None else []
    command += [
        name for name, is_on in (("--device", options.by_code), ("--no-browser", not options.may_open)) if is_on
    ]
    return SignInProcess(command, {**os.environ, **(started.environment or {})})


def _tell(text: str) -> None:
    """Print a message on standard error; the bridge that started a sign-in process may be gone by now."""
    with suppress(OSError):
        note(text)
