"""The KEK derived from a passphrase with argon2id. Everything that it wraps contains the salt, and so does the
database."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw

from vault.keys.sources.local import KEY_LENGTH, LocalKey
from vault.keys.sources.private_file import read_private
from vault.keys.sources.source import MadeKey, StoredKey
from vault.refusals import KeyUnavailable

VARIABLE = "TOKEN_VAULT_PASSPHRASE"
MIN_LENGTH = 20  # it protects everything against offline guessing
WRAP_VERSION = 2

_SALT = 16


class PassphraseKeySource:
    """Derives a key for each salt; a new salt makes a new key."""

    def __init__(self, environment: Mapping[str, str], *, file: Path | None) -> None:
        self._environment = environment
        self._file = file

    @property
    def fix(self) -> str:
        return "pass the passphrase that this database was made with"

    def describe(self) -> str:
        return f"the passphrase in {self._file or VARIABLE}"

    async def open(self, stored: StoredKey) -> LocalKey | None:
        """The key for the salt of `stored`, if the passphrase gives that key. Raises KeyUnavailable."""
        salt = salt_of(stored.wrapped)
        if salt is None:
            return None
        key = await self._derive(salt)
        return key if key.fingerprint == stored.fingerprint else None

    async def create(self, known: Collection[str]) -> MadeKey:
        """A key with a new salt. Raises KeyUnavailable."""
        salt = secrets.token_bytes(_SALT)
        return MadeKey(await self._derive(salt), _prefix(salt))

    async def _derive(self, salt: bytes) -> LocalKey:
        key = await asyncio.to_thread(_derive, self._passphrase(), salt)
        return LocalKey(key, kind="passphrase", prefix=_prefix(salt))

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


def salt_of(wrapped: bytes | None) -> bytes | None:
    """The salt at the start of anything wrapped under a passphrase."""
    is_ours = wrapped is not None and len(wrapped) >= 1 + _SALT and wrapped[0] == WRAP_VERSION
    return wrapped[1 : 1 + _SALT] if is_ours and wrapped is not None else None


def _prefix(salt: bytes) -> bytes:
    return bytes((WRAP_VERSION,)) + salt


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    """RFC 9106 §4, second recommended choice: 64 MiB, three passes, four lanes."""
    return hash_secret_raw(
        passphrase, salt, time_cost=3, memory_cost=64 * 1024, parallelism=4, hash_len=KEY_LENGTH, type=Type.ID
    )
