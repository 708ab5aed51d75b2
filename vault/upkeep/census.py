"""What the vault holds, in numbers, for the operator's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from vault.audit.proof import ChainBroken, last_checkpoint
from vault.classes.immutable import immutable
from vault.records import DAY, SHORT, TENANT, ApprovalState, parse_scope
from vault.refresh.journal import FOLDER
from vault.storage.database import Database, Reader, fetch_count, integer, integer_or_none, text

ENDING = (1, 7, 30)  # days
LOOK_BACK: Final = 5000  # events to search for refreshes
REFRESHES: Final[Mapping[str, str]] = {  # the outcome of a refresh by the kind of its event
    "connection.refreshed": "ok",
    "connection.refresh_unanswered": "unanswered",
    "connection.needs_reauth": "needs_reauth",
}

_COUNT_GRANTED = """
    select g.provider, g.scopes, g.n, k.user_id, k.label from (
        select provider, scopes, count(*) as n, min(id) as first from connections
        where tenant = :tenant and ended_at is null group by provider, scopes
    ) g
    join connections k on k.tenant = :tenant and k.id = g.first
    order by g.provider, g.first
"""
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
_UNSEALED = """
    select at from events where tenant = :tenant and sequence > :sealed order by sequence limit 1
"""
_REFRESHES = """
    select kind, count(*) as n from events
    where tenant = :tenant and sequence > (select sequence from event_heads where tenant = :tenant) - :limit
        and at >= :since and kind in (:ok, :unanswered, :needs_reauth)
    group by kind
"""


@immutable
class Pulse:
    """Figures that change every second. Times are Unix seconds; None if there was no such event yet."""

    approvals_waiting: int
    newest_event_at: int | None
    sealed_until: int | None  # the newest event that was verified and sealed
    unsealed_since: int | None  # the oldest event that wasn't


@immutable
class Census:
    """Figures that require reading every connection."""

    connections: Mapping[tuple[str, str], int]  # by provider and state
    ending: Mapping[int, int]  # grants that end within this many days unless they are used or renewed


async def take_pulse(database: Database) -> Pulse:
    """A few short reads."""
    names = {"now": database.now(), "pending": ApprovalState.PENDING.value}
    waiting = await fetch_count(database, _WAITING, names)
    newest = await database.fetch_one(_NEWEST, {"tenant": TENANT})
    key = database.event_key
    checkpoint = unsealed = None
    if key is not None:
        with suppress(ChainBroken):  # a changed checkpoint seals nothing
            checkpoint = await last_checkpoint(database, key)
        sealed = 0 if checkpoint is None else checkpoint.link.sequence
        unsealed = await database.fetch_one(_UNSEALED, {"tenant": TENANT, "sealed": sealed})
    return Pulse(
        waiting,
        None if newest is None else integer_or_none(newest, "at"),
        None if checkpoint is None else checkpoint.last_at,
        None if unsealed is None else integer_or_none(unsealed, "at"),
    )


async def take_census(database: Database) -> Census:
    """Reads an entry for each connection, so call it only once every few minutes."""
    now = database.now()
    rows = await database.fetch(_CONNECTIONS, {"tenant": TENANT})
    ending = dict[int, int]()
    for days in ENDING:
        which = {"tenant": TENANT, "now": now, "soon": now + days * DAY, "short": SHORT}
        ending[days] = await fetch_count(database, _ENDING, which)
    return Census({(text(row, "provider"), text(row, "state")): integer(row, "n") for row in rows}, ending)


async def count_refreshes(database: Database, *, since: int) -> Mapping[str, int]:
    """Refreshes since an instant by outcome, among the newest `LOOK_BACK` events."""
    names = {outcome: kind for kind, outcome in REFRESHES.items()}
    rows = await database.fetch(_REFRESHES, {**names, "tenant": TENANT, "limit": LOOK_BACK, "since": since})
    counted = {REFRESHES[text(row, "kind")]: integer(row, "n") for row in rows}
    return {outcome: counted.get(outcome, 0) for outcome in names}


def journal_size(data: Path) -> int:
    """Size in bytes of this host's answer journal."""
    return sum(path.stat().st_size for path in (data / FOLDER).glob("*") if path.is_file())


# By provider


@immutable
class GrantedScopes:
    """Live connections at a provider with the same scopes: their number, and one of them."""

    provider: str
    scopes: frozenset[str]
    count: int
    user_id: str
    label: str


SEEN_AT_PROVIDER: Final = 1001  # connections counted for a page


async def count_granted(reader: Reader) -> tuple[GrantedScopes, ...]:
    """Count the scopes of all live connections. Reads all of them, so use it only in a command."""
    return tuple(
        GrantedScopes(
            text(row, "provider"), parse_scope(text(row, "scopes")), integer(row, "n"), text(row, "user_id"),
            text(row, "label"),
        )
        for row in await reader.fetch(_COUNT_GRANTED, {"tenant": TENANT})
    )  # fmt: skip


@immutable
class AtProvider:
    """The live connections at one provider, counted up to SEEN_AT_PROVIDER."""

    count: int
    to_reconnect: int
    refreshed_at: int | None  # when one of them last worked


async def count_at_provider(reader: Reader, provider: str) -> AtProvider:
    """The state of the connections at this provider, counting at most SEEN_AT_PROVIDER."""
    (row,) = await reader.fetch(
        "select count(*) as n,"
        " cast(coalesce(sum(case when sampled.state = :dead then 1 else 0 end), 0) as bigint) as dead,"
        " max(sampled.refreshed_at) as refreshed_at from (select k.state, k.refreshed_at from connections k"
        " where k.tenant = :tenant and k.provider = :provider and k.ended_at is null limit :limit) sampled",
        {"tenant": TENANT, "provider": provider, "dead": "needs_reauth", "limit": SEEN_AT_PROVIDER},
    )
    return AtProvider(integer(row, "n"), integer(row, "dead"), integer_or_none(row, "refreshed_at"))
