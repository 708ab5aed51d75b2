"""Who acts for whom, by the names that an operator's rules use: one read, at each use to which a rule about names
applies."""

from __future__ import annotations

from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT, Role
from vault.storage.database import Reader, integer, text, text_or_none

_READ: Final = """
    select u.name, u.name_key, u.is_admin, u.role, c.name as client_name, c.kind, g.name_key as group_key
    from users u
    left join clients c on c.tenant = u.tenant and c.id = :client_id
    left join memberships m on m.tenant = u.tenant and m.user_id = u.id
        and (m.expires_at is null or m.expires_at > :now)
    left join people_groups g on g.tenant = m.tenant and g.id = m.group_id
    where u.tenant = :tenant and u.id = :user_id
"""


@immutable
class ActingNames:
    """The person, with their current groups, and the agent; `client_kind` is empty for an unknown agent.

    `user_key` and `groups` are in the form in which the vault compares names.
    """

    user: str
    user_key: str
    role: Role
    groups: frozenset[str]
    client: str
    client_kind: str


async def read_names(reader: Reader, *, user_id: str, client_id: str, now: int) -> ActingNames | None:
    """Their current names; None if the person was deleted."""
    rows = await reader.look_up(_READ, {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "now": now})
    if not rows:
        return None
    first = rows[0]
    return ActingNames(
        text(first, "name"),
        text(first, "name_key"),
        Role.of_row(text_or_none(first, "role"), is_admin=bool(integer(first, "is_admin"))),
        frozenset(key for row in rows if (key := text_or_none(row, "group_key")) is not None),
        text_or_none(first, "client_name") or "",
        text_or_none(first, "kind") or "",
    )
