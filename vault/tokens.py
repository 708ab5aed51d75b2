"""Refresh tokens of our own authorization server: opaque, 256 bit, hashed, rotated on each use (OAuth 2.1 §4.3).

A token is alive when it was not used, is not too old, and its grant lives; the family is the grant. For 30 s a
repeated predecessor gets the same successor, kept sealed under a key derived from the predecessor itself, so the
database alone cannot produce it. Any other re-use revokes the grant. Access tokens are `server.oauth.tokens`'.

RFC 6749 §6: a refresh may ask for fewer scopes or resources than its token has, never for more; the successor keeps
what the token has.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault import grants
from vault.audit import audit
from vault.envelope import Context, open_sealed, seal
from vault.grants import LiveGrant
from vault.records import TENANT, Grant, RefreshToken, format_scope, parse_scope
from vault.refusals import GrantEnded, ScopeRefused, VaultError
from vault.storage.database import (
    SWEEP_BATCH,
    Database,
    Reader,
    Row,
    Transaction,
    binary,
    binary_or_none,
    integer,
    integer_or_none,
    text,
    text_or_none,
)

_NOT_VALID = "the refresh token is not valid"
_SEALED_UNDER = "predecessor"
_KEPT = 86400  # after the family's end
# Generations of a family that are kept. Using one of them again ends the grant; an older one is only refused.
REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds: from issue to the family's end, between two uses, and in which a repeat gets the same answer."""

    absolute: int = 90 * 86400
    idle: int = 30 * 86400
    grace: int = 30


DEFAULT_LIFETIMES = Lifetimes()


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """What came with a refresh token: the authenticated client, what it asks for, its DPoP key (RFC 9449 §5)."""

    client_id: str
    scopes: frozenset[str] | None = None  # None: all that the token has
    resource: str | None = None  # space separated where several; None: all that the token has
    key_thumbprint: str | None = None


@dataclass(frozen=True, slots=True)
class AcceptedRefresh:
    """An accepted refresh: the token to hand out, and what the access token beside it may carry."""

    refresh_token: str = field(repr=False)
    grant: Grant
    scopes: frozenset[str]
    resource: str
    facts: LiveGrant
    key_thumbprint: str | None = None
    is_repeat: bool = False  # the same successor again


class RefreshTokenRefused(GrantEnded):
    """The refresh token is unknown, expired, another client's, or its grant has ended."""


