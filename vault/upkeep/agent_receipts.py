"""Receipts for an agent's end: one for each account that it could use and that stays connected. A provider knows one
grant of an account, shared by all agents, so nothing is revoked there when one of them ends. The receipt states that,
and until when a provider token that the agent was given works. `vault.audit.released_tokens` stores the receipts to be
signed, in the transaction that ends the agent; an account that is disconnected too has its own receipt
(`vault.upkeep.receipts`) instead. `vault/FORMATS.md` has the format.
"""

from __future__ import annotations

import json
from dataclasses import field
from typing import Final

from joserfc import jws
from joserfc.jwk import RSAKey

from vault.audit.audit import append
from vault.audit.released_tokens import UNKNOWN
from vault.classes.immutable import immutable
from vault.records import LAST, TENANT, Event, new_id
from vault.refresh.concurrency import Vault
from vault.spans import KEY_USES
from vault.storage.database import Reader, Row, Transaction, Value, integer, integer_or_none, text, text_or_none
from vault.upkeep import receipts

TYPE: Final = "agent-receipt+jwt"
RESULT: Final = "nothing_to_revoke"
BATCH: Final = 100
SHARED: Final = "shared_grant"  # no provider token that still works was released
RELEASED: Final = "token_released"  # one was, and works until `expires_at` at the latest
RESTORED: Final = "unknown_before_restore"  # one may have been, since the backup that the vault was restored from
ENDLESS: Final = "token_without_end"  # one was, and only the end of the grant ends it

_OWED: Final = """
    select a.client_id, a.user_id, a.connection_id, a.ended_at, a.provider, a.token_hash, a.released_at, a.expires_at,
        case when k.id is not null and k.ended_at is null then 1 else 0 end as is_connected
    from agent_receipts a left join connections k on k.tenant = a.tenant and k.id = a.connection_id
    where a.tenant = :tenant and a.receipt is null order by a.ended_at limit :limit
"""
_WHICH: Final = """tenant = :tenant and client_id = :client_id and user_id = :user_id
    and connection_id = :connection_id and ended_at = :ended_at and receipt is null"""
_SIGNED: Final = f"""
    update agent_receipts set id = :id, reason = :reason, issued_at = :now, receipt = :receipt where {_WHICH}
"""  # noqa: S608  constants
_FORGET: Final = f"delete from agent_receipts where {_WHICH}"  # noqa: S608  constants
_SELECT = """
    select a.id, a.client_id, a.user_id, a.connection_id, a.provider, a.reason, a.ended_at, a.issued_at, a.expires_at,
        a.receipt, c.name as client_name,
        case when k.id is not null and k.ended_at is null then 1 else 0 end as is_connected
    from agent_receipts a left join connections k on k.tenant = a.tenant and k.id = a.connection_id
    left join clients c on c.tenant = a.tenant and c.id = a.client_id
    where a.tenant = :tenant
"""
_GET: Final = f"{_SELECT} and a.id = :id"
_BEFORE: Final = (
    "a.issued_at <= :at and (a.issued_at, a.id) < (:at, :before) order by a.issued_at desc, a.id desc limit :limit"
)
_OF_CLIENT: Final = f"{_SELECT} and a.client_id = :client_id and {_BEFORE}"
_PAGE: Final = f"{_SELECT} and {_BEFORE}"
_OPEN: Final = f"""
    {_SELECT} and k.ended_at is null and a.token_hash is not null and (a.expires_at is null or a.expires_at > :now)
        and (:is_all = 1 or a.client_id = :client_id) and {_BEFORE}
"""


@immutable
class AgentReceipt:
    """A stored receipt; `token` is the signed form. `expires_at`: that of the provider token that the agent may hold.
    `is_connected`: whether the account is still connected.
    """

    id: str
    client_id: str
    user_id: str
    connection_id: str
    provider: str
    reason: str
    ended_at: int
    issued_at: int
    expires_at: int | None
    is_connected: bool
    token: str = field(repr=False)
    client_name: str

    def is_outstanding(self, now: int) -> bool:
        """Whether the agent may hold a working provider token; the end of the account also ends the token."""
        has_token = self.reason != SHARED and (self.expires_at is None or self.expires_at > now)
        return has_token and self.is_connected


async def issue_owed(vault: Vault) -> int:
    """Sign the outstanding receipts of ended agents, at most a batch; returns how many."""
    rows = await vault.database.fetch(_OWED, {"tenant": TENANT, "limit": BATCH})
    if not rows:
        return 0
    now = vault.database.now()
    key = vault.keys.signing.current(now)
    async with vault.database.transaction() as transaction:
        for row in rows:
            await _issue(transaction, row, key, issuer=vault.issuer, now=now)
        await receipts.keep_key(transaction, key, now=now)
    return len(rows)


