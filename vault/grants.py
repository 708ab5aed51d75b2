"""What users allowed their agents: the record behind every token. Revoking a grant ends all tokens made from it.

Access and refresh tokens depend on their grant: each use reads it through `live_principal_facts`. `vault.tokens.tokens`
makes and rotates refresh tokens; `vault.delegations` holds the permissions per connection. Grants that a client derives
from another token end with the grant that they are based on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from vault import company_permissions, grants, revoked_tokens, tickets
from vault.approvals import requests
from vault.audit import audit
from vault.classes.immutable import immutable
from vault.keys.key_ring import KeyRing
from vault.records import TENANT, ClientKind, Event, Grant, Ticket, TicketPurpose, format_scope, new_id, parse_scope
from vault.refusals import GrantEnded, TransitionRefused
from vault.storage.database import (
    Database,
    Reader,
    Row,
    Transaction,
    Value,
    integer,
    integer_or_none,
    page_names,
    page_values,
    text,
    text_or_none,
)


@immutable
class LiveGrant:
    """A live grant, with what a call needs to know about its client and user."""

    grant: Grant
    client_kind: ClientKind
    client_name: str
    auth_method: str
    user_name: str


class Redemption:
    """The one redemption of an authorization code, inside its transaction; see `redeem_code`."""

    def __init__(self, transaction: Transaction, ticket: Ticket, code: str) -> None:
        self.transaction = transaction
        self.ticket = ticket
        self._code = code
        self.is_settled = False

    async def create_grant(
        self, *, user_id: str, client_id: str, scopes: frozenset[str], resource: str, redirect_uri: str, now: int
    ) -> Grant:
        """The grant of this code, recorded with the code."""
        grant = await create_grant(
            self.transaction,
            user_id=user_id,
            client_id=client_id,
            scopes=scopes,
            resource=resource,
            redirect_uri=redirect_uri,
            now=now,
        )
        await self.settle(grant.id)
        return grant

    async def settle(self, grant_id: str) -> None:
        """Record the grant that this code led to, if the grant was created elsewhere."""
        await tickets.note_outcome(self.transaction, self._code, outcome=grant_id)
        self.is_settled = True


@asynccontextmanager
async def redeem_code(
    database: Database, ring: KeyRing, code: str, *, is_holder: Callable[[Ticket], bool], now: int
) -> AsyncGenerator[Redemption, None]:
    """Redeem an authorization code: the block checks the request and creates the grant and its tokens in one
    transaction.

    A refusal raised in the block leaves the code unused. If the code was redeemed before, the grant of the first
    redemption is revoked, durably, before `TicketReplayed` reaches the caller (RFC 6749 §4.1.2). `is_holder` says
    whether the caller could have redeemed the code: someone who merely saw it must not be able to end the grant.
    """
    if not await tickets.is_known(database, code, purpose=TicketPurpose.CODE):  # an invented code writes nothing
        raise TransitionRefused("this link or code is unknown", detail=f"the ticket ({TicketPurpose.CODE}) is unknown")
    replay: tickets.TicketReplayed | None = None
    async with database.transaction() as transaction:
        try:
            ticket = await tickets.consume(transaction, ring, code, purpose=TicketPurpose.CODE, now=now)
        except tickets.TicketReplayed as refusal:
            replay = refusal
            if refusal.ticket is not None and is_holder(refusal.ticket):
                await _revoke_replayed(transaction, refusal.outcome, now=now)
        else:
            redemption = Redemption(transaction, ticket, code)
            yield redemption
            if not redemption.is_settled:
                raise RuntimeError("an authorization code was redeemed without a grant")
    if replay is not None:  # raised here, after the revocation is committed
        raise replay


async def _revoke_replayed(transaction: Transaction, grant_id: str | None, *, now: int) -> None:
    grant = None if grant_id is None else await revoke_grant(transaction, grant_id, reason="code_replayed", now=now)
    if grant is not None:
        await audit.append(transaction, revocation_event(grant), now=now)


async def create_grant(
    transaction: Transaction,
    *,
    user_id: str,
    client_id: str,
    scopes: frozenset[str],
    resource: str,
    redirect_uri: str,
    now: int,
    ends_at: int | None = None,
) -> Grant:
    """A new live grant. `ends_at`: for a grant with a single access token, when that token and the grant end."""
    grant = Grant(
        id=new_id(),
        user_id=user_id,
        client_id=client_id,
        scopes=scopes,
        resource=resource,
        redirect_uri=redirect_uri,
        created_at=now,
    )
    await transaction.execute(
        "insert into grants (tenant, id, user_id, client_id, scopes, resource, redirect_uri, created_at, ends_at)"
        " values (:tenant, :id, :user_id, :client_id, :scopes, :resource, :redirect_uri, :now, :ends_at)",
        {
            "tenant": TENANT,
            "id": grant.id,
            "user_id": user_id,
            "client_id": client_id,
            "scopes": format_scope(scopes),
            "resource": resource,
            "redirect_uri": redirect_uri,
            "now": now,
            "ends_at": ends_at,
        },
    )
    return grant


async def let_older_end(transaction: Transaction, newer: Grant, *, lifetime: int) -> None:
    """Let earlier sign-ins end with their access tokens, of at most `lifetime`, where a newer one allows everything
    that they do.

    The newest stays, because it records the person's consent (`find_consent`). A grant with refresh tokens stays too.
    """
    rows = await transaction.fetch(
        "select g.id, g.scopes, g.created_at from grants g"
        " where g.tenant = :tenant and g.user_id = :user_id and g.client_id = :client_id"
        " and g.redirect_uri = :redirect_uri and g.resource = :resource and g.derived_from = :nothing and g.id <> :id"
        " and g.revoked_at is null and g.ends_at is null and not exists"
        " (select 1 from refresh_tokens t where t.tenant = g.tenant and t.grant_id = g.id)",
        {
            "tenant": TENANT,
            "user_id": newer.user_id,
            "client_id": newer.client_id,
            "redirect_uri": newer.redirect_uri,
            "resource": newer.resource,
            "nothing": "",
            "id": newer.id,
        },
    )
    older = [row for row in rows if parse_scope(text(row, "scopes")) <= newer.scopes]
    await transaction.execute_many(
        "update grants set ends_at = :ends_at where tenant = :tenant and id = :id",
        [{"tenant": TENANT, "id": text(row, "id"), "ends_at": integer(row, "created_at") + lifetime} for row in older],
    )


async def end_run_out(transaction: Transaction, *, now: int) -> int:
    """End a batch of grants whose last access token has ended; returns how many. Records no event, because the person
    decided nothing."""
    rows = await transaction.fetch(
        _RUN_OUT, {"tenant": TENANT, "now": now, "reason": "run_out", "batch": RUN_OUT_BATCH}
    )
    await ended_with(transaction, rows, now=now)
    return len(rows)


async def find_consent(
    reader: Reader, *, user_id: str, client_id: str, redirect_uri: str, resource: str, scopes: frozenset[str]
) -> Grant | None:
    """A live grant that already allows this client all these scopes for this user, redirect URI and resource."""
    rows = await reader.fetch(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and user_id = :user_id and client_id = :client_id"
        " and redirect_uri = :redirect_uri and resource = :resource and revoked_at is null"
        " order by created_at desc",
        {
            "tenant": TENANT,
            "user_id": user_id,
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "resource": resource,
        },
    )
    return next((grant for grant in map(grant_from, rows) if scopes <= grant.scopes), None)


async def list_grants(reader: Reader, user_id: str) -> tuple[Grant, ...]:
    """The live grants of a user, newest first."""
    rows = await reader.fetch(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and user_id = :user_id and revoked_at is null"
        " order by created_at desc, id",
        {"tenant": TENANT, "user_id": user_id},
    )
    return tuple(grant_from(row) for row in rows)


async def has_own_grant(reader: Reader, *, user_id: str, client_id: str, since: int) -> bool:
    """Whether the user signed this client in since then, with a grant that is still live. Derived grants don't
    count."""
    row = await reader.fetch_one(
        "select id from grants where tenant = :tenant and user_id = :user_id and client_id = :client_id"
        " and derived_from = :nothing and created_at >= :since and revoked_at is null limit 1",
        {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "nothing": "", "since": since},
    )
    return row is not None


async def list_people(reader: Reader, client_id: str, *, limit: int) -> tuple[tuple[str, str], ...]:
    """ID and name of people who signed this client in, from at most `limit` sign-ins."""
    rows = await reader.fetch(
        "select distinct u.id, u.name from (select g.user_id from grants g"
        " where g.tenant = :tenant and g.client_id = :client_id and g.revoked_at is null limit :limit) held"
        " cross join users u where u.tenant = :tenant and u.id = held.user_id order by u.name, u.id",
        {"tenant": TENANT, "client_id": client_id, "limit": limit},
    )
    return tuple((text(row, "id"), text(row, "name")) for row in rows)


async def list_sign_ins(reader: Reader, user_id: str, *, client_id: str, limit: int) -> tuple[Grant, ...]:
    """The grants of a user to one client, live or ended, newest first."""
    rows = await reader.fetch(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and user_id = :user_id and client_id = :client_id"
        " order by created_at desc, id limit :limit",
        {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "limit": limit},
    )
    return tuple(grant_from(row) for row in rows)


async def find_of_client(reader: Reader, client_id: str, *, resource: str) -> Grant | None:
    """The newest live grant of a client for a resource, of any user."""
    rows = await reader.fetch(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and client_id = :client_id and resource = :resource"
        " and revoked_at is null order by created_at desc, id limit 1",
        {"tenant": TENANT, "client_id": client_id, "resource": resource},
    )
    return next(map(grant_from, rows), None)


async def live_principal_facts(reader: Reader, grant_id: str, *, token_id: str = "") -> LiveGrant | None:
    """The grant with its client and user; None if any of the three, or the access token with this ID, has ended.

    One read, made by every call.
    """
    rows = await reader.look_up(
        "select g.id, g.user_id, g.client_id, g.scopes, g.resource, g.redirect_uri, g.created_at, g.revoked_at,"
        " g.revoked_reason, g.revoked_tokens, c.kind as client_kind, c.name as client_name, c.auth_method,"
        " u.name as user_name"
        " from grants g"
        " join clients c on c.tenant = g.tenant and c.id = g.client_id"
        " join users u on u.tenant = g.tenant and u.id = g.user_id"
        " where g.tenant = :tenant and g.id = :id"
        " and g.revoked_at is null and c.removed_at is null and u.disabled_at is null and u.stopped_at is null",
        {"tenant": TENANT, "id": grant_id},
    )
    row = next(iter(rows), None)
    return None if row is None or revoked_tokens.is_revoked(row, token_id) else _live_grant(row)


async def live_among(reader: Reader, tokens: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Those of these access tokens (grant ID, token ID) that work now: grant, client, person and token are live."""
    of_grant: dict[str, list[str]] = {}
    for grant_id, token_id in tokens:
        of_grant.setdefault(grant_id, []).append(token_id)
    wanted, live = sorted(of_grant), set[tuple[str, str]]()
    for at in range(0, len(wanted), _AT_ONCE):
        some = wanted[at : at + _AT_ONCE]
        rows = await reader.fetch(_LIVE_AMONG, {"tenant": TENANT, **page_values("id", some, _AT_ONCE)})
        for row in rows:
            grant_id = text(row, "id")
            live |= {(grant_id, one) for one in of_grant[grant_id] if not revoked_tokens.is_revoked(row, one)}
    return frozenset(live)


