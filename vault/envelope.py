"""Seal and open bytes under a key with an authenticated context. Pure; the byte format is in `FORMATS.md`.

Every seal makes a new data key (DEK), so no nonce can repeat under one. It and the nonces are derived from random bytes
and from their purpose: where two copies of a machine image draw the same random bytes, different values still get
different keys and nonces. The context is authenticated in the wrap of the DEK and in the payload: a value moved to
another row, column, owner or generation does not open. `vault.keys` supplies the keys.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.classes.immutable import immutable
from vault.refusals import CiphertextRejected
from vault.spans import KEY_USES

VERSION = 1
KEY_LENGTH = 32  # bytes
NONCE = 12  # bytes
TAG = 16  # bytes

_WRAPPED = KEY_LENGTH + TAG
_WRAP_LABEL = b"token-vault envelope wrap\x00"
_PAYLOAD_LABEL = b"token-vault envelope payload\x00"
_FRESH_LABEL = b"token-vault envelope fresh\x00"


@immutable
class Context:
    """What a sealed value belongs to. It isn't secret and isn't stored with the value: whoever opens it must know
    it."""

    purpose: str
    tenant: str
    user_id: str = ""
    provider: str = ""
    account: str = ""
    record_id: str = ""
    generation: int = 0

    def encode(self) -> bytes:
        """One byte string per context: each field with its length, so that no two contexts encode alike."""
        fields = (self.purpose, self.tenant, self.user_id, self.provider, self.account, self.record_id)
        parts = [self.generation.to_bytes(8, "big")]
        for field in fields:
            value = field.encode()
            parts += (len(value).to_bytes(4, "big"), value)
        return b"".join(parts)


def seal(plaintext: bytes, *, key: bytes, key_id: str, context: Context) -> bytes:
    """Seal under `key`; `key_id` is kept readable so that a key ring can find the key."""
    name = key_id.encode()
    if not 0 < len(name) < 256:
        raise ValueError("a key ID must have 1 to 255 bytes")
    KEY_USES[context.purpose, "seal"] += 1
    head = bytes((VERSION, len(name))) + name
    bound = head + context.encode()
    data_key, nonce, payload_nonce = _fresh(plaintext, key=key, bound=bound)
    wrapped = nonce + AESGCM(key).encrypt(nonce, data_key, _WRAP_LABEL + bound)
    # The payload authenticates the wrapped DEK too, so parts of two sealed values can't be combined.
    payload = AESGCM(data_key).encrypt(payload_nonce, plaintext, _PAYLOAD_LABEL + wrapped + bound)
    return head + wrapped + payload_nonce + payload


def open_sealed(sealed: bytes, *, key: bytes, context: Context) -> bytes:
    """The plaintext. Raises CiphertextRejected for anything altered, moved, or sealed under another key."""
    KEY_USES[context.purpose, "open"] += 1
    head = _head(sealed)
    bound = head + context.encode()
    wrapped, payload = sealed[len(head) :][: NONCE + _WRAPPED], sealed[len(head) + NONCE + _WRAPPED :]
    try:
        data_key = AESGCM(key).decrypt(wrapped[:NONCE], wrapped[NONCE:], _WRAP_LABEL + bound)
        return AESGCM(data_key).decrypt(payload[:NONCE], payload[NONCE:], _PAYLOAD_LABEL + wrapped + bound)
    except InvalidTag as error:
        raise CiphertextRejected("a sealed value doesn't open", detail=context.purpose) from error


def _fresh(plaintext: bytes, *, key: bytes, bound: bytes) -> tuple[bytes, bytes, bytes]:
    """A data key, the nonce of its wrap, and the nonce of the payload."""
    about = _FRESH_LABEL + key + len(bound).to_bytes(4, "big") + bound + plaintext
    made = hmac.digest(secrets.token_bytes(KEY_LENGTH), about, hashlib.sha512)
    end = KEY_LENGTH + NONCE
    return made[:KEY_LENGTH], made[KEY_LENGTH:end], made[end : end + NONCE]


def _head(sealed: bytes) -> bytes:
    """Version, length and key ID. Raises CiphertextRejected when the value doesn't have this format."""
    if len(sealed) < 2 or sealed[0] != VERSION:
        raise CiphertextRejected("a sealed value doesn't open", detail="its format version is unknown")
    end = 2 + sealed[1]
    if len(sealed) < end + NONCE + _WRAPPED + NONCE + TAG:
        raise CiphertextRejected("a sealed value doesn't open", detail="it is too short")
    return sealed[:end]