async def issue_all(vault: Vault) -> None:
    """Sign batch after batch. For upkeep."""
    while await issue_owed(vault) == BATCH:
        pass


async def _issue(transaction: Transaction, row: Row, key: RSAKey, *, issuer: str, now: int) -> None:
    which: dict[str, Value] = {
        "tenant": TENANT,
        "client_id": text(row, "client_id"),
        "user_id": text(row, "user_id"),
        "connection_id": text(row, "connection_id"),
        "ended_at": integer(row, "ended_at"),
    }
    if not integer(row, "is_connected"):
        await transaction.execute(_FORGET, which)
        return
    receipt_id, reason = new_id(), _reason(row)
    token = _sign(row, key, receipt_id=receipt_id, reason=reason, issuer=issuer, now=now)
    signed: dict[str, Value] = {"id": receipt_id, "reason": reason, "now": now, "receipt": token}
    if await transaction.execute(_SIGNED, {**which, **signed}) != 1:
        return
    details: dict[str, object] = {
        "provider": text(row, "provider"),
        "result": RESULT,
        "reason": reason,
        "receipt": receipts.thumbprint(token),
    }
    if (expires_at := integer_or_none(row, "expires_at")) is not None:
        details["token_expires_at"] = expires_at
    event = Event(
        "agent.receipt_issued",
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        connection_id=text(row, "connection_id"),
        details=details,
    )
    await append(transaction, event, now=now)


def _reason(row: Row) -> str:
    digest = text_or_none(row, "token_hash")
    if digest is None:
        return SHARED
    if digest == UNKNOWN:
        return RESTORED
    return ENDLESS if integer_or_none(row, "expires_at") is None else RELEASED


def _sign(row: Row, key: RSAKey, *, receipt_id: str, reason: str, issuer: str, now: int) -> str:
    KEY_USES[key.kid or "", "sign"] += 1
    claims: dict[str, object] = {
        "iss": issuer,
        "iat": now,
        "jti": receipt_id,
        "client": text(row, "client_id"),
        "grant": text(row, "connection_id"),
        "user": text(row, "user_id"),
        "provider": text(row, "provider"),
        "ended_at": integer(row, "ended_at"),
        "result": RESULT,
        "reason": reason,
    }
    if (digest := text_or_none(row, "token_hash")) is not None:
        known = {} if digest == UNKNOWN else {"sha256": digest, "released_at": integer(row, "released_at")}
        claims["last_token"] = {**known, "expires_at": integer_or_none(row, "expires_at")}
    header = {"alg": "RS256", "typ": TYPE, "kid": key.kid}
    payload = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
    return jws.serialize_compact(header, payload, key, algorithms=["RS256"])


async def get_receipt(reader: Reader, receipt_id: str) -> AgentReceipt | None:
    """The receipt with this ID."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "id": receipt_id})
    return None if row is None else _receipt(row)


async def list_receipts(
    reader: Reader,
    *,
    client_id: str | None,
    open_at: int | None = None,
    before: tuple[int, str] | None = None,
    limit: int,
) -> tuple[AgentReceipt, ...]:
    """The receipts of an agent, or of all, newest first; with `open_at`, those that are outstanding then."""
    at, last = before or (LAST, "")
    page: dict[str, Value] = {"tenant": TENANT, "at": at, "before": last, "limit": limit}
    of_client: dict[str, Value] = {"client_id": client_id or ""}
    if open_at is not None:
        rows = await reader.fetch(_OPEN, {**page, **of_client, "is_all": int(client_id is None), "now": open_at})
    elif client_id is not None:
        rows = await reader.fetch(_OF_CLIENT, {**page, **of_client})
    else:
        rows = await reader.fetch(_PAGE, page)
    return tuple(map(_receipt, rows))


def _receipt(row: Row) -> AgentReceipt:
    return AgentReceipt(
        id=text(row, "id"),
        client_id=text(row, "client_id"),
        user_id=text(row, "user_id"),
        connection_id=text(row, "connection_id"),
        provider=text(row, "provider"),
        reason=text(row, "reason"),
        ended_at=integer(row, "ended_at"),
        issued_at=integer(row, "issued_at"),
        expires_at=integer_or_none(row, "expires_at"),
        is_connected=integer(row, "is_connected") == 1,
        token=text(row, "receipt"),
        client_name=text_or_none(row, "client_name") or "",
    )
