"""What a company's directory stores about people (SCIM 2.0, RFC 7643), and the tokens that it writes with.

A provisioned person is a user with a row here: the directory sees and changes these people only. Only a token's hash is
stored; after a rotation the previous token works until a given time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from vault.classes.immutable import immutable
from vault.groups import name_key
from vault.records import TENANT
from vault.refusals import VaultError
from vault.storage.database import Reader, Row, Transaction, fetch_count, integer, integer_or_none, text, text_or_none

PREFIX: Final = "tvs_"  # lets scanners for leaked secrets recognize a token
MAX_USER_NAME: Final = 200
_LENGTH: Final = len(PREFIX) + 43  # 256 bits in base64url
USED_EVERY: Final = 60  # seconds between two records of a token's use

_PERSON = """
    select p.user_id, p.user_name, p.user_name_key, p.external_id, p.attributes, p.created_at, p.changed_at,
    u.name, u.disabled_at
    from provisioned_people p join users u on u.tenant = p.tenant and u.id = p.user_id
    where p.tenant = :tenant
"""
_TOKEN = "select name, created_at, expires_at, used_at, previous_until from directory_tokens"


class UserNameTaken(VaultError):
    """Another provisioned person has this `userName` (RFC 7643 §4.1.1: unique)."""

    code = "user_name_taken"


@immutable
class ProvisionedPerson:
    """A person as the directory knows them. `attributes` has the other values that it sent, under their SCIM names."""

    user_id: str
    user_name: str
    created_at: int
    changed_at: int
    external_id: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])
    name: str = ""
    is_disabled: bool = False


@immutable
class DirectoryToken:
    """A directory's token without its secret. `previous_until`: the token before its rotation works until then."""

    name: str
    created_at: int
    expires_at: int | None
    used_at: int | None
    previous_until: int | None


# People


async def get_person(reader: Reader, user_id: str) -> ProvisionedPerson | None:
    """The provisioned person with this id, disabled or not."""
    row = await reader.fetch_one(f"{_PERSON} and p.user_id = :user_id", {"tenant": TENANT, "user_id": user_id})
    return None if row is None else _person(row)


async def find_person(reader: Reader, user_name: str) -> ProvisionedPerson | None:
    """The provisioned person with this `userName`, ignoring case."""
    key = {"tenant": TENANT, "key": name_key(user_name[: 2 * MAX_USER_NAME])}
    row = await reader.fetch_one(f"{_PERSON} and p.user_name_key = :key", key)
    return None if row is None else _person(row)


async def with_external_id(reader: Reader, external_id: str) -> tuple[ProvisionedPerson, ...]:
    """The people that the directory knows by this id."""
    rows = await reader.fetch(
        f"{_PERSON} and p.external_id = :external_id", {"tenant": TENANT, "external_id": external_id}
    )
    return tuple(sorted((_person(row) for row in rows), key=lambda one: name_key(one.user_name)))


async def count_people(reader: Reader) -> int:
    """How many people are provisioned."""
    return await fetch_count(
        reader, "select count(*) as n from provisioned_people where tenant = :tenant", {"tenant": TENANT}
    )


async def list_people(reader: Reader, *, offset: int, limit: int) -> tuple[ProvisionedPerson, ...]:
    """Provisioned people by `userName` (RFC 7644 §3.4.2.4: by index)."""
    rows = await reader.fetch(
        f"{_PERSON} order by p.user_name_key limit :limit offset :offset",
        {"tenant": TENANT, "limit": limit, "offset": offset},
    )
    return tuple(_person(row) for row in rows)


async def store_person(transaction: Transaction, person: ProvisionedPerson) -> None:
    """Store the directory's values for this user. Raises UserNameTaken."""
    other = await find_person(transaction, person.user_name)
    if other is not None and other.user_id != person.user_id:
        raise UserNameTaken("another person has this userName")
    await transaction.execute(
        "insert into provisioned_people"
        " (tenant, user_id, user_name, user_name_key, external_id, attributes, created_at, changed_at)"
        " values (:tenant, :user_id, :user_name, :key, :external_id, :attributes, :created_at, :changed_at)"
        " on conflict (tenant, user_id) do update set user_name = excluded.user_name,"
        " user_name_key = excluded.user_name_key, external_id = excluded.external_id,"
        " attributes = excluded.attributes, changed_at = excluded.changed_at",
        {
            "tenant": TENANT,
            "user_id": person.user_id,
            "user_name": person.user_name,
            "key": name_key(person.user_name),
            "external_id": person.external_id,
            "attributes": json.dumps(dict(person.attributes), sort_keys=True, separators=(",", ":")),
            "created_at": person.created_at,
            "changed_at": person.changed_at,
        },
    )


