"""A master key in this process: wrapping with AES-256-GCM, and its text form. The sources say where it is stored."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.envelope import KEY_LENGTH, NONCE, TAG
from vault.keys.sources.source import MadeKey, StoredKey
from vault.refusals import CiphertextRejected, KeyUnavailable
from vault.spans import KEY_USES

WRAP_VERSION: Final = 1

_LABEL = b"token-vault key wrap\x00"
_BETWEEN = re.compile(r"[\s,]+")


class LocalKey:
    """A key-encryption key held in memory. `kind` names its source; `prefix` precedes everything that it wraps.

    A nonce is derived from random bytes, the wrapped key, and its context, so it differs for two keys even if the same
    random bytes occur twice, as in two copies of one machine image.
    """

    __slots__ = ("_cipher", "_key", "check", "fingerprint", "id", "prefix")

    def __init__(self, key: bytes, *, kind: str, prefix: bytes = b"") -> None:
        if len(key) != KEY_LENGTH:
            raise ValueError("a key-encryption key must have 32 bytes")
        self._key = key
        self._cipher = AESGCM(key)
        self.prefix = prefix
        # one-way, so that they can appear in the database, and the ID also in logs
        self.fingerprint = hmac.digest(key, b"token-vault key id", hashlib.sha256).hex()[:16]
        self.id = f"{kind}-{self.fingerprint}"
        self.check = hmac.digest(key, b"token-vault key check\x00", hashlib.sha256)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Wrap a key for one context."""
        KEY_USES[self.id, "wrap"] += 1
        seed = b"token-vault key wrap nonce\x00" + secrets.token_bytes(KEY_LENGTH) + key + context
        nonce = hmac.digest(self._key, seed, hashlib.sha256)[:NONCE]
        sealed = self._cipher.encrypt(nonce, key, _LABEL + context)
        return self.prefix + bytes((WRAP_VERSION,)) + nonce + sealed

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises CiphertextRejected for another key, another context or altered bytes."""
        KEY_USES[self.id, "unwrap"] += 1
        if not wrapped.startswith(self.prefix):
            raise CiphertextRejected("a wrapped key doesn't open", detail="another kind of key wrapped it")
        wrapped = wrapped[len(self.prefix) :]
        if len(wrapped) < 1 + NONCE + TAG or wrapped[0] != WRAP_VERSION:
            raise CiphertextRejected("a wrapped key doesn't open", detail="its format is unknown")
        try:
            return self._cipher.decrypt(wrapped[1 : 1 + NONCE], wrapped[1 + NONCE :], _LABEL + context)
        except InvalidTag as error:
            raise CiphertextRejected(
                "a wrapped key doesn't open", detail="the key or the context is another one"
            ) from error


class LocalKeySource(ABC):
    """A source that stores keys themselves: one, or several while the vault moves from one to the next."""

    @abstractmethod
    def read(self) -> tuple[LocalKey, ...]:
        """The stored keys. Raises KeyUnavailable when there are none."""

    @abstractmethod
    def add(self) -> tuple[LocalKey, ...]:
        """Store a new key; returns all keys. Raises KeyUnavailable where only an operator can store one."""

    @abstractmethod
    def describe(self) -> str:
        """See `KeySource`."""

    @property
    @abstractmethod
    def fix(self) -> str:
        """See `KeySource`."""

    def first(self) -> tuple[LocalKey, ...]:
        """The keys for a first run, which may create one. Raises KeyUnavailable."""
        return self.read()

    async def open(self, stored: StoredKey) -> LocalKey | None:
        """The key with the fingerprint of `stored`, if the source has it. Raises KeyUnavailable."""
        return next((key for key in self.read() if key.fingerprint == stored.fingerprint), None)

    async def create(self, known: Collection[str]) -> MadeKey:
        """A stored key that isn't `known`, or else a new one. Raises KeyUnavailable."""
        found = self.read() if known else self.first()
        if all(key.fingerprint in known for key in found):
            found = self.add()
        return MadeKey(next(key for key in found if key.fingerprint not in known), None)


def parse_key(text: str, *, where: str) -> bytes:
    """A key from its text form, base64 of 32 bytes."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_LENGTH:
        raise KeyUnavailable(f"{where} doesn't contain a key: it must be 32 random bytes in base64")
    return key


def parse_keys(text: str, *, where: str, kind: str) -> tuple[LocalKey, ...]:
    """Keys in their text form, separated by spaces, commas, or line ends."""
    words = [word for word in _BETWEEN.split(text) if word]
    return tuple(LocalKey(parse_key(word, where=where), kind=kind) for word in words or [""])


def format_key(key: bytes) -> str:
    """A key in its text form."""
    return base64.b64encode(key).decode()
