"""The pages on which a person answers an agent's question about a call and sees what they approved in advance."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from starlette.responses import Response

from providers.definitions.catalog import Provider
from server.connecting import approvals as approve
from server.connecting import lookups, standing_offers
from server.connecting.lookups import LookupResult
from server.connecting.standing_offers import StandingTerms
from server.http import pages
from server.http.page_texts import text
from server.portal import texts
from server.portal.access import access_changes
from server.portal.approvals import standing_approvals, user_code
from server.portal.approvals.asked_call import Piece, asked_call, target_words
from server.portal.approvals.asked_request import asked_request, permissions
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault import clients, shared_connections
from vault.approvals import approvals
from vault.approvals.approvals import RELEASE, USE_LIFETIME, Approval
from vault.records import ApprovalState

_ANSWERS: Final = frozenset({"allow", "deny", "cut_off", "standing"})
_TOLD_APART: Final = frozenset({"approved", "consumed"})  # the client fetches the answer by itself
_ICONS: Final = {"approved": "check", "consumed": "check", "refused": "cross", "expired": "clock"}  # of an answer


async def show_all(visit: OwnVisit) -> Response:
    """The person's open questions from agents, and their standing approvals."""
    deployment = visit.deployment
    pending = await approvals.list_pending(deployment.database, deployment.keys, visit.user.id, now=deployment.now())
    context: dict[str, object] = {
        "pending": [await question(visit, one) for one in pending],
        "standing": await standing_approvals.rows(visit),
        "waiting": len(visit.needs.requests),
        "code": await user_code.state(visit),
        "saved": await access_changes.last_saved(deployment, visit.user, visit.visit.query("saved")),
    }
    return visit.page("approvals.html", context)


async def show(visit: OwnVisit) -> Response:
    """Show one call to the person who is asked: who wants to do what, as which account, and with which arguments."""
    approval = await _load(visit)
    status = approval.status(visit.deployment.now())
    if status != ApprovalState.PENDING.value:
        name = f"request_{status}" if approval.is_request and status in _TOLD_APART else status
        return visit.page(
            "answered.html",
            {
                "title": text(f"approval.{status}_title"),
                "message": text(f"approval.{name}", minutes=USE_LIFETIME // 60),
                "icon": _ICONS.get(status, "approvals"),
                "waiting": visit.needs.approvals,
            },
        )
    spec = visit.deployment.tool(approval.tool)
    known = LookupResult() if spec is None else await lookups.find(visit.deployment, approval, spec)
    context: dict[str, object] = {"one": await question(visit, approval, known=known), "offer": None}
    if (offered := await standing_offers.offer(visit.deployment, approval)) is not None:
        target = target_words(offered.target, known.names)
        context["offer"] = {"approved": offered.approved, "target": target, "days": standing_approvals.choices_of()}
    return visit.page("approval.html", context)


async def decide(visit: OwnVisit) -> Response:
    """Record the answer; works once."""
    approval = await _load(visit)
    decision = visit.form.one("decision")
    if decision not in _ANSWERS:
        raise PageRefused("no_decision")
    if decision == "cut_off":
        return await _deny_and_cut_off(visit, approval)
    terms = standing_approvals.read_terms(visit.form, now=visit.deployment.now()) if decision == "standing" else None
    await _answer(visit, approval, is_approved=decision != "deny", terms=terms)
    return pages.go(f"/approvals/{approval.id}")


async def _deny_and_cut_off(visit: OwnVisit, approval: Approval) -> Response:
    """Cut off the agent, whether or not the question is still open."""
    with suppress(PageRefused):
        await _answer(visit, approval, is_approved=False, terms=None)
    client = await clients.get_client(visit.deployment.database, approval.client_id)
    if client is not None:
        await access_changes.end_agent(visit.deployment, visit.user, client)
    return pages.go("/agents")


async def _answer(visit: OwnVisit, approval: Approval, *, is_approved: bool, terms: StandingTerms | None) -> None:
    try:
        await approve.decide(
            visit.deployment,
            approval,
            user=visit.user,
            session=visit.session,
            is_approved=is_approved,
            standing_terms=terms,
        )
    except approve.ApproveRefused as refused:
        if refused.kind == "gone":
            raise PageRefused("too_late", refused.description, kind="gone") from refused
        raise PageRefused("no_standing", refused.description, kind=refused.kind) from refused


async def _load(visit: OwnVisit) -> Approval:
    wanted = str(visit.visit.request.path_params["approval"])
    try:
        return await approve.load(visit.deployment, wanted, user=visit.user)
    except approve.ApproveRefused as refused:
        raise PageRefused("not_yours", refused.description, kind=refused.kind) from refused


async def _permissions(visit: OwnVisit, approval: Approval, provider: Provider | None) -> list[tuple[str, str]]:
    """What a released token can do, with descriptions; some tokens can do everything that their account can."""
    if approval.is_request:
        return permissions(approval)
    if approval.tool != RELEASE:
        return []
    held = await shared_connections.usable(
        visit.deployment.database, approval.connection_id, user_id=approval.user_id, now=visit.deployment.now()
    )
    scopes = set(approval.scopes) if held is None else {*approval.scopes, *held.scopes}
    return [(scope, texts.scope_title(provider, scope)) for scope in sorted(scopes)]


async def question(visit: OwnVisit, approval: Approval, *, known: LookupResult | None = None) -> dict[str, object]:
    """A question for a template. Without `known`, it uses the names that are already known."""
    deployment = visit.deployment
    client = await clients.get_client(deployment.database, approval.client_id)
    provider = deployment.catalog.get(approval.provider)
    spec = deployment.tool(approval.tool)
    agent = approval.client_id if client is None else client.name or client.id
    title = text("approval.a_request") if approval.is_request else texts.tool_title(spec, approval.tool)
    if approval.is_request:
        call = await asked_request(deployment, approval)
    elif approval.tool == RELEASE:
        call = replace(asked_call(title, approval.arguments), pieces=(Piece(text("approval.release"), None),))
    elif spec is None:
        call = asked_call(title, approval.arguments)
    else:
        found = lookups.known_values(deployment, approval, spec) if known is None else known
        call = asked_call(title, approval.arguments, spec.presentation, found)
    return {
        "id": approval.id,
        "agent": agent,
        "is_request": approval.is_request,
        "permissions": await _permissions(visit, approval, provider),
        "unverified": client is not None and texts.is_unverified(client),
        "tool": approval.tool,
        "title": title,
        "call": call,
        "destructive": spec is not None and spec.destructive,
        "provider": (agent if approval.is_request else approval.provider) if provider is None else provider.title,
        "provider_name": approval.provider,
        "account": approval.account,
        "ends_at": approval.expires_at,
        "is_late": known is not None and known.is_late,
        "minutes": USE_LIFETIME // 60,
    }
