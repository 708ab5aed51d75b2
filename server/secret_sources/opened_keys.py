"""Opens private keys that are stored elsewhere for agents' calls, a few at a time, and caches the result."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from providers.credentials.entered_values import CredentialRefused
from providers.definitions.credential import Credential
from providers.oauth.secret_references import SecretUnavailable

AT_ONCE: Final = 2  # processes
PATIENCE: Final = 10.0  # seconds that a call waits for its key
_PLAIN: Final = 3600  # seconds to remember that values need no opening; this stores no secret
_REFUSED: Final = 60  # seconds to remember that values can't be opened
OpenKeys = Callable[[Credential, Mapping[str, str]], Awaitable[Mapping[str, str]]]


class OpenedKeys:
    """Caches `open_keys`, which starts a process, by the hash of the values. `seconds`: how long for opened keys."""

    def __init__(self, open_keys: OpenKeys, *, seconds: int) -> None:
        self._open_keys = open_keys
        self._seconds = seconds
        self._places = asyncio.Semaphore(AT_ONCE)
        self._known: dict[bytes, Mapping[str, str] | CredentialRefused | None] = {}  # None: the values need no opening

    async def open(self, credential: Credential, values: Mapping[str, str]) -> Mapping[str, str]:
        """The values with private keys that need no passphrase. Raises CredentialRefused or SecretUnavailable."""
        if credential.send.certificate is None and credential.signed_token is None:
            return values
        digest = _digest(credential, values)
        if digest not in self._known:
            try:
                async with asyncio.timeout(PATIENCE), self._places:
                    if digest not in self._known:  # otherwise another call opened it first
                        return await self._open(digest, credential, values)
            except TimeoutError as error:
                raise SecretUnavailable("A private key that is kept elsewhere takes too long to open.") from error
        known = self._known[digest]
        if isinstance(known, CredentialRefused):
            raise CredentialRefused(known.field, known.reason)
        return values if known is None else known

    async def _open(self, digest: bytes, credential: Credential, values: Mapping[str, str]) -> Mapping[str, str]:
        try:
            opened = await self._open_keys(credential, values)
        except CredentialRefused as error:
            self._remember(digest, CredentialRefused(error.field, error.reason), seconds=_REFUSED)
            raise
        if _is_plain(credential, values):
            self._remember(digest, None, seconds=_PLAIN)
            return values
        self._remember(digest, opened, seconds=self._seconds)
        return opened

    def _remember(self, digest: bytes, known: Mapping[str, str] | CredentialRefused | None, *, seconds: int) -> None:
        if seconds:
            self._known[digest] = known
            asyncio.get_running_loop().call_later(seconds, self._known.pop, digest, None)


def _is_plain(credential: Credential, values: Mapping[str, str]) -> bool:
    """Whether values that can be opened are already PEM without a passphrase."""
    certificate = credential.send.certificate
    is_pem = certificate is None or "-----BEGIN" in values[certificate.file]
    return is_pem and not values.get(credential.passphrase or "")


def _digest(credential: Credential, values: Mapping[str, str]) -> bytes:
    certificate, signed = credential.send.certificate, credential.signed_token
    fields = [certificate and certificate.file, signed and signed.key, credential.passphrase]
    return hashlib.sha256(json.dumps([fields, dict(values)], sort_keys=True).encode()).digest()
