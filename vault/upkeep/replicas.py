"""The processes that serve a vault: each reports about twice a minute that it runs, and what fails in it. This is only
for display: `vault.storage.liveness` determines whether a process has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from vault.classes.immutable import immutable
from vault.records import DAY, TENANT
from vault.storage.database import Reader, Row, Transaction, integer, text, text_or_none

SAID_EVERY: Final = 30  # seconds
LATE: Final = 90  # seconds without a report after which a process counts as missing
_KEPT: Final = DAY


@immutable
class Replica:
    """One process. `failing` maps an upkeep step to the code of its failure, `providers` a provider in trouble to the
    reason. `master_keys`: those that it holds; None for an earlier release. `policy`: digest of its rules, if it has
    any.
    """

    id: str
    host: str
    role: str  # `serve`, or `stdio`
    version: str
    started_at: int
    seen_at: int
    failing: Mapping[str, str]
    providers: Mapping[str, str]
    master_keys: frozenset[str] | None = None
    policy: str | None = None


async def note_replica(transaction: Transaction, replica: Replica) -> None:
    """Report that this process runs, and delete those that reported nothing for a day."""
    await transaction.execute(
        "insert into replicas (tenant, id, host, role, version, started_at, seen_at, failing, providers,"
        " master_keys, policy)"
        " values (:tenant, :id, :host, :role, :version, :started_at, :seen_at, :failing, :providers, :master_keys,"
        " :policy)"
        " on conflict (tenant, id) do update set seen_at = excluded.seen_at, failing = excluded.failing,"
        " providers = excluded.providers, master_keys = excluded.master_keys,"
        " policy = excluded.policy",
        {
            "tenant": TENANT,
            "id": replica.id,
            "host": replica.host,
            "role": replica.role,
            "version": replica.version,
            "started_at": replica.started_at,
            "seen_at": replica.seen_at,
            "failing": json.dumps(dict(replica.failing), separators=(",", ":"), sort_keys=True),
            "providers": json.dumps(dict(replica.providers), separators=(",", ":"), sort_keys=True),
            "master_keys": None if replica.master_keys is None else " ".join(sorted(replica.master_keys)),
            "policy": replica.policy,
        },
    )
    await transaction.execute(
        "delete from replicas where tenant = :tenant and seen_at < :before",
        {"tenant": TENANT, "before": replica.seen_at - _KEPT},
    )


async def note_masters(transaction: Transaction, replica_id: str, held: Sequence[str]) -> None:
    """Report at once which master keys the process holds, if it has reported that it runs."""
    await transaction.execute(
        "update replicas set master_keys = :held where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": replica_id, "held": " ".join(sorted(held))},
    )


async def forget_replica(transaction: Transaction, replica_id: str) -> None:
    """Remove a process that ends normally."""
    await transaction.execute(
        "delete from replicas where tenant = :tenant and id = :id", {"tenant": TENANT, "id": replica_id}
    )


async def list_replicas(reader: Reader) -> tuple[Replica, ...]:
    """The processes seen within a day, last started first."""
    rows = await reader.fetch(
        "select id, host, role, version, started_at, seen_at, failing, providers, master_keys, policy"
        " from replicas"
        " where tenant = :tenant order by seen_at desc, id limit 500",
        {"tenant": TENANT},
    )
    return tuple(
        Replica(
            text(row, "id"),
            text(row, "host"),
            text(row, "role"),
            text(row, "version"),
            integer(row, "started_at"),
            integer(row, "seen_at"),
            _texts(row, "failing"),
            _texts(row, "providers"),
            None if (held := text_or_none(row, "master_keys")) is None else frozenset(held.split()),
            text_or_none(row, "policy"),
        )
        for row in rows
    )


def _texts(row: Row, name: str) -> Mapping[str, str]:
    found: object = json.loads(text(row, name))
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- written above
