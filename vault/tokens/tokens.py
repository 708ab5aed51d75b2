"""Refresh tokens of our own authorization server: opaque, 256 bits, hashed, rotated on each use (OAuth 2.1 §4.3).

A token is live when it is unused and unexpired and its grant lives; the family is the grant. A repeated predecessor
gets the newest token, however many generations lie in between, unless its uses contradict each other:
`vault.tokens.token_rules` decides, and a contradiction revokes the grant. Each successor is kept sealed under a key
derived from its predecessor, so the chain leads from a presented token to the newest one, and the database alone can't
produce it. `server.oauth.tokens` mints access tokens.

RFC 6749 §6: a refresh may ask for fewer scopes or resources than its token has, never for more; the successor keeps
those of the token.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import field, replace
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault import grants
from vault.audit import audit
from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.grants import LiveGrant
from vault.records import DAY, TENANT, Event, Grant, RefreshToken, format_scope, parse_scope
from vault.refusals import GrantEnded, ScopeRefused, VaultError
from vault.storage.database import (
    SWEEP_BATCH,
    Database,
    Program,
    Reader,
    Row,
    Statement,
    Transaction,
    Value,
    binary,
    binary_or_none,
    integer,
    integer_or_none,
    text,
    text_or_none,
)
from vault.tokens.token_rules import PROMPT, Family, RepeatVerdict, judge_use

_NOT_VALID = "the refresh token isn't valid"
_SEALED_UNDER = "predecessor"
_KEPT = DAY  # after the family's end
# Generations kept per family. Using one of them again ends the grant; an older one is only refused.
REMEMBERED = 256


@immutable
class Lifetimes:
    """Seconds from issue to the family's end, between two uses, and for which a repeat gets the newest token.

    Each use by a client that authenticates, or proves a key, also moves the family's end.
    """

    absolute: int
    idle: int
    grace: int

    def first_end(self, now: int) -> int:
        """When the first token of a family ends, unless it is used."""
        return now + min(self.idle, self.absolute)


@immutable
class RefreshRequest:
    """What came with a refresh token: the client, what it asks for, its DPoP key (RFC 9449 §5), and its network."""

    client_id: str
    scopes: frozenset[str] | None = None  # None: everything the token has
    resource: str | None = None  # space-separated; None: everything the token has
    key_thumbprint: str | None = None
    network: str | None = None
    is_authenticated: bool = False  # the client, with its own secret or key


@immutable
class Repetition:
    """Facts of an answered repeat, for its event."""

    age: int  # seconds since the token was used
    generations: int  # number of generations from the token to the newest one
    verdict: RepeatVerdict


@immutable
class AcceptedRefresh:
    """An accepted refresh: the token to issue, and what its access token may have."""

    refresh_token: str = field(repr=False)
    grant: Grant
    scopes: frozenset[str]
    resource: str
    expires_at: int  # when the refresh token ends, unless it is used
    key_thumbprint: str | None
    repetition: Repetition | None = None  # the newest token again

    @property
    def is_repeat(self) -> bool:
        return self.repetition is not None


@immutable
class _PresentedToken:
    """A presented token and its grant, which is live, as one read found them."""

    token: str = field(repr=False)
    stored: RefreshToken
    grant: Grant
    granted: str  # the grant's scopes in their stored form


@immutable
class _TokenRotation:
    """A decided rotation: the answer, and the statements that store it."""

    answer: AcceptedRefresh
    spend: Statement  # returns a row only if the token is unused, and its grant is as it was read
    store: tuple[Statement, ...]


class RefreshTokenRefused(GrantEnded):
    """The refresh token is unknown, expired, another client's, or its grant has ended."""


