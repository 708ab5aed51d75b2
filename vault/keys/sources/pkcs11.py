"""A key in a hardware security module, or SoftHSM, wraps the master key by AES-GCM, over PKCS #11."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from vault.envelope import NONCE
from vault.keys.sources.private_file import read_private
from vault.keys.sources.service import CONTEXT, load
from vault.refusals import KeyUnavailable

VARIABLE = "TOKEN_VAULT_PIN"


class Pkcs11Key:
    """An AES key by its label, in a token by its label. `module`: the device vendor's library."""

    kind = "pkcs11"

    def __init__(self, key: str, *, module: Path, token: str, pin_file: Path | None) -> None:
        self._key = key
        self._module = module
        self._token = token
        self._pin_file = pin_file

    def describe(self) -> str:
        """The labels of key and token."""
        return f"PKCS #11 key {self._key} in token {self._token}"

    def wrap(self, key: bytes) -> bytes:
        """A nonce and the bytes that the device encrypted. Raises KeyUnavailable."""
        nonce = hmac.digest(secrets.token_bytes(NONCE), key, hashlib.sha256)[:NONCE]  # differs for each key
        return nonce + self._use("encrypt", key, nonce)

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Decrypt. Raises KeyUnavailable."""
        library = load("pkcs11.exceptions", source=self.kind)
        try:
            return self._use("decrypt", wrapped[NONCE:], wrapped[:NONCE])
        except KeyUnavailable as error:
            # what devices return for bytes that another key encrypted; SoftHSM returns CKR_GENERAL_ERROR
            kinds = (library.EncryptedDataInvalid, library.EncryptedDataLenRange, library.GeneralError)
            if isinstance(error.__cause__, kinds):
                return None
            raise

    def _use(self, operation: str, content: bytes, nonce: bytes) -> bytes:
        pkcs11 = load("pkcs11", source=self.kind)
        try:
            token = pkcs11.lib(str(self._module)).get_token(token_label=self._token)
            with token.open(user_pin=self._pin()) as session:
                key = self._find(pkcs11, session)
                parameters = pkcs11.GCMParams(nonce, CONTEXT.encode())
                use = key.encrypt if operation == "encrypt" else key.decrypt
                return bytes(use(content, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters))
        except pkcs11.exceptions.PKCS11Error as error:
            raise KeyUnavailable(
                f"{self._module} can't use the key {self._key} in the token {self._token} ({type(error).__name__}): "
                "check keys.module, keys.token, keys.key, and the PIN",
                detail=str(error),
            ) from error

    def _find(self, pkcs11: Any, session: Any) -> Any:
        """The key with that label. Reads the whole search result, because the library holds a lock until its end."""
        kind, label = pkcs11.Attribute.CLASS, pkcs11.Attribute.LABEL
        found = list(session.get_objects({kind: pkcs11.ObjectClass.SECRET_KEY, label: self._key}))
        if len(found) != 1:
            raise KeyUnavailable(
                f"the token {self._token} has {len(found)} secret keys with the label {self._key}: check keys.key"
            )
        return found[0]

    def _pin(self) -> str:
        found = os.environ.get(VARIABLE) if self._pin_file is None else read_private(self._pin_file.expanduser())
        if not found or not found.strip():
            raise KeyUnavailable(f'keys.source is "{self.kind}": set keys.pin_file, or {VARIABLE}, to the user PIN')
        return found.strip()
