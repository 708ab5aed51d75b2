"""Asks the person to sign in at the remote vault: in the browser of this machine, or by a code on any device."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from server.bridge.address import RemoteVault
from server.bridge.authority import AuthorizationServer
from server.bridge.browser import browser_sign_in, redeem_code
from server.bridge.credentials import Credentials
from server.bridge.refusals import GrantOver, SignInNeeded

_ATTEMPT: Final = 600  # seconds: as long as the vault waits


@dataclass(frozen=True, slots=True)
class Way:
    """How the person signs in here."""

    open_browser: Callable[[str], bool] | None  # None: there is no browser
    forget: Callable[[str], None]  # an address that was opened is over
    by_code: bool = False
    may_open: bool = True
    client_id: str | None = None  # that the operator gave


class SignInFlow:
    """One way to ask. `tell` gets what the person has to read."""

    def __init__(
        self, authority: AuthorizationServer, vault: RemoteVault, way: Way, *, tell: Callable[[str], None]
    ) -> None:
        self._authority = authority
        self._vault = vault
        self._way = way
        self._tell = tell

    async def ask(self, stored: Credentials | None) -> Credentials:
        """Registration and tokens. Raises SignInNeeded when the person refuses, or does nothing for ten minutes."""
        client = await self._client(stored)
        try:
            async with asyncio.timeout(_ATTEMPT):
                found = await self._ask(client.client_id)
        except TimeoutError as error:
            raise not_signed_in(self._vault, "The sign-in wasn't completed within ten minutes.") from error
        except GrantOver as over:
            told = {"access_denied": "You denied the sign-in.", "expired_token": "The code wasn't entered in time."}
            if over.error not in told:
                raise
            raise not_signed_in(self._vault, told[over.error]) from over
        return replace(found, registration_url=client.registration_url, registration_token=client.registration_token)

    async def _client(self, stored: Credentials | None) -> Credentials:
        """Which client signs in: the one that was given, the one that is stored while the vault knows it, a new one."""
        if self._way.client_id is not None:
            return Credentials(self._way.client_id)
        if stored is not None and await self._authority.is_registered(stored):
            return stored
        return await self._authority.register()

    async def _ask(self, client_id: str) -> Credentials:
        has_device = (await self._authority.endpoints()).device is not None
        if self._way.by_code or (self._way.open_browser is None and has_device):
            try:
                return await self._ask_by_code(client_id)
            except GrantOver as over:  # a client of the operator's that lacks the grant
                if self._way.by_code or over.error != "unauthorized_client":
                    raise
        async with browser_sign_in(self._vault, self._authority, client_id=client_id) as attempt:
            open_browser = self._way.open_browser if self._way.may_open else None
            is_opened = open_browser is not None and open_browser(attempt.address)
            where = "in the browser that just opened, or open" if is_opened else "and open"
            self._tell(f"Sign in to {self._vault.origin} {where} {attempt.address} on this machine.")
            try:
                return await redeem_code(attempt, self._authority, client_id=client_id)
            finally:
                self._way.forget(attempt.address)

    async def _ask_by_code(self, client_id: str) -> Credentials:
        prompt = await self._authority.ask_device(client_id)
        self._tell(
            f"Sign in to {self._vault.origin}: open {prompt.verification_uri} on any device and enter "
            f"the code {prompt.user_code}."
        )
        return await self._authority.poll_device(client_id, prompt)


def not_signed_in(vault: RemoteVault, told: str) -> SignInNeeded:
    """The refusal that says how to sign in after all."""
    if vault.is_for_programs:
        return SignInNeeded(f"{told} Run the program again to sign in.")
    line = f"token-vault stdio --url {vault.origin} --client {shlex.quote(vault.agent)} --sign-in"
    return SignInNeeded(f"{told} Sign in with `{line}`, or restart your client.")
