"""Standing approvals for the pages and the command line: when one can be given, and how one ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.deployment import Deployment
from vault import delegations
from vault.approvals import standing_approvals
from vault.approvals.approvals import Approval
from vault.approvals.standing_approvals import Binding, StandingApproval
from vault.audit import audit
from vault.exchange.approval_rules import can_stand
from vault.records import Event, User
from vault.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class StandingTerms:
    """The number of calls per day (UTC), and the instant of the end."""

    per_day: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class StandingOffer:
    """What a standing approval for this call would cover, and how often the person recently approved such calls."""

    target: Mapping[str, object]
    approved: int


def binding_of(deployment: Deployment, approval: Approval) -> Binding | None:
    """The target of a standing approval for this call; None for a tool or arguments without a target."""
    spec = deployment.tool(approval.tool)
    target = None if spec is None else spec.presentation.target_of(approval.arguments)
    if target is None:
        return None
    return Binding(approval.user_id, approval.client_id, approval.connection_id, tool=approval.tool, target=target)


async def offer(deployment: Deployment, approval: Approval) -> StandingOffer | None:
    """The offer for the person; None if the tool, its arguments, or the operator's rules don't allow one."""
    binding = binding_of(deployment, approval)
    policy = deployment.vault.policies.get(approval.provider)
    if binding is None or policy is None:
        return None
    held = await delegations.get(
        deployment.database,
        user_id=approval.user_id,
        client_id=approval.client_id,
        connection_id=approval.connection_id,
    )
    now = deployment.now()
    if held is None or not held.is_live(now):
        return None
    if not can_stand(policy, delegated=held.scopes, scopes=frozenset(approval.scopes), tool=approval.tool):
        return None
    return StandingOffer(binding.target, await standing_approvals.count_approved(deployment.database, binding, now=now))


async def give(
    transaction: Transaction,
    deployment: Deployment,
    approval: Approval,
    terms: StandingTerms,
    *,
    names: Mapping[str, str],
    now: int,
) -> Event:
    """Store the person's approval of calls like this one; returns its event. Ask for `offer` first."""
    binding = binding_of(deployment, approval)
    if binding is None:
        raise LookupError("an approval without a target has no offer")
    standing_id = await standing_approvals.give(
        transaction,
        deployment.keys,
        binding=binding,
        provider=approval.provider,
        account=approval.account,
        names=names,
        per_day=terms.per_day,
        expires_at=terms.expires_at,
        now=now,
    )
    details = {
        "tool": approval.tool,
        "provider": approval.provider,
        "account": approval.account,
        "standing": standing_id,
        "per_day": terms.per_day,
        "until": terms.expires_at,
    }
    return Event(
        "approval.standing_given",
        user_id=approval.user_id,
        client_id=approval.client_id,
        connection_id=approval.connection_id,
        details=details,
    )


async def end(
    deployment: Deployment, standing_id: str, *, user: User, method: str | None = None, by: str = ""
) -> StandingApproval | None:
    """End the person's standing approval with that ID; None if there is no live one.

    `by` names who ends it for them.
    """
    async with deployment.transaction() as transaction:
        return await revoke(transaction, deployment, standing_id, user=user, method=method, by=by)


async def revoke(
    transaction: Transaction,
    deployment: Deployment,
    standing_id: str,
    *,
    user: User,
    method: str | None = None,
    by: str = "",
) -> StandingApproval | None:
    """`end` as part of a larger change."""
    now = deployment.now()
    held = await standing_approvals.get(transaction, deployment.keys, standing_id, user_id=user.id)
    if held is None or not await standing_approvals.revoke(transaction, standing_id, user_id=user.id, now=now):
        return None
    event = _event_of(held, "approval.standing_revoked", method=method, by=by)
    await audit.append(transaction, event, now=now)
    return held


async def give_back(
    transaction: Transaction, deployment: Deployment, standing_id: str, *, user: User, revoked_at: int
) -> bool:
    """Undo that end; False if the standing approval is over for another reason."""
    now = deployment.now()
    held = await standing_approvals.get(transaction, deployment.keys, standing_id, user_id=user.id)
    if held is None or not await standing_approvals.give_back(
        transaction, standing_id, user_id=user.id, revoked_at=revoked_at, now=now
    ):
        return False
    await audit.append(transaction, _event_of(held, "approval.standing_restored"), now=now)
    return True


def _event_of(held: StandingApproval, kind: str, *, method: str | None = None, by: str = "") -> Event:
    details = {"tool": held.tool, "provider": held.provider, "account": held.account, "standing": held.id}
    return Event(
        kind,
        user_id=held.user_id,
        client_id=held.client_id,
        connection_id=held.connection_id,
        details=details | ({} if method is None else {"method": method}) | ({"by": by} if by else {}),
    )
