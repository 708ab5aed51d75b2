"""What a restored vault may still use: nothing that may have been used up or ended since the backup.

A refresh token of a rotating provider may have been used since the backup, and presenting it again can end the whole
grant. It is destroyed, so that no code can present it; its connection works until its access token expires, then its
owner must reconnect. Where a provider keeps refresh tokens valid after use, nothing changes. Connections whose keys
were destroyed stay deleted. Everything that may have been used or ended since is void: sessions, codes and links,
agents' refresh tokens, approvals, including standing ones; so are assertions and proofs made before the restore,
because their `jti` is no longer stored.

Every grant ends, because it may have been revoked since. Access tokens count only with a live grant, so none from
before the restore works, and no earlier approval is used again. Permissions stay, and count again once the person has
let the agent in.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from vault import groups, replay
from vault.audit import released_tokens
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.records import TENANT, ConnectionState, Event, Tell, tell_nobody
from vault.refresh.accounts import MARGIN
from vault.storage.database import Reader, Row, Transaction, Value, integer, integer_or_none, text, text_or_none
from vault.upstream import RotationMode, UpstreamPolicy

# A generation is at least the time of its consent, in ms. A restored one is at least the time of the restore, plus an
# allowance for clock differences: every answer in a journal, whose tokens may have been used too, is then older than
# the row, even after a second restore.
CLOCKS_DIFFER = 60  # seconds
PAGE = 500  # connections, or events, per step: PostgreSQL ends a transaction whose process is silent for a second

# The start of the page is stated for keys and for connections: PostgreSQL may merge both by their indexes, and would
# otherwise read the keys from their beginning.
_PAGE = f"""
    select k.id, k.user_id, k.provider, k.account, k.label, k.state, k.generation, k.access_expires_at, u.name,
        case when k.refresh_sealed is null then 0 else 1 end as has_refresh_token,
        case when k.access_sealed is null then 0 else 1 end as has_access_token,
        case when ck.salt is null or uk.wrapped is null then 0 else 1 end as has_key
    from connections k
    left join users u on u.tenant = k.tenant and u.id = k.user_id
    left join keys.connection_keys ck on ck.tenant = k.tenant and ck.connection_id = k.id
        and ck.connection_id > :after
    left join keys.user_keys uk on uk.tenant = k.tenant and uk.user_id = k.user_id
    where k.tenant = :tenant and k.ended_at is null and k.id > :after
    order by k.id limit {PAGE}
"""  # noqa: S608 -- a constant
_FORGET_REFRESH = """
    update connections set refresh_sealed = null, state = :state, reason = :reason,
        generation = case when generation < :outrun then :outrun else generation + 1 end
    where tenant = :tenant and id = :id
"""
_END = """
    update connections set refresh_sealed = null, access_sealed = null, state = :state, reason = :reason,
        ended_at = :now
    where tenant = :tenant and id = :id
"""
_END_DELEGATIONS = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and connection_id = :id and revoked_at is null
"""
_FREE = """
    update connections set lease_owner = null, lease_until = null
    where tenant = :tenant and (lease_owner is not null or lease_until is not null)
"""
# Keys of consents whose answer was on its way: once the `state` is deleted, nothing else would end them.
_DESTROY_CONSENT_KEYS = """
    delete from keys.connection_keys where tenant = :tenant and substr(connection_id, 1, 8) = :consent
"""
_CLEARED = (  # all of a tenant
    "delete from intents where tenant = :tenant",
    "delete from sessions where tenant = :tenant",
    "delete from replicas where tenant = :tenant",
    "delete from tickets where tenant = :tenant",
    "delete from handles where tenant = :tenant",
    "delete from refresh_tokens where tenant = :tenant",
    "delete from notices where tenant = :tenant",  # one may have been sent since
    "delete from approvals where tenant = :tenant",  # an approval may have been used since, a refusal forgotten
    "delete from backchannel_pings where tenant = :tenant",
    "delete from standing_approvals where tenant = :tenant",  # revoked or used up since, perhaps
    "delete from approval_answers where tenant = :tenant",
    "delete from access_requests where tenant = :tenant",  # withdrawn or ended since, perhaps
    "delete from directory_tokens where tenant = :tenant",  # ended since, perhaps; a new one starts over
)
# A directory or a sign-in sets group membership again.
_LEAVE_GROUPS = "delete from memberships where tenant = :tenant and source <> :local"
_END_GRANTS = """
    update grants set revoked_at = :now, revoked_reason = :reason where tenant = :tenant and revoked_at is null
"""


class RestoreVerdict(StrEnum):
    """What happens to a restored connection."""

    UNAFFECTED = "unaffected"
    UNTIL_EXPIRY = "must be reconnected when the access token expires"
    RECONNECT = "must be reconnected"
    DELETED = "deleted after the backup"


@immutable
class RestoredConnection:
    """One connection of a restored vault."""

    connection_id: str
    user_id: str
    user: str
    provider: str
    label: str
    verdict: RestoreVerdict
    until: int | None  # with UNTIL_EXPIRY

    @property
    def event(self) -> Event:
        return Event(
            "connection.quarantined",
            outcome="failed",
            user_id=self.user_id,
            connection_id=self.connection_id,
            details={"provider": self.provider, "account": self.label, "verdict": self.verdict.value},
        )


