"""What a set of rules says of one use of an account, by whichever way: a tool, an exchange, the proxy, a request.

What holds for a tool holds for every other way to do the same: a token or a proxied call with the tool's scopes is
refused where the rules that name the tool, or what only its calls have, could refuse one of its calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from server.policy.facts import CallFacts
from server.policy.rules import Judgement, RuleSet
from server.policy.schema import CALL_ONLY, Action
from vault.refresh.policy_checks import PolicyOutcome, PolicyVerdict

_SEVERITY = tuple(PolicyOutcome)
_ALL_KNOWN: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decider:
    """One use under one set of rules. `reach`: the scopes, with all that they include; `unknown`: no fact tells these.

    The names of people and agents are needed only `if needs_names`.
    """

    rules: RuleSet
    action: Action
    provider: str
    client_id: str
    reach: frozenset[str]

    @property
    def governed_tools(self) -> tuple[Action, ...]:
        """The tools whose work this way could do, too."""
        if self.action.is_tool:
            return ()
        found = self.rules.actions.values()
        return tuple(one for one in found if one.is_tool and one.provider == self.provider and one.scopes <= self.reach)

    @property
    def needs_names(self) -> bool:
        """Whether a rule asks who the person or the agent is."""
        return any(
            self.rules.needs_person(one, provider=self.provider, agent=self.client_id)
            for one in (self.action, *self.governed_tools)
        )

    def decide(self, facts: CallFacts) -> PolicyVerdict:
        """The verdict, with everything known."""
        verdict = self.rules.judge(facts)
        for tool in self.governed_tools:
            found = self.rules.judge_partly(replace(facts, action=tool), unknown=CALL_ONLY, about_tools=True)
            verdict = strictest((verdict, _as_governed(found.worst, tool)))
        return verdict

    def decide_partly(self, facts: CallFacts, *, unknown: frozenset[str] = _ALL_KNOWN) -> Judgement:
        """The verdict for sure, and the worst that what is `unknown` could make of it."""
        found = self.rules.judge_partly(facts, unknown=unknown)
        sure, worst = [found.sure], [found.worst]
        for tool in self.governed_tools:
            there = replace(facts, action=tool)
            # At the time, its arguments were unknown, too: what they could have been decides.
            known = self.rules.judge_partly(there, unknown=CALL_ONLY, about_tools=True, without=unknown)
            sure.append(_as_governed(known.worst, tool))
            far = self.rules.judge_partly(there, unknown=CALL_ONLY | unknown, about_tools=True)
            worst.append(_as_governed(far.worst, tool))
        return Judgement(strictest(sure), strictest((*worst, *sure)))


def strictest(verdicts: Iterable[PolicyVerdict]) -> PolicyVerdict:
    """Whichever takes away most; the first of equals."""
    return max(verdicts, key=lambda one: _SEVERITY.index(one.outcome))


def _as_governed(verdict: PolicyVerdict, tool: Action) -> PolicyVerdict:
    if verdict.outcome is PolicyOutcome.ALLOW:
        return verdict
    return replace(verdict, reason=f"{verdict.reason} (it governs {tool.name}, whose scopes these are)".strip())
