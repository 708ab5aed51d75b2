"""Groups of people: who is a member of which group, by which source, and until when.

A group is identified by its name, ignoring case. A person can be a member by several sources: the vault itself
(`local`), a company's directory (`scim`), and the claims of an OpenID Connect provider (`openid:NAME`), which count for
some days after the sign-in that delivered them. Each source changes its own memberships only. Writing functions record
no event.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT, new_id
from vault.refusals import TransitionRefused, VaultError
from vault.storage.database import Reader, Row, Transaction, fetch_count, integer, integer_or_none, text, text_or_none

MAX_NAME: Final = 200
LOCAL: Final = "local"
PROVISIONED: Final = "scim"
MOST_OF_PERSON: Final = 500  # groups of one person from one sign-in

_GROUP = """
    select id, name, name_key, external_id, is_provisioned, created_at, changed_at from people_groups
    where tenant = :tenant
"""
_OF_PERSON: Final = """
    select g.id, g.name, g.name_key, g.external_id, g.is_provisioned, g.created_at, g.changed_at, m.source, m.expires_at
    from memberships m join people_groups g on g.tenant = m.tenant and g.id = m.group_id
    where m.tenant = :tenant and m.user_id = :user_id and (m.expires_at is null or m.expires_at > :now)
    order by g.name_key, m.source
"""
_MEMBERS: Final = """
    select u.id, u.name, u.name_key, u.disabled_at, m.source, m.expires_at
    from memberships m join users u on u.tenant = m.tenant and u.id = m.user_id
    where m.tenant = :tenant and m.group_id = :group_id and (m.expires_at is null or m.expires_at > :now)
    order by u.name_key, m.source
"""
_ADD: Final = """
    insert into memberships (tenant, group_id, user_id, source, created_at, expires_at)
    values (:tenant, :group_id, :user_id, :source, :now, :expires_at)
    on conflict (tenant, group_id, user_id, source) do update set expires_at = excluded.expires_at
"""
_RENEW: Final = """
    update memberships set expires_at = :expires_at
    where tenant = :tenant and group_id = :group_id and user_id = :user_id and source = :source
"""
_REMOVE: Final = """
    delete from memberships
    where tenant = :tenant and group_id = :group_id and user_id = :user_id and source = :source
"""

_GONE: Final = "This group no longer exists."


class GroupNameRefused(VaultError):
    """The name of a group is empty, too long, or contains invisible characters."""

    code = "group_name_refused"


class GroupNameTaken(VaultError):
    """Another group has this name."""

    code = "group_name_taken"


@immutable
class Group:
    """A group of people. `is_provisioned`: a company's directory created it and changes it."""

    id: str
    name: str
    created_at: int
    changed_at: int
    external_id: str | None
    is_provisioned: bool


@immutable
class Member:
    """A person's membership in a group, by these sources. `expires_at`: when the last of them stops counting."""

    user_id: str
    name: str
    is_disabled: bool
    sources: tuple[str, ...]
    expires_at: int | None = None


@immutable
class Membership:
    """A group that a person is in, by these sources."""

    group: Group
    sources: tuple[str, ...]
    expires_at: int | None = None


# A person's groups


async def of_person(reader: Reader, user_id: str, *, now: int) -> tuple[Membership, ...]:
    """The groups that this person is in now, by name."""
    rows = await reader.fetch(_OF_PERSON, {"tenant": TENANT, "user_id": user_id, "now": now})
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(text(row, "id"), []).append(row)
    return tuple(Membership(_group(some[0]), *_sources_and_end(some)) for some in by_group.values())


async def names_of_person(reader: Reader, user_id: str, *, now: int) -> frozenset[str]:
    """The names of the groups that this person is in now, in the form in which names are compared (`name_key`)."""
    rows = await reader.fetch(_OF_PERSON, {"tenant": TENANT, "user_id": user_id, "now": now})
    return frozenset(text(row, "name_key") for row in rows)


