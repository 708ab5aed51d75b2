"""Where the key-encryption key (KEK) comes from: a file, the environment, a passphrase.

A source wraps and unwraps keys and never reveals its own key, so that a remote one (a KMS) fits too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vault.keys.sources.environment import EnvironmentKeySource
from vault.keys.sources.file import FileKeySource
from vault.keys.sources.passphrase import PassphraseKeySource
from vault.refusals import KeyUnavailable

__all__ = ["KeySource", "KeySourceSettings", "key_source"]


class KeySource(Protocol):
    """Wraps keys under a KEK. `context` is authenticated; a remote source may wait."""

    @property
    def id(self) -> str:
        """Identifies the KEK without revealing it. Raises KeyUnavailable before the key is at hand."""
        ...

    @property
    def fix(self) -> str:
        """What an operator can do when the key is missing or wrong: half a sentence."""
        ...

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        """Wrap; the first wrap may create the KEK if the source stores it itself. Raises KeyUnavailable."""
        ...

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Unwrap; never creates a KEK. Raises KeyUnavailable without one, CiphertextRejected with another."""
        ...


class KeySourceSettings(Protocol):
    """The settings that a key source is made from."""

    @property
    def source(self) -> str: ...
    @property
    def file(self) -> Path | None: ...
    @property
    def passphrase_file(self) -> Path | None: ...


def key_source(settings: KeySourceSettings, *, data: Path, environment: Mapping[str, str] = os.environ) -> KeySource:
    """The source named in the settings; nothing is read until it is used."""
    match settings.source:
        case "file":
            return FileKeySource((settings.file or data / "master.key").expanduser())
        case "environment":
            return EnvironmentKeySource(environment)
        case "passphrase":
            return PassphraseKeySource(environment, file=settings.passphrase_file)
        case other:
            raise KeyUnavailable(f"keys.source: unknown value {other!r}; use file, environment, or passphrase")
