"""Resume unfinished refreshes, after a crash or a silence, before a caller asks. A provider's grace lasts seconds, so
an answer that was lost with its process is requested again at once; if it can't be recovered, the person is asked at
once. `vault.refresh.rotation` decides what may be sent, as for a caller. One automatic attempt runs at once, and one at
the end of each pause after a silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import islice

from vault.classes.immutable import immutable
from vault.records import TENANT, ConnectionState
from vault.refresh import journal_recovery, leases, rotation, sightings, takeover
from vault.refresh.concurrency import Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.rules import CLOCKS, PAUSE
from vault.storage.database import Reader, Value, integer, text

log = logging.getLogger("token_vault.rotation")

AT_ONCE = 10  # refreshes

# From the few intents to their connections (`cross join` keeps SQLite's planner to that order), even with a million
# connections.
_UNFINISHED = """
    select k.id from (
        select connection_id, generation, sum(sends) as sends from intents
        where tenant = :tenant group by connection_id, generation
    ) i
    cross join connections k
    where k.tenant = :tenant and k.id = i.connection_id and k.generation = i.generation
        and k.state = :active and k.ended_at is null
        and (k.retry_at is null or k.retry_at <= :now or k.retry_at > :latest)
    order by k.id
"""
# As in `Connection.status`: a send without a lease, which can no longer be answered.
_WAITING = """
    select provider, count(*) as accounts, min(since) as since from (
        select k.provider, k.id, min(i.sent_at) as since from intents i
        join connections k on k.tenant = i.tenant and k.id = i.connection_id and k.generation = i.generation
        where i.tenant = :tenant and k.state = :active and k.ended_at is null and k.lease_owner is null
        group by k.provider, k.id having min(case when i.settled_at is null then 0 else 1 end) = 1
    ) waiting group by provider order by provider
"""


@immutable
class WaitingAccounts:
    """How many accounts wait for a provider that didn't answer a refresh, and since when the first one waits (Unix
    time)."""

    provider: str
    accounts: int
    since: int


async def list_waiting(reader: Reader) -> tuple[WaitingAccounts, ...]:
    """The providers that did not answer a refresh of some account and have not since."""
    rows = await reader.fetch(_WAITING, {"tenant": TENANT, "active": ConnectionState.ACTIVE.value})
    return tuple(
        WaitingAccounts(text(row, "provider"), integer(row, "accounts"), integer(row, "since")) for row in rows
    )


async def watch(vault: Vault) -> sightings.Rollback | None:
    """Detect a database that went back in time; after a change of server, first commit newer answers from this host.
    This also shows that the process is running, before it has anything to refresh, so that no one restores the vault
    while it runs; its lock file may have been deleted.
    """
    await vault.database.hold_liveness(vault.owner)
    changes = vault.database.server_changes
    if changes != vault.tasks.server_changes:
        await journal_recovery.adopt_all(vault)
        vault.tasks.server_changes = changes
    rollback = await sightings.note(vault.database, vault.journal.data)
    if rollback is not None:
        log.error(
            "the database went back in time: refresh tokens in it may already be used; run token-vault doctor",
            extra={"lost_events": rollback.lost_events, "older_rows": rollback.older_rows},
        )
    return rollback


async def take_up(vault: Vault) -> int:
    """Refresh each connection with an unknown result of its last refresh, if allowed now; returns how many."""
    await takeover.settle_gone(vault)
    now = vault.database.now()
    which: dict[str, Value] = {
        "tenant": TENANT,
        "active": ConnectionState.ACTIVE.value,
        "now": now,
        "latest": now + PAUSE[1] + CLOCKS,  # a later end was written by another clock, as in `may_send`
    }
    waiting = [text(row, "id") for row in await vault.database.fetch(_UNFINISHED, which)]
    count = 0
    for first in range(0, len(waiting), leases.PAGE):
        free = iter(await _find_sendable(vault, waiting[first : first + leases.PAGE]))
        while some := list(islice(free, AT_ONCE)):
            refreshes = [
                rotation.refresh(vault, one.connection_id, if_generation=one.access_generation) for one in some
            ]
            await asyncio.gather(*refreshes, return_exceptions=True)  # refusals; the refresh itself logs a defect
            count += len(some)
    if count:
        log.info("unfinished refreshes taken up", extra={"count": count})
    return count


async def _find_sendable(vault: Vault, connection_ids: Sequence[str]) -> list[ConnectionFacts]:
    """The connections of a page whose refresh would be sent now. The refresh itself checks each again."""
    page = list((await leases.read_page(vault.database, connection_ids)).values())
    sends, now = await takeover.unresolved_sends_page(vault, page), vault.database.now()
    free = [facts for facts in page if await takeover.is_free(vault, facts, now=now)]
    return [
        facts
        for facts in free
        if await rotation.obstacle(vault, facts, now=now, sends=sends.get(facts.connection_id, ())) is None
    ]
