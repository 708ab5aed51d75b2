"""People: find, add with a one-time link, disable, make or remove administrators, and delete; as `token-vault users`.

An administrator sees how many accounts and agents a person has, not which.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from starlette.responses import Response

from server.connecting.deletion import end_at_providers, remove_person
from server.errors import status_of
from server.http.page_texts import text
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from server.sign_in.password import make_sign_in_link
from vault import clients, connections, users
from vault.audit import audit
from vault.records import User
from vault.storage.database import Transaction
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


async def _person(visit: AdminVisit) -> User:
    found = await users.get_user(visit.deployment.database, visit.param("user"))
    if found is None:
        raise PageRefused("no_person", kind="not_found")
    return found


async def show_one(visit: AdminVisit) -> Response:
    """One person: what they may do here, and how much they have."""
    person, deployment = await _person(visit), visit.deployment
    own = await clients.list_own(deployment.database, person.id, now=deployment.now())
    context: dict[str, object] = {
        "person": person,
        "path": path_of(person),
        "is_self": person.id == visit.user.id,
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
    deployment, now, name = visit.deployment, visit.deployment.now(), visit.form.one("name")
    is_admin = visit.form.one("admin") == "yes"
    try:
        async with visit.change() as transaction:
            person = await users.create_user(transaction, name, is_admin=is_admin, now=now)
            link = await make_sign_in_link(deployment, transaction, person.id)
            event = visit.event("user.created", user_id=person.id, method="administration", admin=is_admin)
            await audit.append(transaction, event, now=now)
    except (NameRefused, NameTaken) as refusal:
        return await _new_page(visit, name=name[: users.MAX_NAME], error=refusal.description)
    return await visit.go(path_of(person), said=text("admin_people.added", who=person.name), secret=link)


async def make_link(visit: AdminVisit) -> Response:
    """A one-time link with which the person signs in anew."""
    person, now = await _person(visit), visit.deployment.now()
    if person.disabled_at is not None:
        raise PageRefused("person_changed", kind="conflict")
    async with visit.change() as transaction:
        link = await make_sign_in_link(visit.deployment, transaction, person.id)
        await audit.append(transaction, visit.event("user.link_made", user_id=person.id), now=now)
    return await visit.go(path_of(person), said=text("admin_people.link_made", who=person.name), secret=link)


async def disable(visit: AdminVisit) -> Response:
    """End all sessions and agents of the person, and let them in no more."""
    person, now = await _other(visit), visit.deployment.now()
    async with visit.change() as transaction:
        await _keep_an_admin(transaction, person)
        _check_changed(await users.disable_user(transaction, person.id, now=now))
        await audit.append(transaction, visit.event("user.disabled", user_id=person.id), now=now)
    return await visit.go(path_of(person), said=text("admin_people.disabled", who=person.name))


async def enable(visit: AdminVisit) -> Response:
    """Let the person in again."""
    person, now = await _person(visit), visit.deployment.now()
    async with visit.change() as transaction:
        _check_changed(await users.enable_user(transaction, person.id))
        await audit.append(transaction, visit.event("user.enabled", user_id=person.id), now=now)
    return await visit.go(path_of(person), said=text("admin_people.enabled", who=person.name))


async def make_admin(visit: AdminVisit) -> Response:
    """Let the person administer this vault."""
    person, now = await _person(visit), visit.deployment.now()
    async with visit.change() as transaction:
        _check_changed(await users.set_admin(transaction, person.id, is_admin=True))
        await audit.append(transaction, visit.event("user.admin_added", user_id=person.id), now=now)
    undo = f"{path_of(person)}/not-admin"
    return await visit.go(path_of(person), said=text("admin_people.made_admin", who=person.name), undo=undo)


async def end_admin(visit: AdminVisit) -> Response:
    """Let the person administer no more; somebody must be left who can."""
    person, now = await _person(visit), visit.deployment.now()
    async with visit.change() as transaction:
        await _keep_an_admin(transaction, person)
        _check_changed(await users.set_admin(transaction, person.id, is_admin=False))
        await audit.append(transaction, visit.event("user.admin_removed", user_id=person.id), now=now)
    if person.id == visit.user.id:
        return await visit.go("/")
    undo = f"{path_of(person)}/admin"
    return await visit.go(path_of(person), said=text("admin_people.ended_admin", who=person.name), undo=undo)


async def confirm(visit: AdminVisit) -> Response:
    """Ask before deleting a person."""
    return await _confirm_page(visit, await _other(visit), error="")


async def _confirm_page(visit: AdminVisit, person: User, *, error: str) -> Response:
    context: dict[str, object] = {"person": person, "path": path_of(person), "error": error}
    return await visit.page("delete_person.html", context, status=status_of("invalid_request") if error else 200)


async def delete(visit: AdminVisit) -> Response:
    """Delete the person: their grants end now, at the providers as soon as these answer, and then their keys."""
    person = await _other(visit)
    if users.name_key(visit.form.one("name")) != users.name_key(person.name):
        return await _confirm_page(visit, person, error=text("admin_people.type_name", who=person.name))
    async with visit.change() as transaction:
        await _keep_an_admin(transaction, person)
        _check_changed(await users.get_user(transaction, person.id) is not None)
        event = visit.event("user.removed", user_id=person.id, name=person.name)
        owned = await remove_person(transaction, visit.deployment, person, event=event)
    await end_at_providers(visit.deployment, owned)
    return await visit.go(PAGE, said=text("admin_people.deleted", who=person.name))


async def _other(visit: AdminVisit) -> User:
    """The person in the address. Raises PageRefused for the administrator's own account."""
    person = await _person(visit)
    if person.id == visit.user.id:
        raise PageRefused("not_yourself", kind="conflict")
    return person


async def _keep_an_admin(transaction: Transaction, person: User) -> None:
    if person.is_admin and await users.is_last_admin(transaction, person.id):
        raise PageRefused("last_admin", kind="conflict")


def _check_changed(has_changed: bool) -> None:
    if not has_changed:  # somebody else did it, after the page was opened
        raise PageRefused("person_changed", kind="conflict")