_AT_ONCE: Final = 50
_LIVE_AMONG: Final = f"""
    select g.id, g.revoked_tokens from grants g
    join clients c on c.tenant = g.tenant and c.id = g.client_id
    join users u on u.tenant = g.tenant and u.id = g.user_id
    where g.revoked_at is null and c.removed_at is null and u.disabled_at is null and u.stopped_at is null
        and g.tenant = :tenant and g.id in ({page_names("id", _AT_ONCE)})
"""  # noqa: S608 -- names of parameters


def _revocation(which: str) -> str:
    return f"""
        update grants set revoked_at = :now, revoked_reason = :reason
        where tenant = :tenant and {which} and revoked_at is null
        returning id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason
    """  # noqa: S608 -- the conditions are the constants below


_REVOKE_ONE: Final = _revocation("id = :id")
_REVOKE_CLIENT_OF_USER: Final = _revocation("user_id = :user_id and client_id = :client_id")
_REVOKE_DERIVED: Final = _revocation("user_id = :user_id and client_id = :client_id and derived_from = :derived_from")
_REVOKE_DERIVED_FOR: Final = _revocation("client_id = :client_id and resource = :resource and derived_from <> :nothing")
_REVOKE_USER: Final = _revocation("user_id = :user_id")
_REVOKE_CLIENT: Final = _revocation("client_id = :client_id")
_REVOKE_CLIENT_FOR: Final = _revocation("client_id = :client_id and resource = :resource")
_REVOKE_RESOURCE: Final = _revocation("resource = :resource")


