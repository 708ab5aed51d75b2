"""Gets the bridge's token: the stored one, else by a refresh, else by a new sign-in.

Only one of an agent's processes renews at a time; the others use the credentials that it stores. A refresh token works
once, so a renewal is a task that callers can't cancel, and its answer is stored before it is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from server.bridge.address import RemoteVault
from server.bridge.authority import AuthorizationServer
from server.bridge.background_sign_in import SignInProcess
from server.bridge.credentials import Credentials, CredentialStore, one_at_a_time
from server.bridge.refusals import BridgeRefused, GrantOver, SignInNeeded
from server.bridge.sign_in import SignInFlow
from vault.refusals import VaultError

PATIENCE: Final = 50.0  # seconds that a message waits for the person; several clients give up after a minute
_EARLY: Final = 30  # seconds before expiry at which an access token is renewed
_QUIET: Final = 300.0  # seconds after a refused sign-in during which the person isn't asked again
_SETTLING: Final = 10.0  # seconds to wait for a running refresh when the process ends
_ENDED: Final = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})


class Access:
    """Tokens for one agent at one vault. `say` shows the person a message. Use `open`, which ends its tasks."""

    def __init__(
        self,
        authority: AuthorizationServer,
        store: CredentialStore,
        *,
        vault: RemoteVault,
        data: Path,
        say: Callable[[str], None],
    ) -> None:
        self._authority = authority
        self._store = store
        self._vault = vault
        self._data = data
        self._say = say
        self._asking: SignInFlow | SignInProcess | None = None
        self._held: Credentials | None = None
        self._renewal: asyncio.Task[Credentials] | None = None
        self._is_asking = False
        self._told = ""
        self._why = ""
        self._refusal: tuple[float, SignInNeeded] | None = None  # until when it is returned instead of asking again

    @asynccontextmanager
    async def open(self, asking: SignInFlow | SignInProcess) -> AsyncGenerator[Access]:
        """Open this for a block; at the end, a running refresh gets a few seconds to finish and be stored."""
        self._asking = asking
        try:
            yield self
        finally:
            renewal = self._renewal
            if renewal is not None and not renewal.done():
                if not self._is_asking:
                    await asyncio.wait({renewal}, timeout=_SETTLING)
                renewal.cancel()
                await asyncio.wait({renewal})

    @property
    def held_token(self) -> str | None:
        """A valid stored access token, if any, for requests that don't justify asking the person."""
        return self._held.access_token if self._held is not None and _is_fresh(self._held) else None

    async def token(self) -> str:
        """An access token that stays valid for a while. Raises BridgeRefused."""
        return self.held_token or (await self._wait_for_renewal(None)).access_token

    async def after(self, refused: str) -> str:
        """A replacement for an access token that the vault refused."""
        held = self.held_token
        if held is not None and held != refused:
            return held
        found = await self._wait_for_renewal(refused)
        if found.access_token == refused:  # from a renewal that was already running
            found = await self._wait_for_renewal(refused)
        return found.access_token

    async def sign_in(self) -> None:
        """Make sure that the vault accepts the stored credentials; otherwise ask the person, without a time limit."""
        self._renewal = asyncio.create_task(self._renew(None, is_sure=False))
        await asyncio.shield(self._renewal)

    async def _wait_for_renewal(self, refused: str | None) -> Credentials:
        if self._renewal is None or self._renewal.done():
            self._told = ""
            self._renewal = asyncio.create_task(self._renew(refused))
            self._renewal.add_done_callback(self._tell_failure)
        await asyncio.wait({self._renewal}, timeout=PATIENCE)
        if not self._renewal.done():
            raise SignInNeeded(
                f"{self._told} Then try again." if self._told else "The vault is taking a long time: try again."
            )
        return self._renewal.result()

    def _tell_failure(self, renewal: asyncio.Task[Credentials]) -> None:
        """Report a failure to the person even if no message is waiting for it."""
        error = None if renewal.cancelled() else renewal.exception()
        if isinstance(error, VaultError):
            self._say(_sentence(error.description))

    async def _renew(self, refused: str | None, *, is_sure: bool = True) -> Credentials:
        asking = self._asking
        if asking is None:
            raise RuntimeError("tokens are only available inside `open`")
        for was_sent in (False, True):
            async with one_at_a_time(self._data, self._vault, on_wait=self._tell_wait):
                found = await self._load(refused, is_sure=is_sure)
                if found is not None and found.access_token:
                    return found
                if not isinstance(asking, SignInProcess):
                    return await self._signed_in(found, asking)
            if not was_sent:  # after releasing the lock, which that process needs
                await self._sign_in_outside(asking)
        raise SignInNeeded("The sign-in left no credentials: try again.")

    async def _load(self, refused: str | None, *, is_sure: bool) -> Credentials | None:
        """The stored credentials, renewed if needed; without tokens, or None, if the person must sign in."""
        stored = await asyncio.to_thread(self._store.load)
        if stored is None:
            return None
        if is_sure and stored.access_token not in {"", refused} and _is_fresh(stored):
            self._held = stored  # another process was first
            return stored
        if not stored.refresh_token:
            return stored.without_tokens()
        try:
            return await self._keep(await self._authority.refresh(stored))
        except GrantOver as over:
            if over.error not in _ENDED:
                raise
            self._why = f"{self._vault.origin} has ended the access of {self._vault.agent}. "
            rest = None if over.error == "invalid_client" else stored.without_tokens()
        self._held = None
        await asyncio.to_thread(self._store.erase if rest is None else lambda: self._store.save(rest))
        return rest

    async def _signed_in(self, stored: Credentials | None, asking: SignInFlow) -> Credentials:
        self._is_asking = True
        try:
            found = await self._keep(await asking.ask(stored))
        finally:
            self._is_asking = False
        self._say(f"Signed in to {self._vault.origin}. The credentials are stored in {self._store.place}.")
        return found

    async def _sign_in_outside(self, process: SignInProcess) -> None:
        """A sign-in that outlives this process.

        A refusal also answers the following requests: an agent that retries must not open page after page.
        """
        if self._refusal is not None and asyncio.get_running_loop().time() < self._refusal[0]:
            raise self._refusal[1]
        await self._authority.endpoints()  # otherwise the process itself reports that the vault is unreachable
        self._is_asking = True
        try:
            await process.run(self.tell)
        except SignInNeeded as refusal:
            self._refusal = (asyncio.get_running_loop().time() + _QUIET, refusal)
            raise
        finally:
            self._is_asking = False

    def tell(self, text: str) -> None:
        """Show the person a message, including in the answer to an MCP message that waits for them."""
        self._told, self._why = self._why + text, ""
        self._say(self._told)

    async def _keep(self, credentials: Credentials) -> Credentials:
        """Store the credentials before they are used."""
        await asyncio.to_thread(self._store.save, credentials)
        self._held = credentials
        return credentials

    def _tell_wait(self) -> None:
        self._told = (
            f"Another process of {self._vault.agent} is renewing its access or waiting for your sign-in: "
            "finish that first."
        )


async def sign_out(authority: AuthorizationServer, store: CredentialStore, *, vault: RemoteVault, data: Path) -> bool:
    """End the grant at the vault and erase the stored credentials; False if there were none.

    Erases them even if the vault can't be reached; BridgeRefused then explains how to end the grant there.
    """
    async with one_at_a_time(data, vault, on_wait=lambda: None):
        stored = await asyncio.to_thread(store.load)
        try:
            if stored is not None:
                await authority.revoke(stored)
        except BridgeRefused as refusal:
            raise BridgeRefused(
                f"erased here, but couldn't notify {vault.origin} ({refusal.description}): revoke the "
                f"agent's access at {vault.origin}/agents"
            ) from refusal
        finally:
            await asyncio.to_thread(store.erase)
    return stored is not None


def _is_fresh(credentials: Credentials) -> bool:
    return credentials.expires_at > time.time() + _EARLY


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
