"""Passkeys: the public keys of the WebAuthn credentials that people sign in with. Nothing here is secret.

`server.sign_in.passkeys` speaks WebAuthn. Writing functions record no event: the caller appends it last.
"""

from __future__ import annotations

from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT, User, new_id
from vault.refusals import VaultError
from vault.storage.database import Reader, Row, Transaction, binary, integer, integer_or_none, text
from vault.users import hold_user, user_from_row

MOST: Final = 20  # passkeys of one person
NAME_LIMIT: Final = 60  # characters
_COLUMNS: Final = (
    "p.id, p.user_id, p.credential_id, p.public_key, p.sign_count, p.is_synced, p.name, p.created_at, p.used_at"
)
_OF_USER: Final = f"""
    select {_COLUMNS} from passkeys p where p.tenant = :tenant and p.user_id = :user_id order by p.created_at, p.id
"""  # noqa: S608 -- names of columns
_FIND: Final = f"""
    select {_COLUMNS}, u.id as owner, u.name as owner_name, u.password_hash, u.is_admin, u.role,
        u.created_at as owner_since, u.disabled_at, u.stopped_at, u.stopped_by
    from passkeys p join users u on u.tenant = p.tenant and u.id = p.user_id
    where p.tenant = :tenant and p.credential_id = :credential_id
"""  # noqa: S608 -- names of columns
_ADD: Final = """
    insert into passkeys
        (tenant, id, user_id, credential_id, public_key, sign_count, is_synced, name, created_at)
    values (:tenant, :id, :user_id, :credential_id, :public_key, :sign_count, :is_synced, :name, :now)
    on conflict (tenant, credential_id) do nothing returning id
"""
# WebAuthn §7.2, step 22: a counter that doesn't grow indicates a copy; zero twice means that there is no counter.
_USE: Final = """
    update passkeys set sign_count = :sign_count, used_at = :now where tenant = :tenant and id = :id
    and (sign_count < :sign_count or (sign_count = 0 and :sign_count = 0))
"""
_WHICH: Final = "tenant = :tenant and user_id = :user_id and id = :id"


class PasskeyTaken(VaultError):
    """This credential is already someone's."""

    code = "passkey_taken"


class TooManyPasskeys(VaultError):
    """The person has `MOST` passkeys."""

    code = "too_many_passkeys"


@immutable
class Passkey:
    """A credential. `is_synced`: the person's devices share it, so it survives the loss of one.

    `sign_count` is the last counter that the authenticator sent, 0 where it has none. `public_key` is a COSE key.
    """

    id: str
    user_id: str
    credential_id: bytes
    public_key: bytes
    sign_count: int
    is_synced: bool
    name: str
    created_at: int
    used_at: int | None = None


async def add(
    transaction: Transaction,
    user_id: str,
    *,
    credential_id: bytes,
    public_key: bytes,
    sign_count: int,
    is_synced: bool,
    name: str,
    now: int,
) -> Passkey:
    """Store a new passkey. Raises PasskeyTaken or TooManyPasskeys."""
    await hold_user(transaction, user_id)
    if len(await list_passkeys(transaction, user_id)) >= MOST:
        raise TooManyPasskeys(f"You have {MOST} passkeys already. Remove one that you no longer use.")
    made = Passkey(new_id(), user_id, credential_id, public_key, sign_count, is_synced, name, now)
    row = await transaction.fetch_one(
        _ADD,
        {
            "tenant": TENANT,
            "id": made.id,
            "user_id": user_id,
            "credential_id": credential_id,
            "public_key": public_key,
            "sign_count": sign_count,
            "is_synced": int(is_synced),
            "name": name,
            "now": now,
        },
    )
    if row is None:
        raise PasskeyTaken("This passkey is already in use here. Sign in with it, or create another one.")
    return made


async def list_passkeys(reader: Reader, user_id: str) -> tuple[Passkey, ...]:
    """A person's passkeys, oldest first."""
    rows = await reader.fetch(_OF_USER, {"tenant": TENANT, "user_id": user_id})
    return tuple(_passkey(row) for row in rows)


async def find_passkey(reader: Reader, credential_id: bytes) -> tuple[Passkey, User] | None:
    """The passkey with this credential ID and its owner, disabled or not."""
    row = await reader.fetch_one(_FIND, {"tenant": TENANT, "credential_id": credential_id})
    if row is None:
        return None
    owner = {**row, "id": row["owner"], "name": row["owner_name"], "created_at": row["owner_since"]}
    return _passkey(row), user_from_row(owner)


async def note_use(transaction: Transaction, passkey: Passkey, *, sign_count: int, now: int) -> bool:
    """Store the counter of a sign-in. False when it didn't grow or the passkey is gone: refuse the sign-in."""
    which = {"tenant": TENANT, "id": passkey.id}
    return await transaction.execute(_USE, {**which, "sign_count": sign_count, "now": now}) > 0


async def rename(transaction: Transaction, user_id: str, passkey_id: str, *, name: str) -> bool:
    """Rename a passkey. False when the person has no such passkey."""
    which = {"tenant": TENANT, "user_id": user_id, "id": passkey_id}
    return await transaction.execute(f"update passkeys set name = :name where {_WHICH}", {**which, "name": name}) > 0  # noqa: S608


async def remove(transaction: Transaction, user_id: str, passkey_id: str) -> bool:
    """Delete a passkey. False when the person has no such passkey."""
    which = {"tenant": TENANT, "user_id": user_id, "id": passkey_id}
    return await transaction.execute(f"delete from passkeys where {_WHICH}", which) > 0  # noqa: S608


def _passkey(row: Row) -> Passkey:
    return Passkey(
        id=text(row, "id"),
        user_id=text(row, "user_id"),
        credential_id=binary(row, "credential_id"),
        public_key=binary(row, "public_key"),
        sign_count=integer(row, "sign_count"),
        is_synced=integer(row, "is_synced") == 1,
        name=text(row, "name"),
        created_at=integer(row, "created_at"),
        used_at=integer_or_none(row, "used_at"),
    )
