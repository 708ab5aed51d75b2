"""Who may use a connection's refresh token, as SQL: the lease, the intent, and storing the answer.

A lease is a row's `lease_owner`, `lease_until` and `fence`; an intent is the durable statement "this owner is about to
use generation n". An intent for the row's generation without a covering lease is *unresolved*: the token may have been
used. `vault.refresh.rotation` sends, waits and decides; this module waits for nothing but the database.

Owner and fence identify one attempt, committed or not, forever. Code that ends an attempt changes only rows with that
identity, so it may run late, twice, or for an attempt that was never committed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import field

from vault.classes.immutable import immutable
from vault.endings import ACCESS_TOKEN
from vault.keys.key_ring import ConnectionKey, KeyRing
from vault.records import DOUBTED, TENANT, ConnectionState, format_scope, parse_scope
from vault.refresh.rules import LEASE, UnresolvedSends
from vault.refusals import CiphertextRejected
from vault.storage.database import (
    Program,
    Reader,
    Row,
    Statement,
    Transaction,
    Value,
    binary_or_none,
    integer,
    integer_or_none,
    page_names,
    page_values,
    text,
    text_or_none,
)

_ACTIVE = ConnectionState.ACTIVE.value

PAGE = 100  # connections per read
_PAGE_IDS = page_names("id", PAGE)

_FACTS = """
    select k.id, k.user_id, k.provider, k.account, k.label, k.scopes, k.state, k.reason, k.generation, k.fence,
        k.refresh_sealed, k.access_sealed, k.access_generation, k.access_expires_at, k.refreshed_at,
        k.lease_owner, k.lease_until, k.retry_at, k.ended_at, k.renewed_by,
        uk.wrapped, uk.kek_id, ck.salt,
        t.generation as narrowed_generation,
        (select min(i.sent_at) from intents i
         where i.tenant = k.tenant and i.connection_id = k.id and i.generation = k.generation) as sent_at
    from connections k
    left join keys.user_keys uk on uk.tenant = k.tenant and uk.user_id = k.user_id
    left join keys.connection_keys ck on ck.tenant = k.tenant and ck.connection_id = k.id
    left join narrowed_tokens t on t.tenant = k.tenant and t.connection_id = k.id and t.scope_key = :scope_key
    where k.tenant = :tenant
"""
_READ = f"{_FACTS} and k.id = :id"
_READ_PAGE = f"{_FACTS} and k.id in ({_PAGE_IDS})"
# The fence voids the claim if anyone claimed since the row was read, even if they have released it.
_CLAIM = """
    update connections set lease_owner = :owner, lease_until = :until, fence = :fence
    where tenant = :tenant and id = :id and generation = :generation and fence = :read_fence and state = :active
        and ended_at is null and (lease_until is null or lease_until <= :now or lease_owner = :gone)
    returning id
"""
_INTEND = """
    insert into intents (tenant, connection_id, owner, generation, sent_at, sends, settled_at, fence)
    values (:tenant, :id, :owner, :generation, :now, 1, null, :fence)
    on conflict (tenant, connection_id, owner) do update set
        sent_at = case when intents.generation = excluded.generation then intents.sent_at else excluded.sent_at end,
        sends = case when intents.generation = excluded.generation then intents.sends + 1 else 1 end,
        generation = excluded.generation, settled_at = null, fence = excluded.fence
"""
_RELEASE = """
    update connections set lease_owner = null, lease_until = null
    where tenant = :tenant and id = :id and fence = :fence and lease_owner = :owner
"""
_LAPSE = """
    update connections set lease_owner = null, lease_until = null
    where tenant = :tenant and id = :id and fence = :fence
"""
_OF_ATTEMPT = "where tenant = :tenant and connection_id = :id and owner = :owner and fence = :fence"
_SETTLE = f"update intents set settled_at = :now {_OF_ATTEMPT} and settled_at is null"  # noqa: S608  constants
# Without its fence the intent belongs to no attempt: a repeated undo finds nothing.
_UNSEND = f"update intents set sends = sends - 1, settled_at = :now, fence = null {_OF_ATTEMPT}"  # noqa: S608
_DROP_UNSENT = "delete from intents where tenant = :tenant and connection_id = :id and sends <= 0"
_DROP_INTENT = f"delete from intents {_OF_ATTEMPT}"  # noqa: S608
_PAUSE = """
    update connections set retry_at = :retry_at
    where tenant = :tenant and id = :id and generation = :generation and ended_at is null
