"""Where the key-encryption key (KEK), or master key, comes from: a file, the environment, a passphrase, a key service.

A key is opened once at start and then held in memory, so that a remote source doesn't slow down calls. Each service has
one module, which is loaded, with the packages it needs, only if the settings name it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar

from vault.keys.sources.environment import EnvironmentKeySource
from vault.keys.sources.file import FileKeySource
from vault.keys.sources.local import LocalKey
from vault.keys.sources.passphrase import PassphraseKeySource
from vault.keys.sources.service import ServiceKeySource
from vault.keys.sources.source import KeyService, KeySource, MadeKey, StoredKey
from vault.refusals import KeyUnavailable

__all__ = ["KeyPlaceSettings", "KeySource", "KeySourceSettings", "key_source"]


SOURCES: Final = (
    "file",
    "environment",
    "passphrase",
    "aws_kms",
    "google_kms",
    "azure_key_vault",
    "hashicorp_vault",
    "pkcs11",
)
Needed = TypeVar("Needed")


class KeyPlaceSettings(Protocol):
    """The settings of one key source."""

    @property
    def source(self) -> str: ...
    @property
    def file(self) -> Path | None: ...
    @property
    def passphrase_file(self) -> Path | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def token_file(self) -> Path | None: ...
    @property
    def module(self) -> Path | None: ...
    @property
    def token(self) -> str | None: ...
    @property
    def pin_file(self) -> Path | None: ...


class KeySourceSettings(KeyPlaceSettings, Protocol):
    """The settings of all key sources of a vault."""

    @property
    def also(self) -> KeyPlaceSettings | None: ...


def key_source(settings: KeySourceSettings, *, data: Path, environment: Mapping[str, str] = os.environ) -> KeySource:
    """The source named in the settings, with the other one if they name two; nothing is read until it is used."""
    first = _one_source(settings, data=data, environment=environment)
    if settings.also is None:
        return first
    return _TwoSources(first, _one_source(settings.also, data=data, environment=environment))


def _one_source(settings: KeyPlaceSettings, *, data: Path, environment: Mapping[str, str]) -> KeySource:
    match settings.source:
        case "file":
            return FileKeySource((settings.file or data / "master.key").expanduser())
        case "environment":
            return EnvironmentKeySource(environment)
        case "passphrase":
            return PassphraseKeySource(environment, file=settings.passphrase_file)
        case _:
            return ServiceKeySource(_service(settings))


def _service(settings: KeyPlaceSettings) -> KeyService:
    match settings.source:
        case "aws_kms":
            from vault.keys.sources.aws_kms import AwsKms

            return AwsKms(_present(settings, "key", settings.key), address=settings.address)
        case "hashicorp_vault":
            from vault.keys.sources.hashicorp_vault import TransitEngine

            address = _present(settings, "address", settings.address)
            return TransitEngine(
                _present(settings, "key", settings.key), address=address, token_file=settings.token_file
            )
        case "google_kms":
            from vault.keys.sources.google_kms import GoogleKms

            return GoogleKms(_present(settings, "key", settings.key), address=settings.address)
        case "azure_key_vault":
            from vault.keys.sources.azure_key_vault import AzureKey

            return AzureKey(_present(settings, "key", settings.key))
        case "pkcs11":
            from vault.keys.sources.pkcs11 import Pkcs11Key

            return Pkcs11Key(
                _present(settings, "key", settings.key),
                module=_present(settings, "module", settings.module),
                token=_present(settings, "token", settings.token),
                pin_file=settings.pin_file,
            )
        case other:
            raise KeyUnavailable(f"keys.source: unknown value {other!r}; use {', '.join(SOURCES)}")


def _present(settings: KeyPlaceSettings, name: str, value: Needed | None) -> Needed:
    if value is None:
        raise KeyUnavailable(f'keys.source is "{settings.source}": set keys.{name} too')
    return value


class _TwoSources:
    """While a vault moves from one source to another: new keys come from the first, both open keys."""

    def __init__(self, first: KeySource, second: KeySource) -> None:
        self._both = (first, second)

    @property
    def fix(self) -> str:
        return " or ".join(one.fix for one in self._both)

    def describe(self) -> str:
        return self._both[0].describe()

    async def open(self, stored: StoredKey) -> LocalKey | None:
        """The key, from the source that has it. Raises KeyUnavailable when a source that might have it can't be
        asked."""
        trouble: KeyUnavailable | None = None
        for source in self._both:
            try:
                found = await source.open(stored)
            except KeyUnavailable as error:
                trouble = trouble or error
                continue
            if found is not None:
                return found
        if trouble is not None:
            raise trouble
        return None

    async def create(self, known: Collection[str]) -> MadeKey:
        """A key of the first source. Raises KeyUnavailable."""
        return await self._both[0].create(known)
