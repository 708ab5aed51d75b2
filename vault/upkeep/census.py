"""What the vault holds, in numbers, for the operator's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vault.audit.proof import last_checkpoint
from vault.records import SHORT, TENANT, ApprovalState
from vault.refresh.journal import FOLDER
from vault.storage.database import Database, integer, integer_or_none, text

DAY = 86400
ENDING = (1, 7, 30)  # days
LOOK_BACK: Final = 5000  # events in which to look for refreshes
REFRESHES: Final[Mapping[str, str]] = {  # the outcome of a refresh by the kind of its event
    "connection.refreshed": "ok",
    "connection.refresh_unanswered": "unanswered",
    "connection.needs_reauth": "needs_reauth",
}

_CONNECTIONS = """
    select provider, state, count(*) as n from connections
    where tenant = :tenant and ended_at is null group by provider, state
"""
_ENDING = """
    select
        (select count(*) from connections where tenant = :tenant and ended_at is null
            and idle_expires_at > :now and idle_expires_at <= :soon)
        + (select count(*) from connections where tenant = :tenant and ended_at is null
            and grant_expires_at > :now and grant_expires_at <= :soon
            and grant_expires_at - coalesce(consented_ms / 1000, created_at) > :short
            and (idle_expires_at is null or idle_expires_at > :soon or idle_expires_at <= :now)) as n
"""
_WAITING = "select count(*) as n from approvals where expires_at > :now and state = :pending"
_NEWEST = """
    select at from events
    where tenant = :tenant and sequence = (select sequence from event_heads where tenant = :tenant)
"""
_REFRESHES = """
    select kind, count(*) as n from events
    where tenant = :tenant and sequence > (select sequence from event_heads where tenant = :tenant) - :limit
        and at >= :since and kind in (:ok, :unanswered, :needs_reauth)
    group by kind
"""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What changes by the second. Times in seconds; None: there is none yet."""

    approvals_waiting: int
    newest_event_at: int | None
    sealed_until: int | None  # the newest event that was verified and sealed


@dataclass(frozen=True, slots=True)
class Census:
    """What takes a look at every connection."""

    connections: Mapping[tuple[str, str], int]  # by provider and state
    ending: Mapping[int, int]  # grants that end within so many days unless they are used or renewed


async def take_pulse(database: Database) -> Pulse:
    """A few short reads."""
    names = {"now": database.now(), "pending": ApprovalState.PENDING.value}
    waiting = await database.fetch_one(_WAITING, names)
    newest = await database.fetch_one(_NEWEST, {"tenant": TENANT})
    key = database.event_key
    checkpoint = None if key is None else await last_checkpoint(database, key)
    return Pulse(
        0 if waiting is None else integer(waiting, "n"),
        None if newest is None else integer_or_none(newest, "at"),
        None if checkpoint is None else checkpoint.last_at,
    )


async def take_census(database: Database) -> Census:
    """Reads an entry for each connection: once in some minutes is enough."""
    now = database.now()
    rows = await database.fetch(_CONNECTIONS, {"tenant": TENANT})
    ending = dict[int, int]()
    for days in ENDING:
        which = {"tenant": TENANT, "now": now, "soon": now + days * DAY, "short": SHORT}
        row = await database.fetch_one(_ENDING, which)
        ending[days] = 0 if row is None else integer(row, "n")
    return Census({(text(row, "provider"), text(row, "state")): integer(row, "n") for row in rows}, ending)


async def count_refreshes(database: Database, *, since: int) -> Mapping[str, int]:
    """Refreshes since an instant by outcome, as far as the newest `LOOK_BACK` events have them."""
    names = {outcome: kind for kind, outcome in REFRESHES.items()}
    rows = await database.fetch(_REFRESHES, {**names, "tenant": TENANT, "limit": LOOK_BACK, "since": since})
    counted = {REFRESHES[text(row, "kind")]: integer(row, "n") for row in rows}
    return {outcome: counted.get(outcome, 0) for outcome in names}


def journal_size(data: Path) -> int:
    """Bytes of the answer journal of this host."""
    return sum(path.stat().st_size for path in (data / FOLDER).glob("*") if path.is_file())
