"""People who come from a provider that the operator trusts: their confirmed address, and their user here.

A person is (issuer, subject). A new one never becomes an existing user of the same name.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from server.deployment import Deployment
from vault import directory, users
from vault.audit import audit
from vault.records import Event, User

_GOOGLE: Final = "https://accounts.google.com"


def confirmed_address(issuer: str, claims: Mapping[str, object], *, domains: tuple[str, ...]) -> str | None:
    """The person's address in one of the domains, in lower case, if the provider confirms it; None if it doesn't.

    An unconfirmed address (`email_verified` is not true) can be someone else's: at Microsoft Entra it is. At Google
    anyone can confirm an address of a domain without a Workspace, and keeps it; `hd` names the Workspace.

    Other letters than ASCII's are confirmed for no one: names are compared in a form in which they look like these.
    """
    email = claims.get("email")
    if issuer == _GOOGLE:
        hosted = claims.get("hd")
        is_theirs = isinstance(hosted, str) and hosted.isascii() and hosted.lower() in domains
        return (email.lower() if isinstance(email, str) and email.isascii() else "") if is_theirs else None
    if not isinstance(email, str) or not email.isascii() or not is_verified(claims.get("email_verified")):
        return None
    _, sign, domain = email.rpartition("@")
    return email.lower() if sign == "@" and domain.lower() in domains else None


def is_verified(said: object) -> bool:
    """Whether `email_verified` says so (OpenID Connect Core §5.1); some providers send it as text. 1 doesn't count."""
    return said is True or said == "true"


async def create_user(deployment: Deployment, *, issuer: str, subject: str, shown: str, method: str) -> User | None:
    """The user of this identity, made with a unique name like `shown`; None if no name was free.

    Two simultaneous first visits become one user.
    """
    clean = "".join(c for c in shown if c.isprintable()).strip()[:100]
    base, now = clean or "user", deployment.now()
    for name in (base, *(f"{base} ({secrets.token_hex(3)})" for _ in range(4))):
        try:
            async with deployment.transaction() as transaction:
                # In the transaction: what another process is committing right now isn't visible outside it yet.
                found = await users.find_by_identity(transaction, issuer=issuer, subject=subject)
                if found is not None:
                    return found
                user = await users.create_user(transaction, name, now=now)
                await users.link_identity(transaction, issuer=issuer, subject=subject, user_id=user.id, now=now)
                event = Event(kind="user.created", user_id=user.id, details={"method": method, "issuer": issuer})
                await audit.append(transaction, event, now=now)
                return user
        except (users.NameTaken, users.IdentityTaken):
            continue
    return None


async def link_provisioned(deployment: Deployment, *, issuer: str, subject: str, external_id: object) -> User | None:
    """The person that the directory (SCIM) knows by this `externalId`, linked to this identity from now on.

    One who has an identity of this issuer already is someone else's account, whatever the id says: IdentityTaken.
    """
    if not isinstance(external_id, str) or not external_id:
        return None
    now = deployment.now()
    async with deployment.transaction() as transaction:
        known = await directory.with_external_id(transaction, external_id)
        person = await users.get_user(transaction, known[0].user_id) if len(known) == 1 else None
        if person is None:
            return None
        await users.hold_user(transaction, person.id)  # of two simultaneous identities, one is first
        theirs = {one.subject for one in await users.list_identities(transaction, person.id) if one.issuer == issuer}
        if theirs == {subject}:  # a simultaneous visit was first
            return person
        if theirs:
            raise users.IdentityTaken("this person has another identity of this issuer")
        await users.link_identity(transaction, issuer=issuer, subject=subject, user_id=person.id, now=now)
        details: dict[str, object] = {"issuer": issuer, "method": "scim"}
        await audit.append(transaction, Event("user.linked", user_id=person.id, details=details), now=now)
    return person
