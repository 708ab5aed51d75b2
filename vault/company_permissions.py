"""What a company's identity provider lets agents do for its people: one row for a person, an agent, and a company.

The row stores what the company gave for each connection (`given`), so that what the person has since removed stays
removed. It also stores that a person or an admin ended it. `vault.delegations` has the permissions themselves. Writing
functions record no event: the caller appends it last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT, Delegation, format_scope, parse_scope
from vault.storage.database import Reader, Row, Transaction, integer, integer_or_none, text, text_or_none

_COLUMNS: Final = """
    user_id, client_id, company, scopes, accounts, given, created_at, renewed_at, expires_at, ended_at, ended_reason,
    cut_off_at
"""
_FOR_USER: Final = f"""
    select {_COLUMNS} from company_permissions
    where tenant = :tenant and user_id = :user_id order by client_id, company
"""  # noqa: S608 -- names of columns
_GET: Final = f"""
    select {_COLUMNS} from company_permissions
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and company = :company
"""  # noqa: S608 -- names of columns
_HOLD: Final = f"""
    insert into company_permissions
        (tenant, user_id, client_id, company, scopes, accounts, created_at, renewed_at, expires_at)
    values (:tenant, :user_id, :client_id, :company, :scopes, :accounts, :now, :now, :now)
    on conflict (tenant, user_id, client_id, company) do update set renewed_at = company_permissions.renewed_at
    returning {_COLUMNS}
"""  # noqa: S608 -- names of columns
_SAVE: Final = """
    update company_permissions set scopes = :scopes, accounts = :accounts, given = :given, renewed_at = :renewed_at,
        expires_at = :expires_at, ended_at = :ended_at, ended_reason = :ended_reason,
        cut_off_at = :cut_off_at
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and company = :company
"""
_END: Final = """
    update company_permissions set ended_at = coalesce(ended_at, :now), ended_reason = coalesce(ended_reason, :reason),
        cut_off_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id
"""
_WAIT: Final = """
    update company_permissions set renewed_at = renewed_at
    where tenant = :tenant and user_id = :user_id and client_id = :client_id
"""

DROPPED: Final = "!"  # no provider has a scope of that name
ENDED_BY_ADMIN: Final = "ended_by_admin"
CUT_OFF: Final = "cut_off"  # by the person
_DROPPED: Final = frozenset({DROPPED})

Scopes = Mapping[str, frozenset[str]]


@immutable
class CompanyPermission:
    """What a company allowed. `accounts`: by provider, in the operator's words; `given`: by connection, in scopes.

    `expires_at` is also the end of the permissions that were given with it.
    """

    user_id: str
    client_id: str
    company: str  # its name in the settings
    scopes: frozenset[str]
    accounts: Scopes
    created_at: int
    renewed_at: int
    expires_at: int
    given: Scopes
    ended_at: int | None
    ended_reason: str | None
    cut_off_at: int | None  # by the person; None also in a row that an earlier release ended

    @property
    def ended_by_person_at(self) -> int | None:
        """When the person ended it, even if an admin did too; None if they didn't."""
        is_theirs = self.ended_reason != ENDED_BY_ADMIN
        return self.ended_at if self.cut_off_at is None and is_theirs else self.cut_off_at

    def is_live(self, now: int) -> bool:
        return self.ended_at is None and now < self.expires_at


@immutable
class Renewal:
    """The change to one permission. `scopes` None: it stays unchanged; empty: it ends. `given` is stored."""

    given: frozenset[str] | None
    scopes: frozenset[str] | None = None
    expires_at: int | None = None


def renew(
    held: Delegation | None,
    *,
    given: frozenset[str] | None,
    wanted: frozenset[str],
    end_before: int,
    end: int,
) -> Renewal:
    """How the permission for a connection changes when the company allows `wanted` of it. Pure.

    `given`: what it allowed before, with `DROPPED` if it took it back since; None if nothing yet. What the person
    allowed themselves is left alone, what they removed stays removed, an end that they chose stays, and an ended
    permission stays ended.
    """
    if held is None:
        is_new = given is None and bool(wanted)
        return Renewal(wanted, wanted, end) if is_new else Renewal(given)
    if given is None:
        return Renewal(None)
    taken = given - held.scopes - _DROPPED
    if DROPPED in given:
        if held.revoked_at is None:
            return Renewal(None)
        return Renewal(wanted | taken, wanted - taken, end) if wanted - taken else Renewal(given)
    if held.revoked_at is not None:
        return Renewal(given)
    own = held.scopes - given
    scopes = (wanted - taken) | own
    if not wanted:
        return Renewal(None if own else given | _DROPPED, scopes, held.expires_at)
    return Renewal(wanted | taken, scopes, end if held.expires_at == end_before else held.expires_at)


