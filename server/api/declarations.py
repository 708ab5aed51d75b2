"""Applying a declaration through the Admin API: a plan, or the changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.administration import reconciliation
from server.administration.declaration import Declaration
from server.administration.declarations.planned_changes import PlannedChange
from server.api.operations import AdminCall, ApiOutput, Strict, operation
from server.api.problems import ApiRefused, FieldProblem
from server.http.guards import BODY_LIMIT
from server.remote import declared_servers


class ApplyQuery(Strict):
    """How a declaration is applied."""

    plan: bool = Field(default=False, description="Only report what would change")
    prune: bool = Field(default=False, description="Also remove what the present sections don't list")


class DifferenceRecord(ApiOutput):
    """One value that changes; never a secret."""

    name: str
    before: object
    after: object


class ChangeRecord(ApiOutput):
    """One thing that is created, changed, or removed."""

    change: Literal["create", "update", "remove"]
    kind: Literal["person", "group", "agent", "api", "provider", "mcp_server", "imported_api"]
    name: str
    differences: list[DifferenceRecord]
    secret: str | None = Field(repr=False, description="A new sign-in link or client secret. Shown only here")


class AppliedRecord(ApiOutput):
    """The changes that were made, or would be."""

    applied: bool
    changes: list[ChangeRecord]


@operation(
    "POST",
    "/apply",
    scope="admin:write",
    refusals=["conflict", "not_found", "changed_meanwhile"],
    body_limit=BODY_LIMIT,
)
async def apply_declaration(call: AdminCall, query: ApplyQuery, body: Declaration) -> AppliedRecord:
    """Make people, agents, APIs, providers, and the rest match a declaration. Repeating it changes nothing.

    Missing sections aren't managed. Secrets are in the body, never in files. The body can have up to 4 MiB.
    """
    places = {f"/providers/{name}": one for name, one in (body.providers or {}).items()}
    files = {f"/mcp_servers/{name}": one for name, one in (body.mcp_servers or {}).items()}
    for place, one in (*places.items(), *files.items()):
        if one.client_secret_file is not None:
            problem = FieldProblem(pointer=f"{place}/client_secret_file", message="send client_secret instead")
            raise ApiRefused("invalid_request", "Only the command reads files.", errors=[problem])
    for name, api in (body.imported_apis or {}).items():
        if api.document_file is not None:
            problem = FieldProblem(pointer=f"/imported_apis/{name}/document_file", message="send document instead")
            raise ApiRefused("invalid_request", "Only the command reads files.", errors=[problem])
    pending = await declared_servers.plan(call.actor, body, prunes=query.prune)
    if query.plan:
        return AppliedRecord(applied=False, changes=[_record(one, secret=None) for one in pending])
    made = await reconciliation.apply(pending)
    return AppliedRecord(applied=True, changes=[_record(one.change, secret=one.secret) for one in made])


def _record(one: PlannedChange, *, secret: str | None) -> ChangeRecord:
    differences = [
        DifferenceRecord(name=found.name, before=found.before, after=found.after) for found in one.differences
    ]
    return ChangeRecord(change=one.verb, kind=one.kind, name=one.name, differences=differences, secret=secret)


OPERATIONS = (apply_declaration,)
