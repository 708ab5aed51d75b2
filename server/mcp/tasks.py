"""Calls that wait for their person's approval, as tasks of MCP 2026-07-28 (SEP-2663, `io.modelcontextprotocol/tasks`).

A task is the open question about one call, and has its ID. The call is made once, when the client polls after the
approval, with the token of that request; the result is then kept for a while, for clients that missed the answer. Only
the agent that asked can see its task. `server.mcp.tools` offers it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult

from providers.tools.spec import Progress
from server.connecting import approvals as asked
from server.deployment import Deployment
from server.mcp import tools
from server.mcp.elicitation import AskingOptions
from server.mcp.retry_later import ON_AWAY
from server.mcp.task_offer import POLL, TTL, TaskAnswer, instant
from server.mcp.tool_answers import failure
from vault import replay, tickets
from vault.approvals import approvals
from vault.approvals.approvals import RELEASE, Approval
from vault.audit import audit
from vault.records import ApprovalState, Principal, TicketPurpose

_KEPT: Final = 900  # seconds for which a result can be asked for again
_RUNS: Final = 30  # seconds after which a call that was begun has ended in any case
_DENIED: Final = "The person denied this call, so nothing was done. Don't ask again; tell them instead."
_LATE: Final = "This call wasn't approved in time, so nothing was done. If it's still needed, call the tool again."
_UNKNOWN: Final = "This call was started, but its result is unknown. Check whether it was done before you try again."


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a vault, over one transport."""

    deployment: Deployment
    transport: str

    async def get(self, principal: Principal, task_id: str) -> TaskAnswer:
        """The current state of the task; makes the call if its person has approved. Raises MCPError."""
        deployment, approval = self.deployment, await self._find(principal, task_id)
        now = deployment.now()
        kept = await tickets.peek(
            deployment.database, deployment.keys, self._secret(task_id), purpose=TicketPurpose.TASK, now=now
        )
        if kept is not None:
            return _state(approval, now=now) | dict(kept.payload)
        match approval.status(now):
            case ApprovalState.PENDING.value:
                told = f"Waits for the person's answer at {deployment.url(f'/approvals/{task_id}')}"
                return _state(approval, now=now) | {"status": "working", "statusMessage": told}
            case ApprovalState.APPROVED.value:
                if await self._claim(approval, now=now):
                    return _state(approval, now=now) | await self._run(principal, approval)
                return _state(approval, now=now) | {"status": "working"}
            case ApprovalState.REFUSED.value:
                return _state(approval, now=now) | _completion(failure(_DENIED))
            case ApprovalState.CONSUMED.value:
                if now - (approval.consumed_at or 0) < _RUNS:
                    return _state(approval, now=now) | {"status": "working"}
                return _state(approval, now=now) | _completion(failure(_UNKNOWN))
            case _:
                return _state(approval, now=now) | _completion(failure(_LATE))

    async def update(self, principal: Principal, task_id: str) -> TaskAnswer:
        """Acknowledge an update; a task never asks its client for input. Raises MCPError."""
        await self._find(principal, task_id)
        return {}

    async def cancel(self, principal: Principal, task_id: str) -> TaskAnswer:
        """Withdraw the question, unless the call has begun. Raises MCPError."""
        deployment, approval = self.deployment, await self._find(principal, task_id)
        now = deployment.now()
        if approval.status(now) not in {ApprovalState.PENDING.value, ApprovalState.APPROVED.value}:
            return {}
        if not await self._claim(approval, now=now):
            return {}
        async with deployment.transaction() as transaction:
            if not await approvals.withdraw(transaction, approval.id, now=now):
                return {}  # another request has just used the approval
            event = asked.event_of(approval, "approval.refused", outcome="refused", method="withdrawn")
            await audit.append(transaction, event, now=now)
        await self._keep(approval, {"status": "cancelled"})
        return {}

    async def _find(self, principal: Principal, task_id: str) -> Approval:
        found = await approvals.get(self.deployment.database, self.deployment.keys, task_id)
        owner = None if found is None else (found.user_id, found.client_id)
        is_call = found is not None and not found.is_request and found.tool != RELEASE
        if found is None or not is_call or owner != (principal.user_id, principal.client_id):
            raise MCPError(code=INVALID_PARAMS, message="Unknown task: call the tool again")
        return found

    async def _claim(self, approval: Approval, *, now: int) -> bool:
        """True for exactly one of several requests, which then makes or withdraws the call."""
        async with self.deployment.transaction() as transaction:
            ends_at = approval.expires_at + _KEPT
            return await replay.first_use(transaction, "task", approval.id, expires_at=ends_at, now=now)

    async def _run(self, principal: Principal, approval: Approval) -> TaskAnswer:
        request = tools.ToolRequest(
            principal=principal,
            name=approval.tool,
            arguments=approval.arguments,
            asking=AskingOptions(account=approval.connection_id),
            transport=self.transport,
            on_away=ON_AWAY.get(),
        )
        result = await tools.call(self.deployment, request, progress=_UNHEARD)
        content = _completion(result if isinstance(result, CallToolResult) else failure(_LATE))
        await self._keep(approval, content)
        return content

    async def _keep(self, approval: Approval, content: TaskAnswer) -> None:
        deployment = self.deployment
        async with deployment.transaction() as transaction:
            await tickets.issue(
                transaction,
                deployment.keys,
                purpose=TicketPurpose.TASK,
                payload=content,
                lifetime=_KEPT,
                now=deployment.now(),
                user_id=approval.user_id,
                client_id=approval.client_id,
                secret=self._secret(approval.id),
            )

    def _secret(self, task_id: str) -> str:
        """No one who can only read the database finds a result by the ID of its task."""
        return hmac.digest(self.deployment.keys.subkey("task"), task_id.encode(), sha256).hex()


async def _unheard(done: int, total: int | None, message: str) -> None:
    """Progress of a task goes nowhere: `notifications/progress` are not for tasks."""


_UNHEARD: Final[Progress] = _unheard


def _state(approval: Approval, *, now: int) -> TaskAnswer:
    """The members of every answer about a task."""
    changed = max(one or 0 for one in (approval.created_at, approval.decided_at, approval.consumed_at))
    return {
        "taskId": approval.id,
        "createdAt": instant(approval.created_at),
        "lastUpdatedAt": instant(min(changed, now)),
        "ttlMs": TTL,
        "pollIntervalMs": POLL,
    }


def _completion(result: CallToolResult) -> TaskAnswer:
    return {"status": "completed", "result": result.model_dump(mode="json", by_alias=True, exclude_none=True)}
