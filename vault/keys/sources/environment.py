"""The KEK in the environment variable TOKEN_VAULT_KEY, base64 of 32 bytes; for containers whose platform keeps it."""

from __future__ import annotations

from collections.abc import Mapping

from vault.keys.sources.local import LocalKey, LocalKeySource, parse_key
from vault.refusals import KeyUnavailable

VARIABLE = "TOKEN_VAULT_KEY"


class EnvironmentKeySource(LocalKeySource):
    """Reads the variable once, when first needed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._environment = environment

    @property
    def fix(self) -> str:
        return f"set {VARIABLE} to the key that belongs to this database"

    def read(self, *, may_create: bool) -> LocalKey:
        text = self._environment.get(VARIABLE)
        if not text:
            raise KeyUnavailable(f'keys.source is "environment", but {VARIABLE} isn\'t set: set it to the key')
        return LocalKey(parse_key(text, where=VARIABLE), kind="environment")
