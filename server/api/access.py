"""People's connections and permissions in the Admin API; `server.administration.access` makes the changes.

Nobody gives access here or answers for another person: an admin can view access, require approval more often, and end
it.
"""

from __future__ import annotations

from server.administration import access, companies, registrations
from server.api.models import (
    ApprovalRecord,
    AskMore,
    CompanyPermissionRecord,
    ConnectionRecord,
    DisconnectedRecord,
    EnteredCredential,
    PermissionRecord,
    StandingRecord,
)
from server.api.operations import AdminCall, ApiOutput, instant, instant_of, operation
from server.api.people import person_of
from vault import clients, company_permissions, connections, delegations, shared_connections
from vault.approvals import approvals, standing_approvals
from vault.approvals.approvals import RELEASE, Approval
from vault.approvals.requests import request_of
from vault.company_permissions import CompanyPermission
from vault.records import Connection, Delegation


class ConnectionList(ApiOutput):
    """Connected accounts."""

    items: list[ConnectionRecord]


class Permissions(ApiOutput):
    """What agents can do with accounts."""

    items: list[PermissionRecord]


class CompanyPermissions(ApiOutput):
    """What companies let agents do."""

    items: list[CompanyPermissionRecord]


class WaitingApprovals(ApiOutput):
    """Calls that wait for an answer."""

    items: list[ApprovalRecord]


class StandingApprovals(ApiOutput):
    """Calls that were approved in advance."""

    items: list[StandingRecord]


@operation("GET", "/people/{person_id}/connections", scope="admin:access")
async def list_connections(call: AdminCall) -> ConnectionList:
    """List a person's connected accounts."""
    person = await person_of(call)
    found = await connections.list_connections(call.deployment.database, person.id)
    return ConnectionList(items=[_connection_record(one, now=call.deployment.now()) for one in found])


@operation(
    "POST", "/people/{person_id}/connections", scope="admin:access", status=201, refusals=["conflict", "not_found"]
)
async def enter_credential(call: AdminCall, body: EnteredCredential) -> ConnectionRecord:
    """Connect an account with a credential, such as an API key. Agents can use it once its person allows them to.

    With `replaces`, it replaces the credential of a connected account, and agents keep their permissions.
    """
    person = await person_of(call)
    provider = registrations.provider_named(call.deployment, body.provider)
    entered = access.EnteredValues(body.credential, body.label, body.ends_on)
    made = await access.connect_by_credential(call.actor, person, provider, entered=entered, replaces=body.replaces)
    return _connection_record(made, now=call.deployment.now())


@operation("DELETE", "/people/{person_id}/connections/{connection_id}", scope="admin:access")
async def disconnect(call: AdminCall) -> DisconnectedRecord:
    """Disconnect an account: revoke access at the provider and destroy its key."""
    person = await person_of(call)
    found = await access.connection_of(call.actor, person, call.param("connection_id"))
    ended = await access.disconnect(call.actor, found)
    return DisconnectedRecord(id=found.id, at_provider=ended.at_provider, remove_at=list(ended.pages))


@operation("GET", "/people/{person_id}/permissions", scope="admin:access")
async def list_permissions(call: AdminCall) -> Permissions:
    """List what a person's agents can use."""
    person, deployment = await person_of(call), call.deployment
    usable = await shared_connections.usable_by(deployment.database, person.id, now=deployment.now())
    known = {one.id: one for one in usable}
    held = await delegations.list_for_user(deployment.database, person.id)
    live = [one for one in held if one.is_live(deployment.now()) and one.connection_id in known]
    items = [await _permission_record(call, one, known[one.connection_id]) for one in live]
    givers = await company_permissions.list_givers(deployment.database, person.id)
    return Permissions(
        items=[one.model_copy(update={"company": givers.get((one.client_id, one.connection_id))}) for one in items]
    )


@operation(
    "POST", "/people/{person_id}/connections/{connection_id}/permissions/{client_id:path}/ask", scope="admin:access"
)
async def ask_more(call: AdminCall, body: AskMore) -> PermissionRecord:
    """Require the person's approval each time for more uses. Only the person can remove such a requirement."""
    person = await person_of(call)
    connection = await access.connection_of(call.actor, person, call.param("connection_id"))
    held = await access.permission_of(
        call.actor, person, client_id=call.param("client_id"), connection_id=connection.id
    )
    tools = [*dict.fromkeys(body.tools)]
    await access.set_ask(call.actor, held, scopes=frozenset(body.scopes), tools=tools, adds=True)
    again = await access.permission_of(call.actor, person, client_id=held.client_id, connection_id=connection.id)
    return await _permission_record(call, again, connection)


@operation(
    "DELETE",
    "/people/{person_id}/connections/{connection_id}/permissions/{client_id:path}",
    scope="admin:access",
    status=204,
)
async def revoke_permission(call: AdminCall) -> None:
    """Take a connection away from an agent."""
    person = await person_of(call)
    held = await access.permission_of(
        call.actor, person, client_id=call.param("client_id"), connection_id=call.param("connection_id")
    )
    await access.revoke(call.actor, held)


