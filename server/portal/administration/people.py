"""People: find, add with a one-time link, disable, make or remove administrators, delete; as in `token-vault users`.

An administrator sees how many accounts and agents a person has, not which.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from starlette.responses import Response

from server.administration import people
from server.errors import status_of
from server.http.page_texts import text
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from server.portal.texts import refusal_words
from server.sign_in import roles
from vault import clients, connections, users
from vault.records import Role, User
from vault.users import NameRefused, NameTaken

PAGE: Final = f"{ROOT}/people"
SHOWN: Final = 50


async def show(visit: AdminVisit) -> Response:
    """People by name, a page at a time."""
    wanted, after = visit.query("find").strip()[:200], visit.query("after")[:400]
    database = visit.deployment.database
    found, rest = await users.find_page(database, beginning=wanted, after=after, limit=SHOWN)
    context: dict[str, object] = {
        "people": [(one, path_of(one)) for one in found],
        "find": wanted,
        "next": f"{PAGE}?{urlencode({'find': wanted, 'after': rest})}" if rest else "",
        "is_first": not after,
        "deletions": await users.list_deletions(database) if not (wanted or after) else (),
    }
    return await visit.page("people.html", context)


def path_of(user: User) -> str:
    """The page of a person."""
    return f"{PAGE}/{quote(user.id, safe='')}"


async def person_of(visit: AdminVisit) -> User:
    """The person in the address."""
    return await people.person_with_id(visit.deployment.database, visit.param("user"))


async def show_one(visit: AdminVisit) -> Response:
    """One person: their role, and how many accounts and agents they have."""
    person, deployment = await person_of(visit), visit.deployment
    own = await clients.list_own(deployment.database, person.id, now=deployment.now())
    context: dict[str, object] = {
        "person": person,
        "path": path_of(person),
        "is_self": person.id == visit.user.id,
        "roles": [one.value for one in reversed(Role) if one is not person.role],  # the most powerful last
        "effective": (await roles.with_groups(deployment, person)).role.value,
        "accounts": len(await connections.list_connections(deployment.database, person.id)),
        "agents": len(own),
    }
    return await visit.page("person.html", context)


async def show_new(visit: AdminVisit) -> Response:
    """The form for a new person."""
    return await _new_page(visit, name="", error="")


async def _new_page(visit: AdminVisit, *, name: str, error: str) -> Response:
    context: dict[str, object] = {"name": name, "error": error, "longest": users.MAX_NAME}
    return await visit.page("new_person.html", context, status=status_of("invalid_request") if error else 200)


async def add(visit: AdminVisit) -> Response:
    """Add a person, who signs in with a one-time link."""
    name, is_admin = visit.form.one("name"), visit.form.one("admin") == "yes"
    try:
        added = await people.add_person(visit.actor, name, is_admin=is_admin)
    except (NameRefused, NameTaken) as refusal:
        return await _new_page(visit, name=name[: users.MAX_NAME], error=refusal_words(refusal))
    said = text("admin_people.added", who=added.user.name)
    return await visit.go(path_of(added.user), said=said, secret=added.link or "")


async def make_link(visit: AdminVisit) -> Response:
    """Make a one-time sign-in link for the person."""
    person = await person_of(visit)
    link = await people.make_link(visit.actor, person)
    return await visit.go(path_of(person), said=text("admin_people.link_made", who=person.name), secret=link)


async def disable(visit: AdminVisit) -> Response:
    """End all sessions and agents of the person, and block their sign-in."""
    person = await _other(visit)
    _check_changed(await people.set_disabled(visit.actor, person, is_disabled=True))
    return await visit.go(path_of(person), said=text("admin_people.disabled", who=person.name))


async def enable(visit: AdminVisit) -> Response:
    """Let the person sign in again, or let their stopped agents continue."""
    person = await person_of(visit)
    _check_changed(await people.set_disabled(visit.actor, person, is_disabled=False))
    is_resumed = person.disabled_at is None
    said = text("admin_people.resumed" if is_resumed else "admin_people.enabled", who=person.name)
    return await visit.go(path_of(person), said=said)


async def make_admin(visit: AdminVisit) -> Response:
    """Make the person an admin."""
    person = await person_of(visit)
    _check_changed(await people.set_admin(visit.actor, person, is_admin=True))
    undo = f"{path_of(person)}/not-admin"
    return await visit.go(path_of(person), said=text("admin_people.made_admin", who=person.name), undo=undo)


async def end_admin(visit: AdminVisit) -> Response:
    """Take the admin role away, except from the last admin."""
    person = await person_of(visit)
    _check_changed(await people.set_admin(visit.actor, person, is_admin=False))
    if person.id == visit.user.id:
        return await visit.go("/")
    undo = f"{path_of(person)}/admin"
    return await visit.go(path_of(person), said=text("admin_people.ended_admin", who=person.name), undo=undo)


async def change_role(visit: AdminVisit) -> Response:
    """Give the person another role."""
    person, wanted = await person_of(visit), visit.form.one("role")
    if wanted not in set(Role):
        raise PageRefused("person_changed", kind="invalid_request")
    _check_changed(await people.set_role(visit.actor, person, Role(wanted)))
    return await visit.go(path_of(person), said=text("admin_people.role_changed", who=person.name))


async def confirm(visit: AdminVisit) -> Response:
    """Ask before deleting a person."""
    return await _confirm_page(visit, await _other(visit), error="")


async def _confirm_page(visit: AdminVisit, person: User, *, error: str) -> Response:
    context: dict[str, object] = {"person": person, "path": path_of(person), "error": error}
    return await visit.page("delete_person.html", context, status=status_of("invalid_request") if error else 200)


async def delete(visit: AdminVisit) -> Response:
    """Delete the person: their grants end here now, at each provider once it answers; then their keys are destroyed."""
    person = await _other(visit)
    if users.name_key(visit.form.one("name")) != users.name_key(person.name):
        return await _confirm_page(visit, person, error=text("admin_people.type_name", who=person.name))
    await people.delete(visit.actor, person)
    return await visit.go(PAGE, said=text("admin_people.deleted", who=person.name))


async def _other(visit: AdminVisit) -> User:
    """The person in the address. Raises PageRefused for the administrator's own account."""
    person = await person_of(visit)
    if person.id == visit.user.id:
        raise PageRefused("not_yourself", kind="conflict")
    return person


def _check_changed(has_changed: bool) -> None:
    if not has_changed:  # someone else did it after the page was opened
        raise PageRefused("person_changed", kind="conflict")
