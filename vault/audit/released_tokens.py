"""Provider tokens that left the vault: for each agent and account, when the last one expires. Ending an agent takes
effect at once here, but not on a provider token that it already holds. So the code that ends an agent stores what a
signed receipt must say about each account (`owe_receipts`); `vault.upkeep.agent_receipts` signs it. Releasing a token
and ending an agent both lock the client's row: either the receipt names the token, or the token isn't released.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT, ClientKind
from vault.refusals import GrantEnded
from vault.storage.database import SWEEP_BATCH, Database, Transaction, Value

UNKNOWN: Final = ""  # the hash of a token that may have been released between a backup and its restore
KNOWN: Final = 10_000  # pairs of agent and account that one process remembers

# Locked until the commit, before anything else that ending the agent changes.
_HOLD: Final = "update clients set last_used_at = last_used_at where tenant = :tenant and id = :client_id"
_IS_LIVE: Final = """
    select 1 from grants g
    join clients c on c.tenant = g.tenant and c.id = g.client_id and c.removed_at is null
    join delegations d on d.tenant = g.tenant and d.user_id = g.user_id and d.client_id = g.client_id
        and d.connection_id = :connection_id and d.revoked_at is null
    where g.tenant = :tenant and g.id = :grant_id and g.revoked_at is null
"""
_NOTE: Final = """
    insert into released_tokens
        (tenant, client_id, user_id, connection_id, token_hash, released_at, expires_at)
    values (:tenant, :client_id, :user_id, :connection_id, :token_hash, :now, :expires_at)
    on conflict (tenant, client_id, user_id, connection_id) do update set token_hash = excluded.token_hash,
        released_at = excluded.released_at, expires_at = excluded.expires_at
    where released_tokens.expires_at is not null
        and (excluded.expires_at is null or excluded.expires_at > released_tokens.expires_at)
"""
# Accounts that stay connected: those that the agent could use, and those for which it holds a token that still works.
_OWE: Final = """
    insert into agent_receipts
        (tenant, client_id, user_id, connection_id, ended_at, provider, token_hash, released_at, expires_at)
    select k.tenant, cast(:client_id as text), a.user_id, k.id, cast(:now as bigint), k.provider, t.token_hash,
        t.released_at, t.expires_at
    from (
        select d.user_id, d.connection_id from delegations d
        where d.tenant = :tenant and d.client_id = :client_id and d.revoked_at is null
            and (d.expires_at is null or d.expires_at > :now)
        union
        select r.user_id, r.connection_id from released_tokens r
        where r.tenant = :tenant and r.client_id = :client_id and (r.expires_at is null or r.expires_at > :now)
    ) a
    cross join connections k
    left join released_tokens t on t.tenant = :tenant and t.client_id = :client_id and t.user_id = a.user_id
        and t.connection_id = a.connection_id and (t.expires_at is null or t.expires_at > :now)
    where k.tenant = :tenant and k.id = a.connection_id and k.ended_at is null and (:is_all = 1 or a.user_id = :of)
    on conflict (tenant, client_id, user_id, connection_id, ended_at) do nothing
"""
# A token without a hash: after a restore, no one knows what was released since the backup. It lives as long as the
# account's last token did. Only agents with a secret that an operator registered get tokens, and tokens without an end
# only if the operator chose so (`server.oauth.exchange.release`).
_ASSUME: Final = """
    insert into released_tokens
        (tenant, client_id, user_id, connection_id, token_hash, released_at, expires_at)
    select d.tenant, d.client_id, d.user_id, d.connection_id, :unknown, cast(:now as bigint),
        case when k.access_expires_at > coalesce(k.refreshed_at, k.created_at)
            then cast(:now as bigint) + k.access_expires_at - coalesce(k.refreshed_at, k.created_at) end
    from delegations d join connections k on k.tenant = d.tenant and k.id = d.connection_id and k.ended_at is null
    join clients c on c.tenant = d.tenant and c.id = d.client_id and c.kind = :manual and c.auth_method <> :none
    where d.tenant = :tenant and d.revoked_at is null
        and (k.access_expires_at is not null or c.metadata like :chosen)
    on conflict (tenant, client_id, user_id, connection_id) do update set token_hash = excluded.token_hash,
        released_at = excluded.released_at, expires_at = excluded.expires_at
    where released_tokens.expires_at is not null
        and (excluded.expires_at is null or excluded.expires_at > released_tokens.expires_at)
"""
_SWEEP: Final = """
    delete from released_tokens where (tenant, client_id, user_id, connection_id) in (
        select tenant, client_id, user_id, connection_id from released_tokens
        where tenant = :tenant and expires_at <= :now limit :batch
    )
"""


@immutable
class TokenRelease:
    """A provider's token on its way to an agent. `token_hash` as in the activity; without an end, None."""

    client_id: str
    grant_id: str
    user_id: str
    connection_id: str
    token_hash: str
    expires_at: int | None


class ReleasedTokens:
    """Stores the longest-lived token of each agent and account before its release, and remembers what is stored."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], int | None] = OrderedDict()

    async def note(self, database: Database, released: TokenRelease, *, now: int) -> None:
        """Store the token before its release, unless one that lives at least as long is stored.

        Raises GrantEnded if the agent, or its use of the account, has ended since the token was requested.
        """
        whose, end = (released.client_id, released.user_id, released.connection_id), released.expires_at
        if whose in self._known and _lives_as_long(self._known[whose], end):
            return
        agent: dict[str, Value] = {"tenant": TENANT, "client_id": released.client_id}
        which: dict[str, Value] = {
            **agent,
            "user_id": released.user_id,
            "connection_id": released.connection_id,
            "token_hash": released.token_hash,
            "now": now,
            "expires_at": end,
        }
        async with database.transaction() as transaction:
            await transaction.execute(_HOLD, agent)
            live = {"tenant": TENANT, "grant_id": released.grant_id, "connection_id": released.connection_id}
            if await transaction.fetch_one(_IS_LIVE, live) is None:
                raise GrantEnded("this agent was ended, or may no longer use the account")
            await transaction.execute(_NOTE, which)
        self._known[whose] = end
        self._known.move_to_end(whose)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


def _lives_as_long(known: int | None, end: int | None) -> bool:
    return known is None or (end is not None and known >= end)


async def owe_receipts(transaction: Transaction, client_id: str, *, user_id: str | None = None, now: int) -> int:
    """Store what happens to each account when an agent ends, for everyone or for one person; returns how many.

    Call it before the agent's grants and permissions end.
    """
    await transaction.execute(_HOLD, {"tenant": TENANT, "client_id": client_id})
    whose: dict[str, Value] = {"is_all": int(user_id is None), "of": user_id or ""}
    return await transaction.execute(_OWE, {"tenant": TENANT, "client_id": client_id, **whose, "now": now})


async def assume(transaction: Transaction, *, now: int) -> int:
    """After a restore: note that an agent may hold a token of each account that it could use. Returns how many."""
    which: dict[str, Value] = {"manual": ClientKind.MANUAL.value, "none": "none", "chosen": '%"release"%'}
    return await transaction.execute(_ASSUME, {"tenant": TENANT, "now": now, "unknown": UNKNOWN, **which})


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete the records of tokens that no longer work; returns how many."""
    return await transaction.execute(_SWEEP, {"tenant": TENANT, "now": now, "batch": SWEEP_BATCH})
