"""Imported APIs: a provider file and tools as JSON. Only what an admin accepted is in effect.
`server.remote.imported_apis` interprets the JSON.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import field
from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT
from vault.storage.database import Reader, Row, Transaction, integer, text, text_or_none

_READ: Final = """
    select name, offered, offered_at, accepted, reviewed from imported_apis where tenant = :tenant order by name
"""
_WAITING: Final = "select name from imported_apis where tenant = :tenant and offered is not null order by name"
_NAMES: Final = "select name from imported_apis where tenant = :tenant order by name"
_OFFER: Final = """
    insert into imported_apis (tenant, name, offered, offered_at, offered_by)
    values (:tenant, :name, :offered, :now, :by)
    on conflict (tenant, name) do update
    set offered = excluded.offered, offered_at = excluded.offered_at, offered_by = excluded.offered_by
"""
_ACCEPT: Final = """
    update imported_apis
    set accepted = :content, accepted_at = :now, accepted_by = :by, reviewed = :whole, offered = null
    where tenant = :tenant and name = :name and coalesce(offered, :nothing) = :offered
        and coalesce(accepted, :nothing) = :accepted and coalesce(reviewed, :nothing) = :reviewed
    returning name
"""
_DISCARD: Final = """
    update imported_apis set offered = null
    where tenant = :tenant and name = :name and offered = :reviewed and accepted is not null returning name
"""
_FORGET: Final = """
    delete from imported_apis where tenant = :tenant and name = :name and offered = :reviewed and accepted is null
    returning name
"""
_REMOVE: Final = "delete from imported_apis where tenant = :tenant and name = :name returning name"


@immutable
class ImportedApi:
    """One API: what waits for an admin, and what agents can be offered; each is None if there is nothing.

    `reviewed`: the import of which `accepted` is a part; None if it was accepted before schema 47.
    """

    name: str
    offered: str | None = field(repr=False)
    offered_at: int
    accepted: str | None = field(repr=False)
    reviewed: str | None = field(repr=False, default=None)

    @property
    def digest(self) -> str:
        """Identifies what an admin reviewed; changes with each import and each decision."""
        return hashlib.sha256(json.dumps([self.offered, self.accepted, self.reviewed]).encode()).hexdigest()

    @property
    def whole(self) -> str:
        """All tools to decide about: those that wait or, if none do, those already decided about."""
        return self.offered or self.reviewed or self.accepted or ""


@immutable
class AcceptedApi:
    """An API that is on, as it was accepted."""

    name: str
    content: str = field(repr=False)


async def list_apis(reader: Reader) -> tuple[ImportedApi, ...]:
    """All imported APIs, by name."""
    return tuple(_api_of(row) for row in await reader.fetch(_READ, {"tenant": TENANT}))


async def list_accepted(reader: Reader) -> tuple[AcceptedApi, ...]:
    """The APIs that are on, by name."""
    known = await list_apis(reader)
    return tuple(AcceptedApi(one.name, one.accepted) for one in known if one.accepted is not None)


async def list_waiting(reader: Reader) -> tuple[str, ...]:
    """The names of APIs that wait for an admin."""
    return tuple([text(row, "name") for row in await reader.fetch(_WAITING, {"tenant": TENANT})])


async def list_names(reader: Reader) -> tuple[str, ...]:
    """The names of all APIs, including those that only wait."""
    return tuple([text(row, "name") for row in await reader.fetch(_NAMES, {"tenant": TENANT})])


async def get_api(reader: Reader, name: str) -> ImportedApi | None:
    """The API with that name."""
    return next((one for one in await list_apis(reader) if one.name == name), None)


async def offer(transaction: Transaction, name: str, offered: str, *, by: str, now: int) -> None:
    """Store this for an admin to review, replacing an earlier one. Accepted tools stay on."""
    values = {"tenant": TENANT, "name": name, "offered": offered, "by": by, "now": now}
    await transaction.execute(_OFFER, values)


async def accept(transaction: Transaction, reviewed: ImportedApi, content: str, *, by: str, now: int) -> bool:
    """Turn on `content`, a part of `reviewed.whole`. False if the API has changed since it was reviewed."""
    values = {"tenant": TENANT, "name": reviewed.name, "content": content, "by": by, "now": now}
    values |= {"offered": reviewed.offered or "", "accepted": reviewed.accepted or "", "nothing": ""}
    values |= {"reviewed": reviewed.reviewed or "", "whole": reviewed.whole}
    return await transaction.fetch_one(_ACCEPT, values) is not None


async def discard(transaction: Transaction, reviewed: ImportedApi) -> bool:
    """Discard what waits. False if nothing waits, or something else does."""
    which = {"tenant": TENANT, "name": reviewed.name, "reviewed": reviewed.offered or ""}
    kept = await transaction.fetch_one(_DISCARD, which)
    return kept is not None or await transaction.fetch_one(_FORGET, which) is not None


async def remove(transaction: Transaction, name: str) -> bool:
    """Turn an API off and delete it. False if there is none."""
    return await transaction.fetch_one(_REMOVE, {"tenant": TENANT, "name": name}) is not None


def _api_of(row: Row) -> ImportedApi:
    return ImportedApi(
        text(row, "name"),
        text_or_none(row, "offered"),
        integer(row, "offered_at"),
        text_or_none(row, "accepted"),
        text_or_none(row, "reviewed"),
    )
