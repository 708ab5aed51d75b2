"""The transit engine of HashiCorp Vault or OpenBao wraps the master key."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Protocol

from vault.keys.sources.private_file import read_private
from vault.keys.sources.service import CONTEXT, PATIENCE, load
from vault.refusals import KeyUnavailable

VARIABLE = "VAULT_TOKEN"
_CONTEXT = base64.b64encode(CONTEXT.encode()).decode()


class _Transit(Protocol):
    def encrypt_data(self, *, name: str, plaintext: str, associated_data: str, mount_point: str) -> Any: ...
    def decrypt_data(self, *, name: str, ciphertext: str, associated_data: str, mount_point: str) -> Any: ...


class TransitEngine:
    """`key`: NAME, or MOUNT/NAME for an engine that isn't mounted at `transit`. The token is read for each use."""

    kind = "hashicorp_vault"

    def __init__(self, key: str, *, address: str, token_file: Path | None) -> None:
        self._mount, _, self._name = key.rpartition("/")
        self._address = address
        self._token_file = token_file

    def describe(self) -> str:
        """The name of the key and the address of the engine."""
        return f"transit key {self._name} at {self._address}"

    def wrap(self, key: bytes) -> bytes:
        """Encrypt; the answer names the version of the key. Raises KeyUnavailable."""
        errors = load("hvac.exceptions", source=self.kind)
        try:
            answer = self._transit().encrypt_data(
                name=self._name,
                plaintext=base64.b64encode(key).decode(),
                associated_data=_CONTEXT,
                mount_point=self._mount or "transit",
            )
        except (errors.VaultError, OSError) as error:
            raise self._unavailable(error) from error
        return str(answer["data"]["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Decrypt. Raises KeyUnavailable."""
        errors = load("hvac.exceptions", source=self.kind)
        try:
            answer = self._transit().decrypt_data(
                name=self._name,
                ciphertext=wrapped.decode(errors="replace"),
                associated_data=_CONTEXT,
                mount_point=self._mount or "transit",
            )
        except errors.InvalidRequest:  # not under this key, or not under this name
            return None
        except (errors.VaultError, OSError) as error:
            raise self._unavailable(error) from error
        return base64.b64decode(str(answer["data"]["plaintext"]))

    def _transit(self) -> _Transit:
        hvac = load("hvac", source=self.kind)
        client = hvac.Client(
            url=self._address, token=self._token(), timeout=PATIENCE, namespace=os.environ.get("VAULT_NAMESPACE")
        )
        return client.secrets.transit

    def _token(self) -> str:
        found = os.environ.get(VARIABLE) if self._token_file is None else read_private(self._token_file.expanduser())
        if not found or not found.strip():
            raise KeyUnavailable(
                f'keys.source is "{self.kind}": set keys.token_file, or {VARIABLE}, to a token that may encrypt and '
                f"decrypt with the transit key {self._name}"
            )
        return found.strip()

    def _unavailable(self, error: Exception) -> KeyUnavailable:
        return KeyUnavailable(
            f"{self._address} can't use the transit key {self._name} ({type(error).__name__}): check keys.address, "
            "keys.key, and that the token may encrypt and decrypt with it",
            detail=str(error),
        )
