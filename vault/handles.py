"""Proxy handles: opaque values that stand for one account and some of its scopes, issued to one agent.

A handle carries no authority of its own. It names what each use requests from `vault.exchange`, so it ends at once when
the grant or the token that it was exchanged for is revoked, the account is disconnected, or the permission is reduced.
It is stored as a hash; providers don't accept it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import field
from typing import Final

from vault.classes.immutable import immutable
from vault.records import HOUR, TENANT, Principal, format_scope, parse_scope
from vault.refusals import VaultError
from vault.storage.database import (
    SWEEP_BATCH,
    Reader,
    Row,
    Transaction,
    Value,
    integer,
    integer_or_none,
    text,
    text_or_none,
)

PREFIX: Final = "tvp_"
_LENGTH: Final = len(PREFIX) + 43  # 256 bits in base64url
_KEPT: Final = HOUR  # seconds after expiry, to distinguish a late use from a forgery


class HandleRefused(VaultError):
    """The handle is unknown, expired, or not presented with the key that it is bound to."""

    code = "invalid_token"


@immutable
class Handle:
    """What a handle represents. `principal` is the party it was issued to, with the actor chain of that exchange."""

    principal: Principal
    connection_id: str
    provider: str
    scopes: frozenset[str]
    issued_at: int
    expires_at: int
    key_thumbprint: str | None = None  # RFC 9449: `jkt` of the key that each use must prove possession of
    digest: bytes = field(default=b"", repr=False)

    def check_key(self, thumbprint: str | None) -> None:
        """Refuse a bound handle used as a bearer token, and an unbound one used with a proof. Raises HandleRefused."""
        if thumbprint != self.key_thumbprint:
            raise _refusal("the request doesn't prove the key to which the handle is bound")


@immutable
class HandleState:
    """A handle with all stored facts that its use depends on, as of now.

    While `facts` stay equal, an exchange for the handle gives the same decision, up to `until`.
    """

    handle: Handle
    facts: tuple[Value, ...] = field(repr=False)
    until: int | None
    is_own: bool  # for a group's account, `facts` lack the group's members, so a decision is good for one use


_STANDING: Final = """
    select h.user_id, h.client_id, h.grant_id, h.actors, h.connection_id, h.provider, h.scopes, h.key_thumbprint,
        h.issued_at, h.expires_at, h.token_id, g.revoked_tokens, g.revoked_at as grant_revoked_at, g.id as found_grant,
        c.id as found_client, c.removed_at, u.id as found_user, u.disabled_at, u.stopped_at,
        k.id as found_connection, k.label, k.scopes as granted, k.state, k.generation, k.access_generation,
        k.access_expires_at, k.ended_at, d.scopes as delegated,
        d.expires_at as delegated_until, d.revoked_at as delegation_revoked_at, d.ask
    from handles h
    left join grants g on g.tenant = h.tenant and g.id = h.grant_id and g.user_id = h.user_id
        and g.client_id = h.client_id
    left join clients c on c.tenant = h.tenant and c.id = h.client_id
    left join users u on u.tenant = h.tenant and u.id = h.user_id
    left join connections k on k.tenant = h.tenant and k.id = h.connection_id and k.user_id = h.user_id
    left join delegations d on d.tenant = h.tenant and d.user_id = h.user_id and d.client_id = h.client_id
        and d.connection_id = h.connection_id
    where h.tenant = :tenant and h.handle_hash = :handle_hash
"""


def handle_hash(value: str) -> bytes:
    """The stored form of a handle."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def is_handle(value: str) -> bool:
    """Whether this has the form of a handle; anything else needs no lookup."""
    return len(value) == _LENGTH and value.startswith(PREFIX)


async def issue(
    transaction: Transaction,
    *,
    principal: Principal,
    connection_id: str,
    provider: str,
    scopes: frozenset[str],
    key_thumbprint: str | None,
    expires_at: int,
    now: int,
) -> str:
    """Issue a new handle; its value isn't stored."""
    value = PREFIX + secrets.token_urlsafe(32)
    await transaction.execute(
        "insert into handles (tenant, handle_hash, user_id, client_id, grant_id, actors, connection_id, provider,"
        " scopes, key_thumbprint, issued_at, expires_at, token_id)"
        " values (:tenant, :handle_hash, :user_id, :client_id, :grant_id, :actors, :connection_id, :provider,"
        " :scopes, :key_thumbprint, :now, :expires_at, :token_id)",
        {
            "tenant": TENANT,
            "handle_hash": handle_hash(value),
            "user_id": principal.user_id,
            "client_id": principal.client_id,
            "grant_id": principal.grant_id,
            "actors": json.dumps(list(principal.actors), separators=(",", ":")),
            "connection_id": connection_id,
            "provider": provider,
            "scopes": format_scope(scopes),
            "key_thumbprint": key_thumbprint,
            "now": now,
            "expires_at": expires_at,
            "token_id": principal.token_id or None,
        },
    )
    return value


