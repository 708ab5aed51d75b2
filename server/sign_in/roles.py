"""What a person may do for everyone: their own role, and what the operator's rule gives to their groups.

The one place that decides. Who acts is read again in the transaction of each change (`server.administration.actor`).
"""

from __future__ import annotations

from dataclasses import replace

from server.deployment import Deployment
from vault import groups
from vault.records import Role, User
from vault.storage.database import Reader


async def with_groups(deployment: Deployment, user: User, *, reader: Reader | None = None) -> User:
    """The user with the highest of their roles. A disabled person has none."""
    if user.disabled_at is not None:
        return replace(user, role=Role.MEMBER)
    admin = deployment.settings.admin
    if not admin.group_roles:
        return user
    names = await groups.names_of_person(reader or deployment.database, user.id, now=deployment.now())
    return replace(user, role=admin.highest_role(user.role, names))
