"""Groups: their members with the source of each, and directories' tokens, as in `token-vault groups` and `scim`."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from starlette.responses import Response

from server.administration import group_accounts, groups, people, provisioning
from server.administration.actor import ChangeRefused
from server.errors import status_of
from server.http.page_texts import text
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.texts import refusal_words
from vault import connections, directory, shared_connections, users
from vault import groups as stored
from vault.groups import MAX_NAME, Group, GroupNameRefused, GroupNameTaken
from vault.records import ConnectionState

PAGE: Final = f"{ROOT}/groups"
SHOWN: Final = 50
GRACE: Final = 86400  # seconds for which a rotated token keeps working


async def show(visit: AdminVisit) -> Response:
    """Groups by name, a page at a time, and directories."""
    return await _list_page(visit)


async def _list_page(visit: AdminVisit, *, name: str = "", error: str = "") -> Response:
    deployment, after = visit.deployment, visit.query("after")[:400]
    found, rest = await stored.list_page(deployment.database, after=after, limit=SHOWN)
    now = deployment.now()
    context: dict[str, object] = {
        "groups": [
            (one, path_of(one), await stored.count_members(deployment.database, one.id, now=now)) for one in found
        ],
        "next": f"{PAGE}?{urlencode({'after': rest})}" if rest else "",
        "is_first": not after,
        "tokens": await directory.list_tokens(deployment.database),
        "url": deployment.url("/scim/v2"),
        "name": name,
        "error": error,
        "longest": MAX_NAME,
        "path": PAGE,
    }
    return await visit.page("groups.html", context, status=status_of("invalid_request") if error else 200)


def path_of(group: Group) -> str:
    """The page of a group."""
    return f"{PAGE}/{quote(group.id, safe='')}"


async def create(visit: AdminVisit) -> Response:
    """Create a group."""
    name = visit.form.one("name")
    try:
        made = await groups.create(visit.actor, name)
    except (GroupNameRefused, GroupNameTaken) as refusal:
        return await _list_page(visit, name=name[:MAX_NAME], error=refusal_words(refusal))
    return await visit.go(path_of(made), said=text("admin_groups.created", name=made.name))


async def show_one(visit: AdminVisit) -> Response:
    """One group: its members, with the source of each."""
    return await _group_page(visit, await _group(visit))


async def _group_page(visit: AdminVisit, group: Group, *, named: str = "", error: str = "") -> Response:
    deployment = visit.deployment
    context: dict[str, object] = {
        "group": group,
        "path": path_of(group),
        "members": await stored.members(deployment.database, group.id, now=deployment.now()),
        "accounts": await shared_connections.of_group(deployment.database, group),
        "own": [
            (one, known.title if (known := deployment.catalog.get(one.provider)) else one.provider)
            for one in await connections.list_connections(deployment.database, visit.user.id)
            if one.state is ConnectionState.ACTIVE
        ],
        "named": named,
        "error": error,
    }
    return await visit.page("group.html", context, status=status_of("invalid_request") if error else 200)


async def add_member(visit: AdminVisit) -> Response:
    """Add a person to the group, by their name."""
    group, named = await _group(visit), visit.form.one("name")
    person = await users.find_user(visit.deployment.database, named)
    if person is None:
        error = text("admin_groups.nobody", named=named[:MAX_NAME])
        return await _group_page(visit, group, named=named[:MAX_NAME], error=error)
    await groups.add_member(visit.actor, group, person)
    return await visit.go(path_of(group), said=text("admin_groups.added", who=person.name, name=group.name))


async def remove_member(visit: AdminVisit) -> Response:
    """Remove a person whom an admin added."""
    group = await _group(visit)
    person = await people.person_with_id(visit.deployment.database, visit.form.one("person")[:100])
    await groups.remove_member(visit.actor, group, person)
    return await visit.go(path_of(group), said=text("admin_groups.removed", who=person.name, name=group.name))


async def give(visit: AdminVisit) -> Response:
    """Give one of your own accounts to the group."""
    group, form = await _group(visit), visit.form
    given = await group_accounts.give(
        visit.actor,
        visit.user,
        form.one("connection")[:64],
        group,
        reads_only=form.one("reads_only") == "yes",
        asks_writes=form.one("asks_writes") == "yes",
    )
    return await visit.go(path_of(group), said=text("admin_groups.given", account=given.label, name=group.name))


async def change_rule(visit: AdminVisit) -> Response:
    """Change what members' agents can do with an account of the group."""
    group, form = await _group(visit), visit.form
    changed = await group_accounts.change_rule(
        visit.actor,
        group,
        form.one("connection")[:64],
        reads_only=form.one("reads_only") == "yes",
        asks_writes=form.one("asks_writes") == "yes",
    )
    said = text("admin_groups.rule_changed", account=changed.connection.label, name=group.name)
    return await visit.go(path_of(group), said=said)


async def disconnect(visit: AdminVisit) -> Response:
    """Disconnect an account of the group for all its members."""
    group = await _group(visit)
    await group_accounts.end(visit.actor, group, visit.form.one("connection")[:64])
    return await visit.go(path_of(group), said=text("admin_groups.account_ended", name=group.name))


async def delete(visit: AdminVisit) -> Response:
    """Delete the group."""
    group = await _group(visit)
    await groups.delete(visit.actor, group)
    return await visit.go(PAGE, said=text("admin_groups.deleted", name=group.name))


async def make_token(visit: AdminVisit) -> Response:
    """Create or rotate a directory's token."""
    name = visit.form.one("name").strip()
    try:
        secret, is_rotation = await provisioning.make_token(visit.actor, name, days=None, grace=GRACE)
    except ChangeRefused as refused:
        return await _list_page(visit, error=refusal_words(refused))
    said = text("admin_groups.token_rotated" if is_rotation else "admin_groups.token_made", name=name)
    return await visit.go(PAGE, said=said, secret=secret, secret_kind="token")


async def end_token(visit: AdminVisit) -> Response:
    """End a directory's token immediately."""
    name = visit.form.one("name")
    await provisioning.end_token(visit.actor, name)
    return await visit.go(PAGE, said=text("admin_groups.token_ended", name=name))


async def _group(visit: AdminVisit) -> Group:
    return await groups.group_with_id(visit.deployment.database, visit.param("group"))
