"""The one read of an exchange: the live grant, and every account of its user at a provider, with keys and tokens.

The statement that returns the tokens also excludes a revoked grant, a removed client and a disabled user, so that
nothing that a revocation must reach is cached. `vault.exchange` decides with these facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final

from vault import revoked_tokens, tool_choices
from vault.classes.immutable import immutable
from vault.keys.key_ring import ConnectionKey, KeyRing
from vault.records import TENANT, ConnectionState, Principal, parse_scope
from vault.refresh.rules import SendDecision, UnresolvedSends, may_send
from vault.refusals import CiphertextRejected, GrantEnded
from vault.storage.database import Reader, Row, Value, binary_or_none, integer, integer_or_none, text, text_or_none
from vault.upstream import UpstreamPolicy

SKEW = 60  # seconds before expiry at which a token is refreshed ahead; at most a tenth of its life
MARGIN = 5  # seconds before expiry at which a token may expire in transit, and counts as expired

COLUMNS: Final = """k.id, k.user_id as owner_id, o.until as shared_until, s.scopes as rule_scopes, s.ask as rule_ask,
        k.created_at, k.account, k.label, k.scopes, k.state, k.access_sealed, k.access_generation,
        k.access_expires_at, k.refreshed_at, k.lease_until,
        case when k.refresh_sealed is null and k.renewed_by is null then 0 else 1 end as has_refresh_token,
        k.renewed_by,
        (select min(i.sent_at) from intents i
         where i.tenant = k.tenant and i.connection_id = k.id and i.generation = k.generation) as sent_at, k.retry_at,
        d.scopes as delegated, d.expires_at as delegated_until, d.revoked_at as delegation_revoked_at,
        d.ask, coalesce(d.is_default, 0) as is_default,
        x.scopes as beyond_scopes, x.expires_at as beyond_until,
        uk.wrapped, uk.kek_id, ck.salt,
        t.sealed as narrowed_sealed, t.generation as narrowed_generation, t.issued_at as narrowed_issued_at,
        t.expires_at as narrowed_expires_at, g.revoked_tokens"""
SOURCES: Final = """
    from grants g
    join clients c on c.tenant = g.tenant and c.id = g.client_id and c.removed_at is null
    join users u on u.tenant = g.tenant and u.id = g.user_id and u.disabled_at is null and u.stopped_at is null
    join (
        select cast(:user_id as text) as owner_id, cast(null as bigint) as until
        union all
        select m.group_id, case when count(*) = count(m.expires_at) then max(m.expires_at) end
        from memberships m where m.tenant = :tenant and m.user_id = :user_id group by m.group_id
    ) o on 1 = 1
    left join connections k on k.tenant = g.tenant and k.user_id = o.owner_id and k.provider = :provider
        and k.ended_at is null
    left join shared_connections s on s.tenant = g.tenant and s.connection_id = k.id
    left join delegations d on d.tenant = g.tenant and d.user_id = g.user_id and d.client_id = g.client_id
        and d.connection_id = k.id
    left join access_requests x on x.tenant = g.tenant and x.user_id = g.user_id and x.client_id = g.client_id
        and x.group_id = k.user_id and x.target = k.id and x.state = 2
        and x.confirmed_at is not null
    left join keys.user_keys uk on uk.tenant = g.tenant and uk.user_id = k.user_id
    left join keys.connection_keys ck on ck.tenant = g.tenant and ck.connection_id = k.id
    left join narrowed_tokens t on t.tenant = g.tenant and t.connection_id = k.id and t.scope_key = :scope_key
    where g.tenant = :tenant and g.id = :grant_id and g.user_id = :user_id and g.client_id = :client_id
        and g.revoked_at is null
