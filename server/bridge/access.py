"""The bridge's way to a token: what is stored, else a refresh, else the person signs in again.

Among all processes of an agent one at a time renews; the others take what it stored. A refresh token is used up by its
use, so a renewal is a task that no caller can cancel, and its answer is stored before it is used.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from server.bridge.address import RemoteVault
from server.bridge.authority import Authority
from server.bridge.browser import browser_sign_in, redeemed
from server.bridge.credentials import Credentials, CredentialStore, one_at_a_time
from server.bridge.refusals import BridgeRefused, GrantOver, SignInNeeded

PATIENCE: Final = 50.0  # seconds that a message waits for the person; several clients give up after a minute
_EARLY: Final = 30  # seconds before its end in which an access token is renewed already
_ATTEMPT: Final = 600  # seconds for signing in: as long as the vault waits
_QUIET: Final = 300.0  # seconds after a refused sign-in in which the person is not asked again
_SETTLING: Final = 10.0  # seconds for a refresh that is on its way when the process ends
_ENDED: Final = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})


@dataclass(frozen=True, slots=True)
class Way:
    """How the person signs in here."""

    open_browser: Callable[[str], bool] | None  # None: there is no browser
    by_code: bool = False
    may_open: bool = True
    client_id: str | None = None  # that the operator gave


class Access:
    """Tokens for one agent at one vault. `say` tells the person something; use `opened`, which ends its tasks."""

    def __init__(
        self,
        authority: Authority,
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
        self._way = Way(None)
        self._held: Credentials | None = None
        self._renewal: asyncio.Task[Credentials] | None = None
        self._is_asking = False
        self._told = ""
        self._quiet_until = 0.0

    @asynccontextmanager
    async def opened(self, way: Way) -> AsyncGenerator[Access]:
        """This, until the end of the block: a refresh that is on its way gets some seconds to be stored."""
        self._way = way
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
    def held(self) -> str | None:
        """The access token if one is here and lives: for what is not worth a question to the person."""
        return self._held.access_token if self._held is not None and _is_fresh(self._held) else None

    async def token(self) -> str:
        """An access token that still lives a while. Raises BridgeRefused."""
        return self.held or (await self._renewed(None)).access_token

    async def after(self, refused: str) -> str:
        """An access token in place of one that the vault refused."""
        held = self.held
        if held is not None and held != refused:
            return held
        found = await self._renewed(refused)
        if found.access_token == refused:  # from a renewal that had begun before
            found = await self._renewed(refused)
        return found.access_token

    async def sign_in(self) -> None:
        """Make sure that the vault accepts what is stored here, else ask the person, however long they take."""
        self._renewal = asyncio.create_task(self._renew(None, is_sure=False))
        await asyncio.shield(self._renewal)

    async def _renewed(self, refused: str | None) -> Credentials:
        now = asyncio.get_running_loop().time()
        if now < self._quiet_until:
            raise SignInNeeded(self._told)
        if self._renewal is None or self._renewal.done():
            self._told = ""
            self._renewal = asyncio.create_task(self._renew(refused))
            self._renewal.add_done_callback(self._settled)
        await asyncio.wait({self._renewal}, timeout=PATIENCE)
        if not self._renewal.done():
            raise SignInNeeded(f"{self._told} Then try again." if self._told else "The vault takes long: try again.")
        return self._renewal.result()

    def _settled(self, renewal: asyncio.Task[Credentials]) -> None:
        """Tell the person of a failure even if nobody waits for it any more."""
        error = None if renewal.cancelled() else renewal.exception()
        if isinstance(error, BridgeRefused):
            self._say(_sentence(error.description))

    async def _renew(self, refused: str | None, *, is_sure: bool = True) -> Credentials:
        async with one_at_a_time(self._data, self._vault, on_wait=self._tell_wait):
            stored = await asyncio.to_thread(self._store.load)
            if is_sure and stored is not None and stored.access_token not in {"", refused} and _is_fresh(stored):
                self._held = stored  # another process was first
                return stored
            why = ""
            if stored is not None and stored.refresh_token:
                try:
                    return await self._keep(await self._authority.refresh(stored))
                except GrantOver as over:
                    if over.error not in _ENDED:
                        raise
                    why = f"{self._vault.origin} has ended the access of {self._vault.agent}. "
                    stored = None if over.error == "invalid_client" else stored.signed_out()
                    await self._forget(stored)
            signed_in = await self._keep(await self._sign_in(stored, why))
            self._say(f"Signed in to {self._vault.origin}. The credentials are kept in {self._store.place}.")
            return signed_in

    async def _keep(self, credentials: Credentials) -> Credentials:
        """Stored before it is used."""
        await asyncio.to_thread(self._store.save, credentials)
        self._held = credentials
        return credentials

    async def _forget(self, rest: Credentials | None) -> None:
        self._held = None
        await asyncio.to_thread(self._store.erase if rest is None else lambda: self._store.save(rest))

    def _tell_wait(self) -> None:
        self._told = f"Another process of {self._vault.agent} renews its access or asks for your sign-in: finish that."

    async def _sign_in(self, stored: Credentials | None, why: str) -> Credentials:
        client = await self._client(stored)
        self._is_asking = True
        try:
            async with asyncio.timeout(_ATTEMPT):
                found = await self._ask(client.client_id, why)
        except TimeoutError as error:
            raise self._quiet("Nobody signed in within ten minutes.") from error
        except GrantOver as over:
            told = {"access_denied": "You refused the sign-in.", "expired_token": "Nobody entered the code in time."}
            if over.error not in told:
                raise
            raise self._quiet(told[over.error]) from over
        except SignInNeeded as refusal:
            raise self._quiet(_sentence(refusal.description)) from refusal
        finally:
            self._is_asking = False
        return replace(found, registration_url=client.registration_url, registration_token=client.registration_token)

    def _quiet(self, told: str) -> SignInNeeded:
        """The refusal that also answers what comes next: an agent that tries again must not open page after page."""
        self._quiet_until = asyncio.get_running_loop().time() + _QUIET
        agent = shlex.quote(self._vault.agent)
        line = f"token-vault stdio --url {self._vault.origin} --client {agent} --sign-in"
        self._told = f"{told} Sign in with `{line}`, or start your client again."
        return SignInNeeded(self._told)

    async def _client(self, stored: Credentials | None) -> Credentials:
        """Which client signs in: the one that was given, the one that is stored while the vault knows it, a new one."""
        if self._way.client_id is not None:
            return Credentials(self._way.client_id)
        if stored is not None and await self._authority.is_registered(stored):
            return stored
        return await self._authority.register()

    async def _ask(self, client_id: str, why: str) -> Credentials:
        has_device = (await self._authority.endpoints()).device is not None
        if self._way.by_code or (self._way.open_browser is None and has_device):
            try:
                return await self._ask_by_code(client_id, why)
            except GrantOver as over:  # a client of the operator's that lacks the grant
                if self._way.by_code or over.error != "unauthorized_client":
                    raise
        async with browser_sign_in(self._vault, self._authority, client_id=client_id) as attempt:
            open_browser = self._way.open_browser if self._way.may_open else None
            is_opened = open_browser is not None and open_browser(attempt.address)
            where = "in the browser that has opened, or open" if is_opened else "and open"
            self._tell(f"{why}Sign in to {self._vault.origin} {where} {attempt.address} on this machine.")
            return await redeemed(attempt, self._authority, client_id=client_id)

    async def _ask_by_code(self, client_id: str, why: str) -> Credentials:
        prompt = await self._authority.ask_device(client_id)
        self._tell(
            f"{why}Sign in to {self._vault.origin}: open {prompt.verification_uri} on any device and enter the code"
            f" {prompt.user_code}."
        )
        return await self._authority.poll_device(client_id, prompt)

    def _tell(self, text: str) -> None:
        self._told = text
        self._say(text)


async def sign_out(authority: Authority, store: CredentialStore, *, vault: RemoteVault, data: Path) -> bool:
    """End the grant at the vault and erase what is stored; False when nothing was.

    It is erased also where the vault cannot be told; BridgeRefused then says how to end the grant there.
    """
    async with one_at_a_time(data, vault, on_wait=lambda: None):
        stored = await asyncio.to_thread(store.load)
        try:
            if stored is not None:
                await authority.revoke(stored)
        except BridgeRefused as refusal:
            raise BridgeRefused(
                f"erased here, but {vault.origin} was not told ({refusal.description}):"
                f" cut the agent off at {vault.origin}/agents"
            ) from refusal
        finally:
            await asyncio.to_thread(store.erase)
    return stored is not None


def _is_fresh(credentials: Credentials) -> bool:
    return credentials.expires_at > time.time() + _EARLY


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
