"""Access tokens revoked early, while the grant behind them lives on (RFC 7009 §2.1).

Their IDs are in the row of the grant, which each use of a token reads anyway. The ID of a token made from another one
begins with that token's ID (`parent.own`), so both end together; a handle, which keeps the ID of its token, ends with
it too.
"""

from __future__ import annotations

import secrets
from typing import Final

from vault.records import TENANT, Event
from vault.refusals import GrantEnded, TemporarilyUnavailable
from vault.storage.database import Row, Transaction, text, text_or_none

MOST: Final = 128  # per grant at a time: each call reads them
MAX_DEPTH: Final = 32  # longest chain of tokens made from one another: an ID of about 700 characters
_KEPT: Final = 60  # seconds past a token's expiry: a stream that it opened may live longer, and is still checked


def new_token_id(parent: str) -> str:
    """The ID (`jti`) of a new token, made from the token with the ID `parent` or from none."""
    own = secrets.token_urlsafe(16)
    return f"{parent}.{own}" if parent else own


def is_deep(token_id: str) -> bool:
    """Whether no further token can be made from this one."""
    return token_id.count(".") + 1 >= MAX_DEPTH


def is_revoked(row: Row, token_id: str) -> bool:
    """Whether the token, or a token that it was made from, is in the `revoked_tokens` column of its grant's row."""
    listed = text_or_none(row, "revoked_tokens")
    if not listed or not token_id:
        return False
    return not {_own(entry) for entry in listed.split()}.isdisjoint(token_id.split("."))


async def revoke_access_token(
    transaction: Transaction, grant_id: str, *, client_id: str, token_id: str, expires_at: int, now: int
) -> Event | None:
    """End one access token of this client, and everything made from it, at once.

    Returns the event to record; None when there was nothing to end: the token is another client's, was already ended,
    or its grant has ended. Raises TemporarilyUnavailable while the grant has MOST revoked tokens that have not expired.
    """
    own = token_id.rpartition(".")[2]
    row = await lock_grant(transaction, grant_id)
    if row is None or text(row, "client_id") != client_id or is_revoked(row, token_id):
        return None
    await _add(transaction, row, entry=f"{expires_at}:{own}", now=now)
    return Event(
        "token.revoked",
        user_id=text(row, "user_id"),
        client_id=client_id,
        details={"grant": grant_id, "token": own},
    )


async def lock_grant(transaction: Transaction, grant_id: str) -> Row | None:
    """Lock a live grant's row until the transaction ends."""
    return await transaction.fetch_one(
        "update grants set revoked_tokens = revoked_tokens"
        " where tenant = :tenant and id = :id and revoked_at is null"
        " returning id, user_id, client_id, revoked_tokens",
        {"tenant": TENANT, "id": grant_id},
    )


async def inherit(transaction: Transaction, grant_id: str, *, derived_from: str) -> None:
    """Copy the revoked tokens of the base to a new derived grant, because one of them may have led to it.

    Locks the base, so that it can't end unnoticed in the meantime. Raises GrantEnded.
    """
    parent = await lock_grant(transaction, derived_from)
    if parent is None:
        raise GrantEnded("The access that this token depends on was ended. Sign in again.")
    if (listed := text_or_none(parent, "revoked_tokens")) is not None:
        await _store(transaction, grant_id, listed)


async def _add(transaction: Transaction, row: Row, *, entry: str, now: int) -> None:
    """Add it to the lists of the grant and of grants derived from it, which hold what was made from the token."""
    grant_id = text(row, "id")
    listed = [one for one in (text_or_none(row, "revoked_tokens") or "").split() if _end(one) + _KEPT > now]
    if len(listed) >= MOST:
        raise TemporarilyUnavailable(
            "Too many access tokens of this grant were revoked individually. Revoke the refresh token, "
            "or try again later.",
            retry_after=min(map(_end, listed)) + _KEPT - now,
        )
    await _store(transaction, grant_id, " ".join([*listed, entry]))
    derived = await transaction.fetch(
        "update grants set revoked_tokens = revoked_tokens"
        " where tenant = :tenant and derived_from = :id and revoked_at is null returning id, revoked_tokens",
        {"tenant": TENANT, "id": grant_id},
    )
    for one in derived:
        await _add(transaction, one, entry=entry, now=now)


async def _store(transaction: Transaction, grant_id: str, listed: str) -> None:
    await transaction.execute(
        "update grants set revoked_tokens = :listed where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": grant_id, "listed": listed},
    )


def _end(entry: str) -> int:
    return int(entry.partition(":")[0])


def _own(entry: str) -> str:
    return entry.partition(":")[2]
