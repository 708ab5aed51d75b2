"""Ask the person about a tool call: create the link to our page, wait for the answer, and record every answer.

`vault.exchange` decides whether a call needs approval and uses it up; `server.portal.approvals.approvals` is the page;
`server.mcp.elicitation` chooses how the link is offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from server.connecting import lookups, standing_offers
from server.connecting.links import ConnectLink
from server.connecting.standing_offers import StandingTerms
from server.deployment import Deployment
from server.errors import PersonRefused
from server.sign_in import step_up
from vault.approvals import approvals, client_notices, requests, standing_approvals
from vault.approvals.approvals import Approval, ToolCall
from vault.audit import audit
from vault.records import ApprovalState, Event, Principal, Session, User
from vault.refusals import ApprovalRequired, TransitionRefused

WAIT: Final = 8.0  # seconds that a retry waits for a person who may have just opened the link
_STEP: Final = 0.25  # seconds between reads of the database, since another process may serve the page
_PATH: Final = "/approvals/"


class ApproveRefused(PersonRefused):
    """The approval doesn't exist, belongs to someone else, or is over."""

    code = "approve_refused"


async def ask(
    deployment: Deployment, *, principal: Principal, refusal: ApprovalRequired, call: ToolCall
) -> tuple[Approval, bool]:
    """The question about this call, or the person's recent refusal; and whether it is new."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        approval, is_new = await approvals.ask(
            transaction,
            deployment.keys,
            call=call,
            principal=principal,
            connection_id=refusal.connection_id,
            provider=refusal.provider,
            account=refusal.account,
            label=refusal.label,
            scopes=refusal.scopes,
            now=now,
        )
        if is_new:
            await audit.append(transaction, event_of(approval, "approval.requested"), now=now)
    return approval, is_new


def link_of(deployment: Deployment, approval: Approval) -> ConnectLink | None:
    """The link where the person approves or refuses this call; None if they refused."""
    if approval.state is ApprovalState.REFUSED:
        return None
    return ConnectLink(
        url=deployment.url(f"{_PATH}{approval.id}"),
        device_url=deployment.url("/approvals"),
        user_code="",
        message=f"{approval.tool} as {approval.account} needs the person's approval for these exact arguments.",
    )


def event_of(approval: Approval, kind: str, *, outcome: str = "ok", method: str | None = None) -> Event:
    """An event about an approval. It contains a hash that identifies the approved arguments, not the arguments."""
    about: dict[str, object] = {"tool": approval.tool, "provider": approval.provider, "account": approval.account}
    if approval.is_request:
        request = requests.request_of(approval)
        about = {"scopes": sorted(request.scopes), "resource": request.resource, "until": approval.expires_at}
    return Event(
        kind=kind,
        outcome=outcome,
        user_id=approval.user_id,
        client_id=approval.client_id,
        connection_id=approval.connection_id or None,
        details={
            **about,
            "call": approval.digest.hex(),
            "approval": approval.id,
            **({} if method is None else {"method": method}),
        },
    )


def is_approval(link: ConnectLink) -> bool:
    """Whether this link, which a retry sent back, asks about a call."""
    return _PATH in link.url


async def is_open(deployment: Deployment, link: ConnectLink) -> bool:
    """Whether the person can still answer the question behind the link."""
    found = await _find(deployment, link)
    return found is not None and found.status(deployment.now()) == ApprovalState.PENDING.value


async def wait_for_decision(deployment: Deployment, link: ConnectLink) -> bool:
    """Wait briefly for the person's answer to the link that was offered; returns whether there is one."""
    end = asyncio.get_running_loop().time() + WAIT
    while True:
        found = await _find(deployment, link)
        if found is None or found.status(deployment.now()) != ApprovalState.PENDING.value:
            return True
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(_STEP)


async def _find(deployment: Deployment, link: ConnectLink) -> Approval | None:
    return await approvals.get(deployment.database, deployment.keys, link.url.rpartition("/")[2])


async def load(deployment: Deployment, approval_id: str, *, user: User) -> Approval:
    """The approval, for its page. Raises ApproveRefused for anyone other than the person who is asked."""
    approval = await approvals.get(deployment.database, deployment.keys, approval_id)
    if approval is None:
        raise ApproveRefused(
            "This request no longer exists. Check what agents ask you on the Approvals page.", kind="not_found"
        )
    if approval.user_id != user.id:
        refused = Event(
            kind="approval.refused",
            outcome="refused",
            user_id=user.id,
            client_id=approval.client_id,
            details={"reason": "another_user"},
        )
        await deployment.activity.record_refusal(refused)
        raise ApproveRefused(
            "This request is for someone else. If your own agent gave you the link, sign out and sign "
            "in with the account that the agent uses. If a stranger sent it, close this page.",
            kind="forbidden",
        )
    return approval


async def check_may_approve(deployment: Deployment, approval: Approval, session: Session | None) -> None:
    """Raises StepUpRequired if the operator requires a passkey for this tool, or if the tool no longer exists."""
    spec = deployment.tool(approval.tool)
    if spec is None or spec.destructive:
        await step_up.check_passkey(deployment, session, "destructive_tools", back=f"{_PATH}{approval.id}")


async def decide(
    deployment: Deployment,
    approval: Approval,
    *,
    user: User,
    session: Session | None,
    is_approved: bool,
    method: str | None = None,
    standing_terms: StandingTerms | None = None,
) -> None:
    """Record the person's answer. All surfaces answer approvals with this function.

    `session` is the browser's session, or None on the command line; raises StepUpRequired if it isn't authenticated
    strongly enough. Raises ApproveRefused if the answer comes too late or a second time. `method` records in the
    activity how the answer was given, if not on the person's page. `standing_terms`: the person also approves later
    calls with the same target; refused if no standing approval is offered.
    """
    if is_approved:
        await check_may_approve(deployment, approval, session)
    now = deployment.now()
    kind, outcome = ("approval.given", "ok") if is_approved else ("approval.refused", "refused")
    events = [event_of(approval, kind, outcome=outcome, method=method)]
    if standing_terms is not None and (not is_approved or await standing_offers.offer(deployment, approval) is None):
        raise ApproveRefused(
            "This call can only be approved once. Go back and choose Approve once, or deny it.", kind="forbidden"
        )
    spec = deployment.tool(approval.tool)
    names: Mapping[str, str] = {} if spec is None else lookups.known_values(deployment, approval, spec).names
    try:
        async with deployment.transaction() as transaction:
            await approvals.decide(
                transaction,
                approval.id,
                user_id=user.id,
                is_approved=is_approved,
                now=now,
                kept_until=approval.expires_at if approval.is_request else 0,
            )
            await client_notices.note(transaction, approval, due_at=now)
            if (binding := standing_offers.binding_of(deployment, approval)) is not None:
                await standing_approvals.count_answer(transaction, binding, is_approved=is_approved, now=now)
            if standing_terms is not None:
                events.append(
                    await standing_offers.give(transaction, deployment, approval, standing_terms, names=names, now=now)
                )
            await audit.append(transaction, *events, now=now)
    except TransitionRefused as error:
        raise ApproveRefused(
            "This request was already answered, or has expired. If you still want it, have the agent try again.",
            kind="gone",
        ) from error
