"""What the operator's rules would decide about a use of an account, and which of them can apply to it.

Nothing is recorded, and only the rules are asked: neither permissions nor a decision point elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from server.administration.actor import ChangeRefused
from server.deployment import Deployment
from server.policy.facts import AgentFacts, PersonFacts
from server.policy.gate import with_names
from vault.records import User
from vault.refresh.policy_checks import PolicyVerdict

if TYPE_CHECKING:
    from server.policy.rules import PolicyRule


class UseRefused(Exception):
    """A use that can't happen; `field` is the wrong one of the case."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


@dataclass(frozen=True, slots=True)
class ExplainedRules:
    """The decision, and the rules that can apply to a call of this kind. `digest` identifies all rules."""

    verdict: PolicyVerdict
    met: tuple[PolicyRule, ...]
    digest: str


async def explain_rules(
    deployment: Deployment, case: Mapping[str, object], *, person: User, agent_id: str, is_shadow: bool = False
) -> ExplainedRules:
    """Explain a use with the fields of a test case; person and agent have their current names, groups, and role.

    Raises ChangeRefused without such rules, and UseRefused.
    """
    gate, live, settings = deployment.policy, deployment.live, deployment.settings
    rules = None if gate is None else gate.shadow if is_shadow else gate.rules
    if rules is None:
        setting = "policy.shadow_folder" if is_shadow else "policy.folder"
        raise ChangeRefused("no_rules", f"This vault has no such rules: set {setting}.", kind="not_found")
    from server.policy import cases  # imported here: needs the extra `policy`

    wanted = cases.PolicyCase.model_validate({**case, "agent": agent_id})
    place = cases.CasePlace(live.current, ZoneInfo(settings.policy.time_zone))
    try:
        facts = place.facts_of(wanted, rules.actions)
    except cases.CaseRefused as error:
        raise UseRefused(error.field, error.description) from None
    facts = replace(facts, person=PersonFacts(person.id, key=person.id), agent=AgentFacts(agent_id))
    facts = await with_names(facts, deployment.database, admin=settings.admin)
    return ExplainedRules(place.decide(rules, facts), tuple(place.rules_met(rules, facts)), rules.digest)
