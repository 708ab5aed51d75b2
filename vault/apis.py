"""Registered audiences (`resource`) in addition to the built-in MCP endpoints: a developer's own APIs and their
clients.

A client that is linked to an API is that API: it may exchange and introspect the tokens issued for it.
`server.oauth.rules` checks that a URI is well formed and which resources a request may name.
"""

from __future__ import annotations

from vault import grants
from vault.classes.immutable import immutable
from vault.records import TENANT, format_scope, parse_scope
from vault.storage.database import Reader, Row, Transaction, integer, text


@immutable
class Api:
    """An API whose access tokens this vault issues. `resource` identifies it (RFC 8707 §2); `scopes` are its own."""

    resource: str
    name: str
    created_at: int
    scopes: frozenset[str] = frozenset()
    tenant: str = TENANT


async def add_api(
    transaction: Transaction, resource: str, *, name: str, now: int, scopes: frozenset[str] | None = None
) -> Api:
    """Register an API. Registering it again updates its name, and its scopes if they are given."""
    row = await transaction.fetch_one(
        "insert into apis (tenant, resource, name, scopes, created_at)"
        " values (:tenant, :resource, :name, :scopes, :now)"
        " on conflict (tenant, resource) do update set name = excluded.name,"
        " scopes = case when :keeps_scopes = 1 then apis.scopes else excluded.scopes end"
        " returning resource, name, scopes, created_at",
        {
            "tenant": TENANT,
            "resource": resource,
            "name": name,
            "scopes": format_scope(scopes or frozenset()),
            "keeps_scopes": int(scopes is None),
            "now": now,
        },
    )
    return Api(resource, name, created_at=now) if row is None else _api(row)


async def list_apis(reader: Reader) -> tuple[Api, ...]:
    """All registered APIs."""
    rows = await reader.fetch(
        "select resource, name, scopes, created_at from apis where tenant = :tenant order by resource",
        {"tenant": TENANT},
    )
    return tuple(_api(row) for row in rows)


async def find_api(reader: Reader, resource: str) -> Api | None:
    """The API with exactly this identifier."""
    row = await reader.fetch_one(
        "select resource, name, scopes, created_at from apis where tenant = :tenant and resource = :resource",
        {"tenant": TENANT, "resource": resource},
    )
    return None if row is None else _api(row)


async def remove_api(transaction: Transaction, resource: str, *, now: int) -> bool:
    """Remove the API and end every grant for it. False when there was none."""
    removed = await transaction.execute(
        "delete from apis where tenant = :tenant and resource = :resource", {"tenant": TENANT, "resource": resource}
    )
    if removed:
        await transaction.execute(
            "delete from api_clients where tenant = :tenant and resource = :resource",
            {"tenant": TENANT, "resource": resource},
        )
        await grants.revoke_resource_grants(transaction, resource, reason="api_removed", now=now)
    return removed > 0


async def link_client(transaction: Transaction, resource: str, *, client_id: str, now: int) -> None:
    """Let a client act as this API; linking it again changes nothing."""
    await transaction.execute(
        "insert into api_clients (tenant, resource, client_id, created_at)"
        " values (:tenant, :resource, :client_id, :now) on conflict (tenant, resource, client_id) do nothing",
        {"tenant": TENANT, "resource": resource, "client_id": client_id, "now": now},
    )


async def unlink_client(transaction: Transaction, resource: str, *, client_id: str, now: int) -> bool:
    """Unlink a client from this API and end what it holds through the link. False when it was not linked."""
    removed = await transaction.execute(
        "delete from api_clients where tenant = :tenant and resource = :resource and client_id = :client_id",
        {"tenant": TENANT, "resource": resource, "client_id": client_id},
    )
    if removed:
        await grants.revoke_derived_grants(
            transaction, client_id=client_id, resource=resource, reason="api_unlinked", now=now
        )
    return removed > 0


async def is_linked(reader: Reader, resource: str, *, client_id: str) -> bool:
    """Whether this client is the API: both are registered, and they are linked."""
    rows = await reader.look_up(
        "select l.client_id from api_clients l"
        " join apis a on a.tenant = l.tenant and a.resource = l.resource"
        " where l.tenant = :tenant and l.resource = :resource and l.client_id = :client_id",
        {"tenant": TENANT, "resource": resource, "client_id": client_id},
    )
    return bool(rows)


async def hold_api(transaction: Transaction, resource: str) -> bool:
    """Lock the API against removal until the transaction ends; False if it is gone. Lock it before grants for it."""
    held = await transaction.execute(
        "update apis set created_at = created_at where tenant = :tenant and resource = :resource",
        {"tenant": TENANT, "resource": resource},
    )
    return held > 0


async def hold_link(transaction: Transaction, resource: str, *, client_id: str) -> bool:
    """Lock the link between client and API until the transaction ends; False if it isn't linked."""
    held = await transaction.execute(
        "update api_clients set created_at = created_at"
        " where tenant = :tenant and resource = :resource and client_id = :client_id",
        {"tenant": TENANT, "resource": resource, "client_id": client_id},
    )
    return held > 0


async def linked_clients(reader: Reader, resource: str) -> tuple[str, ...]:
    """The IDs of the clients that are linked to this API, except removed ones."""
    rows = await reader.fetch(
        "select l.client_id from api_clients l join clients c on c.tenant = l.tenant and c.id = l.client_id"
        " where l.tenant = :tenant and l.resource = :resource and c.removed_at is null order by l.created_at, c.id",
        {"tenant": TENANT, "resource": resource},
    )
    return tuple(text(row, "client_id") for row in rows)


def _api(row: Row) -> Api:
    return Api(
        resource=text(row, "resource"),
        name=text(row, "name"),
        created_at=integer(row, "created_at"),
        scopes=parse_scope(text(row, "scopes")),
    )
