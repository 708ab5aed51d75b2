"""Access requests in the Admin API: list, answer, and end them; `server.administration.access_requests` decides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.administration import access_requests, groups, people
from server.administration.access_requests import AccessAnswer
from server.api.operations import AdminCall, ApiOutput, Instant, Strict, instant, instant_of, operation
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessRequest


class AccessRequestRecord(ApiOutput):
    """A request for access, and its outcome."""

    id: str
    status: Literal["pending", "allowed", "denied", "ended"]
    kind: Literal["account", "group", "company"]
    person_id: str
    person: str | None
    client_id: str | None = Field(description="The agent that it is for; null for a group's accounts")
    agent: str | None
    provider: str | None
    account: str | None = Field(description="The group's account")
    group: str | None
    company: str | None
    scopes: list[str] = Field(description="For a company: the names of the rules that were applied")
    reason: str
    days: int = Field(description="The requested number of days")
    filed_by: Literal["person", "agent"]
    created_at: Instant
    expires_at: Instant = Field(description="When the request ends or, once allowed, the access")
    decided_at: Instant | None
    decided_by: str | None
    answer: str
    ended_at: Instant | None
    ended_reason: str | None


class AccessRequests(ApiOutput):
    """Access requests, the newest first."""

    items: list[AccessRequestRecord]


class AccessRequestQuery(Strict):
    """The requests to list."""

    status: Literal["pending", "allowed", "denied", "ended"] | None = Field(default=None, description="Default: all")


class NewAnswer(Strict):
    """An answer to a request."""

    allow: bool
    days: int | None = Field(default=None, ge=1, le=365, description="Not more than requested. Default: as requested")
    scopes: list[str] | None = Field(
        default=None,
        max_length=200,
        description="Some of those requested. Default: all. For a company: the names of the rules to apply",
    )
    words: str = Field(default="", max_length=500, description="A message for the person with the answer")


@operation("GET", "/access-requests", scope="admin:read")
async def list_access_requests(call: AdminCall, query: AccessRequestQuery) -> AccessRequests:
    """List requests for access that only others can give."""
    now = call.deployment.now()
    if query.status == "pending":
        waiting = await stored.list_pending(call.deployment.database, now=now)
        return AccessRequests(items=[await _record(call, one) for one in reversed(waiting)])
    found = await stored.list_newest(call.deployment.database, now=now)
    return AccessRequests(items=[await _record(call, one) for one in found if query.status in {None, one.status(now)}])


@operation("GET", "/access-requests/{request_id}", scope="admin:read")
async def get_access_request(call: AdminCall) -> AccessRequestRecord:
    """Show a request."""
    return await _record(call, await access_requests.request_with_id(call.deployment, call.param("request_id")))


@operation("POST", "/access-requests/{request_id}/answer", scope="admin:access", refusals=["conflict"])
async def answer_access_request(call: AdminCall, body: NewAnswer) -> AccessRequestRecord:
    """Allow a request or a part of it until an end, or deny it."""
    request_id = call.param("request_id")
    if not body.allow:
        return await _record(call, await access_requests.deny(call.actor, request_id, words=body.words))
    scopes = None if body.scopes is None else frozenset(body.scopes)
    asked = await access_requests.request_with_id(call.deployment, request_id)
    days = access_requests.most_days(call.deployment, asked) if body.days is None else body.days
    return await _record(
        call, await access_requests.allow(call.actor, request_id, AccessAnswer(days, scopes, body.words))
    )


@operation("DELETE", "/access-requests/{request_id}", scope="admin:access", refusals=["conflict"])
async def end_access_request(call: AdminCall) -> AccessRequestRecord:
    """Withdraw an open request, or end what it gave."""
    return await _record(call, await access_requests.end(call.actor, call.param("request_id")))


@operation("PUT", "/groups/{group_id}/managers/{person_id}", scope="admin:people", status=204)
async def add_group_manager(call: AdminCall) -> None:
    """Let a person answer access requests about a group."""
    await _set_manager(call, is_manager=True)


@operation("DELETE", "/groups/{group_id}/managers/{person_id}", scope="admin:people", status=204)
async def remove_group_manager(call: AdminCall) -> None:
    """Stop letting a person answer access requests about a group."""
    await _set_manager(call, is_manager=False)


async def _set_manager(call: AdminCall, *, is_manager: bool) -> None:
    group = await groups.group_with_id(call.deployment.database, call.param("group_id"))
    person = await people.person_with_id(call.deployment.database, call.param("person_id"))
    await access_requests.set_manager(call.actor, group, person, is_manager=is_manager)


async def _record(call: AdminCall, request: AccessRequest) -> AccessRequestRecord:
    known, access = await access_requests.describe(call.deployment, request), request.access
    return AccessRequestRecord.model_validate(
        {
            "id": request.id,
            "status": request.status(call.deployment.now()),
            "kind": access.kind.value,
            "person_id": access.user_id,
            "person": None if known.person is None else known.person.name,
            "client_id": access.client_id or None,
            "agent": None if known.client is None else known.client.name,
            "provider": known.provider or None,
            "account": known.account or None,
            "group": known.group or None,
            "company": known.company or None,
            "scopes": sorted(access.scopes),
            "reason": access.reason,
            "days": access.lifetime // access_requests.DAY,
            "filed_by": access.filed_by,
            "created_at": instant_of(request.created_at),
            "expires_at": instant_of(request.expires_at),
            "decided_at": instant(request.decided_at),
            "decided_by": known.decided_by or None,
            "answer": request.answer,
            "ended_at": instant(request.ended_at),
            "ended_reason": request.ended_reason,
        }
    )


OPERATIONS = (
    list_access_requests,
    get_access_request,
    answer_access_request,
    end_access_request,
    add_group_manager,
    remove_group_manager,
)