async def is_member(reader: Reader, group_id: str, user_id: str, *, now: int) -> bool:
    """Whether this person is in the group now, by any source."""
    row = await reader.fetch_one(
        "select source from memberships where tenant = :tenant and group_id = :group_id and user_id = :user_id"
        " and (expires_at is null or expires_at > :now) limit 1",
        {"tenant": TENANT, "group_id": group_id, "user_id": user_id, "now": now},
    )
    return row is not None


def name_key(name: str) -> str:
    """The form in which names are compared: case, compatibility forms, and surrounding whitespace are removed."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())


def checked_name(name: str) -> str:
    """The stored form of the name. Raises GroupNameRefused."""
    if not _is_name(name):
        raise GroupNameRefused(f"use 1 to {MAX_NAME} visible characters for the name of a group")
    return unicodedata.normalize("NFC", name).strip()


# Groups


async def get_group(reader: Reader, group_id: str) -> Group | None:
    """The group with this id."""
    row = await reader.fetch_one(f"{_GROUP} and id = :id", {"tenant": TENANT, "id": group_id})
    return None if row is None else _group(row)


async def find_group(reader: Reader, name: str) -> Group | None:
    """The group with this name, ignoring case."""
    row = await reader.fetch_one(
        f"{_GROUP} and name_key = :name_key", {"tenant": TENANT, "name_key": name_key(name[: 2 * MAX_NAME])}
    )
    return None if row is None else _group(row)


async def find_provisioned(reader: Reader, external_id: str) -> tuple[Group, ...]:
    """The groups that have this ID in a company's directory."""
    rows = await reader.fetch(
        f"{_GROUP} and external_id = :external_id", {"tenant": TENANT, "external_id": external_id}
    )
    return tuple(sorted((_group(row) for row in rows if integer(row, "is_provisioned")), key=lambda one: one.name))


async def count_provisioned(reader: Reader) -> int:
    """How many groups a company's directory created."""
    return await fetch_count(
        reader,
        "select count(*) as n from people_groups where tenant = :tenant and is_provisioned = 1",
        {"tenant": TENANT},
    )


async def list_provisioned(reader: Reader, *, offset: int, limit: int) -> tuple[Group, ...]:
    """Groups of a company's directory by name (RFC 7644 §3.4.2.4: by index)."""
    rows = await reader.fetch(
        f"{_GROUP} and is_provisioned = 1 order by name_key limit :limit offset :offset",
        {"tenant": TENANT, "limit": limit, "offset": offset},
    )
    return tuple(_group(row) for row in rows)


async def list_page(reader: Reader, *, after: str = "", limit: int) -> tuple[tuple[Group, ...], str]:
    """Groups by name, and the `after` of the next page, empty at the end."""
    rows = await reader.fetch(
        f"{_GROUP} and name_key > :after order by name_key limit :limit",
        {"tenant": TENANT, "after": after, "limit": limit + 1},
    )
    rest = text(rows[limit - 1], "name_key") if len(rows) > limit else ""
    return tuple(_group(row) for row in rows[:limit]), rest


async def members(reader: Reader, group_id: str, *, now: int) -> tuple[Member, ...]:
    """Who is in the group now, by name."""
    rows = await reader.fetch(_MEMBERS, {"tenant": TENANT, "group_id": group_id, "now": now})
    by_person: dict[str, list[Row]] = {}
    for row in rows:
        by_person.setdefault(text(row, "id"), []).append(row)
    return tuple(
        Member(
            text(some[0], "id"),
            text(some[0], "name"),
            integer_or_none(some[0], "disabled_at") is not None,
            *_sources_and_end(some),
        )
        for some in by_person.values()
    )


async def members_by(reader: Reader, group_id: str, *, source: str) -> frozenset[str]:
    """The ids of those who are members by this source."""
    rows = await reader.fetch(
        "select user_id from memberships where tenant = :tenant and group_id = :group_id and source = :source",
        {"tenant": TENANT, "group_id": group_id, "source": source},
    )
    return frozenset(text(row, "user_id") for row in rows)


