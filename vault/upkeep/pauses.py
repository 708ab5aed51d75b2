"""Pauses of a provider that doesn't answer or rate limits: one row, however many revocations wait there. Finding due
revocations doesn't read those of a paused provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vault.records import TENANT
from vault.storage.database import Reader, Transaction, integer, text

_PAUSE: Final = """
    insert into revocation_pauses (tenant, provider, paused_until) values (:tenant, :provider, :until)
    on conflict (tenant, provider) do update set paused_until = excluded.paused_until
    where revocation_pauses.paused_until < excluded.paused_until
"""
_PAUSED: Final = """
    select provider, paused_until from revocation_pauses where tenant = :tenant and paused_until > :now
"""
# Goes from one provider to the next by the index: one read for each, however many revocations it has.
_WITH_REVOCATIONS: Final = """
    with recursive waiting (provider) as (
        select min(r.provider) from upstream_revocations r where r.tenant = :tenant and r.done_at is null
        union all
        select (
            select min(r.provider) from upstream_revocations r
            where r.tenant = :tenant and r.done_at is null and r.provider > w.provider
        )
        from waiting w where w.provider is not null
    )
    select w.provider from waiting w where w.provider is not null and not exists (
        select 1 from revocation_pauses p
        where p.tenant = :tenant and p.provider = w.provider and p.paused_until > :now
    )
"""


async def pause(transaction: Transaction, provider: str, *, until: int) -> None:
    """Pause the provider's revocations until then. A later end of its pause stays."""
    await transaction.execute(_PAUSE, {"tenant": TENANT, "provider": provider, "until": until})


async def list_pauses(reader: Reader, *, now: int) -> Mapping[str, int]:
    """The end of each provider's pause."""
    rows = await reader.fetch(_PAUSED, {"tenant": TENANT, "now": now})
    return {text(row, "provider"): integer(row, "paused_until") for row in rows}


async def find_open(reader: Reader, *, now: int) -> tuple[str, ...]:
    """The providers with unfinished revocations that aren't paused at `now`."""
    rows = await reader.fetch(_WITH_REVOCATIONS, {"tenant": TENANT, "now": now})
    return tuple(text(row, "provider") for row in rows)
