"""The KEK in the variable `TOKEN_VAULT_KEY`, base64 of 32 bytes; to change it, several keys separated by spaces."""

from __future__ import annotations

from collections.abc import Mapping

from vault.keys.sources.local import LocalKey, LocalKeySource, parse_keys
from vault.refusals import KeyUnavailable

VARIABLE = "TOKEN_VAULT_KEY"


class EnvironmentKeySource(LocalKeySource):
    """Reads the variable each time it is asked."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    @property
    def fix(self) -> str:
        return f"set {VARIABLE} to the key that belongs to this database"

    def describe(self) -> str:
        return VARIABLE

    def read(self) -> tuple[LocalKey, ...]:
        text = self._environment.get(VARIABLE)
        if not text:
            raise KeyUnavailable(f'keys.source is "environment", but {VARIABLE} isn\'t set: set it to the key')
        return parse_keys(text, where=VARIABLE, kind="environment")

    def add(self) -> tuple[LocalKey, ...]:
        raise KeyUnavailable(
            f"{VARIABLE} contains no new key: set it to the current key, a space, and a new one "
            "(openssl rand -base64 32), here and in every process of the vault"
        )
