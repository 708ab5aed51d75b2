"""Commit answers that are in the host's journal but not in the database, after a crash or with an older database.

Answers of ended processes and of running ones that cannot commit are treated alike: the row decides by compare-and-set,
so adopting twice, or at the same time as the owner, changes nothing. The answer of a connection that was disconnected
in the meantime goes to its pending revocation, so that these tokens end too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from vault.records import TENANT
from vault.refresh import leases, sightings
from vault.refresh.concurrency import UpstreamTokenRequest, Vault
from vault.refresh.journal import JOURNAL, JournalEntry, read_answer
from vault.refresh.leases import ConnectionFacts, Lease
from vault.refresh.refresh_request import Spender
from vault.refresh.rules import is_newer
from vault.refusals import CiphertextRejected, VaultError
from vault.storage.database import integer, page_names, page_values, text
from vault.upstream import RotationMode, UpstreamPolicy

log = logging.getLogger("token_vault.rotation")

PAGE = 500  # connections whose generations are read at once
AT_ONCE = 5  # answers committed at once: half of the database connections stay for others
_GENERATIONS = f"""
    select k.id, k.generation from connections k
    left join upstream_revocations r on r.tenant = k.tenant and r.connection_id = k.id and r.done_at is null
    where k.tenant = :tenant and k.id in ({page_names("id", PAGE)})
        and (k.ended_at is null or r.connection_id is not null)
"""  # noqa: S608 -- a constant


async def adopt_if_ahead(vault: Vault, facts: ConnectionFacts) -> bool:
    """Like `adopt`, before each send: cheap when nothing suggests that the journal is ahead of the row.

    A row without a send or a lease shows that only if the database hasn't gone back in time.
    """
    if facts.sent_at is None and facts.lease_owner is None:
        era = vault.database.server_changes
        if not await vault.journal.is_ahead(facts.connection_id, generation=facts.generation, era=era):
            return False
        if await adopt(vault, facts):
            if _rotates(vault, facts):
                _note_older(vault, [facts.connection_id])
            return True
        return False
    return await adopt(vault, facts)


async def adopt(vault: Vault, facts: ConnectionFacts) -> bool:
    """Commit an answer that this host holds for the connection; whether the row changed."""
    return await _adopt_any(vault, facts, await vault.journal.find(facts.connection_id))


async def _adopt_any(vault: Vault, facts: ConnectionFacts, entries: Sequence[JournalEntry]) -> bool:
    for entry in entries:
        if await _commit(vault, facts, entry):
            return True
    return False


async def hand_over(vault: Vault, connection_id: str) -> bool:
    """Give a disconnected connection's pending revocation the newer answer that this host may hold.

    Returns whether this host holds any answer for it.
    """
    entries = await vault.journal.find(connection_id)
    facts = await leases.read(vault.database, connection_id) if entries else None
    if facts is not None and facts.is_ended:
        await _adopt_any(vault, facts, entries)
    return bool(entries)


async def adopt_all(vault: Vault) -> int:
    """Commit every answer of this host that is newer than its row; returns how many there were. Runs at start."""
    newest = await vault.journal.newest()
    if not newest:
        return 0
    known = await _generations(vault, list(newest))
    ahead = [name for name, (generation, _) in newest.items() if name in known and generation >= known[name]]
    adopted, older = 0, list[str]()
    for first in range(0, len(ahead), leases.PAGE):
        page = list((await leases.read_page(vault.database, ahead[first : first + leases.PAGE])).values())
        for done, facts in zip(await _adopt_page(vault, page), page, strict=True):
            generation, _ = newest[facts.connection_id]
            adopted += done is True
            is_older = done is not None and _went_back(facts, generation) and (done or generation > facts.generation)
            if is_older and _rotates(vault, facts):
                older.append(facts.connection_id)
    if older:
        _note_older(vault, older)
    return adopted


async def _adopt_page(vault: Vault, page: Sequence[ConnectionFacts]) -> Sequence[bool | None]:
    """For each connection, whether its row changed; None if refused.

    The connections are independent, so several are committed at a time.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def adopt_one(facts: ConnectionFacts) -> bool | None:
        async with places:
            try:
                return await _adopt_any(vault, facts, await vault.journal.find(facts.connection_id, anew=False))
            except VaultError as error:  # one account's failure must not stop the others
                log.warning("answer not adopted", extra={"connection": facts.connection_id, "code": error.code})
                return None

    return await asyncio.gather(*(adopt_one(facts) for facts in page))


async def _generations(vault: Vault, connections: Sequence[str]) -> dict[str, int]:
    """The generations of those connections' rows in which an answer may still be stored."""
    known: dict[str, int] = {}
    for first in range(0, len(connections), PAGE):
        page = connections[first : first + PAGE]
        rows = await vault.database.fetch(_GENERATIONS, {"tenant": TENANT, **page_values("id", page, PAGE)})
        known |= {text(row, "id"): integer(row, "generation") for row in rows}
    return known


def _went_back(facts: ConnectionFacts, generation: int) -> bool:
    """Whether no crash explains why the journal is ahead: this generation's refresh left no trace in the row."""
    is_untouched = facts.sent_at is None and facts.lease_owner is None
    return not facts.is_ended and (generation > facts.generation or is_untouched)


def _rotates(vault: Vault, facts: ConnectionFacts) -> bool:
    """Whether its refresh tokens end when used; if not, an older row, such as after a restore, does no harm."""
    return _policy(vault, facts).rotation is not RotationMode.NONE


def _policy(vault: Vault, facts: ConnectionFacts) -> UpstreamPolicy:
    return vault.policy_of(facts.provider, facts.renewed_by)


def _note_older(vault: Vault, connections: Sequence[str]) -> None:
    log.warning(
        "the database is older than this host's journal, which had the newer tokens: run token-vault doctor",
        extra={"connections": len(connections), "first": connections[0]},
    )
    sightings.note_older_rows(vault.journal.data, len(connections), now=vault.database.now())


async def _commit(vault: Vault, facts: ConnectionFacts, entry: JournalEntry) -> bool:
    holds = (facts.lease_owner, facts.fence) == (entry.owner, entry.fence)
    if not is_newer(spent_generation=entry.generation, row_generation=facts.generation, holds_lease=holds):
        return False
    upstream = vault.upstreams.get(facts.provider)
    if upstream is None:
        return False
    try:
        key = facts.key(vault.keys)
        opened = key.open(
            entry.sealed,
            purpose=JOURNAL,
            provider=facts.provider,
            account=facts.account,
            generation=entry.generation,
        )
    except CiphertextRejected:
        log.warning("journalled answer doesn't open", extra={"connection": facts.connection_id})
        return False
    spent, scopes, answer = read_answer(opened)
    spender = Spender(
        vault,
        upstream,
        _policy(vault, facts),
        facts=facts,
        request=UpstreamTokenRequest(facts.connection_id, entry.generation, scopes=scopes),
        key=key,
        refresh_token=spent,
    )
    lease = Lease(facts.connection_id, entry.owner, generation=entry.generation, fence=entry.fence)
    generation = await spender.commit(lease, answer, at=entry.at, is_kept=True)
    log.info("answer adopted", extra={"connection": facts.connection_id})
    return generation is not None
