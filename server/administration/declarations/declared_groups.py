"""The groups of a declaration: which to create, and the members that the vault itself adds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from server.administration import groups
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import DeclaredGroup, DeclaredPerson
from server.administration.declarations.planned_changes import PlannedChange, Verb, differences_between
from vault import groups as stored
from vault import users
from vault.approvals.access_requests import MEMBERSHIP
from vault.groups import LOCAL, Group, GroupNameRefused
from vault.storage.database import Reader

_PAGE = 500


async def plan(
    actor: Actor,
    wanted: Mapping[str, DeclaredGroup],
    named: Mapping[str, DeclaredPerson] | None,
    *,
    prunes: bool,
) -> list[PlannedChange]:
    """The changes to make, for people who exist or are in the same file. Raises ChangeRefused."""
    reader, found = actor.deployment.database, list[PlannedChange]()
    _check_names(wanted)
    people = _People(actor, named, removes_others=prunes and named is not None)
    for name, declared in wanted.items():
        group = await stored.find_group(reader, name)
        before = {} if group is None else {"members": await _members(actor, group)}
        members = sorted({await people.name_of(one, group=name) for one in declared.members})
        if differences := differences_between(before, {"members": members}):
            verb: Verb = "create" if group is None else "update"
            found.append(PlannedChange(verb, "group", name, differences, partial(groups.save, actor, name, members)))
    if prunes:
        kept = {stored.name_key(name) for name in wanted}
        found += [
            PlannedChange("remove", "group", one.name, (), partial(groups.delete, actor, one, is_kept_if_filled=True))
            for one in await _own_groups(reader)
            if stored.name_key(one.name) not in kept
        ]
    return found


def _check_names(wanted: Mapping[str, DeclaredGroup]) -> None:
    """Raises ChangeRefused for names that no group can have, and for two names of the same group."""
    known: dict[str, str] = {}
    for name in wanted:
        try:
            key = stored.name_key(stored.checked_name(name))
        except GroupNameRefused as refused:
            raise ChangeRefused("group_refused", f"groups.{name[:80]!r}: {refused}", field="groups") from refused
        if key in known:
            said = f"groups.{name} and groups.{known[key]} name the same group: remove one of them"
            raise ChangeRefused("group_refused", said, field="groups")
        known[key] = name


class _People:
    """The names of members, each looked up once. `removes_others`: people who aren't in the file are removed first."""

    def __init__(self, actor: Actor, named: Mapping[str, DeclaredPerson] | None, *, removes_others: bool) -> None:
        self._reader = actor.deployment.database
        self._coming = {users.name_key(name): name for name in named or ()}
        self._removes_others = removes_others
        self._self = "" if actor.user is None else users.name_key(actor.user.name)
        self._known: dict[str, str] = {}

    async def name_of(self, name: str, *, group: str) -> str:
        """The person's name as it is or will be stored. Raises ChangeRefused."""
        key = users.name_key(name)
        if key not in self._known:
            person = await users.find_user(self._reader, name)
            if person is None and key not in self._coming:
                raise ChangeRefused("group_refused", f"groups.{group}: there is no person {name}", field="groups")
            if self._removes_others and key not in self._coming and key != self._self:
                said = f"groups.{group}: {name} is removed, since people doesn't name them: remove this member, too"
                raise ChangeRefused("group_refused", said, field="groups")
            self._known[key] = self._coming[key] if person is None else person.name
        return self._known[key]


async def _members(actor: Actor, group: Group) -> list[str]:
    """The members that the vault added, not a directory or a sign-in."""
    found = await stored.members(actor.deployment.database, group.id, now=actor.deployment.now())
    return sorted(one.name for one in found if LOCAL in one.sources)


async def _own_groups(reader: Reader) -> list[Group]:
    """The groups without members from a directory or a sign-in."""
    found, after = list[Group](), ""
    while True:
        page, after = await stored.list_page(reader, after=after, limit=_PAGE)
        found += [
            one
            for one in page
            if not one.is_provisioned
            and not await stored.has_other_members(reader, one.id, source=LOCAL, besides=MEMBERSHIP)
        ]
        if not after:
            return found