async def find(reader: Reader, value: str, *, now: int) -> Handle:
    """What a valid handle represents. Raises HandleRefused.

    Doesn't check its grant, account and permission; the exchange does so at each use.
    """
    if not is_handle(value):
        raise _refusal("the token isn't a handle")
    digest = handle_hash(value)
    rows = await reader.look_up(
        "select user_id, client_id, grant_id, actors, connection_id, provider, scopes, key_thumbprint, issued_at,"
        " expires_at, token_id from handles where tenant = :tenant and handle_hash = :handle_hash",
        {"tenant": TENANT, "handle_hash": digest},
    )
    found = next((_handle(row, digest) for row in rows), None)
    if found is None:
        raise _refusal("the handle is unknown")
    if now >= found.expires_at:
        raise _refusal("the handle has expired")
    return found


async def look(reader: Reader, value: str, *, known: HandleState | None, now: int) -> HandleState:
    """Like `find`, with the facts that its use depends on, in one read. Raises HandleRefused.

    `known` is what this handle represented before; returned if nothing has changed since.
    """
    if not is_handle(value):
        raise _refusal("the token isn't a handle")
    return await _look(reader, handle_hash(value), known=known, now=now)


async def look_again(reader: Reader, known: HandleState, *, now: int) -> HandleState:
    """`look` for a handle that was looked at before."""
    return await _look(reader, known.handle.digest, known=known, now=now)


async def _look(reader: Reader, digest: bytes, *, known: HandleState | None, now: int) -> HandleState:
    rows = await reader.look_up(_STANDING, {"tenant": TENANT, "handle_hash": digest})
    row = next(iter(rows), None)
    if row is None:
        raise _refusal("the handle is unknown")
    facts = tuple(row.values())
    standing = known
    if standing is None or standing.handle.digest != digest or standing.facts != facts:
        is_own = text_or_none(row, "found_connection") is not None
        standing = HandleState(_handle(row, digest), facts, integer_or_none(row, "delegated_until"), is_own=is_own)
    if now >= standing.handle.expires_at:
        raise _refusal("the handle has expired")
    return standing


async def remove(transaction: Transaction, value: str, *, client_id: str) -> bool:
    """Revoke the client's handle (RFC 7009 §2). False when it is unknown or another client's."""
    removed = await transaction.execute(
        "delete from handles where tenant = :tenant and handle_hash = :handle_hash and client_id = :client_id",
        {"tenant": TENANT, "handle_hash": handle_hash(value), "client_id": client_id},
    )
    return removed > 0


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete expired handles, at most a batch; returns how many."""
    return await transaction.execute(
        "delete from handles where handle_hash in"
        " (select handle_hash from handles where expires_at <= :before limit :batch)",
        {"before": now - _KEPT, "batch": SWEEP_BATCH},
    )


def _refusal(detail: str) -> HandleRefused:
    return HandleRefused("the access token is missing, invalid or expired", detail=detail)


def _handle(row: Row, digest: bytes) -> Handle:
    actors: list[str] = json.loads(text(row, "actors"))
    expires_at = integer(row, "expires_at")
    return Handle(
        principal=Principal(
            user_id=text(row, "user_id"),
            client_id=text(row, "client_id"),
            grant_id=text(row, "grant_id"),
            scopes=frozenset(),
            audience="",
            actors=tuple(actors),
            expires_at=expires_at,
            token_id=text_or_none(row, "token_id") or "",
        ),
        connection_id=text(row, "connection_id"),
        provider=text(row, "provider"),
        scopes=parse_scope(text(row, "scopes")),
        issued_at=integer(row, "issued_at"),
        expires_at=expires_at,
        key_thumbprint=text_or_none(row, "key_thumbprint"),
        digest=digest,
    )
