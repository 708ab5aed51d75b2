"""The person behind an assertion (draft-ietf-oauth-identity-assertion-authz-grant-03 §2.2: subject resolution).

By their link, made at an earlier sign-in or by an admin; else, as far as the operator says so, by the directory's id or
a confirmed address, which links them from then on, or as a new person.
"""

from __future__ import annotations

from server.deployment import Deployment
from server.oauth.enterprise.assertions import IdentityAssertion
from server.oauth.enterprise.refusals import AssertionRefused
from server.sign_in import roles
from server.sign_in.newcomers import confirmed_address, create_user, link_provisioned
from vault import users
from vault.audit import audit
from vault.records import Event, User


async def resolve(deployment: Deployment, assertion: IdentityAssertion) -> User:
    """The person. Raises AssertionRefused."""
    found = await users.find_by_identity(
        deployment.database, issuer=assertion.identity_issuer, subject=assertion.subject
    )
    if found is None:
        found = await _newcomer(deployment, assertion)
    if not found.has_agents:
        raise AssertionRefused("stopped" if found.disabled_at is None else "disabled")
    return found


async def _newcomer(deployment: Deployment, assertion: IdentityAssertion) -> User:
    trusted = assertion.trusted
    if trusted.directory_claim and (provisioned := await _find_provisioned(deployment, assertion)) is not None:
        return provisioned
    address = ""
    if trusted.domains:
        confirmed = confirmed_address(trusted.issuer, assertion.claims, domains=trusted.domains)
        if confirmed is None:
            raise AssertionRefused("address")
        address = confirmed
        if address and (matched := await _match_address(deployment, assertion, address)) is not None:
            return matched
    if not trusted.create_people:
        raise AssertionRefused("person")
    created = await create_user(
        deployment,
        issuer=assertion.identity_issuer,
        subject=assertion.subject,
        shown=address or _shown_name(assertion),
        method="assertion",
    )
    if created is None:
        raise AssertionRefused("person", "no free name")
    return created


async def _find_provisioned(deployment: Deployment, assertion: IdentityAssertion) -> User | None:
    external_id = assertion.claims.get(assertion.trusted.directory_claim or "")
    try:
        return await link_provisioned(
            deployment, issuer=assertion.identity_issuer, subject=assertion.subject, external_id=external_id
        )
    except users.IdentityTaken as error:
        raise AssertionRefused("linked") from error


async def _match_address(deployment: Deployment, assertion: IdentityAssertion, address: str) -> User | None:
    """The person whose name is the address, linked from now on. None if there is nobody of that name.

    An address can pass on to somebody else: whoever is linked at this issuer already isn't matched.
    """
    now, issuer = deployment.now(), assertion.identity_issuer
    async with deployment.transaction() as transaction:
        found = await users.find_user(transaction, address)
        if found is None:
            return None
        await users.hold_user(transaction, found.id)
        known = [one.subject for one in await users.list_identities(transaction, found.id) if one.issuer == issuer]
        if assertion.subject in known:  # linked by another request meanwhile
            return found
        is_admin = (await roles.with_groups(deployment, found, reader=transaction)).role.audits
        if is_admin or found.disabled_at is not None or known:
            raise AssertionRefused("admin" if is_admin else "linked" if known else "disabled")
        await users.link_identity(transaction, issuer=issuer, subject=assertion.subject, user_id=found.id, now=now)
        details = {"method": "assertion", "issuer": issuer}
        await audit.append(transaction, Event("user.linked", user_id=found.id, details=details), now=now)
    return found


def _shown_name(assertion: IdentityAssertion) -> str:
    for name in ("preferred_username", "name", "email"):
        found = assertion.claims.get(name)
        if isinstance(found, str) and found.strip():
            return found
    return ""
