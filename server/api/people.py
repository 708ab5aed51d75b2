"""People in the Admin API; `server.administration.people` makes the changes."""

from __future__ import annotations

from server.administration import people
from server.api.models import (
    AddedPersonRecord,
    DeletionRecord,
    IdentityRecord,
    NewIdentity,
    NewPerson,
    PeoplePage,
    PeopleQuery,
    PersonChange,
    PersonDetails,
    PersonRecord,
    SignInLink,
)
from server.api.operations import (
    AdminCall,
    ApiOutput,
    instant,
    instant_of,
    operation,
    read_cursor,
    write_cursor,
)
from vault import clients, connections, users
from vault.records import Role, User


class Deletions(ApiOutput):
    """Deletions that wait for providers."""

    items: list[DeletionRecord]


@operation("GET", "/people", scope="admin:read")
async def list_people(call: AdminCall, query: PeopleQuery) -> PeoplePage:
    """List people by name."""
    place = read_cursor(query.cursor, str)
    found, rest = await users.find_page(
        call.deployment.database,
        beginning=query.find,
        after="" if place is None else str(place[0]),
        limit=query.limit,
    )
    return PeoplePage(items=[person_record(one) for one in found], next_cursor=write_cursor(rest) if rest else None)


@operation("POST", "/people", scope="admin:people", status=201, refusals=["conflict"])
async def add_person(call: AdminCall, body: NewPerson) -> AddedPersonRecord:
    """Add a person, who signs in with a one-time link."""
    added = await people.add_person(call.actor, body.name, is_admin=body.admin)
    return AddedPersonRecord(person=person_record(added.user), sign_in_link=added.link or "")


@operation("GET", "/people/{person_id}", scope="admin:read")
async def get_person(call: AdminCall) -> PersonDetails:
    """Show one person, and how many accounts and agents they have."""
    return await _details(call, await person_of(call))


@operation("PATCH", "/people/{person_id}", scope="admin:people", refusals=["conflict"])
async def change_person(call: AdminCall, body: PersonChange) -> PersonDetails:
    """Disable or enable a person, or give them another role.

    Setting the present value isn't an error. An admin can't disable themselves, and the last admin can't be removed.
    """
    person, role = await person_of(call), None if body.role is None else Role(body.role)
    await people.change(call.actor, person, is_disabled=body.disabled, is_admin=body.admin, role=role)
    return await _details(call, await person_of(call))


@operation("DELETE", "/people/{person_id}", scope="admin:people", status=204, refusals=["conflict"])
async def delete_person(call: AdminCall) -> None:
    """Delete a person.

    Their grants end now, and at providers as soon as those answer. Then their keys are destroyed.
    """
    await people.delete(call.actor, await person_of(call))


@operation("POST", "/people/{person_id}/sign-in-links", scope="admin:people", status=201, refusals=["conflict"])
async def make_sign_in_link(call: AdminCall) -> SignInLink:
    """Create a one-time link with which a person can sign in again."""
    return SignInLink(url=await people.make_link(call.actor, await person_of(call)))


@operation("POST", "/people/{person_id}/identities", scope="admin:people", status=201, refusals=["conflict"])
async def link_identity(call: AdminCall, body: NewIdentity) -> IdentityRecord:
    """Link a person to an external identity, for sign-in and for JWTs of trusted issuers."""
    await people.link_identity(call.actor, await person_of(call), issuer=body.issuer, subject=body.subject)
    return IdentityRecord(issuer=body.issuer, subject=body.subject)


@operation("GET", "/deletions", scope="admin:read")
async def list_deletions(call: AdminCall) -> Deletions:
    """List deleted people who have grants that aren't revoked at their providers yet."""
    found = await users.list_deletions(call.deployment.database)
    return Deletions(
        items=[
            DeletionRecord(id=one.user_id, name=one.name, requested_at=instant_of(one.requested_at), grants=one.grants)
            for one in found
        ]
    )


async def person_of(call: AdminCall) -> User:
    """The person in the path."""
    return await people.person_with_id(call.deployment.database, call.param("person_id"))


def person_record(user: User) -> PersonRecord:
    """A person as JSON."""
    return PersonRecord(
        id=user.id,
        name=user.name,
        admin=user.is_admin,
        role=user.role.value,
        disabled=user.disabled_at is not None,
        created_at=instant_of(user.created_at),
        disabled_at=instant(user.disabled_at),
        stopped_at=instant(user.stopped_at),
    )


async def _details(call: AdminCall, user: User) -> PersonDetails:
    reader, now = call.deployment.database, call.deployment.now()
    return PersonDetails(
        **person_record(user).model_dump(),
        connections=len(await connections.list_connections(reader, user.id)),
        agents=len(await clients.list_own(reader, user.id, now=now)),
        identities=[
            IdentityRecord(issuer=one.issuer, subject=one.subject)
            for one in await users.list_identities(reader, user.id)
        ],
    )


OPERATIONS = (
    list_people,
    add_person,
    get_person,
    change_person,
    delete_person,
    make_sign_in_link,
    link_identity,
    list_deletions,
)
