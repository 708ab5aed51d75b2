"""People: local accounts and identities of OpenID Connect providers. Names are unique, ignoring case.

Changing a password and disabling a user end every session, grant, refresh token and unused code at once.
`vault.keys.passwords` hashes; the server signs people in. The caller ends the upstream connections of a deleted user.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncGenerator, Sequence

from vault import company_permissions, directory, grants, groups, tickets
from vault.approvals import access_requests
from vault.classes.immutable import immutable
from vault.notices.channels import forget_person
from vault.records import LAST, TENANT, Role, User, new_id
from vault.refusals import VaultError
from vault.storage.database import Reader, Row, Transaction, fetch_count, integer, integer_or_none, text, text_or_none

MAX_NAME = 200
PAGE = 500  # users per read
_ADMINS = "admins"  # a row that stands for all admins
DIRECTORY = "directory"  # who disabled a user, if not an admin, a command, or a signal


class NameRefused(VaultError):
    """The name of a new user is empty, too long, or contains invisible characters."""

    code = "name_refused"


class NameTaken(VaultError):
    """Another user has this name."""

    code = "name_taken"


class IdentityTaken(VaultError):
    """This identity already belongs to another user."""

    code = "identity_taken"


async def create_user(
    transaction: Transaction,
    name: str,
    *,
    password_hash: str | None = None,
    is_admin: bool = False,
    role: Role | None = None,
    now: int,
) -> User:
    """Create a user: an owner if `is_admin`, unless `role` is another one. Raises NameRefused or NameTaken."""
    user = User(
        id=new_id(),
        name=_checked_name(name),
        created_at=now,
        password_hash=password_hash,
        role=role or (Role.OWNER if is_admin else Role.MEMBER),
    )
    row = await transaction.fetch_one(
        "insert into users (tenant, id, name, name_key, password_hash, is_admin, role, created_at)"
        " values (:tenant, :id, :name, :name_key, :password_hash, :is_admin, :role, :now)"
        " on conflict (tenant, name_key) do nothing returning id",
        {
            "tenant": TENANT,
            "id": user.id,
            "name": user.name,
            "name_key": name_key(user.name),
            "password_hash": password_hash,
            "is_admin": int(user.is_admin),
            "role": user.role.value,
            "now": now,
        },
    )
    if row is None:
        raise NameTaken("a user with this name already exists")
    return user


async def get_user(reader: Reader, user_id: str) -> User | None:
    """The user with this id, disabled or not."""
    row = await reader.fetch_one(
        "select id, name, password_hash, is_admin, role, created_at, disabled_at, stopped_at, stopped_by"
        " from users"
        " where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": user_id},
    )
    return None if row is None else user_from_row(row)


async def find_user(reader: Reader, name: str) -> User | None:
    """The user with this name, ignoring case, disabled or not."""
    row = await reader.fetch_one(
        "select id, name, password_hash, is_admin, role, created_at, disabled_at, stopped_at, stopped_by"
        " from users"
        " where tenant = :tenant and name_key = :name_key",
        {"tenant": TENANT, "name_key": name_key(name[: 2 * MAX_NAME])},
    )
    return None if row is None else user_from_row(row)


async def count_users(reader: Reader) -> int:
    """The number of users; the first-run page is shown while there are none."""
    return await fetch_count(reader, "select count(*) as n from users where tenant = :tenant", {"tenant": TENANT})


async def list_users(reader: Reader, *, limit: int = PAGE) -> tuple[User, ...]:
    """The first users by name, at most `limit`."""
    return tuple(user_from_row(row) for row in await _read_page(reader, after="", limit=limit))


async def list_admins(reader: Reader) -> tuple[User, ...]:
    """All admins by name, disabled or not."""
    rows = await reader.fetch(
        "select id, name, password_hash, is_admin, role, created_at, disabled_at, stopped_at, stopped_by"
        " from users"
        " where tenant = :tenant and is_admin = 1 order by name_key",
        {"tenant": TENANT},
    )
    return tuple(user_from_row(row) for row in rows)


async def walk_users(reader: Reader) -> AsyncGenerator[tuple[User, ...]]:
    """All users by name, a page at a time."""
    after = ""
    while rows := await _read_page(reader, after=after, limit=PAGE):
        yield tuple(user_from_row(row) for row in rows)
        after = text(rows[-1], "name_key")


async def find_page(
    reader: Reader, *, beginning: str = "", after: str = "", limit: int
) -> tuple[tuple[User, ...], str]:
    """Users whose name has this beginning, by name, and the `after` of the next page, empty at the end. Examines at
    most PAGE users, so a page may have fewer than `limit` and still have a next one.
    """
    wanted = name_key(beginning[:MAX_NAME])
    rows = await reader.fetch(
        "select id, name, name_key, password_hash, is_admin, role, created_at, disabled_at, stopped_at, stopped_by"
        " from users"
        " where tenant = :tenant and name_key >= :beginning and name_key > :after order by name_key limit :limit",
        {"tenant": TENANT, "beginning": wanted, "after": after, "limit": PAGE if wanted else limit + 1},
    )
    found: list[User] = []
    for place, row in enumerate(rows):
        if text(row, "name_key").startswith(wanted):  # in the database's order, others may be between them
            if len(found) == limit:
                return tuple(found), text(rows[place - 1], "name_key")
            found.append(user_from_row(row))
    return tuple(found), text(rows[-1], "name_key") if wanted and len(rows) == PAGE else ""


async def _read_page(reader: Reader, *, after: str, limit: int) -> Sequence[Row]:
    return await reader.fetch(
        "select id, name, name_key, password_hash, is_admin, role, created_at, disabled_at, stopped_at, stopped_by"
        " from users"
        " where tenant = :tenant and name_key > :after order by name_key limit :limit",
        {"tenant": TENANT, "after": after, "limit": limit},
    )


async def rename_user(transaction: Transaction, user_id: str, name: str) -> None:
    """Rename the user. Raises NameRefused or NameTaken."""
    shown = _checked_name(name)
    other = await find_user(transaction, shown)
    if other is not None and other.id != user_id:
        raise NameTaken("a user with this name already exists")
    await transaction.execute(
        "update users set name = :name, name_key = :name_key where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": user_id, "name": shown, "name_key": name_key(shown)},
    )


async def set_password(transaction: Transaction, user_id: str, *, password_hash: str, now: int) -> bool:
    """Store a new password's hash and end everything that the old password opened. False when there is no such user."""
    changed = await transaction.execute(
        "update users set password_hash = :password_hash where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": user_id, "password_hash": password_hash},
    )
    if changed:
        await end_user_access(transaction, user_id, reason="password_changed", now=now)
    return changed > 0


