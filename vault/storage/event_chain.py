"""The bytes of the activity's chain: lines of events, hashes of batches, and the keyed head. See `FORMATS.md`.

Two chains run side by side. The hash chain needs no key and reveals a change inside. The keyed head is folded from
values that only a holder of the vault's key can compute and that are stored nowhere: someone with only the database
can neither add a batch nor compute the head of a shorter chain. Folding needs no key, so PostgreSQL does it in the
statement that appends. Pure functions only.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from pydantic_core import to_json

from vault.classes.immutable import immutable
from vault.records import TENANT

START = bytes(32)  # the hash before the first batch
LABEL = b"token-vault events 1\x00"
FOLD_LABEL = b"token-vault events keyed 1\x00"
_MAC_LABEL = b"token-vault events mac 1\x00"
_TAG_LABEL = b"token-vault events tag 1\x00"
_BEGIN_LABEL = b"token-vault events begin 1\x00"


@immutable
class ChainEntry:
    """One event as stored, without its number and time. `details` is JSON; `said` has its values while it is
    appended."""

    kind: str
    outcome: str
    user_id: str | None
    client_id: str | None
    connection_id: str | None
    details: str
    said: Mapping[str, object] = field(default_factory=dict[str, object], compare=False, repr=False)


@immutable
class Batch:
    """Events that are committed together; the time is in seconds."""

    at: int
    entries: Sequence[ChainEntry]


@immutable
class Link:
    """The end of the chain after some batch. `keyed` is None before the vault's key was first used."""

    height: int
    sequence: int
    hash: bytes
    keyed: bytes | None


EMPTY = Link(0, 0, START, None)  # the end of a chain without events


def tail(entry: ChainEntry, *, at: int) -> str:
    """The line of an event after its number: `AT,"KIND",...]`."""
    row = (at, entry.kind, entry.outcome, entry.user_id, entry.client_id, entry.connection_id, entry.details)
    return to_json(row).decode()[1:]


def line_start() -> str:
    """The line of an event before its number."""
    return f"[{to_json(TENANT).decode()},"


def digest(previous: bytes, *, height: int, sequence: int, at: int, tails: Sequence[str]) -> bytes:
    """SHA-256 over the previous batch and every column of every event of this one; `sequence` is the last before it."""
    start = line_start()
    lines = [f"[{height},{at},{len(tails)}]"]
    lines += [f"{start}{number},{rest}" for number, rest in enumerate(tails, start=sequence + 1)]
    return hashlib.sha256(LABEL + previous + frames(lines)).digest()


def frames(lines: Sequence[str]) -> bytes:
    """For each line 4 bytes of length, big endian, and the line in UTF-8."""
    encoded = [line.encode() for line in lines]
    return b"".join([part for line in encoded for part in (len(line).to_bytes(4, "big"), line)])


def mac_and_tag(key: bytes, *, tails: Sequence[str]) -> tuple[bytes, bytes]:
    """The MAC over a batch's content, and the tag that is stored with the batch.

    The MAC is folded into the keyed head and never stored. The tag, 16 bytes, identifies a batch that was written or
    changed without the key.
    """
    content, mac = frames(tails), HMAC(key, SHA256())
    tag = mac.copy()
    mac.update(_MAC_LABEL + content)
    tag.update(_TAG_LABEL + content)
    return mac.finalize(), tag.finalize()[:16]


def fold(keyed: bytes, *, previous: bytes, mac: bytes) -> bytes:
    """The keyed head after a batch; `previous` is the hash of the batch before."""
    return hashlib.sha256(FOLD_LABEL + keyed + previous + mac).digest()


def begin(key: bytes, *, height: int, sequence: int, hash: bytes) -> bytes:  # noqa: A002 -- the column's name
    """The keyed head at the key's first use, after batch `height`."""
    return hmac.digest(key, _BEGIN_LABEL + frames([f"[{height},{sequence}]"]) + hash, hashlib.sha256)


def entry_of(row: Mapping[str, str | int | bytes | None]) -> ChainEntry:
    """The entry in a stored row; columns of another type never fit the chain."""
    named = {name: row[name] for name in ("kind", "outcome", "user_id", "client_id", "connection_id", "details")}
    return ChainEntry(**named)  # pyright: ignore[reportArgumentType] -- whatever is there is what gets hashed