async def has_other_members(reader: Reader, group_id: str, *, source: str, besides: str = "") -> bool:
    """Whether someone is a member by a source other than this one and `besides`."""
    row = await reader.fetch_one(
        "select user_id from memberships where tenant = :tenant and group_id = :group_id and source <> :source"
        " and source <> :besides limit 1",
        {"tenant": TENANT, "group_id": group_id, "source": source, "besides": besides},
    )
    return row is not None


async def count_members(reader: Reader, group_id: str, *, now: int) -> int:
    """How many people are in the group now."""
    return await fetch_count(
        reader,
        "select count(distinct user_id) as n from memberships where tenant = :tenant and group_id = :group_id"
        " and (expires_at is null or expires_at > :now)",
        {"tenant": TENANT, "group_id": group_id, "now": now},
    )


async def create_group(
    transaction: Transaction, name: str, *, external_id: str | None = None, is_provisioned: bool = False, now: int
) -> Group:
    """A new group without members. Raises GroupNameRefused or GroupNameTaken."""
    group = Group(new_id(), checked_name(name), now, now, external_id=external_id, is_provisioned=is_provisioned)
    row = await transaction.fetch_one(
        "insert into people_groups (tenant, id, name, name_key, external_id, is_provisioned, created_at, changed_at)"
        " values (:tenant, :id, :name, :name_key, :external_id, :is_provisioned, :now, :now)"
        " on conflict (tenant, name_key) do nothing returning id",
        {
            "tenant": TENANT,
            "id": group.id,
            "name": group.name,
            "name_key": name_key(group.name),
            "external_id": external_id,
            "is_provisioned": int(is_provisioned),
            "now": now,
        },
    )
    if row is None:
        raise GroupNameTaken("a group with this name already exists")
    return group


async def hold_group(transaction: Transaction, group_id: str) -> None:
    """Lock the group until the transaction ends. Raises TransitionRefused."""
    is_there = await transaction.execute(
        "update people_groups set changed_at = changed_at where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": group_id},
    )
    if not is_there:
        raise TransitionRefused(_GONE)


async def change_group(
    transaction: Transaction, group: Group, *, name: str, external_id: str | None, is_provisioned: bool, now: int
) -> None:
    """Store a new name or a new directory ID.

    Raises GroupNameRefused, GroupNameTaken, and TransitionRefused for a group that was deleted.
    """
    shown = checked_name(name)
    other = await find_group(transaction, shown)
    if other is not None and other.id != group.id:
        raise GroupNameTaken("a group with this name already exists")
    is_there = await transaction.execute(
        "update people_groups set name = :name, name_key = :name_key, external_id = :external_id,"
        " is_provisioned = :is_provisioned, changed_at = :now where tenant = :tenant and id = :id",
        {
            "tenant": TENANT,
            "id": group.id,
            "name": shown,
            "name_key": name_key(shown),
            "external_id": external_id,
            "is_provisioned": int(is_provisioned),
            "now": now,
        },
    )
    if not is_there:
        raise TransitionRefused(_GONE)


async def delete_group(transaction: Transaction, group_id: str) -> bool:
    """Delete the group and its memberships."""
    key = {"tenant": TENANT, "id": group_id}
    await transaction.execute("delete from memberships where tenant = :tenant and group_id = :id", key)
    await transaction.execute("delete from group_managers where tenant = :tenant and group_id = :id", key)
    return await transaction.execute("delete from people_groups where tenant = :tenant and id = :id", key) > 0


# Members


async def add_member(
    transaction: Transaction, group_id: str, user_id: str, *, source: str, now: int, expires_at: int | None = None
) -> None:
    """Add a person to the group by this source; a person who is already a member stays, until the new end."""
    place = {"tenant": TENANT, "group_id": group_id, "user_id": user_id, "source": source}
    await transaction.execute(_ADD, place | {"now": now, "expires_at": expires_at})


async def remove_member(transaction: Transaction, group_id: str, user_id: str, *, source: str) -> bool:
    """Remove a person's membership by this source; another source may keep them in the group."""
    place = {"tenant": TENANT, "group_id": group_id, "user_id": user_id, "source": source}
    return await transaction.execute(_REMOVE, place) > 0


