"""The interface of a key source, which opens the master keys that the database lists, and creates new ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from vault.classes.immutable import immutable

if TYPE_CHECKING:
    from vault.keys.sources.local import LocalKey


@immutable
class StoredKey:
    """What the database stores about a master key.

    `id` is its kind and fingerprint; `wrapped` is the key as its source wrapped it (for a passphrase, the salt), None
    where the source stores the key itself. `check` distinguishes it from any other key; None: stored by an earlier
    release.
    """

    id: str
    wrapped: bytes | None = field(default=None, repr=False)
    check: bytes | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """The same wherever the key is stored: moving it from a file to the environment changes only the kind."""
        return fingerprint_of(self.id)


@immutable
class MadeKey:
    """A new master key, and what the database must store so that its source can open it again."""

    key: LocalKey
    wrapped: bytes | None = field(repr=False)

    @property
    def record(self) -> StoredKey:
        """What to store about it."""
        return StoredKey(self.key.id, self.wrapped, self.key.check)


class KeySource(Protocol):
    """A source of master keys. It is asked at start, and when the database lists a key that isn't held yet."""

    @property
    def fix(self) -> str:
        """What an operator can do when a key is missing or wrong, as a clause."""
        ...

    def describe(self) -> str:
        """The location of the keys, for people; contains no secret."""
        ...

    async def open(self, stored: StoredKey) -> LocalKey | None:
        """That key, or None when this source has another one. Raises KeyUnavailable."""
        ...

    async def create(self, known: Collection[str]) -> MadeKey:
        """A key whose fingerprint isn't in `known`: one already in the source, or a new one.

        Raises KeyUnavailable.
        """
        ...


class KeyService(Protocol):
    """A key that never leaves its service or device. Blocking: called off the event loop, only at start and for a new
    key."""

    @property
    def kind(self) -> str:
        """Its name in `keys.source`."""
        ...

    def describe(self) -> str:
        """The key and its service, for people; contains no secret."""
        ...

    def wrap(self, key: bytes) -> bytes:
        """Encrypt 32 bytes. Raises KeyUnavailable."""
        ...

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """What `wrap` was given; None when the service refuses these bytes. Raises KeyUnavailable."""
        ...


def fingerprint_of(key_id: str) -> str:
    """The part of a key's ID that depends only on the key."""
    return key_id.rpartition("-")[2]
