"""`/Groups`: the directory's groups. Members from another source are not shown, and stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from scim2_models import Context, InvalidValueException, NotFoundException, PatchOp
from starlette.responses import Response

from providers.outbound.json_values import is_array, is_object
from server.administration import provisioning
from server.administration.provisioning import GroupSpec
from server.scim.queries import ResourceList
from server.scim.resources import POLICY, ScimGroup, group_of
from server.scim.wire import ScimCall, ScimRefused, empty_answer, parse, read_patch, resource_answer
from vault import groups
from vault.storage.database import Reader

_MOST_WORK: Final = 200_000  # operations of a PATCH times members


async def show(call: ScimCall) -> Response:
    """One group."""
    return resource_answer(call, await _resource(call, await _group(call)), Context.RESOURCE_QUERY_RESPONSE)


async def add(call: ScimCall) -> Response:
    """A new group (RFC 7644 §3.3)."""
    sent = parse(ScimGroup, await call.body(), Context.RESOURCE_CREATION_REQUEST)
    made = await provisioning.add_group(
        call.actor, _name(sent), external_id=sent.external_id or None, members=_members(sent)
    )
    return resource_answer(call, await _resource(call, made), Context.RESOURCE_CREATION_RESPONSE, status=201)


async def replace(call: ScimCall) -> Response:
    """Another state of a group (RFC 7644 §3.5.1)."""
    group = await _group(call)
    sent = parse(ScimGroup, await call.body(), Context.RESOURCE_REPLACEMENT_REQUEST)

    def change(found: ScimGroup) -> ScimGroup:
        sent.replace(found)
        return sent

    return await _change(call, group, change, Context.RESOURCE_REPLACEMENT_RESPONSE)


async def patch(call: ScimCall) -> Response:
    """Change a group's name or some of its members (RFC 7644 §3.5.2)."""
    group = await _group(call)
    wanted = await read_patch(call, ScimGroup)

    def change(found: ScimGroup) -> ScimGroup:
        _check_work(wanted, found)
        wanted.patch(found, scim_policy=POLICY)
        return found

    return await _change(call, group, change, Context.RESOURCE_PATCH_RESPONSE)


async def remove(call: ScimCall) -> Response:
    """Delete a group; people whom another source put into it stay there."""

    async def check(reader: Reader, current: groups.Group) -> None:
        call.check_version(await _resource(call, current, reader))

    await provisioning.remove_group(call.actor, (await _group(call)).id, check)
    return empty_answer()


async def _change(
    call: ScimCall, group: groups.Group, change: Callable[[ScimGroup], ScimGroup], context: Context
) -> Response:
    """Change the group in its current state within the transaction, since another request may also change its
    members."""

    async def decide(reader: Reader, current: groups.Group) -> GroupSpec:
        found = await _resource(call, current, reader)
        call.check_version(found)
        wanted = change(found)
        return GroupSpec(_name(wanted), wanted.external_id or None, _members(wanted))

    changed = await provisioning.change_group(call.actor, group.id, decide)
    return resource_answer(call, await _resource(call, changed), context)


def _check_work(wanted: PatchOp[ScimGroup], found: ScimGroup) -> None:
    """Each operation goes through all members. Raises ScimRefused."""
    operations = wanted.operations or ()
    sent = sum(_entries(one.value) for one in operations)
    if len(operations) > 1 and len(operations) * (sent + len(found.members or ())) > _MOST_WORK:
        raise ScimRefused("body_too_large", "Send fewer operations at a time to so large a group.")


def _entries(value: object) -> int:
    if is_object(value):
        return sum(map(_entries, value.values()))
    return len(value) if is_array(value) else 1


def _name(sent: ScimGroup) -> str:
    if not sent.display_name:
        raise InvalidValueException(detail="displayName is required.")
    return sent.display_name.strip()


def _members(sent: ScimGroup) -> list[str]:
    """The ids of the people. Groups in groups are not known here."""
    if any(one.type not in {None, "User"} for one in sent.members or ()):
        raise InvalidValueException(detail="Only people can be members of a group here.")
    return [one.value for one in sent.members or () if one.value is not None]


async def _group(call: ScimCall) -> groups.Group:
    found = await _with_id(call.deployment.database, call.param("id"))
    if found is None:
        raise NotFoundException(detail="The directory has no group with this ID.")
    return found


async def _resource(call: ScimCall, group: groups.Group, reader: Reader | None = None) -> ScimGroup:
    deployment = call.deployment
    members = await groups.members(reader or deployment.database, group.id, now=deployment.now())
    return group_of(deployment, group, members)


async def _with_id(reader: Reader, group_id: str) -> groups.Group | None:
    return _of_directory(await groups.get_group(reader, group_id))


async def _with_name(reader: Reader, name: str) -> groups.Group | None:
    return _of_directory(await groups.find_group(reader, name))


def _of_directory(found: groups.Group | None) -> groups.Group | None:
    return found if found is not None and found.is_provisioned else None


LISTING = ResourceList(
    ScimGroup,
    _resource,
    count=groups.count_provisioned,
    page=groups.list_provisioned,
    find={"displayname": _with_name, "id": _with_id},
    with_external_id=groups.find_provisioned,
)