"""
_AWAIT_OTHERS = "update connections set fence = fence where tenant = :tenant and id = :id"
_UNSETTLED_OWNERS = "select distinct owner from intents where tenant = :tenant and settled_at is null"
_SETTLE_ALL = "update intents set settled_at = :now where tenant = :tenant and owner = :owner and settled_at is null"
_UNRESOLVED = """
    select owner, sent_at, sends, settled_at from intents
    where tenant = :tenant and connection_id = :id and generation = :generation
    order by owner
"""
_UNRESOLVED_PAGE = f"""
    select connection_id, generation, owner, sent_at, sends, settled_at from intents
    where tenant = :tenant and connection_id in ({_PAGE_IDS})
    order by connection_id, owner
"""  # noqa: S608 -- names of parameters
_DROP_OLD_INTENTS = """
    delete from intents
    where tenant = :tenant and connection_id = :id and (owner = :owner or generation < :generation)
"""
_LEASE_ENDS = """
    lease_owner = case when fence = :fence then null else lease_owner end,
    lease_until = case when fence = :fence then null else lease_until end
"""
# A state other than active is overruled: the process that gave the connection up did not know of this answer.
_REFRESHED = f"""
    generation = :next, refresh_sealed = :refresh_sealed, state = :active, reason = null, retry_at = null,
    idle_expires_at = :idle_expires_at, {_LEASE_ENDS}
"""
_WHERE_SPENT = "where tenant = :tenant and id = :id and generation = :generation and ended_at is null returning id"
_STORE_REFRESH = f"update connections set {_REFRESHED} {_WHERE_SPENT}"  # noqa: S608  constants
_STORE_BOTH = f"""
    update connections set access_sealed = :sealed, access_generation = :next, access_expires_at = :expires_at,
        refreshed_at = :now, scopes = :scopes, {_REFRESHED}
    {_WHERE_SPENT}
"""  # noqa: S608  constants
_STORE_NARROWED = """
    insert into narrowed_tokens (tenant, connection_id, scope_key, generation, sealed, issued_at, expires_at)
    values (:tenant, :id, :scope_key, :next, :sealed, :now, :expires_at)
    on conflict (tenant, connection_id, scope_key) do update set generation = excluded.generation,
        sealed = excluded.sealed, issued_at = excluded.issued_at, expires_at = excluded.expires_at
"""
_DROP_NARROWED = "delete from narrowed_tokens where tenant = :tenant and connection_id = :id"
_DROP_DEAD_NARROWED = """
    delete from narrowed_tokens where tenant = :tenant and connection_id = :id and expires_at <= :now
"""
_OUTDATE = """
    update connections set generation = :next
    where tenant = :tenant and id = :id and generation < :next and ended_at is not null
"""
_END = """
    update connections set state = :state, reason = :reason, lease_owner = null, lease_until = null
    where tenant = :tenant and id = :id and generation = :generation and fence = :fence and state = :active
        and ended_at is null
"""
_DOUBT = """
    update connections set reason = :reason
    where tenant = :tenant and id = :id and generation = :generation and state = :active and reason is null
        and ended_at is null
"""


@immutable
class ConnectionFacts:
    """A connection's row as a refresh needs it; `fence` and `generation` identify the exact state that was read."""

    connection_id: str
    user_id: str
    provider: str
    account: str
    label: str
    scopes: frozenset[str]
    state: ConnectionState
    reason: str | None
    generation: int
    fence: int
    access_generation: int
    narrowed_generation: int  # 0: no token for this set of scopes
    access_expires_at: int | None
    lease_owner: str | None
    lease_until: int | None
    sent_at: int | None  # time of the oldest intent to use this generation
    is_ended: bool
    refresh_sealed: bytes | None = field(repr=False)
    access_sealed: bytes | None = field(repr=False)
    refreshed_at: int | None
    wrapped: bytes | None = field(repr=False)
    kek_id: str = ""
    salt: bytes | None = field(repr=False, default=None)
    retry_at: int | None = None  # its sends got no answer: no further send before this time
    renewed_by: str | None = None  # the identity provider's connection whose assertions renew this one

    def is_leased(self, now: int) -> bool:
        return self.lease_until is not None and now < self.lease_until

    @property
    def answer_size(self) -> int:
        """Expected bytes of the tokens that a refresh handles: the used one and two new ones of the same length."""
        return 2 * len(self.refresh_sealed or b"") + len(self.access_sealed or b"")

    def key(self, ring: KeyRing) -> ConnectionKey:
        """The connection's key, from the columns read with it."""
        if self.wrapped is None or self.salt is None:
            raise CiphertextRejected("This connection's key was destroyed.")
        return ring.connection_key(
            wrapped=self.wrapped,
            kek_id=self.kek_id,
            salt=self.salt,
            user_id=self.user_id,
            connection_id=self.connection_id,
        )

    def open_access_token(self, ring: KeyRing) -> str | None:
        """The full access token; None if there is none. Raises CiphertextRejected."""
        if self.access_sealed is None:
            return None
        return self.key(ring).open(
            self.access_sealed,
            purpose=ACCESS_TOKEN,
            provider=self.provider,
            account=self.account,
            generation=self.access_generation,
        )


