"""A company directory's changes to people and groups: create, change, disable, and remove those that it manages.

A directory sees provisioned people only. An existing person becomes one only when an administrator decides so
(`take_over`): otherwise a directory that knows a name could make itself that person's identity provider.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from server.administration import people
from server.administration.actor import Actor, ChangeRefused
from server.connecting.deletion import end_at_providers
from vault import directory, groups, shared_connections, users
from vault.audit import audit
from vault.directory import ProvisionedPerson
from vault.groups import PROVISIONED, Group
from vault.records import User
from vault.storage.database import Reader, Transaction


@dataclass(frozen=True, slots=True)
class PersonSpec:
    """The state of a person that the directory wants."""

    user_name: str
    external_id: str | None = None
    is_active: bool | None = True  # None: unchanged
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """The state of a group that the directory wants; `members` are all the people that it adds."""

    name: str
    external_id: str | None
    members: Iterable[str]


# From the current state, which is locked, to the wanted state.
DecidePerson = Callable[[Reader, ProvisionedPerson], Awaitable[PersonSpec]]
DecideGroup = Callable[[Reader, Group], Awaitable[GroupSpec]]
CheckPerson = Callable[[Reader, ProvisionedPerson], Awaitable[None]]
CheckGroup = Callable[[Reader, Group], Awaitable[None]]


# People


async def add_person(actor: Actor, spec: PersonSpec) -> ProvisionedPerson:
    """A new person. Raises NameRefused, NameTaken or UserNameTaken."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        if spec.is_active is False:
            await users.hold_admins(transaction)  # before the name is taken, as in an admin's action
        user = await users.create_user(transaction, spec.user_name, now=now)
        person = _record_of(user, spec, now=now)
        await directory.store_person(transaction, person)
        event = actor.event("user.created", user_id=user.id, method=actor.method, admin=False)
        await audit.append(transaction, event, now=now)
        if spec.is_active is False:
            await people.change_disabled(actor, transaction, user, is_disabled=True)
    return await _person(actor.deployment.database, user.id)


async def take_over(actor: Actor, user: User, *, external_id: str | None) -> ProvisionedPerson:
    """Let the directory manage an existing person under their current name.

    The directory decides who signs in as this person, so only an owner can give it an owner. Raises ChangeRefused and
    UserNameTaken.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        user = await people.check_may_touch(actor, transaction, user)
        if await directory.get_person(transaction, user.id) is not None:
            raise ChangeRefused("person_changed", "The directory already manages this person.", kind="conflict")
        if external_id is not None and await directory.with_external_id(transaction, external_id):
            raise ChangeRefused(
                "person_changed", "The directory knows another person by this ID.", kind="conflict", field="external_id"
            )
        await directory.store_person(transaction, _record_of(user, PersonSpec(user.name, external_id), now=now))
        await audit.append(transaction, actor.event("user.provisioned", user_id=user.id), now=now)
    return await _person(actor.deployment.database, user.id)


async def change_person(actor: Actor, user_id: str, decide: DecidePerson) -> ProvisionedPerson:
    """Change the person as `decide` wants, given their current state, in one transaction.

    Raises NameRefused, NameTaken, UserNameTaken, ChangeRefused, or the exceptions of `decide`.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        user = await people.hold_person(transaction, user_id)
        person = await _person(transaction, user_id)
        spec = await decide(transaction, person)
        if spec.user_name != person.user_name or spec.external_id != person.external_id:  # which they sign in with
            await people.check_may_touch(actor, transaction, user)
        if person.name == person.user_name != spec.user_name:  # a person that was taken over may have a different name
            await users.rename_user(transaction, user.id, spec.user_name)
        changed = replace(
            person,
            user_name=spec.user_name,
            external_id=spec.external_id,
            attributes=spec.attributes,
            changed_at=now,
        )
        await directory.store_person(transaction, changed)
        if spec.is_active is not None:
            await people.change_disabled(actor, transaction, user, is_disabled=not spec.is_active)
    return await _person(actor.deployment.database, user_id)


async def remove_person(actor: Actor, user_id: str, check: CheckPerson) -> None:
    """Delete the person with all that is theirs (RFC 7644 §3.6).

    Raises ChangeRefused for the last admin, and the exceptions of `check`.
    """

    async def check_current(transaction: Transaction) -> None:
        await check(transaction, await _person(transaction, user_id))

    await people.delete(actor, await people.person_with_id(actor.deployment.database, user_id), check=check_current)


def _record_of(user: User, spec: PersonSpec, *, now: int) -> ProvisionedPerson:
    return ProvisionedPerson(
        user.id, spec.user_name, now, now, external_id=spec.external_id, attributes=spec.attributes
    )


async def _person(reader: Reader, user_id: str) -> ProvisionedPerson:
    found = await directory.get_person(reader, user_id)
    if found is None:
        raise ChangeRefused("no_person", "There is no person with this ID.", kind="not_found")
    return found


# Groups


