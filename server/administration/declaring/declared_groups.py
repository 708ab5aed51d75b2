"""The groups of a declaration: which are to be made, and who is in them by the vault itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from server.administration import groups
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import DeclaredGroup, DeclaredPerson
from server.administration.declaring.planned import PlannedChange, Verb, differences_between
from vault import groups as stored
from vault import users
from vault.groups import LOCAL, Group
from vault.records import User
from vault.storage.database import Reader

_PAGE = 500


async def plan(
    actor: Actor, wanted: Mapping[str, DeclaredGroup], named: Mapping[str, DeclaredPerson], *, prunes: bool
) -> list[PlannedChange]:
    """What is to do, for people who are there or in the same file. Raises ChangeRefused."""
    reader, found = actor.deployment.database, list[PlannedChange]()
    coming = {users.name_key(name): name for name in named}
    for name, declared in wanted.items():
        group = await stored.find_group(reader, name)
        before = {} if group is None else {"members": sorted(one.name for one in await _members(reader, group))}
        members = sorted([await _name_of(reader, one, coming, of=name) for one in declared.members])
        if differences := differences_between(before, {"members": members}):
            verb: Verb = "create" if group is None else "update"
            found.append(PlannedChange(verb, "group", name, differences, _save(actor, name, members)))
    if prunes:
        kept = {stored.name_key(name) for name in wanted}
        found += [
            PlannedChange("remove", "group", one.name, (), _remove(actor, one))
            for one in await _own_groups(reader)
            if stored.name_key(one.name) not in kept
        ]
    return found


async def _name_of(reader: Reader, name: str, coming: Mapping[str, str], *, of: str) -> str:
    """The person's name as it is written, or will be."""
    person = await users.find_user(reader, name)
    if person is not None:
        return person.name
    if users.name_key(name) not in coming:
        raise ChangeRefused("group_refused", f"groups.{of}: there is no person {name}", field="groups")
    return coming[users.name_key(name)]


async def _members(reader: Reader, group: Group) -> list[User]:
    """Who is in it by the vault, not by a directory or a sign-in."""
    ids = await stored.members_by(reader, group.id, source=LOCAL)
    found = [await users.get_user(reader, one) for one in sorted(ids)]
    return [one for one in found if one is not None]


async def _own_groups(reader: Reader) -> list[Group]:
    """Those that neither a directory nor a sign-in filled."""
    found, after = list[Group](), ""
    while True:
        page, after = await stored.list_page(reader, after=after, limit=_PAGE)
        found += [
            one
            for one in page
            if not one.is_provisioned and not await stored.has_other_members(reader, one.id, source=LOCAL)
        ]
        if not after:
            return found


def _save(actor: Actor, name: str, members: list[str]) -> Callable[[], Awaitable[str | None]]:
    async def run() -> str | None:
        reader = actor.deployment.database
        group = await stored.find_group(reader, name) or await groups.create(actor, name)
        wanted = {users.name_key(one) for one in members}
        for one in members:
            person = await users.find_user(reader, one)
            if person is None:
                raise ChangeRefused("group_refused", f"groups.{name}: there is no person {one}", kind="conflict")
            await groups.add_member(actor, group, person)
        for person in await _members(reader, group):
            if users.name_key(person.name) not in wanted:
                await groups.remove_member(actor, group, person)
        return None

    return run


def _remove(actor: Actor, group: Group) -> Callable[[], Awaitable[str | None]]:
    async def run() -> str | None:
        await groups.delete(actor, group)
        return None

    return run
