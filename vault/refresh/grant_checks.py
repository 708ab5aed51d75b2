"""Check now whether a provider still honors a grant, because of a hint that it may have ended. A check is a refresh
ahead of time, by the same rules as every refresh. For a grant without a refresh token, the provider is asked who the
token belongs to; only the provider's own refusal triggers the rule for refused tokens. The hint alone never ends a
grant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT, ConnectionState
from vault.refresh import leases, rotation
from vault.refresh.concurrency import Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.refresh_request import open_refresh_token
from vault.refusals import CiphertextRejected, ConnectionRequired, VaultError
from vault.storage.database import SWEEP_BATCH, Reader, Transaction, integer, text
from vault.upstream import UpstreamError

log = logging.getLogger("token_vault.rotation")

PAUSE: Final = 60  # seconds between two checks of one connection, however many hints arrive
LEASE: Final = 300  # seconds after which a started check counts as lost with its process
TRIES: Final = 6  # checks without an answer, at growing intervals, until the next hint
BATCH: Final = 50  # checks in one turn of the upkeep
AT_ONCE: Final = 5
MOST: Final = 500  # connections per hint
PAGE: Final = 500
_PAGES: Final = 20  # connections of a provider that are searched for a group of accounts
# A token that is dead, not merely too narrow: RFC 6750 §3.1, and Slack's names.
_DEAD: Final = frozenset({"invalid_token", "invalid_auth", "token_revoked", "token_expired", "account_inactive"})
_LIVE: Final = """
    select id, user_id, label from connections
    where tenant = :tenant and provider = :provider and ended_at is null and state = :active
    order by account, id limit :limit
"""
_OF_ACCOUNT: Final = """
    select id, user_id, account from connections
    where tenant = :tenant and provider = :provider and account = :account and ended_at is null order by id limit :limit
"""
_OF_PROVIDER: Final = """
    select id, user_id, account from connections
    where tenant = :tenant and provider = :provider and ended_at is null
        and (account > :account or (account = :account and id > :id))
    order by account, id limit :limit
"""

# `asked` counts the hints since the last check; hints that arrive during a check cause another one.
_NOTE: Final = """
    insert into looks (tenant, connection_id, asked, tries, due_at) values (:tenant, :id, 1, 0, :now)
    on conflict (tenant, connection_id) do update set asked = looks.asked + 1, due_at = coalesce(looks.due_at,
        case when looks.looked_at + :pause > :now then looks.looked_at + :pause else :now end)
    returning asked
"""
_DUE: Final = "select connection_id from looks where due_at <= :now order by due_at limit :limit"
_CLAIM: Final = """
    update looks set due_at = :lease, looked_at = :now, tries = tries + 1
    where tenant = :tenant and connection_id = :id and due_at <= :now returning asked, tries
"""
_DONE: Final = """
    update looks set asked = asked - :seen, tries = :tries,
        due_at = case when cast(:again as bigint) is not null then cast(:again as bigint)
            when asked > :seen then cast(:later as bigint) else null end
    where tenant = :tenant and connection_id = :id and due_at = :lease
"""
_SWEEP: Final = """
    delete from looks where (tenant, connection_id) in
        (select tenant, connection_id from looks where due_at is null and looked_at < :before limit :batch)
"""


@immutable
class HintedConnection:
    """A live connection that a hint is about."""

    connection_id: str
    user_id: str


async def find_accounts(reader: Reader, *, provider: str, account: str) -> tuple[HintedConnection, ...]:
    """Everyone's live connections to one account at a provider."""
    named = {"tenant": TENANT, "provider": provider, "account": account, "limit": MOST}
    rows = await reader.fetch(_OF_ACCOUNT, named)
    return tuple(HintedConnection(text(row, "id"), text(row, "user_id")) for row in rows)


async def find_group(reader: Reader, *, provider: str, prefix: str) -> tuple[HintedConnection, ...]:
    """Live connections whose account has this prefix, such as those of one workspace; searches a bounded number."""
    found: list[HintedConnection] = []
    account, last = "", ""
    for _ in range(_PAGES):
        named = {"tenant": TENANT, "provider": provider, "account": account, "id": last, "limit": PAGE}
        rows = await reader.fetch(_OF_PROVIDER, named)
        found += [
            HintedConnection(text(row, "id"), text(row, "user_id"))
            for row in rows
            if text(row, "account").startswith(prefix)
        ]
        if len(rows) < PAGE or len(found) >= MOST:
            break
        account, last = text(rows[-1], "account"), text(rows[-1], "id")
    return tuple(found[:MOST])


