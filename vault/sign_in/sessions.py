"""Signed-in browsers: start, find, end. The cookie's token is 256 bits and stored as its SHA-256.

A session ends 12 hours after it was last seen and 7 days after it started. The server owns the cookies.
"""

from __future__ import annotations

import hashlib
import secrets

from vault.classes.immutable import immutable
from vault.records import DAY, TENANT, Session, User
from vault.storage.database import (
    SWEEP_BATCH,
    Reader,
    Row,
    Transaction,
    binary,
    integer,
    integer_or_none,
    text,
    text_or_none,
)
from vault.users import end_user_sessions as end_user_sessions
from vault.users import user_from_row

TOUCH_INTERVAL = 300  # a busy browser writes once in five minutes, not once per page
_KEPT = 30 * DAY
_COLUMNS = (
    "s.token_hash, s.user_id, s.created_at as started_at, s.seen_at, s.expires_at, s.ended_at, s.method, s.device,"
    " s.network, s.proved_at"
)


@immutable
class SessionFacts:
    """How someone signed in: the `method` (password, passkey, openid ...), the kind of browser, and the network.

    `signed_in_at`: when the person authenticated, if that was earlier and elsewhere; zero if unknown, so that the
    session counts as older than any age that a client asks for. `proved_at`: see `Session`.
    """

    method: str = ""
    device: str = ""
    network: str = ""
    signed_in_at: int | None = None
    proved_at: int | None = None


def session_hash(token: str) -> bytes:
    """The stored form of a session's token."""
    return hashlib.sha256(token.encode()).digest()


async def start_session(
    transaction: Transaction,
    user_id: str,
    *,
    now: int,
    lifetime: int,
    facts: SessionFacts = SessionFacts(),
) -> tuple[str, Session]:
    """A new session and the token for its cookie; a new token at each sign-in (session fixation)."""
    token = secrets.token_urlsafe(32)
    session = Session(
        token_hash=session_hash(token),
        user_id=user_id,
        created_at=now if facts.signed_in_at is None else facts.signed_in_at,
        seen_at=now,
        expires_at=now + lifetime,
        method=facts.method,
        device=facts.device,
        network=facts.network,
        proved_at=facts.proved_at,
    )
    await transaction.execute(
        "insert into sessions (tenant, token_hash, user_id, created_at, seen_at, expires_at, method, device, network,"
        " proved_at, begun_at) values (:tenant, :token_hash, :user_id, :created_at, :now, :expires_at, :method,"
        " :device, :network, :proved_at, :now)",
        {
            "tenant": TENANT,
            "token_hash": session.token_hash,
            "user_id": user_id,
            "created_at": session.created_at,
            "now": now,
            "expires_at": session.expires_at,
            "method": session.method,
            "device": session.device,
            "network": session.network,
            "proved_at": session.proved_at,
        },
    )
    return token, session


async def find_session(reader: Reader, token: str, *, now: int, idle_lifetime: int) -> tuple[Session, User] | None:
    """The live session for this token and its user, unless the user is disabled."""
    return await get_session(reader, session_hash(token), now=now, idle_lifetime=idle_lifetime)


async def get_session(
    reader: Reader, token_hash: bytes, *, now: int, idle_lifetime: int
) -> tuple[Session, User] | None:
    """Like `find_session`, by the hash only."""
    row = await reader.fetch_one(
        f"select {_COLUMNS},"  # noqa: S608 -- names of columns
        " u.id, u.name, u.password_hash, u.is_admin, u.role, u.created_at, u.disabled_at, u.stopped_at, u.stopped_by"
        " from sessions s join users u on u.tenant = s.tenant and u.id = s.user_id"
        " where s.tenant = :tenant and s.token_hash = :token_hash and s.ended_at is null"
        " and s.expires_at > :now and s.seen_at > :idle_since and u.disabled_at is null",
        {
            "tenant": TENANT,
            "token_hash": token_hash,
            "now": now,
            "idle_since": now - idle_lifetime,
        },
    )
    return None if row is None else (_session(row), user_from_row(row))


async def list_sessions(reader: Reader, user_id: str, *, now: int, idle_lifetime: int) -> tuple[Session, ...]:
    """The browsers in which the person is signed in, most recently used first."""
    rows = await reader.fetch(  # `+ 0` makes SQLite use the person's index; the index of ends would read everyone's
        f"select {_COLUMNS} from sessions s where s.tenant = :tenant and s.user_id = :user_id"  # noqa: S608
        " and s.ended_at is null and s.expires_at + 0 > :now and s.seen_at > :idle_since"
        " order by s.seen_at desc limit 100",
        {"tenant": TENANT, "user_id": user_id, "now": now, "idle_since": now - idle_lifetime},
    )
    return tuple(_session(row) for row in rows)


async def touch_session(transaction: Transaction, session: Session, *, now: int) -> None:
    """Record that the browser was seen, at most once per interval."""
    await transaction.execute(
        "update sessions set seen_at = :now where tenant = :tenant and token_hash = :token_hash"
        " and seen_at <= :due and ended_at is null",
        {"tenant": TENANT, "token_hash": session.token_hash, "now": now, "due": now - TOUCH_INTERVAL},
    )


async def note_proof(transaction: Transaction, token_hash: bytes, *, now: int) -> None:
    """Record that a passkey has just proved who is at this browser."""
    await transaction.execute(
        "update sessions set proved_at = :now where tenant = :tenant and token_hash = :token_hash and ended_at is null",
        {"tenant": TENANT, "token_hash": token_hash, "now": now},
    )


def needs_touch(session: Session, *, now: int) -> bool:
    """Whether `touch_session` would write."""
    return session.seen_at <= now - TOUCH_INTERVAL


async def end_session(transaction: Transaction, token_hash: bytes, *, now: int) -> bool:
    """End one session; False when it had already ended."""
    return (
        await transaction.execute(
            "update sessions set ended_at = :now"
            " where tenant = :tenant and token_hash = :token_hash and ended_at is null",
            {"tenant": TENANT, "token_hash": token_hash, "now": now},
        )
        > 0
    )


async def sweep_sessions(transaction: Transaction, *, now: int) -> int:
    """Delete sessions that ended long ago, at most a batch; returns how many."""
    return await transaction.execute(
        "delete from sessions where token_hash in (select token_hash from sessions"
        " where tenant = :tenant and (expires_at <= :before or ended_at <= :before) limit :batch)",
        {"tenant": TENANT, "before": now - _KEPT, "batch": SWEEP_BATCH},
    )


def _session(row: Row) -> Session:
    return Session(
        token_hash=binary(row, "token_hash"),
        user_id=text(row, "user_id"),
        created_at=integer(row, "started_at"),
        seen_at=integer(row, "seen_at"),
        expires_at=integer(row, "expires_at"),
        ended_at=integer_or_none(row, "ended_at"),
        method=text_or_none(row, "method") or "",
        device=text_or_none(row, "device") or "",
        network=text_or_none(row, "network") or "",
        proved_at=integer_or_none(row, "proved_at"),
    )
