"""The KEK derived from a passphrase with argon2id. The salt travels in every wrapped key, so nothing else is stored."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw

from vault.keys.sources.local import KEY_LENGTH, LocalKey
from vault.keys.sources.private_file import read_private
from vault.refusals import CiphertextRejected, KeyUnavailable

VARIABLE = "TOKEN_VAULT_PASSPHRASE"
MIN_LENGTH = 20  # it protects everything against offline guessing
WRAP_VERSION = 2

_SALT = 16


class PassphraseKeySource:
    """Derives the KEK once per salt; all keys of one vault share the salt of the first."""

    def __init__(self, environment: Mapping[str, str], *, file: Path | None) -> None:
        self._environment = environment
        self._file = file
        self._salt: bytes | None = None
        self._keys: dict[bytes, LocalKey] = {}

    @property
    def id(self) -> str:
        if self._salt is None:
            raise KeyUnavailable("the passphrase has not been used yet")
        return self._keys[self._salt].id

    @property
    def fix(self) -> str:
        return "pass the passphrase that this database was made with"

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        salt = self._salt or secrets.token_bytes(_SALT)
        local = await self._local_key(salt)
        return bytes((WRAP_VERSION,)) + salt + local.wrap(key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        if len(wrapped) < 1 + _SALT or wrapped[0] != WRAP_VERSION:
            raise CiphertextRejected("a wrapped key doesn't open", detail="not wrapped under a passphrase")
        salt = wrapped[1 : 1 + _SALT]
        local = await self._local_key(salt)
        key = local.unwrap(wrapped[1 + _SALT :], context)
        self._salt = salt  # it opened: wrap later keys under the same salt
        return key

    async def _local_key(self, salt: bytes) -> LocalKey:
        local = self._keys.get(salt)
        if local is None:
            local = LocalKey(await asyncio.to_thread(_derive, self._passphrase(), salt), kind="passphrase")
            self._keys[salt] = local
            self._salt = self._salt or salt
        return local

    def _passphrase(self) -> bytes:
        if self._file is not None:
            text = read_private(self._file.expanduser())
            if text is None:
                raise KeyUnavailable(f"the passphrase file {self._file} is missing: restore it")
        else:
            text = self._environment.get(VARIABLE, "")
        text = text.rstrip("\r\n")
        if len(text) < MIN_LENGTH:
            raise KeyUnavailable(
                f'keys.source is "passphrase": set keys.passphrase_file or {VARIABLE} to at least '
                f"{MIN_LENGTH} characters"
            )
        return text.encode()


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    """RFC 9106 §4, second recommended choice: 64 MiB, three passes, four lanes."""
    return hash_secret_raw(
        passphrase, salt, time_cost=3, memory_cost=64 * 1024, parallelism=4, hash_len=KEY_LENGTH, type=Type.ID
    )