async def set_members(
    transaction: Transaction, group_id: str, user_ids: Iterable[str], *, source: str, now: int
) -> tuple[frozenset[str], frozenset[str]]:
    """Make exactly these people members by this source; returns who was added and who was removed."""
    wanted = frozenset(user_ids)
    there = await members_by(transaction, group_id, source=source)
    for user_id in sorted(wanted - there):
        await add_member(transaction, group_id, user_id, source=source, now=now)
    for user_id in sorted(there - wanted):
        await remove_member(transaction, group_id, user_id, source=source)
    return wanted - there, there - wanted


async def set_groups(
    transaction: Transaction, user_id: str, names: Iterable[str], *, source: str, now: int, expires_at: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make exactly these groups the person's by this source, creating missing ones; returns the names of groups joined
    and left.

    Skips names that no group can have.
    """
    wanted: dict[str, str] = {}
    for name in names:
        if _is_name(name) and len(wanted) < MOST_OF_PERSON:
            wanted.setdefault(name_key(name), name.strip())
    rows = await transaction.fetch(
        "select g.id, g.name, g.name_key, m.expires_at from memberships m join people_groups g on g.tenant = m.tenant"
        " and g.id = m.group_id where m.tenant = :tenant and m.user_id = :user_id and m.source = :source",
        {"tenant": TENANT, "user_id": user_id, "source": source},
    )
    there = {text(row, "name_key"): row for row in rows}
    joined, left = list[str](), list[str]()
    # Concurrent sign-ins go through their groups in the same order: whoever deletes a group waits for its members.
    for key in sorted(wanted.keys() | there.keys()):
        known = there.get(key)
        if known is not None and key not in wanted:
            await remove_member(transaction, text(known, "id"), user_id, source=source)
            left.append(text(known, "name"))
            continue
        end = None if known is None else integer_or_none(known, "expires_at")
        if known is not None and (end is None or end > now):
            renewed = {"group_id": text(known, "id"), "user_id": user_id, "source": source, "expires_at": expires_at}
            if await transaction.execute(_RENEW, {"tenant": TENANT, **renewed}):
                continue
            known = None  # someone deleted the group in the meantime
        group = await _held_group(transaction, wanted[key], now=now)
        await add_member(transaction, group, user_id, source=source, now=now, expires_at=expires_at)
        if known is None:
            joined.append(wanted[key])
    return tuple(joined), tuple(left)


async def forget_person(transaction: Transaction, user_id: str) -> None:
    """Remove a deleted person from all groups."""
    await transaction.execute(
        "delete from memberships where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )


async def _held_group(transaction: Transaction, name: str, *, now: int) -> str:
    """The group's id, locked so that no one deletes it as empty; creates the group if there is none.

    Begins again if someone else deleted or created it in the meantime.
    """
    for _ in range(3):
        with suppress(TransitionRefused, GroupNameTaken):
            group = await find_group(transaction, name) or await create_group(transaction, name, now=now)
            await hold_group(transaction, group.id)
            return group.id
    raise TransitionRefused(_GONE)


def _sources_and_end(rows: Sequence[Row]) -> tuple[tuple[str, ...], int | None]:
    """The sources of a membership, and when the last of them stops counting."""
    ends = [integer_or_none(row, "expires_at") for row in rows]
    lasting = [end for end in ends if end is not None]
    return tuple(text(row, "source") for row in rows), max(lasting) if len(lasting) == len(ends) else None


def _is_name(name: str) -> bool:
    shown = unicodedata.normalize("NFC", name).strip()
    return 1 <= len(shown) <= MAX_NAME and all(c.isprintable() for c in shown)


def _group(row: Row) -> Group:
    return Group(
        id=text(row, "id"),
        name=text(row, "name"),
        created_at=integer(row, "created_at"),
        changed_at=integer(row, "changed_at"),
        external_id=text_or_none(row, "external_id"),
        is_provisioned=bool(integer(row, "is_provisioned")),
    )
