"""`stdio --url`: the bridge to a remote vault as a command; also signing in and out there by themselves."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from server.commands.setup import Setup, note, say

if TYPE_CHECKING:
    from server.bridge.access import Access
    from server.bridge.errand import Errand


@dataclass(frozen=True, slots=True)
class Wish:
    """What stands on the command line beside `--url`."""

    url: str
    agent: str
    client_id: str | None = None
    by_code: bool = False
    may_open: bool = True
    sign_in: bool = False
    sign_out: bool = False


async def bridge(setup: Setup, wish: Wish) -> None:
    """Forward until the client closes standard input; or only sign in, or out."""
    from server.bridge.access import Access, sign_out
    from server.bridge.address import remote_vault
    from server.bridge.authority import Authority, plain_client
    from server.bridge.credentials import credential_store
    from server.bridge.sign_in import SignIn, Way
    from server.browser import browser_opener, forget
    from server.data_folder import prepare_data_directory

    vault = remote_vault(wish.url, agent=wish.agent)
    may_open = wish.may_open and setup.settings().stdio.open_browser
    data = prepare_data_directory(setup.directory())
    store = credential_store(data, vault)
    async with plain_client(vault) as plain:
        authority = Authority(plain, vault)
        if wish.sign_out:
            was_in = await sign_out(authority, store, vault=vault, data=data)
            done = f"Signed out of {vault.origin}: its access is revoked, nothing is left here."
            say(done if was_in else f"Nobody is signed in to {vault.origin} here.")
            return
        access = Access(authority, store, vault=vault, data=data, say=_tell)
        if wish.sign_in:
            opener = browser_opener(data)
            way = Way(opener, partial(forget, data), by_code=wish.by_code, may_open=may_open, client_id=wish.client_id)
            async with access.opened(SignIn(authority, vault, way, tell=access.tell)):
                await _sign_in(setup, access, wish, origin=vault.origin)
            return
        from server.bridge.relay import Relay
        from server.bridge.remote import RemoteClient

        async with access.opened(_errand(setup, wish, resource=vault.resource)), RemoteClient(vault, access) as remote:
            await Relay(vault, remote).run()


async def _sign_in(setup: Setup, access: Access, wish: Wish, *, origin: str) -> None:
    from server.bridge.refusals import SignInNeeded

    try:
        await access.sign_in()
    except SignInNeeded as refusal:
        if setup.as_json:
            setup.show_json({"signed_in": False, "why": refusal.description})
        raise
    setup.show_one({"signed_in": True, "vault": origin}, sentence=f"{wish.agent} is signed in to {origin}.")


def _errand(setup: Setup, wish: Wish, *, resource: str) -> Errand:
    """This program again, to sign in."""
    from server.bridge.errand import Errand
    from server.commands.joining import program

    started = program()
    command = [started.command, *started.arguments, "stdio", "--url", resource, "--client", wish.agent]
    command += ["--sign-in", "--json", "--data", str(setup.directory())]
    command += ["--config", str(setup.config)] if setup.config is not None else []
    command += ["--client-id", wish.client_id] if wish.client_id is not None else []
    command += [name for name, is_on in (("--device", wish.by_code), ("--no-browser", not wish.may_open)) if is_on]
    return Errand(command, {**os.environ, **(started.environment or {})})


def _tell(text: str) -> None:
    """To the person on standard error; the bridge that an errand belongs to may be gone by now."""
    with suppress(OSError):
        note(text)