async def _revoke(
    transaction: Transaction, statement: str, whose: Mapping[str, Value], *, reason: str, now: int
) -> tuple[Grant, ...]:
    rows = await transaction.fetch(statement, {**whose, "tenant": TENANT, "now": now, "reason": reason})
    return await ended_with(transaction, rows, now=now)


RUN_OUT_BATCH: Final = 100
_RUN_OUT: Final = _revocation(
    "id in (select id from grants where tenant = :tenant and ends_at <= :now and revoked_at is null"
    " order by ends_at limit :batch)"
)


async def revoke_grant(transaction: Transaction, grant_id: str, *, reason: str, now: int) -> Grant | None:
    """End one grant. None when it is unknown or already revoked; the first reason stays."""
    ended = await _revoke(transaction, _REVOKE_ONE, {"id": grant_id}, reason=reason, now=now)
    return next(iter(ended), None)


async def revoke_client_grants(
    transaction: Transaction, *, user_id: str, client_id: str, reason: str, now: int
) -> tuple[Grant, ...]:
    """Disconnect one agent from one user: end its grants, its unused codes, and its requests to the person.

    This also ends what a company allows it.
    """
    await tickets.expire_client_tickets(transaction, client_id, user_id=user_id, now=now)
    await requests.void(transaction, user_id=user_id, client_id=client_id, now=now)
    await company_permissions.end(transaction, user_id=user_id, client_id=client_id, reason=reason, now=now)
    whose = {"user_id": user_id, "client_id": client_id}
    return await _revoke(transaction, _REVOKE_CLIENT_OF_USER, whose, reason=reason, now=now)