def judge(row: Row, *, policy: UpstreamPolicy, now: int) -> RestoreVerdict:
    """Decide what happens to one connection. Pure."""
    if integer(row, "has_key") == 0:
        return RestoreVerdict.DELETED
    if text(row, "state") != ConnectionState.ACTIVE.value:
        return RestoreVerdict.RECONNECT
    if integer(row, "has_refresh_token") == 0 or policy.rotation is RotationMode.NONE:
        return RestoreVerdict.UNAFFECTED
    expires_at = integer_or_none(row, "access_expires_at")
    is_good = integer(row, "has_access_token") == 1 and (expires_at is None or now < expires_at - MARGIN)
    return RestoreVerdict.UNTIL_EXPIRY if is_good else RestoreVerdict.RECONNECT


async def quarantine(
    transaction: Transaction, policies: Mapping[str, UpstreamPolicy], *, now: int, tell: Tell = tell_nobody
) -> tuple[RestoredConnection, ...]:
    """Make a restored vault safe to use, in the transaction that restored it. `record` appends its events."""
    tenant: Mapping[str, Value] = {"tenant": TENANT}
    for statement in (*_CLEARED, _FREE):
        await transaction.execute(statement, tenant)
    await transaction.execute(_LEAVE_GROUPS, {**tenant, "local": groups.LOCAL})
    await transaction.execute(_END_GRANTS, {**tenant, "now": now, "reason": "restored"})
    await transaction.execute(_DESTROY_CONSENT_KEYS, {**tenant, "consent": "consent:"})
    await replay.note_restore(transaction, now=now)
    await released_tokens.assume(transaction, now=now)
    judged: list[RestoredConnection] = []
    async for page in _pages(transaction, policies, now=now):
        for statement, changes in _changes(page, policies, now=now).items():
            await transaction.execute_many(statement, changes)
        judged += page
        tell("Checking connections", len(judged), None)
    return tuple(judged)


async def record(
    transaction: Transaction, judged: Sequence[RestoredConnection], event: Event, *, now: int, known: int
) -> None:
    """Append the events of connections that changed, and one event that summarizes what happened to all.

    `known` is the number of the last event before the restore.
    """
    held = [one for one in judged if one.verdict is not RestoreVerdict.UNAFFECTED]
    for first in range(0, len(held), PAGE):
        await append(transaction, *(one.event for one in held[first : first + PAGE]), now=now)
    facts = {"connections": len(judged), "quarantined": len(held), "known": known, "restart": secrets.token_hex(8)}
    await append(transaction, replace(event, details={**event.details, **facts}), now=now)


async def preview(
    reader: Reader, policies: Mapping[str, UpstreamPolicy], *, now: int
) -> tuple[RestoredConnection, ...]:
    """Preview what `quarantine` would do with each connection. Changes nothing."""
    return tuple([one async for page in _pages(reader, policies, now=now) for one in page])


def sort_for_people(judged: Iterable[RestoredConnection]) -> Sequence[RestoredConnection]:
    """By person, provider, and account."""
    return sorted(judged, key=lambda one: (one.user, one.provider, one.label, one.connection_id))


async def _pages(
    reader: Reader, policies: Mapping[str, UpstreamPolicy], *, now: int
) -> AsyncGenerator[Sequence[RestoredConnection]]:
    after = ""
    while rows := await reader.fetch(_PAGE, {"tenant": TENANT, "after": after}):
        yield [_judge_row(row, policies, now=now) for row in rows]
        after = text(rows[-1], "id")


def _policy(policies: Mapping[str, UpstreamPolicy], provider: str) -> UpstreamPolicy:
    return policies.get(provider) or UpstreamPolicy(provider)


def _judge_row(row: Row, policies: Mapping[str, UpstreamPolicy], *, now: int) -> RestoredConnection:
    verdict = judge(row, policy=_policy(policies, text(row, "provider")), now=now)
    return RestoredConnection(
        text(row, "id"),
        text(row, "user_id"),
        text_or_none(row, "name") or text(row, "user_id"),
        text(row, "provider"),
        text(row, "label"),
        verdict,
        integer_or_none(row, "access_expires_at") if verdict is RestoreVerdict.UNTIL_EXPIRY else None,
    )


def _changes(
    page: Sequence[RestoredConnection], policies: Mapping[str, UpstreamPolicy], *, now: int
) -> Mapping[str, Sequence[Mapping[str, Value]]]:
    """The rows to change, by statement."""
    outrun = (now + CLOCKS_DIFFER) * 1000
    changes: dict[str, list[Mapping[str, Value]]] = {_END: [], _END_DELEGATIONS: [], _FORGET_REFRESH: []}
    for one in page:
        which: Mapping[str, Value] = {"tenant": TENANT, "id": one.connection_id}
        rotates = _policy(policies, one.provider).rotation is not RotationMode.NONE
        if one.verdict is RestoreVerdict.DELETED:
            state = ConnectionState.REVOKED.value
            changes[_END].append({**which, "now": now, "state": state, "reason": "key_destroyed"})
            changes[_END_DELEGATIONS].append({**which, "now": now})
        elif rotates:
            is_usable = one.verdict is not RestoreVerdict.RECONNECT
            state = ConnectionState.ACTIVE.value if is_usable else ConnectionState.NEEDS_REAUTH.value
            reason = None if is_usable else "restored"
            changes[_FORGET_REFRESH].append({**which, "outrun": outrun, "state": state, "reason": reason})
    return {statement: sets for statement, sets in changes.items() if sets}
