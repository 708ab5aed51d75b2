"""Applying a declaration through the Admin API: a plan, or the changes."""

from __future__ import annotations

from pydantic import Field

from server.administration import reconciliation
from server.administration.declaration import Declaration
from server.administration.declarations.planned_changes import PlannedChange
from server.api.operations import AdminCall, ApiOutput, Strict, operation
from server.api.problems import ApiRefused, ApplyStopped, ChangeRecord, DifferenceRecord, FieldProblem
from server.http.guards import BODY_LIMIT
from server.remote import declared_servers
from vault.refusals import VaultError


class ApplyQuery(Strict):
    """How a declaration is applied."""

    plan: bool = Field(default=False, description="Only report what would change")
    prune: bool = Field(default=False, description="Also remove what the present sections don't list")


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

    If a change is refused, the ones before it stay: `changes` of the problem lists them, with their secrets.

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
    made: list[ChangeRecord] = []
    try:
        await reconciliation.apply(pending, tell=lambda one: made.append(_record(one.change, secret=one.secret)))
    except VaultError as refusal:
        raise ApplyStopped(refusal, made) from refusal
    return AppliedRecord(applied=True, changes=made)


def _record(one: PlannedChange, *, secret: str | None) -> ChangeRecord:
    differences = [
        DifferenceRecord(name=found.name, before=found.before, after=found.after) for found in one.differences
    ]
    return ChangeRecord(change=one.verb, kind=one.kind, name=one.name, differences=differences, secret=secret)


OPERATIONS = (apply_declaration,)