class TokenReused(RefreshTokenRefused):
    """A used refresh token came back: its grant, and so every token of the family, is revoked by now."""

    def __init__(self, description: str, *, grant: Grant, detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.grant = grant


class ResourceRefused(VaultError):
    """The request names a resource that the token was not issued for (RFC 8707 §2.2)."""

    code = "invalid_target"


def token_hash(token: str) -> bytes:
    """What is stored of a refresh token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def issue_refresh_token(
    transaction: Transaction,
    grant: Grant,
    *,
    scopes: frozenset[str],
    resource: str,
    now: int,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
    key_thumbprint: str | None = None,
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
        idle_expires_at=now + min(lifetimes.idle, lifetimes.absolute),
        key_thumbprint=key_thumbprint,
    )
    await _insert(transaction, first)
    return token


async def rotate(
    database: Database,
    token: str,
    *,
    request: RefreshRequest,
    now: int,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
    admit: Callable[[Grant], None] = lambda _: None,
) -> AcceptedRefresh:
    """Use a refresh token. Takes the database, not a transaction: a re-use must be revoked although it is refused.

    Raises RefreshRefused, TokenReused, ScopeRefused or ResourceRefused, and what `admit` raises, which is asked last;
    only TokenReused has changed anything.
    """
    async with database.transaction() as transaction:
        outcome = await _rotate(transaction, token, request=request, now=now, lifetimes=lifetimes)
        if not isinstance(outcome, TokenReused):
            admit(outcome.grant)
        if isinstance(outcome, TokenReused):
            revoked = await grants.revoke_grant(transaction, outcome.grant.id, reason="refresh_token_reused", now=now)
            if revoked is not None:
                await audit.append(transaction, grants.revocation_event(revoked), now=now)
    if isinstance(outcome, TokenReused):  # raised only now: the revocation is committed
        raise outcome
    return outcome


async def find(reader: Reader, token: str) -> RefreshToken | None:
    """The stored record of a refresh token, used or not."""
    row = await reader.fetch_one(
        "select token_hash, grant_id, client_id, family, generation, scopes, resource, issued_at, expires_at,"
        " idle_expires_at, consumed_at, successor_hash, successor_sealed, key_thumbprint"
        " from refresh_tokens where tenant = :tenant and token_hash = :token_hash",
        {"tenant": TENANT, "token_hash": token_hash(token)},
    )
    return None if row is None else _refresh_token(row)


async def find_live(reader: Reader, token: str, *, now: int) -> tuple[RefreshToken, LiveGrant] | None:
    """The token with its grant while it could be used: what introspection calls active (RFC 7662 §2.2)."""
    stored = await find(reader, token)
    if stored is None or stored.consumed_at is not None or stored.is_expired(now):
        return None
    facts = await grants.live_principal_facts(reader, stored.grant_id)
    return None if facts is None else (stored, facts)


async def revoke_token(transaction: Transaction, token: str, *, client_id: str, now: int) -> Grant | None:
    """RFC 7009 §2.1: end the grant behind a refresh token of this client, of whatever generation.

    None when there was nothing to end: unknown, another client's, or ended before.
    """
    stored = await find(transaction, token)
    if stored is None or stored.client_id != client_id:
        return None
    return await grants.revoke_grant(transaction, stored.grant_id, reason="token_revoked", now=now)


async def sweep_tokens(transaction: Transaction, *, now: int, lifetimes: Lifetimes = DEFAULT_LIFETIMES) -> int:
    """Erase successors whose grace has ended, and forget families past their absolute end; at most a batch of each.

    The larger of the two numbers.
    """
    erased = await transaction.execute(
        "update refresh_tokens set successor_sealed = null where token_hash in (select token_hash from refresh_tokens"
        " where tenant = :tenant and successor_sealed is not null and consumed_at <= :before limit :batch)",
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
    """Load, decide, save. Returns a re-use instead of raising it, so that the transaction can commit."""
    stored = await find(transaction, token)
    if stored is None:
        raise RefreshTokenRefused(_NOT_VALID, detail="unknown refresh token")
    facts = await grants.live_principal_facts(transaction, stored.grant_id)
    if facts is None:
        raise RefreshTokenRefused(_NOT_VALID, detail="its grant, client or user has ended")
    _check_holder(stored, request)
    if stored.consumed_at is None:
        answer = _answer(stored, facts, request, now=now)
        successor = await _store_successor(transaction, token, stored, facts=facts, now=now, lifetimes=lifetimes)
        if successor is not None:
            return replace(answer, refresh_token=successor)
        stored = await find(transaction, token)  # somebody else was first: perhaps the same client, twice at once
        if stored is None:
            raise RefreshTokenRefused(_NOT_VALID, detail="swept while it was used")
    successor = await _same_successor(transaction, token, stored, facts=facts, now=now, grace=lifetimes.grace)
    if successor is None:
        return TokenReused(_NOT_VALID, grant=facts.grant, detail=f"generation {stored.generation} used again")
    return replace(_answer(stored, facts, request, now=now), refresh_token=successor, is_repeat=True)


def _check_holder(stored: RefreshToken, request: RefreshRequest) -> None:
    if stored.client_id != request.client_id:
        raise RefreshTokenRefused(_NOT_VALID, detail="presented by another client")
    if stored.key_thumbprint is not None and stored.key_thumbprint != request.key_thumbprint:
        raise RefreshTokenRefused(_NOT_VALID, detail="presented with another DPoP key")


def _answer(stored: RefreshToken, facts: LiveGrant, request: RefreshRequest, *, now: int) -> AcceptedRefresh:
    """What this request may have, without the token yet. Less than the token has, never more."""
    if stored.is_expired(now):
        raise RefreshTokenRefused(_NOT_VALID, detail="expired")
    held = stored.scopes & facts.grant.scopes
    scopes = held if request.scopes is None else request.scopes
    if not scopes <= held:
        raise ScopeRefused("the refresh token does not have these scopes", missing=scopes - held)
    resource = stored.resource if request.resource is None else request.resource
    if not set(resource.split()) <= set(stored.resource.split()):
        raise ResourceRefused("the refresh token is not for this resource")
    return AcceptedRefresh(
        refresh_token="",
        grant=facts.grant,
        scopes=scopes,
        resource=resource,
        facts=facts,
        key_thumbprint=stored.key_thumbprint,
    )


async def _store_successor(
    transaction: Transaction, token: str, stored: RefreshToken, *, facts: LiveGrant, now: int, lifetimes: Lifetimes
) -> str | None:
    """Use the token up and store its successor; None when somebody else used it first."""
    token_after = secrets.token_urlsafe(32)
    successor = replace(
        stored,
        token_hash=token_hash(token_after),
        generation=stored.generation + 1,
        issued_at=now,
        idle_expires_at=min(now + lifetimes.idle, stored.expires_at),
    )
    won = await transaction.fetch_one(
        "update refresh_tokens set consumed_at = :now, successor_hash = :successor_hash,"
        " successor_sealed = :successor_sealed"
        " where tenant = :tenant and token_hash = :token_hash and consumed_at is null returning generation",
        {
            "tenant": TENANT,
            "token_hash": stored.token_hash,
            "now": now,
            "successor_hash": successor.token_hash,
            "successor_sealed": seal(
                token_after.encode(),
                key=_predecessor_key(token),
                key_id=_SEALED_UNDER,
                context=_context(stored, facts.grant),
            ),
        },
    )
    if won is None:
        return None
    await _insert(transaction, successor)
    await transaction.execute(  # this token arrived and works, so nobody needs it a second time
        "update refresh_tokens set successor_sealed = null"
        " where tenant = :tenant and grant_id = :grant_id and family = :family and generation = :before"
        " and successor_sealed is not null",
        {
            "tenant": TENANT,
            "grant_id": stored.grant_id,
            "family": stored.family,
            "before": stored.generation - 1,
        },
    )
    await transaction.execute(  # an agent that is always on makes one each few minutes, for months
        "delete from refresh_tokens where tenant = :tenant and grant_id = :grant_id and family = :family"
        " and generation <= :forgotten",
        {
            "tenant": TENANT,
            "grant_id": stored.grant_id,
            "family": stored.family,
            "forgotten": successor.generation - REMEMBERED,
        },
    )
    return token_after


async def _same_successor(
    reader: Reader, token: str, stored: RefreshToken, *, facts: LiveGrant, now: int, grace: int
) -> str | None:
    """The successor once more, for a client that did not get the answer; None when this is a re-use."""
    if stored.consumed_at is None or stored.successor_sealed is None or now >= stored.consumed_at + grace:
        return None
    successor = open_sealed(
        stored.successor_sealed, key=_predecessor_key(token), context=_context(stored, facts.grant)
    ).decode()
    after = await find(reader, successor)
    return successor if after is not None and after.consumed_at is None else None


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


async def _insert(transaction: Transaction, stored: RefreshToken) -> None:
    await transaction.execute(
        "insert into refresh_tokens (tenant, token_hash, grant_id, client_id, family, generation, scopes, resource,"
        " issued_at, expires_at, idle_expires_at, key_thumbprint)"
        " values (:tenant, :token_hash, :grant_id, :client_id, :family, :generation, :scopes, :resource,"
        " :issued_at, :expires_at, :idle_expires_at, :key_thumbprint)",
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
    )