async def store_rehash(transaction: Transaction, user_id: str, *, old_hash: str, new_hash: str) -> bool:
    """Store the same password under the current hashing parameters; ends nothing, and keeps a newer password."""
    return (
        await transaction.execute(
            "update users set password_hash = :new_hash"
            " where tenant = :tenant and id = :id and password_hash = :old_hash",
            {"tenant": TENANT, "id": user_id, "old_hash": old_hash, "new_hash": new_hash},
        )
        > 0
    )


async def disable_user(transaction: Transaction, user_id: str, *, now: int, is_by_directory: bool = False) -> bool:
    """End every session, grant and token of this user and refuse sign-in. False when already disabled.

    If the directory disabled the user before, the record changes to the person who does so now.
    """
    by = DIRECTORY if is_by_directory else None
    if not is_by_directory:
        await transaction.execute(
            "update users set disabled_by = null where tenant = :tenant and id = :id and disabled_by is not null",
            {"tenant": TENANT, "id": user_id},
        )
    changed = await transaction.execute(
        "update users set disabled_at = :now, disabled_by = :by"
        " where tenant = :tenant and id = :id and disabled_at is null",
        {"tenant": TENANT, "id": user_id, "now": now, "by": by},
    )
    if changed:
        await end_user_access(transaction, user_id, reason="user_disabled", now=now)
        await access_requests.stop_of_person(transaction, user_id, reason="disabled", now=now)
    return changed > 0


async def may_directory_enable(reader: Reader, user_id: str) -> bool:
    """Whether the directory itself disabled this user, or no one did."""
    row = await reader.fetch_one(
        "select disabled_at, disabled_by from users where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": user_id},
    )
    return row is None or row["disabled_at"] is None or text_or_none(row, "disabled_by") == DIRECTORY


async def enable_user(transaction: Transaction, user_id: str, *, now: int) -> bool:
    """Let the user sign in again, and resume stopped agents; ended access stays ended."""
    return (
        await transaction.execute(
            "update users set disabled_at = null, disabled_by = null, stopped_at = null, stopped_by = null,"
            " enabled_at = :now"
            " where tenant = :tenant and id = :id and (disabled_at is not null or stopped_at is not null)",
            {"tenant": TENANT, "id": user_id, "now": now},
        )
        > 0
    )


