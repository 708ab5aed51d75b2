"""An RSA key in Azure Key Vault wraps the master key (RSA-OAEP-256). `azure-identity` finds credentials as usual."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from vault.keys.sources.service import PATIENCE, load
from vault.refusals import KeyUnavailable

_CRYPTO = "azure.keyvault.keys.crypto"


class AzureKey:
    """`key`: https://VAULT.vault.azure.net/keys/NAME, which stays the same when the key gets a new version.

    A wrapped key begins with the address of the version that wrapped it, and a zero byte.
    """

    kind = "azure_key_vault"

    def __init__(self, key: str) -> None:
        self._key = key.rstrip("/")

    def describe(self) -> str:
        """The address of the key."""
        return f"Azure Key Vault {self._key}"

    def wrap(self, key: bytes) -> bytes:
        """Wrap under the newest version. Raises KeyUnavailable."""
        try:
            made = self._client(self._key).wrap_key(self._algorithm(), key)
        except self._errors() as error:
            raise self._unavailable(error) from error
        return str(made.key_id).encode() + b"\x00" + bytes(made.encrypted_key)

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Unwrap with the version that wrapped it, of this key only. Raises KeyUnavailable."""
        version, _, encrypted = wrapped.partition(b"\x00")
        address = version.decode(errors="replace")
        if address != self._key and not address.startswith(f"{self._key}/"):
            return None
        try:
            return bytes(self._client(address).unwrap_key(self._algorithm(), encrypted).key)
        except self._errors() as error:
            if getattr(error, "status_code", None) == HTTPStatus.BAD_REQUEST:
                return None
            raise self._unavailable(error) from error

    def _client(self, key: str) -> Any:
        credential = load("azure.identity", source=self.kind).DefaultAzureCredential()
        crypto = load(_CRYPTO, source=self.kind)
        return crypto.CryptographyClient(key, credential, connection_timeout=PATIENCE, read_timeout=PATIENCE)

    def _algorithm(self) -> Any:
        return load(_CRYPTO, source=self.kind).KeyWrapAlgorithm.rsa_oaep_256

    def _errors(self) -> type[Exception]:
        found: type[Exception] = load("azure.core.exceptions", source=self.kind).AzureError
        return found

    def _unavailable(self, error: Exception) -> KeyUnavailable:
        return KeyUnavailable(
            f"Azure Key Vault can't use {self._key} ({type(error).__name__}): check keys.key, and that the credentials "
            "may get, wrap, and unwrap with it",
            detail=str(error),
        )
