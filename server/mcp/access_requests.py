"""Calls that a group's rule doesn't include: the agent requests more from the group if its person agrees in a form.

The client fills in the form, so the request by itself gives the agent nothing: others answer it, and the person
confirms it on its page. Clients without forms get a link to a page that leads to the same request.
"""

from __future__ import annotations

from typing import Final

from mcp_types import CallToolResult, ElicitRequest, ElicitRequestFormParams, InputRequiredResult

from server.administration import access_requests
from server.administration.access_requests import MOST_REASON, AccessInput
from server.administration.actor import ChangeRefused
from server.deployment import Deployment
from server.mcp import elicitation
from server.mcp.elicitation import ACCESS_KEY, AskingOptions
from server.mcp.tool_answers import failure
from vault import clients, users
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessRequest, Kind
from vault.records import Principal
from vault.refusals import DelegationRequired, TemporarilyUnavailable

_USUAL_DAYS: Final = 7


async def ask_group(
    deployment: Deployment, principal: Principal, refusal: DelegationRequired, asking: AskingOptions
) -> CallToolResult | InputRequiredResult | None:
    """The agent's answer in place of a link: a waiting request, a form, or a filed request. None for a link."""
    longest = deployment.settings.access_requests.longest_days
    if not refusal.is_beyond_rule or refusal.connection_id is None or not longest:
        return None
    waiting = await stored.find_waiting(
        deployment.database,
        user_id=principal.user_id,
        client_id=principal.client_id,
        kind=Kind.ACCOUNT,
        target=refusal.connection_id,
        now=deployment.now(),
    )
    if waiting is not None:
        wanted = refusal.scopes - deployment.vault.policies[refusal.provider].always_granted
        said = "" if wanted <= waiting.access.scopes else "Another request for this account comes first. "
        return failure(f"{refusal.description} {said}{_waits(deployment, waiting)}")
    if not asking.is_modern or not asking.fills_forms or asking.cancels_access:
        return None
    if asking.leaves_access:
        return failure("The person declined to ask the group, so nothing was done.")
    if asking.access is None:
        return _form(f"{refusal.description} What is it for?", longest, asking)
    return await _file(deployment, principal, refusal, asking)


def _form(message: str, longest: int, asking: AskingOptions) -> InputRequiredResult:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "title": "Reason", "minLength": 1, "maxLength": MOST_REASON},
            "days": {
                "type": "integer",
                "title": "Days",
                "minimum": 1,
                "maximum": longest,
                "default": min(_USUAL_DAYS, longest),
            },
        },
        "required": ["reason", "days"],
    }
    request = ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))
    return InputRequiredResult(input_requests={ACCESS_KEY: request}, request_state=elicitation.state_of(asking))


async def _file(
    deployment: Deployment, principal: Principal, refusal: DelegationRequired, asking: AskingOptions
) -> CallToolResult:
    content, policy = asking.access or {}, deployment.vault.policies[refusal.provider]
    reason, days = content.get("reason"), content.get("days")
    user = await users.get_user(deployment.database, principal.user_id)
    client = await clients.get_client(deployment.database, principal.client_id)
    if user is None or client is None:
        return failure(refusal.description)
    wanted = AccessInput(
        account=refusal.connection_id or "",
        client_id=client.id,
        scopes=refusal.scopes - policy.always_granted,
        reason=reason if isinstance(reason, str) else "",
        days=days if isinstance(days, int) else 0,
        is_by_agent=True,
    )
    try:
        request, _ = await access_requests.ask(deployment, user, wanted, via=client.name or client.id)
    except (ChangeRefused, TemporarilyUnavailable) as refused:
        return failure(f"{refusal.description} The request wasn't filed: {refused.description}")
    return failure(f"The group was asked. {_waits(deployment, request)}")


def _waits(deployment: Deployment, request: AccessRequest) -> str:
    url = deployment.url(f"/access-requests/{request.id}")
    if request.is_pending(deployment.now()):
        confirmed = "" if request.confirmed_at is not None else " and the person's confirmation"
        return f"The request waits for an answer{confirmed}: {url}. Don't call again before that."
    return f"The group allowed it, and the person has to confirm it: {url}. Don't call again before that."
