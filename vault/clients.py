"""OAuth clients, that is, agents: saved, changed, removed, and reaped when never used.

Removing a client ends its grants, tokens, codes and delegations at once. `server.oauth.clients.registration` decides
what a registration may ask for; `server.oauth.clients.metadata_documents` fetches client ID metadata documents.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeGuard

from vault import company_permissions, grants, tickets
from vault.approvals import access_requests
from vault.audit import released_tokens
from vault.records import HOUR, LAST, TENANT, Client, ClientKind, Grant, format_scope, parse_scope
from vault.refusals import StorageUnavailable, VaultError
from vault.storage.database import (
    SWEEP_BATCH,
    Database,
    Reader,
    Row,
    Transaction,
    Value,
    binary_or_none,
    integer,
    integer_or_none,
    text,
)

PAGE = 500  # clients per read
SCAN = 2000  # clients that one search examines
MOST_NAMESAKES: Final = 50
_TOUCH_INTERVAL = HOUR
_RETURNING: Final = frozenset({ClientKind.METADATA, ClientKind.LOCAL})  # their IDs aren't random
_COLUMNS: Final = (
    "id",
    "kind",
    "name",
    "auth_method",
    "redirect_uris",
    "grant_types",
    "resources",
    "secret_hash",
    "registration_hash",
    "metadata",
    "created_at",
    "last_used_at",
    "removed_at",
)


class ClientExists(VaultError):
    """This client ID belongs to a client that must not be replaced."""

    code = "client_exists"


async def save_client(transaction: Transaction, client: Client) -> None:
    """Store a client. Replaces a metadata-document or local client in place, because its ID isn't random.

    If one of those was removed, it starts from scratch: its former grants and delegations stay ended. Raises
    ClientExists for any other known ID.
    """
    row = await transaction.fetch_one(
        "insert into clients (tenant, id, kind, name, auth_method, redirect_uris, grant_types, resources,"
        " secret_hash, registration_hash, metadata, created_at, last_used_at)"
        " values (:tenant, :id, :kind, :name, :auth_method, :redirect_uris, :grant_types, :resources,"
        " :secret_hash, :registration_hash, :metadata, :created_at, :last_used_at)"
        " on conflict (tenant, id) do update set name = excluded.name, auth_method = excluded.auth_method,"
        " redirect_uris = excluded.redirect_uris, grant_types = excluded.grant_types,"
        " resources = excluded.resources, secret_hash = excluded.secret_hash, metadata = excluded.metadata,"
        " created_at = case when clients.removed_at is null then clients.created_at else excluded.created_at end,"
        " removed_at = null"
        " where clients.kind = excluded.kind and clients.kind in (:metadata_kind, :local_kind) returning id",
        _columns(client)
        | {
            "kind": client.kind.value,
            "registration_hash": client.registration_hash,
            "created_at": client.created_at,
            "last_used_at": client.last_used_at,
            "metadata_kind": ClientKind.METADATA.value,
            "local_kind": ClientKind.LOCAL.value,
        },
    )
    if row is None:
        raise ClientExists("a client with this ID already exists")


async def get_client(reader: Reader, client_id: str) -> Client | None:
    """The client with exactly this id, unless it was removed."""
    rows = await reader.look_up(
        "select id, kind, name, auth_method, redirect_uris, grant_types, resources, secret_hash, registration_hash,"
        " metadata, created_at, last_used_at, removed_at"
        " from clients where tenant = :tenant and id = :id and removed_at is null",
        {"tenant": TENANT, "id": client_id},
    )
    return next(map(client_of, rows), None)


async def walk_clients(reader: Reader) -> AsyncGenerator[tuple[Client, ...]]:
    """All clients that were not removed, by age, a page at a time."""
    where: dict[str, Value] = {"created_at": -1, "after": ""}
    while rows := await reader.fetch(
        "select id, kind, name, auth_method, redirect_uris, grant_types, resources, secret_hash, registration_hash,"
        " metadata, created_at, last_used_at, removed_at"
        " from clients where tenant = :tenant and removed_at is null and (created_at, id) > (:created_at, :after)"
        " order by created_at, id limit :limit",
        {"tenant": TENANT, "limit": PAGE, **where},
    ):
        yield tuple(client_of(row) for row in rows)
        where = {"created_at": integer(rows[-1], "created_at"), "after": text(rows[-1], "id")}


async def list_with_grants(reader: Reader, grant_types: frozenset[str]) -> tuple[Client, ...]:
    """The clients that an operator registered for exactly these grant types, by age."""
    rows = await reader.fetch(
        "select id, kind, name, auth_method, redirect_uris, grant_types, resources, secret_hash, registration_hash,"
        " metadata, created_at, last_used_at, removed_at"
        " from clients where tenant = :tenant and kind = :manual and removed_at is null and grant_types = :grant_types"
        " order by created_at",  # not also by ID: SQLite would walk all clients by age
        {"tenant": TENANT, "manual": ClientKind.MANUAL.value, "grant_types": format_scope(grant_types)},
    )
    return tuple(client_of(row) for row in rows)


async def find_page(
    reader: Reader, *, named: str = "", before: tuple[int, str] | None = None, limit: int
) -> tuple[tuple[Client, ...], tuple[int, str] | None]:
    """Clients whose name or ID contains `named`, newest first, and the `before` of the next page, if any.

    Examines at most SCAN clients, so a page may have fewer than `limit` and still have a next one.
    """
    most = SCAN if named else limit + 1
    created_at, client_id = before or (LAST, "")
    rows = await reader.fetch(
        "select id, kind, name, auth_method, redirect_uris, grant_types, resources, secret_hash, registration_hash,"
        " metadata, created_at, last_used_at, removed_at"
        " from clients where tenant = :tenant and removed_at is null and (created_at, id) < (:created_at, :before)"
        " order by created_at desc, id desc limit :limit",
        {"tenant": TENANT, "created_at": created_at, "before": client_id, "limit": most},
    )
    wanted, found = named.casefold(), list[Client]()
    for one in map(client_of, rows):
        if wanted in one.name.casefold() or named in one.id:
            if len(found) == limit:
                return tuple(found), (found[-1].created_at, found[-1].id)
            found.append(one)
    last = client_of(rows[-1]) if len(rows) == most else None
    return tuple(found), None if last is None else (last.created_at, last.id)


async def list_own(reader: Reader, user_id: str, *, now: int) -> tuple[Client, ...]:
    """Every client that is signed in for a user, or that has a permission of theirs."""
    rows = await reader.fetch(
        "select c.id, c.kind, c.name, c.auth_method, c.redirect_uris, c.grant_types, c.resources, c.secret_hash,"
        " c.registration_hash, c.metadata, c.created_at, c.last_used_at, c.removed_at"
        " from (select g.client_id from grants g"
        " where g.tenant = :tenant and g.user_id = :user_id and g.revoked_at is null"
        " union select a.client_id from"
        " (select distinct client_id from delegations where tenant = :tenant and user_id = :user_id) a"  # by index
        " where exists (select 1 from delegations d"
        " where d.tenant = :tenant and d.user_id = :user_id and d.client_id = a.client_id and d.revoked_at is null"
        " and (d.expires_at is null or d.expires_at > :now))"
        ") mine cross join clients c"  # in this order: SQLite keeps it
        " where c.tenant = :tenant and c.id = mine.client_id and c.removed_at is null",
        {"tenant": TENANT, "user_id": user_id, "now": now},
    )
    return tuple(client_of(row) for row in rows)


async def list_of_user(reader: Reader, user_id: str, *, name: str) -> tuple[Client, ...]:
    """Clients of this name that a user signed in or gave a permission, at most MOST_NAMESAKES, newest sign-in first."""
    rows = await reader.fetch(
        "select c.id, c.kind, c.name, c.auth_method, c.redirect_uris, c.grant_types, c.resources, c.secret_hash,"
        " c.registration_hash, c.metadata, c.created_at, c.last_used_at, c.removed_at"
        " from (select x.client_id, max(x.at) as at from ("
        " select g.client_id, g.created_at as at from grants g"
        " where g.tenant = :tenant and g.user_id = :user_id and g.revoked_at is null"
        " union all select d.client_id, d.created_at as at from delegations d"
        " where d.tenant = :tenant and d.user_id = :user_id and d.revoked_at is null"
        ") x group by x.client_id) mine cross join clients c"  # in this order: SQLite keeps it
        " where c.tenant = :tenant and c.id = mine.client_id and c.name = :name and c.removed_at is null"
        " order by mine.at desc, c.id limit :most",
        {"tenant": TENANT, "user_id": user_id, "name": name, "most": MOST_NAMESAKES},
    )
    return tuple(client_of(row) for row in rows)


async def list_former(
    reader: Reader, user_id: str, *, name: str, besides: str, before: int
) -> tuple[tuple[Client, bool], ...]:
    """Other clients of this name that got a refresh token for the user up to `before`, and whether they used it.

    At most MOST_NAMESAKES, newest sign-in first; their access may have ended since.
    """
    rows = await reader.fetch(
        "select c.id, c.kind, c.name, c.auth_method, c.redirect_uris, c.grant_types, c.resources, c.secret_hash,"
        " c.registration_hash, c.metadata, c.created_at, c.last_used_at, c.removed_at,"
        " (select count(*) from refresh_tokens r where r.tenant = :tenant and r.grant_id = g.id"
        " and r.consumed_at is not null) as refreshes"
        " from grants g cross join clients c"  # in this order: SQLite keeps it
        " where g.tenant = :tenant and g.user_id = :user_id and g.created_at <= :before"
        " and c.tenant = :tenant and c.id = g.client_id and c.name = :name and c.id <> :besides"
        " and exists (select 1 from refresh_tokens r where r.tenant = :tenant and r.grant_id = g.id)"
        " order by g.created_at desc, g.id limit :most",
        {
            "tenant": TENANT,
            "user_id": user_id,
            "name": name,
            "besides": besides,
            "before": before,
            "most": MOST_NAMESAKES,
        },
    )
    return tuple((client_of(row), integer(row, "refreshes") > 0) for row in rows)


async def update_client(transaction: Transaction, client: Client) -> bool:
    """Replace the registration (RFC 7592 §2.2). Kind and age stay. False when the client is gone."""
    return (
        await transaction.execute(
            "update clients set name = :name, auth_method = :auth_method, redirect_uris = :redirect_uris,"
            " grant_types = :grant_types, resources = :resources, secret_hash = :secret_hash,"
            " registration_hash = :registration_hash, metadata = :metadata"
            " where tenant = :tenant and id = :id and removed_at is null",
            _columns(client) | {"registration_hash": client.registration_hash},
        )
        > 0
    )


async def end_resources(
    transaction: Transaction, client_id: str, resources: frozenset[str], *, now: int
) -> tuple[Grant, ...]:
    """End what a client holds for these resources, of all users, and its unused codes. Call `update_client` first."""
    await tickets.expire_client_tickets(transaction, client_id, now=now)
    ended = [
        await grants.revoke_client_resource(
            transaction, client_id=client_id, resource=one, reason="resource_taken", now=now
        )
        for one in sorted(resources)
    ]
    return tuple(grant for some in ended for grant in some)


async def remove_client(transaction: Transaction, client_id: str, *, now: int) -> tuple[Grant, ...] | None:
    """Remove the client and all it holds (RFC 7592 §2.3); returns the ended grants, None when it was already gone."""
    # The client first, then codes, requests, companies' permissions, grants, permissions: all code that lets an agent
    # in or ends it locks them in this order.
    removed = await transaction.fetch_one(
        "update clients set removed_at = :now, secret_hash = null, registration_hash = null"
        " where tenant = :tenant and id = :id and removed_at is null returning kind",
        {"tenant": TENANT, "id": client_id, "now": now},
    )
    if removed is None:
        return None
    await released_tokens.owe_receipts(transaction, client_id, now=now)
    await tickets.expire_client_tickets(transaction, client_id, now=now)
    await access_requests.stop_of_client(transaction, client_id, now=now)
    may_return = ClientKind(text(removed, "kind")) in _RETURNING
    await company_permissions.forget_client(transaction, client_id, may_return=may_return)
    ended = await grants.revoke_all_client_grants(transaction, client_id, reason="client_removed", now=now)
    # A metadata-document client can come back under the same id; its former delegations must not come back with it.
    await transaction.execute(
        "update delegations set revoked_at = :now, changed_at = :now"
        " where tenant = :tenant and client_id = :client_id and revoked_at is null",
        {"tenant": TENANT, "client_id": client_id, "now": now},
    )
    return ended


async def touch(transaction: Transaction, client_id: str, *, now: int) -> None:
    """Record that the client was used, at most once an hour; a used client is never reaped."""
    await transaction.execute(
        "update clients set last_used_at = :now where tenant = :tenant and id = :id"
        " and (last_used_at is null or last_used_at <= :due)",
        {"tenant": TENANT, "id": client_id, "now": now, "due": now - _TOUCH_INTERVAL},
    )


async def note_use(database: Database, client: Client, *, now: int) -> None:
    """`touch` in a separate transaction, after the answer; if it fails, the next use records it."""
    if client.last_used_at is None or client.last_used_at <= now - _TOUCH_INTERVAL:
        with suppress(VaultError):
            async with database.transaction() as transaction:
                await touch(transaction, client.id, now=now)


async def reap_unused(transaction: Transaction, *, before: int) -> int:
    """Delete clients older than `before` that anyone can register, that were never used, and that await no decision.

    A client with a metadata document is fetched again when it comes back.
    """
    return await transaction.execute(
        "delete from clients where tenant = :tenant and id in (select c.id from clients c"
        " where c.tenant = :tenant and c.kind in (:dynamic, :metadata) and c.last_used_at is null"
        " and c.created_at <= :before"
        " and not exists (select 1 from grants g where g.tenant = c.tenant and g.client_id = c.id)"
        " and c.id not in (select client_id from tickets where client_id is not null and expires_at > :before)"
        " limit :batch)",
        {
            "tenant": TENANT,
            "dynamic": ClientKind.DYNAMIC.value,
            "metadata": ClientKind.METADATA.value,
            "before": before,
            "batch": SWEEP_BATCH,
        },
    )


def _columns(client: Client) -> dict[str, Value]:
    """A registration as columns."""
    return {
        "tenant": TENANT,
        "id": client.id,
        "name": client.name,
        "auth_method": client.auth_method,
        "redirect_uris": json.dumps(list(client.redirect_uris)),
        "grant_types": format_scope(client.grant_types),
        "resources": json.dumps(list(client.resources)),
        "secret_hash": client.secret_hash,
        "metadata": json.dumps(dict(client.metadata), sort_keys=True, separators=(",", ":")),
    }


def client_of(row: Row) -> Client:
    """The record from a row with all columns of a client."""
    return _read(tuple(row[name] for name in _COLUMNS))


@lru_cache(maxsize=256)
def _read(values: tuple[Value, ...]) -> Client:
    """The record of one row. Parsed rows are cached by all of their columns, so they are never stale."""
    row: Row = dict(zip(_COLUMNS, values, strict=True))
    return Client(
        id=text(row, "id"),
        kind=ClientKind(text(row, "kind")),
        name=text(row, "name"),
        auth_method=text(row, "auth_method"),
        redirect_uris=_strings(text(row, "redirect_uris")),
        created_at=integer(row, "created_at"),
        grant_types=parse_scope(text(row, "grant_types")),
        secret_hash=binary_or_none(row, "secret_hash"),
        registration_hash=binary_or_none(row, "registration_hash"),
        resources=_strings(text(row, "resources")),
        metadata=MappingProxyType(_json_object(text(row, "metadata"))),
        last_used_at=integer_or_none(row, "last_used_at"),
        removed_at=integer_or_none(row, "removed_at"),
    )


def _strings(stored: str) -> tuple[str, ...]:
    value: object = json.loads(stored)
    if not _is_list(value):
        raise StorageUnavailable("a stored client can't be read", detail="it isn't a JSON list")
    return tuple(str(item) for item in value)


def _json_object(stored: str) -> dict[str, object]:
    value: object = json.loads(stored)
    if not _is_object(value):
        raise StorageUnavailable("a stored client can't be read", detail="it isn't a JSON object")
    return value


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)
