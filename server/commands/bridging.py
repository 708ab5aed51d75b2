"""`stdio --url`: the bridge to a remote vault as a command; also signing in and out there by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from server.commands.setup import Setup, note, say


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
    from server.bridge.access import Access, Way, sign_out
    from server.bridge.address import remote_vault
    from server.bridge.authority import Authority
    from server.bridge.credentials import credential_store
    from server.bridge.relay import Relay
    from server.bridge.remote import RemoteClient, plain_client
    from server.browser import browser_opener

    vault = remote_vault(wish.url, agent=wish.agent)
    may_open = wish.may_open and setup.settings().stdio.open_browser
    data = setup.directory()
    store = credential_store(data, vault)
    async with plain_client(vault) as plain:
        authority = Authority(plain, vault)
        if wish.sign_out:
            was_in = await sign_out(authority, store, vault=vault, data=data)
            done = f"Signed out of {vault.origin}: its access is revoked, nothing is left here."
            say(done if was_in else f"Nobody is signed in to {vault.origin} here.")
            return
        way = Way(browser_opener(), by_code=wish.by_code, may_open=may_open, client_id=wish.client_id)
        async with Access(authority, store, vault=vault, data=data, say=note).opened(way) as access:
            if wish.sign_in:
                await access.sign_in()
                say(f"{wish.agent} is signed in to {vault.origin}.")
                return
            async with RemoteClient(vault, access) as remote:
                await Relay(vault, remote).run()
