"""The master keys that this process holds in memory, and the source from which it learns further ones."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from vault.envelope import Context
from vault.keys.masters import MasterRow, from_root
from vault.keys.sources.local import LocalKey
from vault.keys.sources.source import KeySource, MadeKey, StoredKey, fingerprint_of
from vault.records import TENANT
from vault.refusals import CiphertextRejected, KeyUnavailable
from vault.storage.database import Reader, Row, binary, text

ROOT = "root"
FORGET_AFTER = 60  # seconds to keep a retired key: a call that read something under it may not have opened it yet

ROOT_CONTEXT = Context(purpose="root", tenant=TENANT).encode()


class HeldKeys:
    """Master keys by fingerprint. Each is opened once, when the database first names it to this process."""

    def __init__(self, source: KeySource) -> None:
        self.source = source
        self.rows: tuple[MasterRow, ...] = ()
        self._keys: dict[str, LocalKey] = {}

    async def learn(self, rows: Sequence[MasterRow], *, now: int) -> KeyUnavailable | None:
        """Open the keys of `rows` that are new, and drop retired ones; returns why a key can't be opened."""
        trouble: KeyUnavailable | None = None
        for row in rows:
            if row.is_live and not self.holds(row.id):
                try:
                    await self._open(row)
                except KeyUnavailable as error:
                    trouble = trouble or error
        kept = {
            row.stored.fingerprint
            for row in rows
            if row.is_live or (row.retired_at is not None and now < row.retired_at + FORGET_AFTER)
        }
        self._keys = {name: key for name, key in self._keys.items() if name in kept}
        self.rows = tuple(rows)
        return trouble

    def take(self, made: MadeKey) -> None:
        """Hold a key that was just created."""
        self._keys[made.key.fingerprint] = made.key

    def holds(self, key_id: str) -> bool:
        """Whether this process holds that key."""
        return fingerprint_of(key_id) in self._keys

    def list_missing(self) -> tuple[MasterRow, ...]:
        """The keys that the database lists as not retired and that this process doesn't hold."""
        return tuple(row for row in self.rows if row.is_live and not self.holds(row.id))

    def ids(self) -> tuple[str, ...]:
        """The keys that the database lists and that this process holds."""
        return tuple(row.id for row in self.rows if row.is_live and self.holds(row.id))

    def key(self, key_id: str) -> LocalKey:
        """That key. Raises KeyUnavailable."""
        found = self._keys.get(fingerprint_of(key_id))
        if found is None:
            raise self.refusal(key_id)
        return found

    def refusal(self, key_id: str) -> KeyUnavailable:
        """The error that this process lacks a key, with the fix."""
        return KeyUnavailable(f"this process doesn't have the master key {key_id}: {self.source.fix}", detail=key_id)

    async def _open(self, row: MasterRow) -> None:
        found = await self.source.open(row.stored)
        if found is None:
            return
        if row.stored.check is not None and not hmac.compare_digest(found.check, row.stored.check):
            raise KeyUnavailable(
                f"the key for {row.id} is another one: {self.source.fix}", detail="the key's check value differs"
            )
        self._keys[found.fingerprint] = found


async def root_row(reader: Reader) -> Row | None:
    """The row of the root secret; None before the first run."""
    return await reader.fetch_one("select sealed, kek_id from keys.ring where id = :id", {"id": ROOT})


async def open_root(held: HeldKeys, row: Row, rows: Sequence[MasterRow], *, now: int) -> bytes:
    """Learn the master keys of a database and unwrap its root secret. Raises KeyUnavailable for another master key."""
    kek_id, sealed = text(row, "kek_id"), binary(row, "sealed")
    known = {one.stored.fingerprint for one in rows}
    named = rows if fingerprint_of(kek_id) in known else (*rows, from_root(kek_id, sealed))
    trouble = await held.learn(named, now=now)
    refusal = KeyUnavailable(
        f"this key didn't seal the database, {kek_id} did: {held.source.fix}",
        detail=f"the database is sealed under {kek_id}",
    )
    if not held.holds(kek_id):
        raise trouble or refusal
    try:
        return held.key(kek_id).unwrap(sealed, ROOT_CONTEXT)
    except CiphertextRejected as error:
        raise refusal from error


def stored_of(key: LocalKey, key_id: str) -> StoredKey:
    """The record to store for a key of an earlier release, which the database doesn't list."""
    return StoredKey(key_id, key.prefix or None, key.check)
