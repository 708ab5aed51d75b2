"""The KEK in the environment variable TOKEN_VAULT_KEY, base64 of 32 bytes; for containers whose platform keeps it."""

from __future__ import annotations

from collections.abc import Mapping

from vault.keys.sources.local import LocalKey, parse_key
from vault.refusals import KeyUnavailable

VARIABLE = "TOKEN_VAULT_KEY"


class EnvironmentKeySource:
    """Reads the variable once, when first needed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._key: LocalKey | None = None

    @property
    def id(self) -> str:
        return self._load().id

    @property
    def mend(self) -> str:
        return f"set {VARIABLE} to the key that belongs to this database"

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        return self._load().wrap(key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return self._load().unwrap(wrapped, context)

    def _load(self) -> LocalKey:
        if self._key is None:
            text = self._environment.get(VARIABLE)
            if not text:
                raise KeyUnavailable(f'keys.source is "environment" and {VARIABLE} is not set: set it to the key')
            self._key = LocalKey(parse_key(text, where=VARIABLE), kind="environment")
        return self._key