async def read(reader: Reader, connection_id: str, *, scope_key: str = "") -> ConnectionFacts | None:
    """The row of one connection, of any owner; for code that runs after a checked exchange."""
    row = await reader.fetch_one(_READ, {"tenant": TENANT, "id": connection_id, "scope_key": scope_key})
    return None if row is None else _to_facts(row)


async def read_page(reader: Reader, connection_ids: Sequence[str]) -> Mapping[str, ConnectionFacts]:
    """Like `read`, for at most `PAGE` connections at once; skips missing ones."""
    if not connection_ids:
        return {}
    rows = await reader.fetch(
        _READ_PAGE, {"tenant": TENANT, "scope_key": "", **page_values("id", connection_ids, PAGE)}
    )
    return {facts.connection_id: facts for facts in map(_to_facts, rows)}


def _to_facts(row: Row) -> ConnectionFacts:
    return ConnectionFacts(
        connection_id=text(row, "id"),
        user_id=text(row, "user_id"),
        provider=text(row, "provider"),
        account=text(row, "account"),
        label=text(row, "label"),
        scopes=parse_scope(text(row, "scopes")),
        state=ConnectionState(text(row, "state")),
        reason=text_or_none(row, "reason"),
        generation=integer(row, "generation"),
        fence=integer(row, "fence"),
        access_generation=integer(row, "access_generation"),
        narrowed_generation=integer_or_none(row, "narrowed_generation") or 0,
        access_expires_at=integer_or_none(row, "access_expires_at"),
        lease_owner=text_or_none(row, "lease_owner"),
        lease_until=integer_or_none(row, "lease_until"),
        sent_at=integer_or_none(row, "sent_at"),
        is_ended=integer_or_none(row, "ended_at") is not None,
        refresh_sealed=binary_or_none(row, "refresh_sealed"),
        access_sealed=binary_or_none(row, "access_sealed"),
        refreshed_at=integer_or_none(row, "refreshed_at"),
        wrapped=binary_or_none(row, "wrapped"),
        kek_id=text_or_none(row, "kek_id") or "",
        salt=binary_or_none(row, "salt"),
        retry_at=integer_or_none(row, "retry_at"),
        renewed_by=text_or_none(row, "renewed_by"),
    )


async def list_unresolved(reader: Reader, facts: ConnectionFacts) -> tuple[UnresolvedSends, ...]:
    """Every owner's sends of the row's refresh token without a stored answer."""
    which: Mapping[str, Value] = {"tenant": TENANT, "id": facts.connection_id, "generation": facts.generation}
    return tuple(_to_unresolved(row) for row in await reader.fetch(_UNRESOLVED, which))


async def list_unresolved_page(
    reader: Reader, page: Sequence[ConnectionFacts]
) -> Mapping[str, tuple[UnresolvedSends, ...]]:
    """Like `list_unresolved`, for at most `PAGE` connections at once, by connection."""
    if not page:
        return {}
    which = page_values("id", [facts.connection_id for facts in page], PAGE)
    rows = await reader.fetch(_UNRESOLVED_PAGE, {"tenant": TENANT, **which})
    found: dict[tuple[str, int], list[UnresolvedSends]] = {}
    for row in rows:
        found.setdefault((text(row, "connection_id"), integer(row, "generation")), []).append(_to_unresolved(row))
    return {facts.connection_id: tuple(found.get((facts.connection_id, facts.generation), ())) for facts in page}


def _to_unresolved(row: Row) -> UnresolvedSends:
    return UnresolvedSends(
        text(row, "owner"),
        integer(row, "sent_at"),
        sends=integer(row, "sends"),
        is_settled=integer_or_none(row, "settled_at") is not None,
    )


def next_fence(fence: int) -> int:
    """The identity of a new attempt: unique, and the sort order of a connection's answers.

    A column can hold about 10^8 of them. The previous release continues by adding one.
    """
    return fence + 2 + secrets.randbits(36)