async def revoke_company_grants(
    transaction: Transaction, *, user_id: str, client_id: str, company: str, now: int
) -> tuple[Grant, ...]:
    """End the grants that a company's assertions gave one agent for one user; what the user allowed stays."""
    whose = {"user_id": user_id, "client_id": client_id, "derived_from": f"company:{company}"}
    return await _revoke(transaction, _REVOKE_DERIVED, whose, reason="company_ended", now=now)


async def revoke_user_grants(transaction: Transaction, user_id: str, *, reason: str, now: int) -> tuple[Grant, ...]:
    """End every grant of a user, and the requests of clients to them."""
    await requests.void(transaction, user_id=user_id, client_id=None, now=now)
    return await _revoke(transaction, _REVOKE_USER, {"user_id": user_id}, reason=reason, now=now)


async def revoke_all_client_grants(
    transaction: Transaction, client_id: str, *, reason: str, now: int
) -> tuple[Grant, ...]:
    """End every grant of a client, of all users, and its unused codes."""
    await tickets.expire_client_tickets(transaction, client_id, now=now)
    return await _revoke(transaction, _REVOKE_CLIENT, {"client_id": client_id}, reason=reason, now=now)


async def revoke_client_resource(
    transaction: Transaction, *, client_id: str, resource: str, reason: str, now: int
) -> tuple[Grant, ...]:
    """End every grant of a client for a resource, of all users."""
    whose = {"client_id": client_id, "resource": resource}
    return await _revoke(transaction, _REVOKE_CLIENT_FOR, whose, reason=reason, now=now)


async def revoke_resource_grants(
    transaction: Transaction, resource: str, *, reason: str, now: int
) -> tuple[Grant, ...]:
    """End every grant for a resource, of all users and clients."""
    return await _revoke(transaction, _REVOKE_RESOURCE, {"resource": resource}, reason=reason, now=now)


def revocation_event(grant: Grant, *, because: str = "") -> Event:
    """The event of a revoked grant."""
    more = {"because": because} if because else {}
    return Event(
        kind="grant.revoked",
        user_id=grant.user_id,
        client_id=grant.client_id,
        details={"grant": grant.id, "reason": grant.revoked_reason, **more},
    )


async def ended_with(transaction: Transaction, rows: Sequence[Row], *, now: int) -> tuple[Grant, ...]:
    """The grants just revoked, and the grants derived from them, which end too.

    Erases the successors of their refresh tokens, which are sealed for a repeated request.
    """
    ended = tuple(grant_from(row) for row in rows)
    for grant in ended:
        await transaction.execute(
            "update refresh_tokens set successor_sealed = null"
            " where tenant = :tenant and grant_id = :grant_id and successor_sealed is not null",
            {"tenant": TENANT, "grant_id": grant.id},
        )
        derived = await transaction.fetch(
            "update grants set revoked_at = :now, revoked_reason = :reason"
            " where tenant = :tenant and derived_from = :id and revoked_at is null"
            " returning id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason",
            {"tenant": TENANT, "id": grant.id, "now": now, "reason": "derived_from_ended"},
        )
        ended += await ended_with(transaction, derived, now=now)
    return ended


