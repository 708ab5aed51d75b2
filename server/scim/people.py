"""`/Users`: the people that the directory made, or that an administrator let it manage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_fields

from scim2_models import Context, InvalidValueException, NotFoundException
from starlette.responses import Response

from server.administration import provisioning
from server.administration.provisioning import PersonSpec
from server.scim.queries import ResourceList
from server.scim.resources import POLICY, ScimUser, person_spec, user_of, with_active
from server.scim.wire import ScimCall, empty_answer, parse, read_patch, resource_answer
from vault import directory, groups
from vault.directory import ProvisionedPerson
from vault.storage.database import Reader


async def show(call: ScimCall) -> Response:
    """One person."""
    return resource_answer(call, await _user(call, await _person(call)), Context.RESOURCE_QUERY_RESPONSE)


async def add(call: ScimCall) -> Response:
    """A new person (RFC 7644 §3.3)."""
    content = with_active(await call.body(), is_active=True)
    sent = parse(ScimUser, content, Context.RESOURCE_CREATION_REQUEST)
    made = await provisioning.add_person(call.actor, person_spec(sent))
    return resource_answer(call, await _user(call, made), Context.RESOURCE_CREATION_RESPONSE, status=201)


async def replace(call: ScimCall) -> Response:
    """Another state of a person (RFC 7644 §3.5.1). One that does not say `active` keeps it."""
    person, content = await _person(call), await call.body()

    def change(found: ScimUser) -> ScimUser:
        whole = with_active(content, is_active=bool(found.active))
        sent = parse(ScimUser, whole, Context.RESOURCE_REPLACEMENT_REQUEST)
        sent.replace(found)
        return sent

    return await _change(call, person, change, Context.RESOURCE_REPLACEMENT_RESPONSE)


async def patch(call: ScimCall) -> Response:
    """Change parts of a person (RFC 7644 §3.5.2)."""
    person = await _person(call)
    wanted = await read_patch(call, ScimUser)

    def change(found: ScimUser) -> ScimUser:
        wanted.patch(found, scim_policy=POLICY)
        return found

    return await _change(call, person, change, Context.RESOURCE_PATCH_RESPONSE)


async def remove(call: ScimCall) -> Response:
    """Delete a person with all that is theirs (RFC 7644 §3.6)."""

    async def check(reader: Reader, current: ProvisionedPerson) -> None:
        call.check_version(await _user(call, current, reader))

    await provisioning.remove_person(call.actor, (await _person(call)).user_id, check)
    return empty_answer()


async def _change(
    call: ScimCall, person: ProvisionedPerson, change: Callable[[ScimUser], ScimUser], context: Context
) -> Response:
    """Change the person in their current state within the transaction. `active` is applied only if the request changes
    it."""

    async def decide(reader: Reader, current: ProvisionedPerson) -> PersonSpec:
        found = await _user(call, current, reader)
        call.check_version(found)
        wanted = change(found)
        if not wanted.user_name:
            raise InvalidValueException(detail="userName is required.")
        spec = person_spec(wanted)
        return replace_fields(spec, is_active=None) if spec.is_active is not current.is_disabled else spec

    changed = await provisioning.change_person(call.actor, person.user_id, decide)
    return resource_answer(call, await _user(call, changed), context)


async def _person(call: ScimCall) -> ProvisionedPerson:
    found = await directory.get_person(call.deployment.database, call.param("id"))
    if found is None:
        raise NotFoundException(detail="The directory has no person with this ID.")
    return found


async def _user(call: ScimCall, person: ProvisionedPerson, reader: Reader | None = None) -> ScimUser:
    deployment = call.deployment
    memberships = await groups.of_person(reader or deployment.database, person.user_id, now=deployment.now())
    return user_of(deployment, person, memberships)


LISTING = ResourceList(
    ScimUser,
    _user,
    count=directory.count_people,
    page=directory.list_people,
    find={"username": directory.find_person, "id": directory.get_person},
    with_external_id=directory.with_external_id,
)
