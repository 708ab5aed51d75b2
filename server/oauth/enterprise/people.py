"""The person behind an assertion (draft-ietf-oauth-identity-assertion-authz-grant-03 §2.2: subject resolution).

Found by their link from an earlier sign-in or an admin; else, if the operator allows it, by the directory's ID or a
confirmed address, which then links them, or created as a new person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.deployment import Deployment
from server.oauth.enterprise.assertions import IdentityAssertion
from server.oauth.enterprise.refusals import AssertionRefused
from server.sign_in import roles
from server.sign_in.newcomers import confirmed_address, create_user, link_provisioned
from vault import directory, users
from vault.audit import audit
from vault.records import Event, User
from vault.storage.database import Reader, Transaction


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The person and how they were found; `person` is None for a new one, who will be called `name`."""

    person: User | None
    by: Literal["link", "directory", "address", "new"]
    name: str = ""


async def resolve(deployment: Deployment, assertion: IdentityAssertion) -> User:
    """Find or create the person, and link them. Raises AssertionRefused."""
    seen = await foresee(deployment, assertion)
    match seen.by, seen.person:
        case "link", User() as person:
            return person
        case "directory", _:
            return await _link_provisioned(deployment, assertion)
        case "address", User() as person:
            return await _link(deployment, assertion, person)
        case _:
            return await _create(deployment, assertion, seen.name)


async def foresee(deployment: Deployment, assertion: IdentityAssertion) -> Foreseen:
    """The person that would be used; changes nothing. Raises AssertionRefused."""
    database, trusted = deployment.database, assertion.trusted
    linked = await users.find_by_identity(database, issuer=assertion.identity_issuer, subject=assertion.subject)
    if linked is not None:
        return Foreseen(_check_has_agents(linked), "link")
    if (provisioned := await _provisioned_person(database, assertion)) is not None:
        return Foreseen(_check_has_agents(provisioned), "directory")
    address = ""
    if trusted.domains:
        confirmed = confirmed_address(trusted.issuer, assertion.claims, domains=trusted.domains)
        if confirmed is None:
            raise AssertionRefused("address")
        address = confirmed
        named = await users.find_user(database, address) if address else None
        if named is not None:
            if (await roles.with_groups(deployment, named, reader=database)).role.audits:
                raise AssertionRefused("admin")
            await _check_unlinked(database, assertion, named)
            return Foreseen(_check_has_agents(named), "address")
    if not trusted.create_people:
        raise AssertionRefused("person")
    return Foreseen(None, "new", address or _shown_name(assertion))


def _check_has_agents(person: User) -> User:
    if not person.has_agents:
        raise AssertionRefused("stopped" if person.disabled_at is None else "disabled")
    return person


async def _check_unlinked(
    reader: Reader, assertion: IdentityAssertion, person: User, *, issuers: frozenset[str] | None = None
) -> None:
    """Refuse a person who has another identity, of one of these issuers or of any. Raises AssertionRefused.

    This one may be theirs by now: a concurrent request for the same person can link it at any time.
    """
    mine = assertion.identity_issuer, assertion.subject
    for one in await users.list_identities(reader, person.id):
        if (one.issuer, one.subject) != mine and (issuers is None or one.issuer in issuers):
            raise AssertionRefused("linked")


async def _provisioned_person(reader: Reader, assertion: IdentityAssertion) -> User | None:
    """Find the person with this directory ID; None if it was entered twice."""
    external_id = assertion.claims.get(assertion.trusted.directory_claim or "")
    if not isinstance(external_id, str) or not external_id:
        return None
    match await directory.with_external_id(reader, external_id):
        case [known]:
            person = await users.get_user(reader, known.user_id)
        case _:
            return None
    if person is not None:
        await _check_unlinked(reader, assertion, person, issuers=frozenset({assertion.identity_issuer}))
    return person


async def _link_provisioned(deployment: Deployment, assertion: IdentityAssertion) -> User:
    external_id = assertion.claims.get(assertion.trusted.directory_claim or "")
    try:
        found = await link_provisioned(
            deployment, issuer=assertion.identity_issuer, subject=assertion.subject, external_id=external_id
        )
    except users.IdentityTaken as error:
        return await _linked_meanwhile(deployment, assertion, error)
    if found is None:
        raise AssertionRefused("person", "the directory removed this person a moment ago")
    return found


async def _link(deployment: Deployment, assertion: IdentityAssertion, person: User) -> User:
    now = deployment.now()
    try:
        async with deployment.transaction() as transaction:
            await _link_unlinked(transaction, assertion, person, now=now)
    except users.IdentityTaken as error:
        return await _linked_meanwhile(deployment, assertion, error)
    return person


async def _link_unlinked(transaction: Transaction, assertion: IdentityAssertion, person: User, *, now: int) -> None:
    issuer = assertion.identity_issuer
    await users.hold_user(transaction, person.id)
    if await users.list_identities(transaction, person.id):
        raise users.IdentityTaken(
            "this person has an identity at that issuer, where they may have chosen their own name"
        )
    await users.link_identity(transaction, issuer=issuer, subject=assertion.subject, user_id=person.id, now=now)
    details = {"method": "assertion", "issuer": issuer}
    await audit.append(transaction, Event("user.linked", user_id=person.id, details=details), now=now)


async def _linked_meanwhile(deployment: Deployment, assertion: IdentityAssertion, error: Exception) -> User:
    """Accept a link made by a concurrent request for the same person; otherwise the identity belongs to someone
    else."""
    async with deployment.transaction() as transaction:  # the link may not be committed yet, which readers don't see
        found = await users.find_by_identity(transaction, issuer=assertion.identity_issuer, subject=assertion.subject)
    if found is None:
        raise AssertionRefused("linked") from error
    return found


async def _create(deployment: Deployment, assertion: IdentityAssertion, name: str) -> User:
    created = await create_user(
        deployment, issuer=assertion.identity_issuer, subject=assertion.subject, shown=name, method="assertion"
    )
    if created is None:
        raise AssertionRefused("person", "every user name made from this address is taken")
    return created


def _shown_name(assertion: IdentityAssertion) -> str:
    for name in ("preferred_username", "name", "email"):
        found = assertion.claims.get(name)
        if isinstance(found, str) and found.strip():
            return found
    return ""