async def add_group(actor: Actor, name: str, *, external_id: str | None, members: Iterable[str]) -> Group:
    """Create a group, or take over an existing one that only sign-ins created and that gives nothing.

    Raises the exceptions of `vault.groups`.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        known = await groups.find_group(transaction, name)
        if known is None:
            made = await groups.create_group(transaction, name, external_id=external_id, is_provisioned=True, now=now)
        elif known.is_provisioned or await _is_ours(actor, transaction, known):
            raise groups.GroupNameTaken("a group with this name already exists")
        else:
            made = replace(known, name=name, external_id=external_id, is_provisioned=True)
            await groups.change_group(
                transaction, made, name=name, external_id=external_id, is_provisioned=True, now=now
            )
        await audit.append(transaction, actor.event("group.created", group=made.name), now=now)
        await _set_members(actor, transaction, made, members)
    return await _group(actor.deployment.database, made.id)


async def change_group(actor: Actor, group_id: str, decide: DecideGroup) -> Group:
    """Change the group as `decide` wants, given its current state, in one transaction.

    Raises ChangeRefused and the exceptions of `vault.groups` and `decide`.
    """
    now = actor.deployment.now()
    async with actor.change() as transaction:
        group = await _held_group(transaction, group_id)
        spec = await decide(transaction, group)
        await groups.change_group(
            transaction, group, name=spec.name, external_id=spec.external_id, is_provisioned=True, now=now
        )
        if spec.name != group.name:
            event = actor.event("group.renamed", group=spec.name, before=group.name)
            await audit.append(transaction, event, now=now)
        await _set_members(actor, transaction, replace(group, name=spec.name), spec.members)
    return await _group(actor.deployment.database, group_id)


async def remove_group(actor: Actor, group_id: str, check: CheckGroup) -> None:
    """Remove the directory's members, and the group itself unless another source added members."""
    now, ended = actor.deployment.now(), tuple[str, ...]()
    async with actor.change() as transaction:
        group = await _held_group(transaction, group_id)
        await check(transaction, group)
        await _set_members(actor, transaction, group, ())
        if await groups.has_other_members(transaction, group.id, source=PROVISIONED):
            await groups.change_group(
                transaction, group, name=group.name, external_id=None, is_provisioned=False, now=now
            )
        else:
            ended = await shared_connections.end_of_group(
                transaction, actor.deployment.keys, group, by=actor.method, now=now
            )
            await groups.delete_group(transaction, group.id)
        await audit.append(transaction, actor.event("group.removed", group=group.name), now=now)
    await end_at_providers(actor.deployment, ended)


async def _is_ours(actor: Actor, transaction: Transaction, group: Group) -> bool:
    """Whether a group that no directory created has members added by an admin, accounts, or a role."""
    await groups.hold_group(transaction, group.id)
    roles = {groups.name_key(name) for name in actor.deployment.settings.admin.group_roles}
    return bool(
        groups.name_key(group.name) in roles
        or await groups.members_by(transaction, group.id, source=groups.LOCAL)
        or await shared_connections.of_group(transaction, group)
    )


async def _set_members(actor: Actor, transaction: Transaction, group: Group, members: Iterable[str]) -> None:
    wanted, now = frozenset(members), actor.deployment.now()
    there = await groups.members_by(transaction, group.id, source=PROVISIONED)
    for user_id in sorted(wanted - there):
        if not await directory.hold_person(transaction, user_id):
            raise ChangeRefused(
                "no_person", f"The directory has no person with the ID {user_id[:100]}.", field="members"
            )
    joined, left = await groups.set_members(transaction, group.id, wanted, source=PROVISIONED, now=now)
    for user_id in sorted(joined | left):
        now_in, now_out = ([group.name], []) if user_id in joined else ([], [group.name])
        event = actor.event("user.groups_changed", user_id=user_id, joined=now_in, left=now_out)
        await audit.append(transaction, event, now=now)


async def _held_group(transaction: Transaction, group_id: str) -> Group:
    await groups.hold_group(transaction, group_id)
    return await _group(transaction, group_id)


async def _group(reader: Reader, group_id: str) -> Group:
    found = await groups.get_group(reader, group_id)
    if found is None or not found.is_provisioned:
        raise ChangeRefused("no_group", "There is no group with this ID.", kind="not_found")
    return found


# Tokens


@asynccontextmanager
async def _change_token(actor: Actor, name: str) -> AsyncGenerator[Transaction]:
    """`Actor.change`, after the requests that the token is making now."""
    async with actor.deployment.database.transaction() as transaction:
        await directory.hold_name(transaction, name)
        await actor.check(transaction)
        yield transaction


async def make_token(actor: Actor, name: str, *, days: int | None, grace: int) -> tuple[str, bool]:
    """A directory's new token, shown once, and whether it replaces one, which stays valid for `grace` seconds."""
    if not (name and len(name) <= 60 and all(letter.isalnum() or letter in "._-" for letter in name)):
        raise ChangeRefused("token_name", "Use up to 60 letters, digits, and . _ - for the token's name.", field="name")
    now = actor.deployment.now()
    async with _change_token(actor, name) as transaction:
        is_rotation = any(one.name == name for one in await directory.list_tokens(transaction))
        expires_at = None if days is None else now + days * 86400
        secret = await directory.make_token(transaction, name, expires_at=expires_at, grace=grace, now=now)
        kind = "directory_token.rotated" if is_rotation else "directory_token.created"
        await audit.append(transaction, actor.event(kind, directory=name), now=now)
    return secret, is_rotation


async def end_token(actor: Actor, name: str) -> None:
    """End a directory's token and its predecessor. Raises ChangeRefused if there is none."""
    now = actor.deployment.now()
    async with _change_token(actor, name) as transaction:
        if not await directory.remove_token(transaction, name):
            raise ChangeRefused("no_token", "There is no directory token with this name.", kind="not_found")
        await audit.append(transaction, actor.event("directory_token.ended", directory=name), now=now)