@immutable
class Lease:
    """The right of one owner to use one generation once; `fence` identifies the attempt."""

    connection_id: str
    owner: str
    generation: int
    fence: int

    @property
    def parameters(self) -> dict[str, Value]:
        return {
            "tenant": TENANT,
            "id": self.connection_id,
            "owner": self.owner,
            "generation": self.generation,
            "fence": self.fence,
        }

    @classmethod
    def attempt(cls, facts: ConnectionFacts, *, owner: str) -> Lease:
        """A new attempt to use what was read; it must still be claimed."""
        return cls(facts.connection_id, owner, generation=facts.generation, fence=next_fence(facts.fence))


async def claim(
    transaction: Transaction,
    facts: ConnectionFacts,
    *,
    owner: str,
    now: int,
    gone: str | None = None,
    attempt: Lease | None = None,
) -> Lease | None:
    """Take the lease and write the intent, in one commit before the first byte; None when another was first.

    `gone` is an owner that has certainly ended: only its lease can be taken before it lapses. To be able to undo a
    claim whose commit fails, create the `attempt` first.
    """
    lease = attempt or Lease.attempt(facts, owner=owner)
    read: Mapping[str, Value] = {"active": _ACTIVE, "until": now + LEASE, "now": now, "gone": gone or ""}
    if not await transaction.perform(_claim_program({**lease.parameters, **read, "read_fence": facts.fence})):
        return None
    return lease


def _claim_program(parameters: Mapping[str, Value]) -> Program[bool]:
    if not (yield Statement(_CLAIM, parameters)):
        return False
    yield Statement(_INTEND, parameters)
    return True


async def hold(transaction: Transaction, facts: ConnectionFacts, lease: Lease, *, now: int) -> bool:
    """Take the lease without an intent: the refresh token is shown, not used up. False when another was first."""
    read: Mapping[str, Value] = {"active": _ACTIVE, "until": now + LEASE, "now": now, "gone": ""}
    found = await transaction.fetch(_CLAIM, {**lease.parameters, **read, "read_fence": facts.fence})
    return bool(found)


async def release(transaction: Transaction, lease: Lease) -> None:
    """Release the lease; the intent stays."""
    which: Mapping[str, Value] = {"tenant": TENANT, "id": lease.connection_id}
    await transaction.execute(_RELEASE, {**which, "fence": lease.fence, "owner": lease.owner})


async def unsend(transaction: Transaction, lease: Lease, *, now: int) -> bool:
    """Nothing was sent under this claim; earlier sends of the same owner stay unresolved. False: there was no claim."""
    await release(transaction, lease)
    which: Mapping[str, Value] = {"tenant": TENANT, "id": lease.connection_id}
    if not await transaction.execute(_UNSEND, {**which, "owner": lease.owner, "fence": lease.fence, "now": now}):
        return False
    await transaction.execute(_DROP_UNSENT, which)
    return True


async def settle(transaction: Transaction, lease: Lease, *, now: int) -> bool:
    """The provider didn't answer: the token may have been used, and no answer can come anymore. False: it was already
    settled.
    """
    await release(transaction, lease)
    which: Mapping[str, Value] = {"tenant": TENANT, "id": lease.connection_id, "now": now}
    return await transaction.execute(_SETTLE, {**which, "owner": lease.owner, "fence": lease.fence}) == 1


async def pause(transaction: Transaction, facts: ConnectionFacts, *, until: int) -> None:
    """Keep every process from sending this refresh token before `until`, while its sends are unresolved."""
    which: Mapping[str, Value] = {"tenant": TENANT, "id": facts.connection_id, "generation": facts.generation}
    await transaction.execute(_PAUSE, {**which, "retry_at": until})


async def resolve(transaction: Transaction, lease: Lease) -> bool:
    """The provider answered, but the answer changes nothing here: this owner's sends have ended. False: their end was
    already written.
    """
    await release(transaction, lease)
    which: Mapping[str, Value] = {"tenant": TENANT, "id": lease.connection_id}
    return await transaction.execute(_DROP_INTENT, {**which, "owner": lease.owner, "fence": lease.fence}) == 1


async def await_others(transaction: Transaction, connection_id: str) -> None:
    """Wait until no other transaction can change the row: one of unknown outcome may still commit.

    From here on the transaction sees its outcome. On SQLite it has ended before this one begins.
    """
    await transaction.execute(_AWAIT_OTHERS, {"tenant": TENANT, "id": connection_id})


async def unsettled_owners(reader: Reader) -> tuple[str, ...]:
    """Every owner that, according to the records, may still receive the answer to a send."""
    return tuple(text(row, "owner") for row in await reader.fetch(_UNSETTLED_OWNERS, {"tenant": TENANT}))


async def settle_all(transaction: Transaction, owner: str, *, now: int) -> None:
    """This owner has certainly ended, and its sends with it."""
    await transaction.execute(_SETTLE_ALL, {"tenant": TENANT, "owner": owner, "now": now})


