"""The decision of a set of rules about a use of an account by a tool, an exchange, the proxy, or a request.

A rule about a tool also applies to other ways to do the same: a token or a proxied call with the tool's scopes is
refused if rules that name the tool, or attributes that only its calls have, could refuse one of its calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from server.policy.facts import CallFacts
from server.policy.rules import Judgement, RuleSet
from server.policy.schema import CALL_ONLY, READS, Action
from vault.refresh.policy_checks import PolicyOutcome, PolicyVerdict
from vault.scopes import expand
from vault.upstream import UpstreamPolicy

_SEVERITY = tuple(PolicyOutcome)
_ALL_KNOWN: frozenset[str] = frozenset()
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decider:
    """One use under one set of rules. `policy`: the vault's facts about the provider. `unknown`: attributes without a
    known value.

    The names of people and agents are needed only `if needs_names`.
    """

    rules: RuleSet
    action: Action
    provider: str
    client_id: str
    scopes: frozenset[str]
    policy: UpstreamPolicy | None

    @property
    def governed_tools(self) -> tuple[Action, ...]:
        """The other tools that this use could replace."""
        unruled = _NOTHING if self.policy is None else self.scopes & self.policy.unruled
        if self.action.is_tool and not unruled:
            return ()
        reach = self.scopes if self.policy is None else expand(self.scopes, self.policy.covers)
        # Calls without a request rule can do or read anything there.
        is_open = self.policy is not None and not unruled <= self.policy.reading
        return tuple(
            one
            for one in self.rules.actions.values()
            if one.is_tool
            and one.provider == self.provider
            and one.name != self.action.name
            and (is_open or (bool(unruled) and READS in one.groups) or one.scopes <= reach)
        )

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
        """The certain verdict, and the worst one that the `unknown` attributes could cause."""
        found = self.rules.judge_partly(facts, unknown=unknown)
        sure, worst = [found.sure], [found.worst]
        for tool in self.governed_tools:
            there = replace(facts, action=tool)
            # Its arguments weren't known at the time either, so all possible arguments are considered.
            known = self.rules.judge_partly(there, unknown=CALL_ONLY, about_tools=True, without=unknown)
            sure.append(_as_governed(known.worst, tool))
            far = self.rules.judge_partly(there, unknown=CALL_ONLY | unknown, about_tools=True)
            worst.append(_as_governed(far.worst, tool))
        return Judgement(strictest(sure), strictest((*worst, *sure)))


def strictest(verdicts: Iterable[PolicyVerdict]) -> PolicyVerdict:
    """The strictest verdict; the first of equal ones."""
    return max(verdicts, key=lambda one: _SEVERITY.index(one.outcome))


def _as_governed(verdict: PolicyVerdict, tool: Action) -> PolicyVerdict:
    if verdict.outcome is PolicyOutcome.ALLOW:
        return verdict
    return replace(verdict, reason=f"{verdict.reason} (it governs {tool.name}, whose scopes these are)".strip())
