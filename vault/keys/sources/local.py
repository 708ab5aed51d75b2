"""A KEK in this process: wrapping with AES-256-GCM, and the text form of a key. The sources say where it is stored."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from abc import ABC, abstractmethod

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.refusals import CiphertextRejected, KeyUnavailable
from vault.spans import KEY_USES

KEY_LENGTH = 32
WRAP_VERSION = 1

_NONCE = 12
_LABEL = b"token-vault key wrap\x00"


class LocalKey:
    """A key-encryption key held in memory. Random 96-bit nonces: far from 2^32 wraps, one per user and rotation."""

    __slots__ = ("_cipher", "id")

    def __init__(self, key: bytes, *, kind: str) -> None:
        if len(key) != KEY_LENGTH:
            raise ValueError("a key-encryption key has 32 bytes")
        self._cipher = AESGCM(key)
        # one-way, so that the id can appear in the database and in logs
        self.id = f"{kind}-{hmac.new(key, b'token-vault key id', hashlib.sha256).hexdigest()[:16]}"

    def wrap(self, key: bytes, context: bytes) -> bytes:
        KEY_USES[self.id, "wrap"] += 1
        nonce = secrets.token_bytes(_NONCE)
        return bytes((WRAP_VERSION,)) + nonce + self._cipher.encrypt(nonce, key, _LABEL + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises CiphertextRejected for another key, another context or altered bytes."""
        KEY_USES[self.id, "unwrap"] += 1
        if len(wrapped) < 1 + _NONCE + 16 or wrapped[0] != WRAP_VERSION:
            raise CiphertextRejected("a wrapped key doesn't open", detail="unknown format")
        try:
            return self._cipher.decrypt(wrapped[1 : 1 + _NONCE], wrapped[1 + _NONCE :], _LABEL + context)
        except InvalidTag as error:
            raise CiphertextRejected("a wrapped key doesn't open", detail="other key or context") from error


class LocalKeySource(ABC):
    """A source whose key is in this process: read once, when first needed."""

    def __init__(self) -> None:
        self._key: LocalKey | None = None

    @abstractmethod
    def read(self, *, may_create: bool) -> LocalKey:
        """The key. Raises KeyUnavailable."""

    @property
    def id(self) -> str:
        return self._load().id

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        return self._load(may_create=True).wrap(key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return self._load().unwrap(wrapped, context)

    def _load(self, *, may_create: bool = False) -> LocalKey:
        if self._key is None:
            self._key = self.read(may_create=may_create)
        return self._key


def parse_key(text: str, *, where: str) -> bytes:
    """A key from its text form, base64 of 32 bytes."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_LENGTH:
        raise KeyUnavailable(f"{where} doesn't contain a key: it must be 32 random bytes in base64")
    return key


def format_key(key: bytes) -> str:
    """A key in its text form."""
    return base64.b64encode(key).decode()
