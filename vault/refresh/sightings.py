"""What this host last saw of its database, to detect one that went back in time. A restored volume, point-in-time
recovery or a lagging standby brings back rows whose refresh tokens have since been used. Two signs show it: an answer
in this host's journal that is newer than its row, and the end of the activity, which only grows. `last-seen.json` in
the data directory keeps the last seen end; running processes write it at most twice a minute. If the database is found
older, the file stays unchanged until `token-vault quarantine` or a restore.
"""

from __future__ import annotations

import json
import logging
import secrets
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from vault.audit import audit
from vault.classes.immutable import immutable
from vault.records import TENANT
from vault.storage.database import Database, Reader, Value, binary

log = logging.getLogger("token_vault.storage")

FILE = "last-seen.json"
SETTLED = ("vault.restored", "vault.quarantined", "vault.rollback_accepted")  # after these, counting starts over

_BATCH = "select hash from event_batches where tenant = :tenant and height = :height"
# These events belong to no user and are in the index `events_of_vault`, because this may run every half minute.
_SETTLED = """
    select at from events where tenant = :tenant and at >= :since
        and user_id is null and client_id is null and connection_id is null
        and kind in (:restored, :quarantined, :accepted)
    limit 1
"""


@immutable
class Sighting:
    """The end of the activity when last seen, with two more facts.

    `older_rows` counts rows found older than the journal since; `key_start` is where the vault's key came into use
    (`HEIGHT:SEQUENCE`).
    """

    height: int = 0
    sequence: int = 0
    hash: str = ""
    at: int = 0
    older_rows: int = 0
    key_start: str = ""


@immutable
class Rollback:
    """Signs that a database went back in time, or that its history was rewritten."""

    lost_events: int  # at least this many; 0 if other events took their place
    older_rows: int  # connections for which this host's journal held newer answers
    is_rekeyed: bool  # the record of where the vault's key came into use is gone or differs


def read(data: Path) -> Sighting | None:
    """What this host saw last; None before the first time, or when the file cannot be read."""
    try:
        facts: object = json.loads((data / FILE).read_text(encoding="utf-8"))
        return Sighting(**facts) if isinstance(facts, dict) else None  # pyright: ignore[reportUnknownArgumentType] -- our own file
    except (OSError, ValueError, TypeError):
        return None


def _write(data: Path, sighting: Sighting) -> None:
    """Replace the file. It isn't synced: an older file only detects less."""
    unseen = data / f".{FILE}.{secrets.token_hex(4)}"
    try:
        unseen.touch(mode=0o600)
        unseen.write_text(json.dumps(asdict(sighting)), encoding="utf-8")
        unseen.replace(data / FILE)
    except OSError as error:
        log.warning("the last sight of the database can't be stored", extra={"detail": str(error)})
        with suppress(OSError):
            unseen.unlink()


def forget(data: Path) -> None:
    """Start over, because someone set the database back on purpose."""
    (data / FILE).unlink(missing_ok=True)


def note_older_rows(data: Path, count: int, *, now: int) -> None:
    """Count rows that are older than this host's journal."""
    known = read(data) or Sighting()
    _write(data, replace(known, at=now, older_rows=known.older_rows + count))


async def look(reader: Reader, data: Path) -> Rollback | None:
    """Whether the database is older than what this host saw of it, and this is not yet resolved."""
    seen = read(data)
    if seen is None:
        return None
    head = await audit.head(reader)
    row = await reader.fetch_one(_BATCH, {"tenant": TENANT, "height": seen.height})
    is_other = row is not None and binary(row, "hash").hex() != seen.hash
    lost = max(0, seen.sequence - head.sequence)
    is_rekeyed = bool(seen.key_start) and seen.key_start != await _key_start(reader)
    if not (lost or is_other or is_rekeyed or seen.older_rows):
        return None
    names: dict[str, Value] = dict(zip(("restored", "quarantined", "accepted"), SETTLED, strict=True))
    if await reader.fetch_one(_SETTLED, {**names, "tenant": TENANT, "since": seen.at}) is not None:
        return None
    return Rollback(lost, seen.older_rows, is_rekeyed)


async def _key_start(reader: Reader) -> str:
    start = await audit.load_start(reader)
    return "" if start is None else f"{start.height}:{start.sequence}"


async def note(database: Database, data: Path) -> Rollback | None:
    """Store the current sighting; if the database went back in time, return the signs instead."""
    rollback = await look(database, data)
    if rollback is not None:
        return rollback
    head, known = await audit.head(database), read(data)
    if known is None or known.sequence != head.sequence or known.older_rows or not known.key_start:
        key_start = await _key_start(database)
        _write(data, Sighting(head.height, head.sequence, head.hash.hex(), database.now(), key_start=key_start))
    return None
