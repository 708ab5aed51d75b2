"""The pages on which a person approves or refuses one tool call, with its exact arguments."""

from __future__ import annotations

from starlette.responses import Response

from server.connecting import approvals as approve
from server.http import pages
from server.http.page_texts import text
from server.portal import texts
from server.portal.connect import scope_words
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault import approvals, clients
from vault.approvals import USE_LIFETIME, Approval
from vault.records import ApprovalState


async def show_all(visit: OwnVisit) -> Response:
    """The person's open questions from agents."""
    deployment = visit.deployment
    pending = await approvals.list_pending(deployment.database, deployment.keys, visit.user.id, now=deployment.now())
    return visit.page("approvals.html", {"pending": [await _row(visit, one) for one in pending]})


async def show(visit: OwnVisit) -> Response:
    """One call: who wants to do what, as which account, with which arguments."""
    approval = await _load(visit)
    status = approval.status(visit.deployment.now())
    if status != ApprovalState.PENDING.value:
        return visit.page(
            "message.html",
            {
                "title": text(f"approval.{status}_title"),
                "message": text(f"approval.{status}", minutes=USE_LIFETIME // 60),
            },
        )
    return visit.page("approval.html", {"one": await _row(visit, approval)})


async def decide(visit: OwnVisit) -> Response:
    """The answer, once."""
    approval = await _load(visit)
    decision = visit.form.one("decision")
    if decision not in {"allow", "deny"}:
        raise PageRefused("no_decision")
    try:
        await approve.decide(
            visit.deployment, approval, user=visit.user, session=visit.session, is_approved=decision == "allow"
        )
    except approve.ApproveRefused as refused:
        raise PageRefused("too_late", refused.description, kind=refused.kind) from refused
    return pages.go(f"/approvals/{approval.id}")


async def _load(visit: OwnVisit) -> Approval:
    wanted = str(visit.visit.request.path_params["approval"])
    try:
        return await approve.load(visit.deployment, wanted, user=visit.user)
    except approve.ApproveRefused as refused:
        raise PageRefused("not_yours", refused.description, kind=refused.kind) from refused


async def _row(visit: OwnVisit, approval: Approval) -> dict[str, object]:
    deployment = visit.deployment
    client = await clients.get_client(deployment.database, approval.client_id)
    provider = deployment.catalog.get(approval.provider)
    spec = deployment.tool(approval.tool)
    return {
        "id": approval.id,
        "client": client,
        "unverified": client is not None and texts.is_unverified(client),
        "kind": "" if client is None else texts.client_kind(client),
        "tool": approval.tool,
        "title": approval.tool if spec is None else spec.title,
        "destructive": spec is not None and spec.destructive,
        "provider": approval.provider if provider is None else provider.title,
        "account": approval.account,
        "scopes": [] if provider is None else scope_words(provider, frozenset(approval.scopes)),
        "arguments": [(name, texts.visible(value)) for name, value in approval.arguments.items() if value is not None],
        "asked_at": approval.created_at,
        "minutes": USE_LIFETIME // 60,
    }