async def stop_agents(transaction: Transaction, user_id: str, *, by: str, at: int, now: int) -> None:
    """Sign the user out and refuse their agents, until they sign in at the issuer `by` or an admin enables them. Ends
    no grant and no permission. After stops by two issuers, only an admin can resume them: `stopped_by` is empty. `at`:
    when the cause happened; a sign-in after that resumes the agents, and sessions begun after that stay.
    """
    await transaction.execute(
        "update users set stopped_at = case when stopped_at > :at then stopped_at else :at end,"
        " stopped_by = case when stopped_at is null or stopped_by = :by"
        " then cast(:by as text) else cast(:nobody as text) end where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": user_id, "by": by, "nobody": "", "at": at},
    )
    await end_user_sessions(transaction, user_id, now=now, begun_until=at)
    await tickets.expire_user_tickets(transaction, user_id, now=now, made_until=at)


async def was_cleared(reader: Reader, user_id: str, *, by: str, since: int) -> bool:
    """Whether the user signed in at the issuer `by`, or an admin enabled them, after this instant."""
    row = await reader.fetch_one(
        "select id from users where tenant = :tenant and id = :id and (enabled_at > :since or exists"
        " (select subject from identities i where i.tenant = :tenant and i.user_id = :id and i.issuer = :by"
        " and i.signed_in_at > :since))",
        {"tenant": TENANT, "id": user_id, "by": by, "since": since},
    )
    return row is not None


async def lift_stop(transaction: Transaction, user_id: str, *, by: str, signed_in_at: int) -> bool:
    """Resume the agents after a sign-in at the issuer that had stopped them; False if it hadn't."""
    return (
        await transaction.execute(
            "update users set stopped_at = null, stopped_by = null"
            " where tenant = :tenant and id = :id and stopped_at <= :at and stopped_by = :by and stopped_by <> :nobody",
            {"tenant": TENANT, "id": user_id, "by": by, "at": signed_in_at, "nobody": ""},
        )
        > 0
    )


async def set_role(transaction: Transaction, user_id: str, role: Role) -> bool:
    """Change the user's role. False when there is no such user."""
    return (
        await transaction.execute(
            "update users set is_admin = :is_admin, role = :role where tenant = :tenant and id = :id",
            {"tenant": TENANT, "id": user_id, "is_admin": int(role.administers), "role": role.value},
        )
        > 0
    )


async def hold_user(transaction: Transaction, user_id: str) -> None:
    """Lock the user until the transaction ends, so that its counts stay true."""
    await transaction.execute(
        "update users set name = name where tenant = :tenant and id = :id", {"tenant": TENANT, "id": user_id}
    )


async def hold_admins(transaction: Transaction) -> None:
    """Lock the set of admins until the transaction ends, also if all of them are admins through their groups.

    One after the other: a single statement would lock them in the order in which it happens to find them, and two
    transactions could wait for each other.
    """
    await transaction.execute(
        "insert into limits (bucket, window_start, spent) values (:bucket, :never_swept, 0)"
        " on conflict (bucket, window_start) do update set spent = excluded.spent",
        {"bucket": _ADMINS, "never_swept": LAST},
    )
    rows = await transaction.fetch(
        "select id from users where tenant = :tenant and is_admin = 1 order by id", {"tenant": TENANT}
    )
    for row in rows:
        await transaction.execute(
            "update users set is_admin = 1 where tenant = :tenant and id = :id and is_admin = 1",
            {"tenant": TENANT, "id": text(row, "id")},
        )


async def is_last_admin(transaction: Transaction, user_id: str) -> bool:
    """Whether only this user could administer the vault. Locks the rows of all admins until the transaction ends, so
    that two of them can't remove each other at once.
    """
    await hold_admins(transaction)
    row = await transaction.fetch_one(
        "select id from users where tenant = :tenant and is_admin = 1 and disabled_at is null and id <> :id limit 1",
        {"tenant": TENANT, "id": user_id},
    )
    return row is None


async def is_last_owner(transaction: Transaction, user_id: str) -> bool:
    """Whether only this user could be the vault's owner. Locks the rows of all admins, as `is_last_admin` does."""
    await hold_admins(transaction)
    row = await transaction.fetch_one(
        "select id from users where tenant = :tenant and is_admin = 1 and (role is null or role = :owner)"
        " and disabled_at is null and id <> :id limit 1",
        {"tenant": TENANT, "id": user_id, "owner": Role.OWNER.value},
    )
    return row is None


