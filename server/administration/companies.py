"""Permissions that companies give agents for people: end one, and resume one that a person or an admin ended."""

from __future__ import annotations

from dataclasses import replace

from server.administration.actor import Actor, ChangeRefused
from vault import company_access, company_permissions, grants
from vault.audit import audit
from vault.company_permissions import CUT_OFF, ENDED_BY_ADMIN, CompanyPermission
from vault.records import User


async def permission_of(actor: Actor, person: User, *, client_id: str, company: str) -> CompanyPermission:
    """The company's permission for this agent and person, ended or not. Raises ChangeRefused."""
    found = await company_permissions.get(
        actor.deployment.database, user_id=person.id, client_id=client_id, company=company
    )
    if found is None:
        raise ChangeRefused(
            "no_company_permission", "That company doesn't let this agent act for this person.", kind="not_found"
        )
    return found


async def end(actor: Actor, permission: CompanyPermission) -> None:
    """End the permission with its tokens and its access to accounts; assertions are refused until it is resumed."""
    now, which = actor.deployment.now(), {"user_id": permission.user_id, "client_id": permission.client_id}
    async with actor.change() as transaction:
        held = await company_permissions.hold(transaction, **which, company=permission.company, now=now)
        await grants.revoke_company_grants(transaction, **which, company=held.company, now=now)
        rest = await company_access.take_back(transaction, held, now=now)
        ended = replace(rest, ended_at=now, ended_reason=ENDED_BY_ADMIN, cut_off_at=held.ended_by_person_at)
        await company_permissions.save(transaction, ended)
        await audit.append(transaction, actor.event("company.ended", **which, company=held.company), now=now)


async def resume(actor: Actor, permission: CompanyPermission) -> CompanyPermission:
    """Resume a permission that an admin, or else the person, ended. Raises ChangeRefused if neither ended it.

    Undoing an admin's end keeps a person's cut-off, so that nobody undoes it unknowingly, and keeps changes made since
    `permission` was read.
    """
    if permission.ended_at is None:
        raise ChangeRefused("not_ended", "This agent's assertions are already accepted.", kind="conflict")
    now, which = actor.deployment.now(), {"user_id": permission.user_id, "client_id": permission.client_id}
    async with actor.change() as transaction:
        held = await company_permissions.hold(transaction, **which, company=permission.company, now=now)
        if (held.ended_at, held.ended_reason) != (permission.ended_at, permission.ended_reason):
            raise ChangeRefused("changed", "Someone changed this in the meantime. Check it again.", kind="conflict")
        left = replace(held, ended_at=None, ended_reason=None, cut_off_at=None)
        if held.ended_reason == ENDED_BY_ADMIN and held.cut_off_at is not None:
            left = replace(held, ended_at=held.cut_off_at, ended_reason=CUT_OFF)
        await company_permissions.save(transaction, left)
        await audit.append(transaction, actor.event("company.resumed", **which, company=held.company), now=now)
    return left