"""
_CHOICE: Final = """,
        (select o.tool_set from tool_choices o
         where o.tenant = g.tenant and o.user_id = g.user_id and o.client_id = g.client_id) as tool_set"""
_READ: Final = f"select {COLUMNS}{_CHOICE}{SOURCES}"


@immutable
class AccountQuery:
    """The person and provider whose accounts to read, and optionally a narrowed token.

    `tool_sets`: for a call of a tool, the names of the sets that have it.
    """

    principal: Principal
    provider: str
    scope_key: str
    tool_sets: frozenset[str] | None = None


@immutable
class HeldToken:
    """A sealed access token; with `expires_at` None it lives until it is revoked."""

    sealed: bytes = field(repr=False)
    generation: int
    expires_at: int | None
    skew: int

    @property
    def good_until(self) -> int | None:
        """When it could start to expire on its way to the provider."""
        return None if self.expires_at is None else self.expires_at - min(MARGIN, self.skew // 2)

    def is_good(self, now: int) -> bool:
        """Whether it will still be valid when it arrives at the provider."""
        return self.good_until is None or now < self.good_until

    @property
    def ageing_at(self) -> int | None:
        """When to fetch the next one."""
        return None if self.expires_at is None else self.expires_at - self.skew

    def is_ageing(self, now: int) -> bool:
        """Whether it is time to fetch the next one."""
        return self.ageing_at is not None and now >= self.ageing_at


@immutable
class HeldAccount:
    """One connection as an exchange by this agent sees it."""

    id: str
    user_id: str
    provider: str
    account: str
    label: str
    scopes: frozenset[str]
    state: ConnectionState
    full: HeldToken | None
    narrowed: HeldToken | None
    has_refresh_token: bool
    lease_until: int | None
    sent_at: int | None  # when its refresh token was first sent with an unknown result
    delegated: frozenset[str]
    delegation_state: str  # none | revoked | live
    delegated_until: int | None
    ask: frozenset[str]
    is_default: bool
    wrapped: bytes | None = field(repr=False)
    kek_id: str
    salt: bytes | None = field(repr=False)
    retry_at: int | None = None  # its sends got no answer: no further send before this time
    renewed_by: str | None = None  # the identity provider's connection whose assertions renew this one
    shared_until: int | None = None  # for a group's account: when the person's membership stops counting
    beyond: frozenset[str] = frozenset()  # for a group's account: what an access request added to the rule
    beyond_until: int | None = None
    rule: frozenset[str] | None = None  # for a group's account: what it allows members' agents

    def is_within(self, now: int) -> bool:
        """Whether it belongs to the person, or to a group that they are in now."""
        return self.shared_until is None or now < self.shared_until

    def allowed_scopes(self, now: int) -> frozenset[str]:
        """The most that this agent may do with it while its permission is live."""
        is_beyond = self.beyond_until is not None and now < self.beyond_until
        return self.delegated | self.beyond if is_beyond else self.delegated

    def is_delegated(self, now: int) -> bool:
        """Whether this agent has any permission for it."""
        return self.delegation_state == "live" and bool(self.allowed_scopes(now)) and not self.delegation_ended(now)

    def delegation_ended(self, now: int) -> bool:
        return self.delegated_until is not None and now >= self.delegated_until

    def is_leased(self, now: int) -> bool:
        """Whether a refresh is in progress, in this process or elsewhere."""
        return self.lease_until is not None and now < self.lease_until

    def may_refresh(self, policy: UpstreamPolicy, *, now: int) -> bool:
        """Whether a refresh can get a token, even if an earlier one may still be answered."""
        if not self.has_refresh_token:
            return False
        policy = policy.for_renewal(self.renewed_by)
        if self.sent_at is None or self.is_leased(now):
            return True
        sends = (UnresolvedSends("", self.sent_at),)
        decided = may_send(policy, sends, now=now, access_expires_at=None, retry_at=self.retry_at)
        return decided is SendDecision.SEND

    def key(self, ring: KeyRing) -> ConnectionKey:
        """The connection's key, from the columns of the same read."""
        if self.wrapped is None or self.salt is None:
            raise CiphertextRejected("This connection's key was destroyed.")
        return ring.connection_key(
            wrapped=self.wrapped, kek_id=self.kek_id, salt=self.salt, user_id=self.user_id, connection_id=self.id
        )


async def read_accounts(reader: Reader, wanted: AccountQuery) -> tuple[HeldAccount, ...]:
    """The accounts behind a live grant and a token that is not revoked, oldest first.

    Raises GrantEnded (RFC 6749 §10: a grant lives only as long as the client that holds it and the person who gave it),
    and ToolNotOffered for a tool that is not in the set that the person chose for this agent.
    """
    return check_rows(await look(reader, parameters_of(wanted)), wanted)


async def look(reader: Reader, parameters: Mapping[str, Value]) -> Sequence[Row]:
    """Everything stored behind an exchange. `parameters`: those of an `AccountQuery`."""
    return await reader.look_up(_READ, parameters)


