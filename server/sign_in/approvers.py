"""Determines who answers access requests: administrators, and for a group's resources also that group's managers.

Also who is notified of problems that only admins can fix.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.deployment import Deployment
from server.sign_in import roles
from vault import groups, users
from vault.approvals import access_requests
from vault.approvals.access_requests import Kind, RequestedAccess
from vault.groups import Group, name_key
from vault.notices.outbox import ASKED, MOST_TOLD
from vault.records import Event, Role, User
from vault.storage.database import Reader


async def may_answer(deployment: Deployment, user: User | None, access: RequestedAccess, *, reader: Reader) -> bool:
    """Whether this person may answer; None is the owner of the data directory.

    A manager can't add people to a group if a company's rule gives the group's people agents.
    """
    if user is None:
        return True
    current = await users.get_user(reader, user.id)
    if current is None or current.disabled_at is not None:
        return False
    if (await roles.with_groups(deployment, current, reader=reader)).role.administers:
        return True
    if access.kind is Kind.COMPANY or current.id not in await access_requests.managers(reader, access.group_id):
        return False
    group = await groups.get_group(reader, access.group_id)
    return group is not None and (access.kind is Kind.ACCOUNT or not _is_in_company_rule(deployment, group))


async def approvers_of(deployment: Deployment, event: Event) -> Sequence[str]:
    """The ids of those who may answer the request of this event, at most as many as get a notification; managers first.

    Of one without a request: those who administer.
    """
    database = deployment.database
    if event.kind != ASKED:
        return [one.id for one in await _administrators(deployment)][:MOST_TOLD]
    request = await access_requests.get(database, str(event.details.get("request", "")))
    if request is None:
        return ()
    access = request.access
    first = await access_requests.managers(database, access.group_id)
    told: list[str] = []
    for user_id in [*sorted(first), *sorted(await _administrator_ids(deployment) - first)]:
        person = await users.get_user(database, user_id)
        if person is not None and await may_answer(deployment, person, access, reader=database):
            told.append(person.id)
        if len(told) == MOST_TOLD:
            break
    return told


async def _administrators(deployment: Deployment) -> Sequence[User]:
    database = deployment.database
    people = [await users.get_user(database, one) for one in sorted(await _administrator_ids(deployment))]
    found = [await roles.with_groups(deployment, one, reader=database) for one in people if one is not None]
    return [one for one in found if one.disabled_at is None and one.role.administers]


async def _administrator_ids(deployment: Deployment) -> set[str]:
    """Those who administer by their own role or a group's, disabled or not."""
    database, now = deployment.database, deployment.now()
    found = {one.id for one in await users.list_admins(database)}
    for name in [name for name, role in deployment.settings.admin.group_roles.items() if Role(role).administers]:
        group = await groups.find_group(database, name)
        found |= set() if group is None else {one.user_id for one in await groups.members(database, group.id, now=now)}
    return found


def gives_role(deployment: Deployment, name: str) -> bool:
    """Whether the operator's rule gives members of the group with this name a role."""
    return name_key(name) in {name_key(one) for one in deployment.settings.admin.group_roles}


def _is_in_company_rule(deployment: Deployment, group: Group) -> bool:
    rules = [rule for one in deployment.settings.enterprise.values() for rule in one.allow.values()]
    return name_key(group.name) in {name_key(name) for rule in rules for name in rule.groups}