async def hold_person(transaction: Transaction, user_id: str) -> bool:
    """Lock the directory's values for a person until the transaction ends; False if there are none."""
    held = await transaction.execute(
        "update provisioned_people set changed_at = changed_at where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )
    return held == 1


async def forget_person(transaction: Transaction, user_id: str) -> None:
    """Delete the directory's values for a person."""
    await transaction.execute(
        "delete from provisioned_people where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )


def _person(row: Row) -> ProvisionedPerson:
    return ProvisionedPerson(
        user_id=text(row, "user_id"),
        user_name=text(row, "user_name"),
        created_at=integer(row, "created_at"),
        changed_at=integer(row, "changed_at"),
        external_id=text_or_none(row, "external_id"),
        attributes=json.loads(text(row, "attributes")),
        name=text(row, "name"),
        is_disabled=integer_or_none(row, "disabled_at") is not None,
    )


# Tokens


async def list_tokens(reader: Reader) -> tuple[DirectoryToken, ...]:
    """The tokens of directories, by name."""
    rows = await reader.fetch(f"{_TOKEN} where tenant = :tenant order by name", {"tenant": TENANT})
    return tuple(_token(row) for row in rows)


async def make_token(transaction: Transaction, name: str, *, expires_at: int | None, grace: int, now: int) -> str:
    """Create a token with this name; an existing one works for `grace` more seconds. The secret is shown once."""
    secret = PREFIX + secrets.token_urlsafe(32)
    await transaction.execute(
        "insert into directory_tokens (tenant, name, token_hash, created_at, expires_at)"
        " values (:tenant, :name, :token_hash, :now, :expires_at)"
        " on conflict (tenant, name) do update set previous_hash = directory_tokens.token_hash,"
        " previous_until = case when directory_tokens.expires_at < :previous_until then directory_tokens.expires_at"
        " else cast(:previous_until as bigint) end, token_hash = excluded.token_hash, created_at = excluded.created_at,"
        " expires_at = excluded.expires_at, used_at = null",
        {
            "tenant": TENANT,
            "name": name,
            "token_hash": _hash(secret),
            "now": now,
            "expires_at": expires_at,
            "previous_until": now + grace,
        },
    )
    return secret


async def remove_token(transaction: Transaction, name: str) -> bool:
    """End a token, and the one before its rotation. False when there is none with this name."""
    return (
        await transaction.execute(
            "delete from directory_tokens where tenant = :tenant and name = :name", {"tenant": TENANT, "name": name}
        )
        > 0
    )


async def find_token(reader: Reader, secret: str, *, now: int) -> DirectoryToken | None:
    """The token with this secret, if it still works."""
    if len(secret) != _LENGTH or not secret.startswith(PREFIX):  # needs no lookup
        return None
    given = {"tenant": TENANT, "hash": _hash(secret), "now": now}
    row = await reader.fetch_one(
        f"{_TOKEN} where tenant = :tenant and token_hash = :hash and (expires_at is null or expires_at > :now)", given
    ) or await reader.fetch_one(
        f"{_TOKEN} where tenant = :tenant and previous_hash = :hash and previous_until > :now", given
    )
    return None if row is None else _token(row)


async def hold_token(transaction: Transaction, secret: str, *, now: int) -> bool:
    """Keep the token with this secret from ending until the transaction ends; False if it no longer works."""
    held = await transaction.execute(
        "update directory_tokens set name = name where tenant = :tenant"
        " and ((token_hash = :hash and (expires_at is null or expires_at > :now))"
        " or (previous_hash = :hash and previous_until > :now))",
        {"tenant": TENANT, "hash": _hash(secret), "now": now},
    )
    return held > 0


async def hold_name(transaction: Transaction, name: str) -> None:
    """Lock the token with this name, if there is one. Lock it before the admins, as a directory's requests do."""
    await transaction.execute(
        "update directory_tokens set name = name where tenant = :tenant and name = :name",
        {"tenant": TENANT, "name": name},
    )


async def note_use(transaction: Transaction, name: str, *, now: int) -> None:
    """Record when a token was last used, to the minute."""
    await transaction.execute(
        "update directory_tokens set used_at = :now where tenant = :tenant and name = :name"
        " and (used_at is null or used_at < :stale)",
        {"tenant": TENANT, "name": name, "now": now, "stale": now - USED_EVERY},
    )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _token(row: Row) -> DirectoryToken:
    return DirectoryToken(
        name=text(row, "name"),
        created_at=integer(row, "created_at"),
        expires_at=integer_or_none(row, "expires_at"),
        used_at=integer_or_none(row, "used_at"),
        previous_until=integer_or_none(row, "previous_until"),
    )