async def delete_user(transaction: Transaction, user_id: str, *, now: int) -> bool:
    """Delete the person: name, password and identities. Grants stay as revoked records without a name.

    The person's key is destroyed once no grant of theirs is left to end at a provider; until then the deletion waits
    (`list_deletions`; `vault.upkeep.revocations`).
    """
    await end_user_access(transaction, user_id, reason="user_deleted", now=now)
    key = {"tenant": TENANT, "id": user_id}
    await transaction.execute(
        "insert into deletions (tenant, user_id, name, requested_at)"
        " select u.tenant, u.id, u.name, cast(:now as bigint) from users u where u.tenant = :tenant and u.id = :id"
        " on conflict (tenant, user_id) do nothing",
        key | {"now": now},
    )
    await transaction.execute("delete from identities where tenant = :tenant and user_id = :id", key)
    await transaction.execute("delete from sessions where tenant = :tenant and user_id = :id", key)
    await transaction.execute("delete from passkeys where tenant = :tenant and user_id = :id", key)
    await transaction.execute("delete from tool_choices where tenant = :tenant and user_id = :id", key)
    await company_permissions.forget_user(transaction, user_id)
    await access_requests.forget_person(transaction, user_id, now=now)
    await forget_person(transaction, user_id)
    await directory.forget_person(transaction, user_id)  # before the groups, to which the directory may add them
    await groups.forget_person(transaction, user_id)
    await transaction.execute("delete from standing_approvals where tenant = :tenant and user_id = :id", key)
    await transaction.execute("delete from approval_answers where tenant = :tenant and user_id = :id", key)
    await transaction.execute("delete from user_codes where tenant = :tenant and user_id = :id", key)
    return await transaction.execute("delete from users where tenant = :tenant and id = :id", key) > 0


@immutable
class Deletion:
    """A deleted person with `grants` that haven't ended at their providers yet."""

    user_id: str
    name: str
    requested_at: int
    grants: int


async def list_deletions(reader: Reader) -> tuple[Deletion, ...]:
    """The waiting deletions, oldest first."""
    rows = await reader.fetch(
        "select d.user_id, d.name, d.requested_at, (select count(*) from upstream_revocations r"
        " where r.tenant = d.tenant and r.user_id = d.user_id and r.done_at is null) as grants"
        " from deletions d where d.tenant = :tenant order by d.requested_at, d.user_id",
        {"tenant": TENANT},
    )
    return tuple(
        Deletion(text(row, "user_id"), text(row, "name"), integer(row, "requested_at"), integer(row, "grants"))
        for row in rows
    )


async def link_identity(transaction: Transaction, *, issuer: str, subject: str, user_id: str, now: int) -> None:
    """Bind (issuer, subject), never an e-mail address, to a user (OpenID Connect Core §5.7). Raises IdentityTaken."""
    key = {"tenant": TENANT, "issuer": issuer, "subject": subject}
    await transaction.execute(
        "insert into identities (tenant, issuer, subject, user_id, created_at)"
        " values (:tenant, :issuer, :subject, :user_id, :now) on conflict (tenant, issuer, subject) do nothing",
        key | {"user_id": user_id, "now": now},
    )
    row = await transaction.fetch_one(
        "select user_id from identities where tenant = :tenant and issuer = :issuer and subject = :subject", key
    )
    if row is None or text(row, "user_id") != user_id:
        raise IdentityTaken("this identity already belongs to another user")


async def unlink_identity(transaction: Transaction, *, issuer: str, subject: str, user_id: str) -> bool:
    """Remove this identity of the user; their sessions stay. False if it isn't theirs."""
    return (
        await transaction.execute(
            "delete from identities"
            " where tenant = :tenant and issuer = :issuer and subject = :subject and user_id = :user_id",
            {"tenant": TENANT, "issuer": issuer, "subject": subject, "user_id": user_id},
        )
        > 0
    )


_BY_IDENTITY = """
    select u.id, u.name, u.password_hash, u.is_admin, u.role, u.created_at, u.disabled_at, u.stopped_at, u.stopped_by
    from identities i join users u on u.tenant = i.tenant and u.id = i.user_id
    where i.tenant = :tenant and i.issuer = :issuer
"""


@immutable
class LinkedIdentity:
    """A user's identity elsewhere (OpenID Connect Core §5.7)."""

    issuer: str
    subject: str


async def list_identities(reader: Reader, user_id: str) -> tuple[LinkedIdentity, ...]:
    """The identities with which this user signs in, oldest first."""
    rows = await reader.fetch(
        "select issuer, subject from identities where tenant = :tenant and user_id = :user_id"
        " order by created_at, issuer, subject",
        {"tenant": TENANT, "user_id": user_id},
    )
    return tuple(LinkedIdentity(text(row, "issuer"), text(row, "subject")) for row in rows)


