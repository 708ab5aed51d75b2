"""Groups that admins create, and people that they add to any group. A directory changes its groups itself."""

from __future__ import annotations

from collections.abc import Sequence

from server.administration import people
from server.administration.actor import Actor, ChangeRefused
from server.connecting.deletion import end_at_providers
from vault import groups, shared_connections, users
from vault.approvals.access_requests import MEMBERSHIP
from vault.audit import audit
from vault.groups import LOCAL, Group
from vault.records import User
from vault.storage.database import Reader, Transaction


async def group_with_id(reader: Reader, group_id: str) -> Group:
    """The group. Raises ChangeRefused."""
    found = await groups.get_group(reader, group_id)
    if found is None:
        raise ChangeRefused("no_group", "There is no group with this ID.", kind="not_found")
    return found


async def create(actor: Actor, name: str) -> Group:
    """A new group. Raises GroupNameRefused or GroupNameTaken."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        made = await groups.create_group(transaction, name, now=now)
        await audit.append(transaction, actor.event("group.created", group=made.name), now=now)
    return made


async def rename(actor: Actor, group: Group, name: str) -> Group:
    """Rename the group; rules that use the old name must be changed. Raises GroupNameRefused or GroupNameTaken."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        await _check_own(transaction, group)
        await groups.change_group(transaction, group, name=name, external_id=None, is_provisioned=False, now=now)
        event = actor.event("group.renamed", group=name, before=group.name)
        await audit.append(transaction, event, now=now)
    return await group_with_id(actor.deployment.database, group.id)


async def save(actor: Actor, name: str, members: Sequence[str]) -> None:
    """Create the group if necessary, and make exactly these people its members by the vault. Raises ChangeRefused."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        group = await groups.find_group(transaction, name)
        if group is None:
            group = await groups.create_group(transaction, name, now=now)
            await audit.append(transaction, actor.event("group.created", group=group.name), now=now)
        found = [await _person_called(transaction, one, of=group) for one in members]
        wanted = await people.hold_people(transaction, [one.id for one in found])
        await groups.hold_group(transaction, group.id)  # after the people, as a sign-in does
        joined, left = await groups.set_members(
            transaction, group.id, [one.id for one in wanted], source=LOCAL, now=now
        )
        changed = [(one, [group.name], list[str]()) for one in sorted(joined)]
        changed += [(one, [], [group.name]) for one in sorted(left)]
        lines = [actor.event("user.groups_changed", user_id=one, joined=new, left=old) for one, new, old in changed]
        await audit.append(transaction, *lines, now=now)


async def _person_called(reader: Reader, name: str, *, of: Group) -> User:
    found = await users.find_user(reader, name)
    if found is None:
        raise ChangeRefused("group_refused", f"groups.{of.name}: there is no person {name}", kind="conflict")
    return found


async def delete(actor: Actor, group: Group, *, is_kept_if_filled: bool = False) -> None:
    """Delete a group; its members lose at the next call what they had through it.

    `is_kept_if_filled`: raises ChangeRefused if a directory or a sign-in put someone there.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        await _check_own(transaction, group)
        if is_kept_if_filled and await groups.has_other_members(
            transaction, group.id, source=LOCAL, besides=MEMBERSHIP
        ):
            raise ChangeRefused(
                "group_refused", f"groups: a sign-in added someone to {group.name} in the meantime", kind="conflict"
            )
        for one in await groups.members(transaction, group.id, now=now):
            event = actor.event("user.groups_changed", user_id=one.user_id, joined=[], left=[group.name])
            await audit.append(transaction, event, now=now)
        ended = await shared_connections.end_of_group(
            transaction, actor.deployment.keys, group, by=actor.method, now=now
        )
        if not await groups.delete_group(transaction, group.id):
            raise ChangeRefused("no_group", "There is no group with this ID.", kind="not_found")
        await audit.append(transaction, actor.event("group.removed", group=group.name), now=now)
    await end_at_providers(actor.deployment, ended)


async def add_member(actor: Actor, group: Group, person: User) -> bool:
    """Add the person to the group. False if an admin already did. Raises ChangeRefused if the person is gone."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        await people.hold_person(transaction, person.id)  # before the group, as a sign-in does
        await groups.hold_group(transaction, group.id)
        if person.id in await groups.members_by(transaction, group.id, source=LOCAL):
            return False
        await groups.add_member(transaction, group.id, person.id, source=LOCAL, now=now)
        event = actor.event("user.groups_changed", user_id=person.id, joined=[group.name], left=[])
        await audit.append(transaction, event, now=now)
    return True


async def remove_member(actor: Actor, group: Group, person: User) -> None:
    """Remove the person. Raises ChangeRefused if a directory or a sign-in added them, or if they aren't in the
    group."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        if not await groups.remove_member(transaction, group.id, person.id, source=LOCAL):
            if person.id in await groups.members_by(transaction, group.id, source=MEMBERSHIP):
                said = "An access request added this person to the group: end that request."
                raise ChangeRefused("member_by_request", said, kind="conflict")
            is_there = await groups.is_member(transaction, group.id, person.id, now=now)
            said = "A directory or a sign-in added this person to the group: change it there."
            raise ChangeRefused("not_member", said if is_there else "This person isn't in the group.", kind="conflict")
        event = actor.event("user.groups_changed", user_id=person.id, joined=[], left=[group.name])
        await audit.append(transaction, event, now=now)


async def _check_own(transaction: Transaction, group: Group) -> None:
    """Check that no directory has taken over the group since it was read. Raises ChangeRefused or TransitionRefused."""
    await groups.hold_group(transaction, group.id)
    if (await group_with_id(transaction, group.id)).is_provisioned:
        raise ChangeRefused("group_managed", "A directory manages this group: change it there.", kind="conflict")
