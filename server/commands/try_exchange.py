"""`try-exchange`: print a `curl` line for a first token exchange."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.commands.serve import SandboxOption, place_data
from server.terminal.completion import complete_users
from server.terminal.context import Setup, fail, missing_vault, note, say
from server.terminal.names import user_at_browser

if TYPE_CHECKING:
    from server.deployment import Deployment

_START: Final = "start the vault first: token-vault serve"


def try_exchange(
    setup: Setup,
    *,
    sandbox: SandboxOption = False,
    user: Annotated[
        str | None,
        typer.Option(
            "--user", help="Whose accounts. Default: the owner of the data directory.", autocompletion=complete_users
        ),
    ] = None,
) -> None:
    """Register a backend on the running vault and print a curl line for its first exchange."""
    variables, name = setup.run(_prepare(setup, user, sandbox=sandbox))
    from server.demo.trial import curl_line

    line = curl_line(variables)
    if setup.as_json:
        setup.show_json({**variables, "curl": line})
        return
    for key, value in variables.items():
        say(f"export {key}={shlex.quote(value)}")
    note(f"\nTry it:\n{line}\n")
    if not sandbox:
        note(f"The first answer has a link: when {name} has opened it and agreed, the same line works.")
    note("These are credentials: they work until their access token expires, or until you run this again.")


async def _prepare(setup: Setup, user: str | None, *, sandbox: bool) -> tuple[dict[str, str], str]:
    from server.app import open_deployment
    from server.demo.person import DemoFailed
    from server.demo.trial import make_backend, make_sandbox

    async with place_data(setup, {}, sandbox=sandbox) as (settings, data):
        if missing_vault(settings, data=data) is not None:
            fail(_START + " --sandbox" * sandbox)
        async with open_deployment(settings, data=data) as deployment:
            await _check_served(deployment, sandbox=sandbox)
            found = await user_at_browser(deployment, user)
            try:
                made = await (make_sandbox if sandbox else make_backend)(deployment, found)
            except DemoFailed as failure:
                fail(str(failure))
            return made, found.name


async def _check_served(deployment: Deployment, *, sandbox: bool) -> None:
    """End unless this vault answers at its own address; otherwise the token would be sent to another server."""
    import asyncio

    from server.lifecycle.loopback import Holder, address_of, foreign_holder, look

    if not deployment.settings.is_loopback:  # TLS proves who answers there, perhaps on another machine
        return
    address = address_of(deployment)
    sight = await asyncio.to_thread(look, address)
    if sight.holder is Holder.FOREIGN:
        fail(await asyncio.to_thread(foreign_holder, address, sight))
    if sight.holder is not Holder.OURS:
        fail(_START + " --sandbox" * sandbox)