async def note(
    transaction: Transaction, hinted: Sequence[HintedConnection], *, now: int
) -> tuple[HintedConnection, ...]:
    """Durably schedule a check of each: now, or a minute after the previous one. Returns those that weren't scheduled
    already."""
    planned: list[HintedConnection] = []
    for one in hinted:
        named = {"tenant": TENANT, "id": one.connection_id, "now": now, "pause": PAUSE}
        row = await transaction.fetch_one(_NOTE, named)
        if row is not None and integer(row, "asked") == 1:
            planned.append(one)
    return tuple(planned)


def start(vault: Vault, hinted: Sequence[HintedConnection]) -> None:
    """Check in the background those that are due, one after the other."""
    if hinted:
        vault.tasks.tidy(_look_at_all(vault, [one.connection_id for one in hinted]))


async def _look_at_all(vault: Vault, connection_ids: Sequence[str]) -> None:
    for one in connection_ids:
        await look_if_due(vault, one)


async def run_due(vault: Vault) -> int:
    """Run due checks, including those of a dead process; a bounded number, `AT_ONCE` at a time. Returns how many were
    due."""
    rows = await vault.database.fetch(_DUE, {"now": vault.database.now(), "limit": BATCH})
    places = asyncio.Semaphore(AT_ONCE)

    async def one(connection_id: str) -> None:
        async with places:
            await look_if_due(vault, connection_id)

    await asyncio.gather(*(one(text(row, "connection_id")) for row in rows))
    return len(rows)


async def look_if_due(vault: Vault, connection_id: str) -> None:
    """Check a connection, unless another process does. Tries again after no answer, up to `TRIES` times."""
    database, now = vault.database, vault.database.now()
    which = {"tenant": TENANT, "id": connection_id}
    async with database.transaction() as transaction:
        row = await transaction.fetch_one(_CLAIM, {**which, "now": now, "lease": now + LEASE})
    if row is None:
        return
    asked, tries = integer(row, "asked"), integer(row, "tries")
    try:
        is_known = await look(vault, connection_id)
    except ConnectionRequired:
        is_known = True
    except VaultError as refusal:
        log.debug("look refused", extra={"connection": connection_id, "code": refusal.code})
        is_known = False
    if not is_known and tries < TRIES:
        again: int | None = database.now() + PAUSE * 2 ** (tries - 1)
    else:
        again, tries = None, 0
    done = {**which, "seen": asked, "tries": tries, "again": again, "later": now + PAUSE, "lease": now + LEASE}
    async with database.transaction() as transaction:
        await transaction.execute(_DONE, done)


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete checks that finished more than a minute ago, at most a batch; returns how many."""
    return await transaction.execute(_SWEEP, {"before": now - PAUSE, "batch": SWEEP_BATCH})


@immutable
class LiveAccount:
    """A connection that agents may use."""

    connection_id: str
    user_id: str
    label: str


async def live_accounts(reader: Reader, provider: str, *, limit: int) -> tuple[LiveAccount, ...]:
    """The connections at this provider that, as far as the vault knows, work; up to `limit`."""
    which = {"tenant": TENANT, "provider": provider, "active": ConnectionState.ACTIVE.value, "limit": limit}
    rows = await reader.fetch(_LIVE, which)
    return tuple(LiveAccount(text(row, "id"), text(row, "user_id"), text(row, "label")) for row in rows)


async def look(vault: Vault, connection_id: str) -> bool:
    """Refresh or probe the connection; False if the provider gave no conclusive answer.

    Raises what a refresh raises; ConnectionRequired means that it has ended.
    """
    facts = await leases.read(vault.database, connection_id)
    if facts is None or facts.state is not ConnectionState.ACTIVE:
        return True
    newest = facts.access_generation
    if facts.refresh_sealed is not None:
        await rotation.refresh(vault, connection_id, if_generation=newest)
        return True
    is_refused = await _is_refused(vault, facts)
    if is_refused:
        await rotation.refresh(vault, connection_id, if_generation=newest, spoiled=newest)
    return is_refused is not None


async def _is_refused(vault: Vault, facts: ConnectionFacts) -> bool | None:
    """Whether the provider reports this access token as dead; None if its answer is inconclusive."""
    upstream = vault.upstream_of(facts.provider)
    access_token = facts.open_access_token(vault.keys)
    if upstream is None or access_token is None:
        return False
    try:
        await upstream.identify(access_token, {})
    except UpstreamError as error:
        return True if error.code in _DEAD else None
    return False


async def source_of(vault: Vault, connection_id: str) -> str:
    """Where the secret of a connection is kept, such as `bao`; empty if the vault holds it or can't determine that."""
    facts = await leases.read(vault.database, connection_id)
    if vault.references is None or facts is None:
        return ""
    try:
        kept = "" if facts.refresh_sealed is None else open_refresh_token(facts.key(vault.keys), facts)
        return vault.references.source_of(facts.provider, kept or facts.open_access_token(vault.keys) or "")
    except CiphertextRejected:
        return ""