async def outdate(transaction: Transaction, lease: Lease) -> None:
    """An answer for an ended connection was handled: its journal copy is older than the row from now on."""
    await resolve(transaction, lease)
    which: Mapping[str, Value] = {"tenant": TENANT, "id": lease.connection_id, "next": lease.generation + 1}
    await transaction.execute(_OUTDATE, which)


async def lapse(transaction: Transaction, facts: ConnectionFacts) -> None:
    """Clear an expired lease whose send is unresolved, so that listings show the connection as ambiguous."""
    await transaction.execute(_LAPSE, {"tenant": TENANT, "id": facts.connection_id, "fence": facts.fence})


@immutable
class SealedAnswer:
    """The sealed columns of one answer. `scope_key` is set for a narrowed token, None for a full one."""

    refresh_sealed: bytes | None = field(repr=False)
    access_sealed: bytes | None = field(repr=False)  # None: don't use the answer's access token
    expires_at: int
    scopes: frozenset[str]
    scope_key: str | None
    idle_expires_at: int | None  # end of the grant, unless it is refreshed again
    may_have_narrowed: bool  # False: the provider issues none, so there are none to delete
    ends_narrowed: bool  # the provider ended earlier access tokens, including narrowed ones


async def store_narrowed(
    transaction: Transaction, connection_id: str, *, scope_key: str, sealed: bytes, at: tuple[int, int, int]
) -> None:
    """Store a token made from the full one; `at` is its generation, the current time, and its expiry."""
    which: Mapping[str, Value] = {"tenant": TENANT, "id": connection_id}
    generation, now, expires_at = at
    token: Mapping[str, Value] = {"next": generation, "sealed": sealed, "now": now, "expires_at": expires_at}
    await transaction.execute(_STORE_NARROWED, {**which, **token, "scope_key": scope_key})
    await transaction.execute(_DROP_DEAD_NARROWED, {**which, "now": now})


async def store(transaction: Transaction, lease: Lease, refreshed: SealedAnswer, *, following: int, now: int) -> bool:
    """Compare-and-set the row from the lease's generation to `following`; False when it changed or ended."""
    return await transaction.perform(_store_program(lease, refreshed, following=following, now=now))


def _store_program(lease: Lease, refreshed: SealedAnswer, *, following: int, now: int) -> Program[bool]:
    which: Mapping[str, Value] = {"tenant": TENANT, "id": lease.connection_id, "now": now}
    row: Mapping[str, Value] = {
        **which,
        "next": following,
        "refresh_sealed": refreshed.refresh_sealed,
        "idle_expires_at": refreshed.idle_expires_at,
        "generation": lease.generation,
        "fence": lease.fence,
        "active": _ACTIVE,
    }
    token: Mapping[str, Value] = {"sealed": refreshed.access_sealed, "expires_at": refreshed.expires_at}
    is_full = refreshed.access_sealed is not None and refreshed.scope_key is None
    if is_full:
        both = {**row, **token, "scopes": format_scope(refreshed.scopes)}
        stored = yield Statement(_STORE_BOTH, both)
    else:
        stored = yield Statement(_STORE_REFRESH, row)
    if not stored:
        return False
    if refreshed.access_sealed is not None and refreshed.scope_key is not None:
        yield Statement(_STORE_NARROWED, {**row, **token, "scope_key": refreshed.scope_key})
    if refreshed.ends_narrowed:
        yield Statement(_DROP_NARROWED, which)
    elif refreshed.may_have_narrowed:
        yield Statement(_DROP_DEAD_NARROWED, which)
    yield Statement(_DROP_OLD_INTENTS, {**which, "owner": lease.owner, "generation": lease.generation})
    return True


async def doubt(transaction: Transaction, facts: ConnectionFacts) -> bool:
    """Record that an API refused this account's key, which can't be checked; False if that was already recorded."""
    which = {"tenant": TENANT, "id": facts.connection_id, "generation": facts.generation}
    return await transaction.execute(_DOUBT, {**which, "reason": DOUBTED, "active": _ACTIVE}) == 1


async def end(transaction: Transaction, facts: ConnectionFacts, *, fence: int, reason: str) -> bool:
    """Mark that only the person can reconnect this account; False when the row changed since it was read."""
    changed = await transaction.execute(
        _END,
        {
            "tenant": TENANT,
            "id": facts.connection_id,
            "generation": facts.generation,
            "fence": fence,
            "reason": reason,
            "state": ConnectionState.NEEDS_REAUTH.value,
            "active": _ACTIVE,
        },
    )
    return changed == 1