async def get(reader: Reader, *, user_id: str, client_id: str, company: str) -> CompanyPermission | None:
    """The row, live or not."""
    row = await reader.fetch_one(
        _GET, {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "company": company}
    )
    return None if row is None else _permission(row)


async def list_for_user(reader: Reader, user_id: str) -> tuple[CompanyPermission, ...]:
    """Every row of a person, live or not."""
    rows = await reader.fetch(_FOR_USER, {"tenant": TENANT, "user_id": user_id})
    return tuple(_permission(row) for row in rows)


async def list_givers(reader: Reader, user_id: str) -> dict[tuple[str, str], str]:
    """Which company gave which permission of a person, by the IDs of client and connection."""
    return {
        (one.client_id, connection_id): one.company
        for one in await list_for_user(reader, user_id)
        for connection_id, scopes in one.given.items()
        if DROPPED not in scopes
    }


async def hold(transaction: Transaction, *, user_id: str, client_id: str, company: str, now: int) -> CompanyPermission:
    """The row, created if necessary, and locked until the transaction ends."""
    values = {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "company": company}
    row = await transaction.fetch_one(_HOLD, {**values, "scopes": "", "accounts": "{}", "now": now})
    if row is None:
        raise RuntimeError("an upsert returned no row")
    return _permission(row)


async def wait_for_renewals(transaction: Transaction, *, user_id: str, client_id: str) -> None:
    """Keep renewals from reading what this agent may do for this person until the transaction ends. Call it before a
    change."""
    await transaction.execute(_WAIT, {"tenant": TENANT, "user_id": user_id, "client_id": client_id})


async def save(transaction: Transaction, permission: CompanyPermission) -> None:
    """Store the row that a renewal produced."""
    await transaction.execute(
        _SAVE,
        {
            "tenant": TENANT,
            "user_id": permission.user_id,
            "client_id": permission.client_id,
            "company": permission.company,
            "scopes": format_scope(permission.scopes),
            "accounts": _as_json(permission.accounts),
            "given": _as_json(permission.given),
            "renewed_at": permission.renewed_at,
            "expires_at": permission.expires_at,
            "ended_at": permission.ended_at,
            "ended_reason": permission.ended_reason,
            "cut_off_at": permission.cut_off_at,
        },
    )


async def end(transaction: Transaction, *, user_id: str, client_id: str, reason: str, now: int) -> int:
    """Cut the agent off from what companies allow it for this person: further assertions are refused. Returns how many
    rows."""
    which = {"tenant": TENANT, "user_id": user_id, "client_id": client_id}
    return await transaction.execute(_END, {**which, "reason": reason, "now": now})


async def forget_user(transaction: Transaction, user_id: str) -> None:
    """Delete the rows of a deleted person."""
    await transaction.execute(
        "delete from company_permissions where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )


async def forget_client(transaction: Transaction, client_id: str, *, may_return: bool) -> None:
    """Delete the rows of a removed agent. If it can return under its ID, keep what a person or an admin ended."""
    await transaction.execute(
        "delete from company_permissions where tenant = :tenant and client_id = :client_id"
        " and (ended_at is null or :may_return = 0)",
        {"tenant": TENANT, "client_id": client_id, "may_return": int(may_return)},
    )


def _as_json(scopes: Scopes) -> str:
    plain = {name: sorted(some) for name, some in scopes.items()}
    return json.dumps(plain, separators=(",", ":"))


def _read(stored_json: str) -> dict[str, frozenset[str]]:
    stored: dict[str, list[str]] = json.loads(stored_json)
    return {name: frozenset(some) for name, some in stored.items()}


def _permission(row: Row) -> CompanyPermission:
    return CompanyPermission(
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        company=text(row, "company"),
        scopes=parse_scope(text(row, "scopes")),
        accounts=_read(text(row, "accounts")),
        given=_read(text(row, "given")),
        created_at=integer(row, "created_at"),
        renewed_at=integer(row, "renewed_at"),
        expires_at=integer(row, "expires_at"),
        ended_at=integer_or_none(row, "ended_at"),
        ended_reason=text_or_none(row, "ended_reason"),
        cut_off_at=integer_or_none(row, "cut_off_at"),
    )