class TokenReused(RefreshTokenRefused):
    """A used refresh token came back, and its uses contradict each other: its grant, and so its family, is now
    revoked."""

    def __init__(self, description: str, *, grant: Grant, verdict: RepeatVerdict, detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.grant = grant
        self.verdict = verdict


class ResourceRefused(VaultError):
    """The request names a resource that the token wasn't issued for (RFC 8707 §2.2)."""

    code = "invalid_target"


def token_hash(token: str) -> bytes:
    """The stored form of a refresh token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def issue_refresh_token(
    transaction: Transaction,
    grant: Grant,
    *,
    scopes: frozenset[str],
    resource: str,
    now: int,
    lifetimes: Lifetimes,
    key_thumbprint: str | None = None,
    network: str | None = None,
) -> str:
    """The first token of a new family."""
    token = secrets.token_urlsafe(32)
    first = RefreshToken(
        token_hash=token_hash(token),
        grant_id=grant.id,
        client_id=grant.client_id,
        family=secrets.token_urlsafe(16),
        generation=1,
        scopes=scopes,
        resource=resource,
        issued_at=now,
        expires_at=now + lifetimes.absolute,
        idle_expires_at=lifetimes.first_end(now),
        key_thumbprint=key_thumbprint,
        issued_to=network,
    )
    insertion = _insertion(first)
    await transaction.execute(insertion.sql, insertion.parameters)
    return token


async def rotate(
    database: Database,
    token: str,
    *,
    request: RefreshRequest,
    now: int,
    lifetimes: Lifetimes,
    admit: Callable[[Grant], None] = lambda _: None,
    event_of: Callable[[AcceptedRefresh], Event] | None = None,
) -> AcceptedRefresh:
    """Use a refresh token. Takes the database, not a transaction, because reuse must be revoked although it is refused.
    Raises RefreshTokenRefused, TokenReused, ScopeRefused or ResourceRefused, and what `admit` raises, which runs last;
    only TokenReused changes anything.

    The usual case, an unused token, is one read and one write. The write decides between several requests.
    `event_of` makes the event, which is stored with the rotation or not at all.
    """
    presented = await _read_presented(database, token, request)  # an invented token writes nothing
    is_admitted = False
    if presented.stored.consumed_at is None:
        rotation = _plan(presented, request, now=now, lifetimes=lifetimes)
        admit(presented.grant)
        events = None if event_of is None else audit.batch_of(event_of(rotation.answer), now=now)
        if await database.perform(_rotation_program(rotation), events=events):
            return rotation.answer
        is_admitted = True  # another request was first, or the grant changed: decide anew
    async with database.transaction() as transaction:
        outcome = await _rotate(transaction, token, request=request, now=now, lifetimes=lifetimes)
        if isinstance(outcome, AcceptedRefresh):
            if not is_admitted:
                admit(outcome.grant)
            if event_of is not None:
                await audit.append(transaction, event_of(outcome), now=now)
            return outcome
        revoked = await grants.revoke_grant(transaction, outcome.grant.id, reason="refresh_token_reused", now=now)
        if revoked is not None:
            event = grants.revocation_event(revoked, because=outcome.verdict.value)
            await audit.append(transaction, event, now=now)
    raise outcome  # after the revocation is committed


async def find(reader: Reader, token: str) -> RefreshToken | None:
    """The stored record of a refresh token, used or not."""
    row = await reader.fetch_one(
        "select token_hash, grant_id, client_id, family, generation, scopes, resource, issued_at, expires_at,"
        " idle_expires_at, consumed_at, successor_hash, successor_sealed, key_thumbprint, issued_to, moved_at"
        " from refresh_tokens where tenant = :tenant and token_hash = :token_hash",
        {"tenant": TENANT, "token_hash": token_hash(token)},
    )
    return None if row is None else _refresh_token(row)


async def find_live(reader: Reader, token: str, *, now: int, grace: int = 0) -> tuple[RefreshToken, LiveGrant] | None:
    """The token with its grant if it can be used, which introspection calls active (RFC 7662 §2.2).

    With a `grace`, also a token that was used less than this many seconds ago: if the client only shows it, another of
    its processes may have refreshed in the meantime. A bound token has a shorter grace, as in `token_rules`.
    """
    stored = await find(reader, token)
    if stored is None or stored.is_expired(now):
        return None
    if stored.consumed_at is not None:
        kept = grace if stored.key_thumbprint is None else min(grace, PROMPT)
        if now - stored.consumed_at >= kept:
            return None
    facts = await grants.live_principal_facts(reader, stored.grant_id)
    return None if facts is None else (stored, facts)


async def is_any_fresh(reader: Reader, user_id: str, *, client_ids: frozenset[str], since: int) -> bool:
    """Whether one of these clients has since gotten a refresh token for this user, or a grant without one."""
    for client_id in sorted(client_ids):
        row = await reader.fetch_one(
            "select g.created_at as at from grants g where g.tenant = :tenant and g.user_id = :user_id"
            " and g.client_id = :client_id and g.revoked_at is null and g.created_at > :since"
            " union all select t.issued_at as at from grants g"
            " cross join refresh_tokens t"  # in this order: SQLite keeps it
            " where g.tenant = :tenant and g.user_id = :user_id and g.client_id = :client_id and g.revoked_at is null"
            " and t.tenant = :tenant and t.grant_id = g.id and t.issued_at > :since limit 1",
            {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "since": since},
        )
        if row is not None:
            return True
    return False


async def revoke_token(transaction: Transaction, token: str, *, client_id: str, now: int) -> Grant | None:
    """End the grant behind a refresh token of this client, of any generation (RFC 7009 §2.1).

    None when there was nothing to end: the token is unknown, another client's, or had already ended.
    """
    stored = await find(transaction, token)
    if stored is None or stored.client_id != client_id:
        return None
    return await grants.revoke_grant(transaction, stored.grant_id, reason="token_revoked", now=now)


async def sweep_tokens(transaction: Transaction, *, now: int, lifetimes: Lifetimes) -> int:
    """Erase used successors whose grace has ended, and delete families past their end; at most a batch of each.

    Returns the larger of the two numbers.
    """
    erased = await transaction.execute(
        "update refresh_tokens set successor_sealed = null where token_hash in (select token_hash from refresh_tokens"
        " where tenant = :tenant and successor_sealed is not null and superseded_at is not null"
        " and consumed_at <= :before limit :batch)",
        {"tenant": TENANT, "before": now - lifetimes.grace, "batch": SWEEP_BATCH},
    )
    forgotten = await transaction.execute(
        "delete from refresh_tokens where token_hash in"
        " (select token_hash from refresh_tokens where tenant = :tenant and expires_at <= :before limit :batch)",
        {"tenant": TENANT, "before": now - _KEPT, "batch": SWEEP_BATCH},
    )
    return max(erased, forgotten)


async def _rotate(
    transaction: Transaction, token: str, *, request: RefreshRequest, now: int, lifetimes: Lifetimes
) -> AcceptedRefresh | TokenReused:
    """Load, decide, save. Returns reuse instead of raising it, so that the transaction can commit."""
    presented = await _read_presented(transaction, token, request)
    if presented.stored.consumed_at is None:
        rotation = _plan(presented, request, now=now, lifetimes=lifetimes)
        if await transaction.perform(_rotation_program(rotation)):
            return rotation.answer
        presented = await _read_presented(transaction, token, request)  # another request was first
    return await _repeat(transaction, presented, request=request, now=now, grace=lifetimes.grace)


async def _read_presented(reader: Reader, token: str, request: RefreshRequest) -> _PresentedToken:
    """The token and its grant. Raises RefreshTokenRefused unless the grant is live and this client may use the token.

    The token may be used or expired.
    """
    rows = await reader.look_up(_PRESENTED, {"tenant": TENANT, "token_hash": token_hash(token)})
    row = next(iter(rows), None)
    if row is None:
        raise RefreshTokenRefused(_NOT_VALID, detail="the refresh token is unknown")
    if row["live_user"] is None:
        raise RefreshTokenRefused(_NOT_VALID, detail="the grant, client, or user of the refresh token has ended")
    stored, granted = _refresh_token(row), text(row, "granted")
    if stored.client_id != request.client_id:
        raise RefreshTokenRefused(_NOT_VALID, detail="the refresh token was issued to another client")
    if stored.key_thumbprint is not None and stored.key_thumbprint != request.key_thumbprint:
        raise RefreshTokenRefused(_NOT_VALID, detail="the refresh token is bound to another DPoP key")
    grant = Grant(
        id=stored.grant_id,
        user_id=text(row, "live_user"),
        client_id=text(row, "live_client"),
        scopes=parse_scope(granted),
        resource=text(row, "grant_resource"),
        redirect_uri=text(row, "redirect_uri"),
        created_at=integer(row, "grant_created_at"),
    )
    return _PresentedToken(token, stored, grant, granted)


_PRESENTED: Final = """
    select t.token_hash, t.grant_id, t.client_id, t.family, t.generation, t.scopes, t.resource, t.issued_at,
        t.expires_at, t.idle_expires_at, t.consumed_at, t.successor_hash, t.successor_sealed, t.key_thumbprint,
        t.issued_to, t.moved_at, g.scopes as granted, g.resource as grant_resource, g.redirect_uri,
        g.created_at as grant_created_at, c.id as live_client, u.id as live_user
    from refresh_tokens t
    left join grants g on g.tenant = t.tenant and g.id = t.grant_id and g.revoked_at is null
    left join clients c on c.tenant = g.tenant and c.id = g.client_id and c.removed_at is null
    left join users u on u.tenant = c.tenant and u.id = g.user_id and u.disabled_at is null and u.stopped_at is null
    where t.tenant = :tenant and t.token_hash = :token_hash
"""
_SPEND: Final = """
    update refresh_tokens set consumed_at = :now, successor_hash = :successor_hash, successor_sealed = :successor_sealed
    where tenant = :tenant and token_hash = :token_hash and consumed_at is null and exists (
        select 1 from grants g
        join clients c on c.tenant = g.tenant and c.id = g.client_id
        join users u on u.tenant = g.tenant and u.id = g.user_id
        where g.tenant = :tenant and g.id = :grant_id and g.scopes = :granted and g.revoked_at is null
            and c.removed_at is null and u.disabled_at is null and u.stopped_at is null
    )
    returning generation
"""


def _answer(stored: RefreshToken, grant: Grant, request: RefreshRequest, *, now: int) -> AcceptedRefresh:
    """What this request may have, without the token yet: never more than the token has."""
    if stored.is_expired(now):
        raise RefreshTokenRefused(_NOT_VALID, detail="expired")
    held = stored.scopes & grant.scopes
    scopes = held if request.scopes is None else request.scopes
    if not scopes <= held:
        raise ScopeRefused("the refresh token doesn't have these scopes", missing=scopes - held)
    resource = stored.resource if request.resource is None else request.resource
    if not set(resource.split()) <= set(stored.resource.split()):
        raise ResourceRefused("the refresh token isn't for this resource")
    return AcceptedRefresh(
        refresh_token="",
        grant=grant,
        scopes=scopes,
        resource=resource,
        expires_at=stored.idle_expires_at,
        key_thumbprint=stored.key_thumbprint,
    )


def _plan(presented: _PresentedToken, request: RefreshRequest, *, now: int, lifetimes: Lifetimes) -> _TokenRotation:
    """How to use up an unused token and store its successor. Raises what `rotate` raises for such a token."""
    stored, answer = presented.stored, _answer(presented.stored, presented.grant, request, now=now)
    token_after = secrets.token_urlsafe(32)
    slides = request.is_authenticated or stored.key_thumbprint is not None  # a thief with only the token cannot use it
    expires_at = max(stored.expires_at, now + lifetimes.absolute) if slides else stored.expires_at
    successor = replace(
        stored,
        token_hash=token_hash(token_after),
        generation=stored.generation + 1,
        issued_at=now,
        expires_at=expires_at,
        idle_expires_at=min(now + lifetimes.idle, expires_at),
        issued_to=request.network,
        moved_at=None,
    )
    sealed = seal(
        token_after.encode(),
        key=_predecessor_key(presented.token),
        key_id=_SEALED_UNDER,
        context=_context(stored, presented.grant),
    )
    spend = Statement(
        _SPEND,
        {
            "tenant": TENANT,
            "token_hash": stored.token_hash,
            "now": now,
            "successor_hash": successor.token_hash,
            "successor_sealed": sealed,
            "grant_id": stored.grant_id,
            "granted": presented.granted,
        },
    )
    family: dict[str, Value] = {"tenant": TENANT, "grant_id": stored.grant_id, "family": stored.family}
    store = [_insertion(successor)]
    if stored.generation > 1:  # this token arrived and works: its predecessor can be repeated only within the grace
        superseded = {"generation": stored.generation - 1, "now": now, "before": now - lifetimes.grace}
        store.append(Statement(_SUPERSEDE, {**family, **superseded}))
    if successor.generation > REMEMBERED:  # an agent that is always on uses one every few minutes, for months
        store.append(Statement(_FORGET, {**family, "forgotten": successor.generation - REMEMBERED}))
    accepted = replace(answer, refresh_token=token_after, expires_at=successor.idle_expires_at)
    return _TokenRotation(accepted, spend, tuple(store))


_SUPERSEDE: Final = """
    update refresh_tokens set superseded_at = :now,
        successor_sealed = case when consumed_at <= :before then null else successor_sealed end
    where tenant = :tenant and grant_id = :grant_id and family = :family and generation = :generation
"""
_FORGET: Final = """
    delete from refresh_tokens
    where tenant = :tenant and grant_id = :grant_id and family = :family and generation <= :forgotten
"""


def _rotation_program(rotation: _TokenRotation) -> Program[bool]:
    """Store the rotation; False, with nothing stored, if the token isn't as it was read."""
    if not (yield rotation.spend):
        return False
    for statement in rotation.store:  # noqa: UP028 -- rows are sent in, which a tuple's iterator can't take
        yield statement
    return True


async def _repeat(
    transaction: Transaction,
    presented: _PresentedToken,
    *,
    request: RefreshRequest,
    now: int,
    grace: int,
) -> AcceptedRefresh | TokenReused:
    """The newest token of the family in exchange for a used one, unless the two uses contradict each other
    (`token_rules`)."""
    stored, grant = presented.stored, presented.grant
    family = await _family(transaction, stored)
    verdict = judge_use(
        stored,
        family,
        network=request.network,
        is_authenticated=request.is_authenticated,
        now=now,
        grace=grace,
    )
    newest = _newest(presented.token, family, stored, grant) if verdict.is_answered else None
    if newest is None:  # or a release with another rule or a shorter grace erased it
        verdict = RepeatVerdict.LATE if verdict.is_answered else verdict
        detail = f"generation {stored.generation} used again: {verdict.value}"
        return TokenReused(_NOT_VALID, grant=grant, verdict=verdict, detail=detail)
    successor, current = newest
    answer = _answer(current, grant, request, now=now)
    if verdict is RepeatVerdict.MOVED:
        await transaction.execute(
            "update refresh_tokens set moved_at = :now where tenant = :tenant and token_hash = :token_hash",
            {"tenant": TENANT, "token_hash": stored.token_hash, "now": now},
        )
    spent_at = now if stored.consumed_at is None else stored.consumed_at
    repetition = Repetition(now - spent_at, current.generation - stored.generation, verdict)
    return replace(answer, refresh_token=successor, repetition=repetition)


def _newest(token: str, family: Family, stored: RefreshToken, grant: Grant) -> tuple[str, RefreshToken] | None:
    """The secret and record of the newest token, found through the sealed successors from this one on; None if one was
    erased."""
    while stored.successor_sealed is not None:
        token = open_sealed(
            stored.successor_sealed, key=_predecessor_key(token), context=_context(stored, grant)
        ).decode()
        after = family.get(stored.generation + 1)
        if after is None or after.token_hash != token_hash(token):
            return None
        if after.consumed_at is None:
            return token, after
        stored = after
    return None


async def _family(reader: Reader, stored: RefreshToken) -> Family:
    rows = await reader.fetch(
        "select token_hash, grant_id, client_id, family, generation, scopes, resource, issued_at, expires_at,"
        " idle_expires_at, consumed_at, successor_hash, successor_sealed, key_thumbprint, issued_to, moved_at"
        " from refresh_tokens where tenant = :tenant and grant_id = :grant_id and family = :family"
        " order by generation",
        {"tenant": TENANT, "grant_id": stored.grant_id, "family": stored.family},
    )
    return {one.generation: one for one in map(_refresh_token, rows)}


def _predecessor_key(token: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"token-vault refresh successor").derive(token.encode())


def _context(stored: RefreshToken, grant: Grant) -> Context:
    return Context(
        purpose="refresh_successor",
        tenant=TENANT,
        user_id=grant.user_id,
        record_id=stored.family,
        generation=stored.generation,
    )


def _insertion(stored: RefreshToken) -> Statement:
    return Statement(
        "insert into refresh_tokens (tenant, token_hash, grant_id, client_id, family, generation, scopes, resource,"
        " issued_at, expires_at, idle_expires_at, key_thumbprint, issued_to)"
        " values (:tenant, :token_hash, :grant_id, :client_id, :family, :generation, :scopes, :resource,"
        " :issued_at, :expires_at, :idle_expires_at, :key_thumbprint, :issued_to)",
        {
            "tenant": TENANT,
            "token_hash": stored.token_hash,
            "grant_id": stored.grant_id,
            "client_id": stored.client_id,
            "family": stored.family,
            "generation": stored.generation,
            "scopes": format_scope(stored.scopes),
            "resource": stored.resource,
            "issued_at": stored.issued_at,
            "expires_at": stored.expires_at,
            "idle_expires_at": stored.idle_expires_at,
            "key_thumbprint": stored.key_thumbprint,
            "issued_to": stored.issued_to,
        },
    )


def _refresh_token(row: Row) -> RefreshToken:
    return RefreshToken(
        token_hash=binary(row, "token_hash"),
        grant_id=text(row, "grant_id"),
        client_id=text(row, "client_id"),
        family=text(row, "family"),
        generation=integer(row, "generation"),
        scopes=parse_scope(text(row, "scopes")),
        resource=text(row, "resource"),
        issued_at=integer(row, "issued_at"),
        expires_at=integer(row, "expires_at"),
        idle_expires_at=integer(row, "idle_expires_at"),
        consumed_at=integer_or_none(row, "consumed_at"),
        successor_hash=binary_or_none(row, "successor_hash"),
        successor_sealed=binary_or_none(row, "successor_sealed"),
        key_thumbprint=text_or_none(row, "key_thumbprint"),
        issued_to=text_or_none(row, "issued_to"),
        moved_at=integer_or_none(row, "moved_at"),
    )
