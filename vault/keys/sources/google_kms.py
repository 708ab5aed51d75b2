"""Google Cloud KMS wraps the master key (`encrypt` and `decrypt` of a symmetric key).

Google's library finds credentials as usual.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from vault.keys.sources.service import CONTEXT, PATIENCE, load
from vault.refusals import KeyUnavailable

_SERVICE = "google.cloud.kms_v1.services.key_management_service"


class GoogleKms:
    """`key`: projects/P/locations/L/keyRings/R/cryptoKeys/K. `address`: another endpoint; http without credentials."""

    kind = "google_kms"

    def __init__(self, key: str, *, address: str | None) -> None:
        self._key = key
        self._address = address
        self._client: Any = None

    def describe(self) -> str:
        """The name of the key."""
        return f"Google Cloud KMS {self._key}"

    def wrap(self, key: bytes) -> bytes:
        """Encrypt under the primary version. Raises KeyUnavailable."""
        request = {"name": self._key, "plaintext": key, "additional_authenticated_data": CONTEXT.encode()}
        errors = load("google.api_core.exceptions", source=self.kind)
        auth = load("google.auth.exceptions", source=self.kind)
        try:
            return bytes(self._open().encrypt(request=request, timeout=PATIENCE).ciphertext)
        except (errors.GoogleAPIError, auth.GoogleAuthError, OSError) as error:
            raise self._unavailable(error) from error

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Decrypt. Raises KeyUnavailable."""
        request = {"name": self._key, "ciphertext": wrapped, "additional_authenticated_data": CONTEXT.encode()}
        errors = load("google.api_core.exceptions", source=self.kind)
        auth = load("google.auth.exceptions", source=self.kind)
        try:
            return bytes(self._open().decrypt(request=request, timeout=PATIENCE).plaintext)
        except errors.InvalidArgument:  # encrypted under another key
            return None
        except (errors.GoogleAPIError, auth.GoogleAuthError, OSError) as error:
            raise self._unavailable(error) from error

    def _open(self) -> Any:
        if self._client is None:
            client = load(_SERVICE, source=self.kind).KeyManagementServiceClient
            if self._address is None:
                self._client = client(transport="rest")
                return self._client
            transport = load(f"{_SERVICE}.transports.rest", source=self.kind)
            at = urlsplit(self._address)
            plain = at.scheme == "http"
            credentials = load("google.auth.credentials", source=self.kind)
            made = transport.KeyManagementServiceRestTransport(
                host=at.netloc, url_scheme=at.scheme, credentials=credentials.AnonymousCredentials() if plain else None
            )
            self._client = client(transport=made)
        return self._client

    def _unavailable(self, error: Exception) -> KeyUnavailable:
        return KeyUnavailable(
            f"Google Cloud KMS can't use {self._key} ({type(error).__name__}): check keys.key, and that the "
            "credentials have the role Cloud KMS CryptoKey Encrypter/Decrypter",
            detail=str(error),
        )