def grant_from(row: Row) -> Grant:
    """The record from one row."""
    return Grant(
        id=text(row, "id"),
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        scopes=parse_scope(text(row, "scopes")),
        resource=text(row, "resource"),
        redirect_uri=text(row, "redirect_uri"),
        created_at=integer(row, "created_at"),
        revoked_at=integer_or_none(row, "revoked_at"),
        revoked_reason=text_or_none(row, "revoked_reason"),
    )


def _live_grant(row: Row) -> LiveGrant:
    return LiveGrant(
        grant=grant_from(row),
        client_kind=ClientKind(text(row, "client_kind")),
        client_name=text(row, "client_name"),
        auth_method=text(row, "auth_method"),
        user_name=text(row, "user_name"),
    )


async def hold_client(transaction: Transaction, client_id: str) -> bool:
    """Lock the client against removal until the transaction ends; False if it is gone. Lock it before its rows."""
    return (
        await transaction.execute(
            "update clients set removed_at = removed_at where tenant = :tenant and id = :id and removed_at is null",
            {"tenant": TENANT, "id": client_id},
        )
        > 0
    )


async def derived_grant(
    database: Database,
    *,
    user_id: str,
    client_id: str,
    derived_from: str,
    scopes: frozenset[str],
    resource: str,
    hold: Callable[[Transaction], Awaitable[bool]],
    now: int,
) -> Grant:
    """The live grant that this client holds for this user through `derived_from`, created on first use.

    `derived_from` is the ID of the grant that it ends with, or a name that contains a colon and stands for one. `hold`
    locks what else the grant depends on, and returns False if that has ended. Raises GrantEnded.
    """
    which: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": client_id,
        "derived_from": derived_from,
        "resource": resource,
    }
    if (held := await _find_derived(database, which)) is not None:
        return held
    async with database.transaction() as transaction:
        if not await hold_client(transaction, client_id) or not await hold(transaction):
            raise GrantEnded("This agent's access to the vault has ended. Sign in again.")
        grant, is_new = await derive_grant(
            transaction,
            user_id=user_id,
            client_id=client_id,
            derived_from=derived_from,
            scopes=scopes,
            resource=resource,
            now=now,
        )
        if is_new:
            await audit.append(transaction, _derived_event(grant, derived_from), now=now)
    return grant


async def derive_grant(
    transaction: Transaction,
    *,
    user_id: str,
    client_id: str,
    derived_from: str,
    scopes: frozenset[str],
    resource: str,
    now: int,
) -> tuple[Grant, bool]:
    """`derived_grant` inside a transaction, and whether the grant is new; if so, the caller records the event.

    Adds missing scopes to an existing grant.
    """
    which: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": client_id,
        "derived_from": derived_from,
        "resource": resource,
    }
    if (held := await _find_derived(transaction, which)) is not None:
        if scopes <= held.scopes:
            return held, False
        await transaction.execute(
            "update grants set scopes = :scopes where tenant = :tenant and id = :id",
            {"tenant": TENANT, "id": held.id, "scopes": format_scope(held.scopes | scopes)},
        )
        return replace(held, scopes=held.scopes | scopes), False
    grant = await grants.create_grant(
        transaction,
        user_id=user_id,
        client_id=client_id,
        scopes=scopes,
        resource=resource,
        redirect_uri="",
        now=now,
    )
    await transaction.execute(
        "update grants set derived_from = :derived_from where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": grant.id, "derived_from": derived_from},
    )
    if ":" not in derived_from:
        await revoked_tokens.inherit(transaction, grant.id, derived_from=derived_from)
    return grant, True


def _derived_event(grant: Grant, derived_from: str) -> Event:
    return Event(
        kind="grant.derived",
        user_id=grant.user_id,
        client_id=grant.client_id,
        details={
            "grant": grant.id,
            "scopes": sorted(grant.scopes),
            "resource": grant.resource,
            "derived_from": derived_from,
        },
    )


async def _find_derived(reader: Reader, which: Mapping[str, Value]) -> Grant | None:
    rows = await reader.look_up(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and user_id = :user_id and client_id = :client_id"
        " and derived_from = :derived_from and resource = :resource and revoked_at is null"
        " order by created_at, id limit 1",
        which,
    )
    return next(map(grant_from, rows), None)


async def revoke_derived_grants(
    transaction: Transaction, *, client_id: str, resource: str, reason: str, now: int
) -> tuple[Grant, ...]:
    """End every grant that a client derived from tokens for a resource, of all users."""
    whose = {"client_id": client_id, "resource": resource, "nothing": ""}
    return await _revoke(transaction, _REVOKE_DERIVED_FOR, whose, reason=reason, now=now)
