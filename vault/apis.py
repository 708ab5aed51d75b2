"""Registered audiences (`resource`) beside the built-in MCP endpoints: a developer's own APIs.

Whether a URI is well formed and which resources a request may name belong to `server.oauth.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vault import grants
from vault.database import Reader, Row, Transaction, integer, text
from vault.records import TENANT


@dataclass(frozen=True, slots=True)
class Api:
    """An API whose access tokens this vault issues. `resource` is its identifier (RFC 8707 §2)."""

    resource: str
    name: str
    created_at: int
    tenant: str = TENANT


async def add_api(transaction: Transaction, resource: str, *, name: str, now: int) -> Api:
    """Register an API; registering it again changes its name only."""
    row = await transaction.fetch_one(
        "insert into apis (tenant, resource, name, created_at) values (:tenant, :resource, :name, :now)"
        " on conflict (tenant, resource) do update set name = excluded.name returning resource, name, created_at",
        {"tenant": TENANT, "resource": resource, "name": name, "now": now},
    )
    return Api(resource=resource, name=name, created_at=now) if row is None else _api(row)


async def list_apis(reader: Reader) -> tuple[Api, ...]:
    """All registered APIs."""
    rows = await reader.fetch(
        "select resource, name, created_at from apis where tenant = :tenant order by resource", {"tenant": TENANT}
    )
    return tuple(_api(row) for row in rows)


async def find_api(reader: Reader, resource: str) -> Api | None:
    """The API with exactly this identifier."""
    row = await reader.fetch_one(
        "select resource, name, created_at from apis where tenant = :tenant and resource = :resource",
        {"tenant": TENANT, "resource": resource},
    )
    return None if row is None else _api(row)


async def remove_api(transaction: Transaction, resource: str, *, now: int) -> bool:
    """Forget the API and end every grant for it. False when there was none."""
    removed = await transaction.execute(
        "delete from apis where tenant = :tenant and resource = :resource", {"tenant": TENANT, "resource": resource}
    )
    if removed:
        await grants.revoke_resource_grants(transaction, resource, reason="api_removed", now=now)
    return removed > 0


def _api(row: Row) -> Api:
    return Api(resource=text(row, "resource"), name=text(row, "name"), created_at=integer(row, "created_at"))