@operation("GET", "/people/{person_id}/company-permissions", scope="admin:access")
async def list_company_permissions(call: AdminCall) -> CompanyPermissions:
    """List what companies let a person's agents do, including permissions that have ended."""
    person = await person_of(call)
    found = await company_permissions.list_for_user(call.deployment.database, person.id)
    return CompanyPermissions(items=[_company_record(one) for one in found])


@operation(
    "DELETE",
    "/people/{person_id}/company-permissions/{company}/{client_id:path}",
    scope="admin:access",
    status=204,
)
async def end_company_permission(call: AdminCall) -> None:
    """End what a company lets an agent do for a person. What the person allowed stays."""
    await companies.end(call.actor, await _company_permission_of(call))


@operation(
    "POST",
    "/people/{person_id}/company-permissions/{company}/{client_id:path}/resume",
    scope="admin:access",
    refusals=["conflict"],
)
async def resume_company_permission(call: AdminCall) -> CompanyPermissionRecord:
    """Resume a company's permission for an agent after it ended."""
    await companies.resume(call.actor, await _company_permission_of(call))
    return _company_record(await _company_permission_of(call))


async def _company_permission_of(call: AdminCall) -> CompanyPermission:
    person = await person_of(call)
    which = {"client_id": call.param("client_id"), "company": call.param("company")}
    return await companies.permission_of(call.actor, person, **which)


def _company_record(one: CompanyPermission) -> CompanyPermissionRecord:
    return CompanyPermissionRecord(
        company=one.company,
        client_id=one.client_id,
        scopes=sorted(one.scopes),
        accounts={provider: sorted(words) for provider, words in one.accounts.items()},
        renewed_at=instant_of(one.renewed_at),
        expires_at=instant_of(one.expires_at),
        ended_at=instant(one.ended_at),
        ended_reason=one.ended_reason,
    )


@operation("GET", "/people/{person_id}/approvals", scope="admin:access")
async def list_approvals(call: AdminCall) -> WaitingApprovals:
    """List calls and requests that wait for a person's answer, without the arguments."""
    person, deployment = await person_of(call), call.deployment
    found = await approvals.list_pending(deployment.database, deployment.keys, person.id, now=deployment.now())
    return WaitingApprovals(items=[_approval_record(one) for one in found])


def _approval_record(approval: Approval) -> ApprovalRecord:
    kind, resource = "tool", None
    if approval.is_request:
        kind, resource = "request", request_of(approval).resource
    elif approval.tool == RELEASE:
        kind = "token"
    return ApprovalRecord(
        id=approval.id,
        client_id=approval.client_id,
        kind=kind,
        tool=approval.tool if kind == "tool" else None,
        provider=approval.provider or None,
        account=approval.account or None,
        resource=resource,
        scopes=list(approval.scopes),
        asked_at=instant_of(approval.created_at),
        expires_at=instant_of(approval.expires_at),
    )


@operation("GET", "/people/{person_id}/standing-approvals", scope="admin:access")
async def list_standing_approvals(call: AdminCall) -> StandingApprovals:
    """List what a person approved in advance."""
    person, deployment, now = await person_of(call), call.deployment, call.deployment.now()
    found = await standing_approvals.list_live(deployment.database, deployment.keys, person.id, now=now)
    return StandingApprovals(
        items=[
            StandingRecord(
                id=one.id,
                client_id=one.client_id,
                tool=one.tool,
                provider=one.provider,
                account=one.account,
                per_day=one.per_day,
                used_today=one.used_today(now),
                expires_at=instant_of(one.expires_at),
            )
            for one in found
        ]
    )


@operation("DELETE", "/people/{person_id}/standing-approvals/{standing_id}", scope="admin:access", status=204)
async def end_standing_approval(call: AdminCall) -> None:
    """End a standing approval: its calls need the person's approval again."""
    await access.end_standing(call.actor, await person_of(call), call.param("standing_id"))


def _connection_record(one: Connection, *, now: int) -> ConnectionRecord:
    return ConnectionRecord(
        id=one.id,
        provider=one.provider,
        account=one.label,
        status=one.status(now),
        scopes=sorted(one.scopes),
        connected_at=instant_of(one.created_at),
        refreshed_at=instant(one.refreshed_at),
        ends_at=instant(one.ends_at),
    )


async def _permission_record(call: AdminCall, held: Delegation, connection: Connection) -> PermissionRecord:
    client = await clients.get_client(call.deployment.database, held.client_id)
    return PermissionRecord(
        client_id=held.client_id,
        agent=None if client is None else client.name,
        connection_id=connection.id,
        provider=connection.provider,
        account=connection.label,
        scopes=sorted(held.scopes),
        ask_scopes=sorted(one for one in held.ask if not one.startswith("tool:")),
        ask_tools=sorted(one.removeprefix("tool:") for one in held.ask if one.startswith("tool:")),
        expires_at=instant(held.expires_at),
    )


OPERATIONS = (
    list_connections,
    enter_credential,
    disconnect,
    list_permissions,
    ask_more,
    revoke_permission,
    list_company_permissions,
    resume_company_permission,
    end_company_permission,
    list_approvals,
    list_standing_approvals,
    end_standing_approval,
)
