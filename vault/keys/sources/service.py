"""A key source over a key service or device, which wraps the master key. It is called only at start and for a new
key."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from importlib import import_module
from types import ModuleType

from vault.keys.sources.local import KEY_LENGTH, LocalKey
from vault.keys.sources.source import KeyService, MadeKey, StoredKey
from vault.refusals import KeyUnavailable

PATIENCE = 10.0  # seconds for one answer of a service
CONTEXT = "token-vault master key"  # authenticated where the service can: other contexts don't open


class ServiceKeySource:
    """Master keys are random; the database keeps each as the service wrapped it."""

    def __init__(self, service: KeyService) -> None:
        self._service = service

    @property
    def fix(self) -> str:
        return f"name the key that wrapped it in keys.key and keys.address (now: {self._service.describe()})"

    def describe(self) -> str:
        """The key and its service."""
        return self._service.describe()

    async def open(self, stored: StoredKey) -> LocalKey | None:
        """The key as the service unwraps it; None if it was wrapped elsewhere. Raises KeyUnavailable."""
        kind = self._service.kind
        if stored.wrapped is None or not stored.id.startswith(f"{kind}-"):
            return None
        opened = await asyncio.to_thread(self._service.unwrap, stored.wrapped)
        if opened is None or len(opened) != KEY_LENGTH:
            return None
        key = LocalKey(opened, kind=kind)
        return key if key.fingerprint == stored.fingerprint else None

    async def create(self, known: Collection[str]) -> MadeKey:
        """A random key, wrapped by the service. Raises KeyUnavailable."""
        made = secrets.token_bytes(KEY_LENGTH)
        wrapped = await asyncio.to_thread(self._service.wrap, made)
        return MadeKey(LocalKey(made, kind=self._service.kind), wrapped)


def load(name: str, *, source: str) -> ModuleType:
    """Import an optional package when it is first needed. Raises KeyUnavailable."""
    try:
        return import_module(name)
    except ImportError as error:
        extra = source.replace("_", "-")
        raise KeyUnavailable(
            f"keys.source is \"{source}\", which needs further packages: pip install 'mcp-token-vault[{extra}]'",
            detail=str(error),
        ) from error