def check_rows(rows: Sequence[Row], wanted: AccountQuery) -> tuple[HeldAccount, ...]:
    """The accounts in these rows. Raises like `read_accounts`."""
    if not rows:
        raise GrantEnded("This agent's access to the vault has ended. Sign in again.")
    first, *_ = rows
    if revoked_tokens.is_revoked(first, wanted.principal.token_id):
        raise GrantEnded("This access token was revoked. Refresh it, or sign in again.")
    chosen = text_or_none(first, "tool_set")
    if chosen is not None and wanted.tool_sets is not None and chosen not in wanted.tool_sets:
        raise tool_choices.refusal(chosen)
    return accounts_of(rows, wanted)


def parameters_of(wanted: AccountQuery) -> Mapping[str, Value]:
    """Parameters of a statement with `SOURCES`."""
    principal = wanted.principal
    return {
        "tenant": TENANT,
        "grant_id": principal.grant_id,
        "user_id": principal.user_id,
        "client_id": principal.client_id,
        "provider": wanted.provider,
        "scope_key": wanted.scope_key,
    }


def accounts_of(rows: Sequence[Row], wanted: AccountQuery) -> tuple[HeldAccount, ...]:
    """The accounts in rows with `COLUMNS` (at least one row), oldest first."""
    rows = [row for row in rows if row["id"] is not None]  # each owner has a row, with or without an account
    # Sorting one row in the database would cost more than everything else here.
    rows.sort(key=lambda row: (integer(row, "created_at"), text(row, "id")))
    return tuple(_account(row, wanted) for row in rows)


def skew_of(issued_at: int | None, expires_at: int | None) -> int:
    """Seconds before expiry at which this token is refreshed ahead."""
    return 0 if issued_at is None or expires_at is None else min(SKEW, max(0, expires_at - issued_at) // 10)


def _account(row: Row, wanted: AccountQuery) -> HeldAccount:
    delegated, is_own = text_or_none(row, "delegated"), text(row, "owner_id") == wanted.principal.user_id
    rule = None if is_own else parse_scope(text_or_none(row, "rule_scopes") or "")
    rule_ask = frozenset[str]() if is_own else parse_scope(text_or_none(row, "rule_ask") or "")
    allowed = frozenset[str]() if delegated is None else parse_scope(delegated)
    is_revoked = integer_or_none(row, "delegation_revoked_at") is not None
    access_expires_at = integer_or_none(row, "access_expires_at")
    access_sealed, narrowed_sealed = binary_or_none(row, "access_sealed"), binary_or_none(row, "narrowed_sealed")
    full: HeldToken | None = None
    if access_sealed is not None:
        full = HeldToken(
            access_sealed,
            integer(row, "access_generation"),
            expires_at=access_expires_at,
            skew=skew_of(integer_or_none(row, "refreshed_at"), access_expires_at),
        )
    narrowed: HeldToken | None = None
    if narrowed_sealed is not None:
        expires_at = integer(row, "narrowed_expires_at")
        narrowed = HeldToken(
            narrowed_sealed,
            integer(row, "narrowed_generation"),
            expires_at=expires_at,
            skew=skew_of(integer(row, "narrowed_issued_at"), expires_at),
        )
    return HeldAccount(
        id=text(row, "id"),
        user_id=text(row, "owner_id"),
        provider=wanted.provider,
        account=text(row, "account"),
        label=text(row, "label"),
        scopes=parse_scope(text(row, "scopes")),
        state=ConnectionState(text(row, "state")),
        full=full,
        narrowed=narrowed,
        has_refresh_token=integer(row, "has_refresh_token") == 1,
        lease_until=integer_or_none(row, "lease_until"),
        sent_at=integer_or_none(row, "sent_at"),
        retry_at=integer_or_none(row, "retry_at"),
        renewed_by=text_or_none(row, "renewed_by"),
        delegated=allowed if rule is None else allowed & rule,
        delegation_state="none" if delegated is None else "revoked" if is_revoked else "live",
        delegated_until=integer_or_none(row, "delegated_until"),
        ask=parse_scope(text_or_none(row, "ask") or "") | rule_ask,
        shared_until=integer_or_none(row, "shared_until"),
        beyond=frozenset() if is_own else parse_scope(text_or_none(row, "beyond_scopes") or ""),
        beyond_until=None if is_own else integer_or_none(row, "beyond_until"),
        rule=rule,
        is_default=integer(row, "is_default") == 1,
        wrapped=binary_or_none(row, "wrapped"),
        kek_id=text_or_none(row, "kek_id") or "",
        salt=binary_or_none(row, "salt"),
    )