async def list_emails(reader: Reader, user_id: str) -> dict[LinkedIdentity, str]:
    """The confirmed addresses that identity providers told about this user's identities."""
    rows = await reader.fetch(
        "select issuer, subject, email from identities"
        " where tenant = :tenant and user_id = :user_id and email is not null",
        {"tenant": TENANT, "user_id": user_id},
    )
    return {LinkedIdentity(text(row, "issuer"), text(row, "subject")): text(row, "email") for row in rows}


async def find_by_identity(reader: Reader, *, issuer: str, subject: str) -> User | None:
    """The user behind an identity, disabled or not."""
    row = await reader.fetch_one(
        f"{_BY_IDENTITY} and i.subject = :subject",
        {"tenant": TENANT, "issuer": issuer, "subject": subject},
    )
    return None if row is None else user_from_row(row)


async def note_sign_in(transaction: Transaction, *, issuer: str, subject: str, at: int) -> None:
    """Record when this identity last signed in at its issuer, as the issuer reports it."""
    await transaction.execute(
        "update identities set signed_in_at = :at where tenant = :tenant and issuer = :issuer and subject = :subject"
        " and (signed_in_at is null or signed_in_at < :at)",
        {"tenant": TENANT, "issuer": issuer, "subject": subject, "at": at},
    )


async def note_email(transaction: Transaction, *, issuer: str, subject: str, email: str) -> None:
    """Record the address that an issuer confirmed for one of its people, and remove it from others there."""
    which = {"tenant": TENANT, "issuer": issuer, "subject": subject, "email": email}
    await transaction.execute(
        "update identities set email = null"
        " where tenant = :tenant and issuer = :issuer and email = :email and subject <> :subject",
        which,
    )
    await transaction.execute(
        "update identities set email = :email where tenant = :tenant and issuer = :issuer and subject = :subject"
        " and (email is null or email <> :email)",
        which,
    )


async def has_identities(reader: Reader, *, issuer: str) -> bool:
    """Whether anyone is linked under this issuer."""
    row = await reader.fetch_one(
        "select subject from identities where tenant = :tenant and issuer = :issuer limit 1",
        {"tenant": TENANT, "issuer": issuer},
    )
    return row is not None


async def find_by_email(reader: Reader, *, issuer: str, email: str) -> User | None:
    """The user for whom an issuer confirmed this address, in lowercase."""
    row = await reader.fetch_one(
        f"{_BY_IDENTITY} and i.email = :email",
        {"tenant": TENANT, "issuer": issuer, "email": email},
    )
    return None if row is None else user_from_row(row)


async def end_user_sessions(
    transaction: Transaction,
    user_id: str,
    *,
    now: int,
    except_hash: bytes | None = None,
    begun_until: int | None = None,
) -> int:
    """Sign the user out everywhere, or everywhere else when the hash of the session to keep is given.

    `begun_until`: only sessions begun up to then. Locks the person first: a request that runs in one of the sessions
    commits before that, or sees that its session has ended.
    """
    await hold_user(transaction, user_id)
    return await transaction.execute(
        "update sessions set ended_at = :now where tenant = :tenant and user_id = :user_id"
        " and ended_at is null and token_hash <> :except_hash and coalesce(begun_at, created_at) <= :until",
        {
            "tenant": TENANT,
            "user_id": user_id,
            "now": now,
            "except_hash": except_hash or b"",
            "until": LAST if begun_until is None else begun_until,
        },
    )


async def end_user_access(transaction: Transaction, user_id: str, *, reason: str, now: int) -> None:
    """End all sessions, grants (and with them every token) and unused tickets of a user."""
    await end_user_sessions(transaction, user_id, now=now)
    await tickets.expire_user_tickets(transaction, user_id, now=now)
    await grants.revoke_user_grants(transaction, user_id, reason=reason, now=now)


def name_key(name: str) -> str:
    """The form in which names are compared: case, compatibility forms, and surrounding whitespace are removed."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())


def user_from_row(row: Row) -> User:
    """A user from the columns that `get_user` reads."""
    return User(
        id=text(row, "id"),
        name=text(row, "name"),
        created_at=integer(row, "created_at"),
        password_hash=text_or_none(row, "password_hash"),
        role=Role.of_row(text_or_none(row, "role"), is_admin=bool(integer(row, "is_admin"))),
        disabled_at=integer_or_none(row, "disabled_at"),
        stopped_at=integer_or_none(row, "stopped_at"),
        stopped_by=text_or_none(row, "stopped_by") or "",
    )


def _checked_name(name: str) -> str:
    shown = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(shown) <= MAX_NAME or not all(c.isprintable() for c in shown):
        raise NameRefused(f"use 1 to {MAX_NAME} visible characters for a user name")
    return shown
