"""Evaluate recorded uses under rules that aren't in force yet: what they would have refused or asked about.

The activity doesn't contain arguments and addresses, or always how the person had signed in. A use that depends on
these is counted as undecided; nothing is guessed. People, groups, and agents have their current names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from zoneinfo import ZoneInfo

from providers.outbound.json_values import is_array
from server.admin_settings import AdminSettings
from server.policy.decisions import Decider
from server.policy.facts import AgentFacts, CallFacts, PersonFacts
from server.policy.gate import with_names
from server.policy.rules import Judgement, RuleSet
from server.policy.schema import CALL_ONLY, EXCHANGE, PROXY, Action
from vault.audit import audit
from vault.audit.search import first_at
from vault.records import LAST, Event, parse_scope
from vault.refresh.policy_checks import PolicyOutcome
from vault.storage.database import Reader
from vault.upstream import UpstreamPolicy

_USES: Final = frozenset({"token.exchanged", "token.released", "handle.issued"})
_PAGE: Final = 1000  # events
_NEVER_KEPT: Final = frozenset({"address", "signedInSeconds"})
_WIRE: Final = frozenset({"method", "api", "path"})
_KNOWN_PEOPLE: Final = 10_000


@dataclass(frozen=True, slots=True)
class ReplayedUse:
    """One use of an account, and the decision of the rules about it."""

    event: Event
    action: str
    judgement: Judgement | None  # None: it can't be judged
    why_open: str = ""

    @property
    def outcome(self) -> str:
        """`allow`, `ask`, `forbid`, or `open` if the decision depends on unrecorded facts."""
        if self.judgement is None or self.judgement.is_open:
            return "open"
        return self.judgement.sure.outcome.value

    @property
    def rule(self) -> str:
        """The rule that decides, or could decide."""
        return "" if self.judgement is None else self.judgement.worst.rule


@dataclass(slots=True)
class ReplayReport:
    """Counts. `by_rule`: by rule and outcome; `by_call`: likewise, by what was done; `open_for`: why not judged."""

    events: int = 0
    uses: Counter[str] = field(default_factory=Counter[str])
    by_rule: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    by_call: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    open_for: Counter[str] = field(default_factory=Counter[str])
    refused_then: int = 0  # uses that were refused at the time for any reason

    def count(self, use: ReplayedUse) -> None:
        """Add one use."""
        self.uses[use.outcome] += 1
        if use.outcome != PolicyOutcome.ALLOW.value:
            self.by_rule[use.rule, use.outcome] += 1
            self.by_call[use.action, use.outcome] += 1
        if use.outcome == "open":
            self.open_for[use.why_open] += 1


@dataclass(frozen=True, slots=True)
class Replay:
    """The rules to try, and the context for evaluating a use."""

    rules: RuleSet
    policies: Mapping[str, UpstreamPolicy]
    zone: ZoneInfo
    admin: AdminSettings

    async def run(
        self, reader: Reader, *, since: int, report: ReplayReport, most: int | None = None
    ) -> AsyncGenerator[ReplayedUse]:
        """Every use since an instant, oldest first; updates `report`. `most`: only the last events, this many."""
        after, last = await first_at(reader, since) - 1, -1
        if most is not None:
            after = max(after, await first_at(reader, LAST) - 1 - most)
        people = dict[tuple[str, str], tuple[PersonFacts, AgentFacts]]()
        while after != last:
            last = after
            for event in await audit.list_events(reader, after=after, limit=_PAGE):
                after = event.sequence
                report.events += 1
                report.refused_then += event.kind == "exchange.refused"
                if event.kind in _USES:
                    use = await self._use(event, reader, people)
                    report.count(use)
                    yield use

    async def _use(
        self, event: Event, reader: Reader, people: dict[tuple[str, str], tuple[PersonFacts, AgentFacts]]
    ) -> ReplayedUse:
        action = self._action(event)
        if action is None:
            return ReplayedUse(event, str(event.details.get("purpose", "")), None, "the tool no longer exists")
        facts, unknown = self._facts(event, action)
        policy = self.policies.get(facts.provider)
        decider = Decider(self.rules, action, facts.provider, facts.agent.id, facts.scopes, policy)
        if decider.needs_names:
            key = (facts.person.id, facts.agent.id)
            if key not in people:
                if len(people) >= _KNOWN_PEOPLE:
                    people.clear()
                named = await with_names(facts, reader, admin=self.admin)
                people[key] = (named.person, named.agent)
            facts = replace(facts, person=people[key][0], agent=people[key][1])
            if not facts.person.name or not facts.agent.kind:
                return ReplayedUse(event, action.name, None, "the person or agent is gone")
        found = decider.decide_partly(facts, unknown=unknown)
        why = f"not recorded: {', '.join(sorted(unknown & self._named_by(found)))}" if found.is_open else ""
        return ReplayedUse(event, action.name, found, why)

    def _named_by(self, found: Judgement) -> frozenset[str]:
        """The attributes that the possible rule reads."""
        rule = next((one for one in self.rules.rules if one.name == found.worst.rule), None)
        return frozenset[str]() if rule is None else rule.names.attributes

    def _action(self, event: Event) -> Action | None:
        purpose = event.details.get("purpose")
        if event.kind != "token.exchanged" or not isinstance(purpose, str):
            return self.rules.actions[EXCHANGE]
        return self.rules.actions.get(purpose)

    def _facts(self, event: Event, action: Action) -> tuple[CallFacts, frozenset[str]]:
        """The use as recorded in its event, and the attributes that the event lacks."""
        details = event.details
        unknown = _NEVER_KEPT
        unknown |= CALL_ONLY if action.is_tool else frozenset()
        told = {name: str(details[name]) for name in _WIRE if name in details}
        if action.name == PROXY and not told:
            unknown |= _WIRE
        strong = details.get("strong")
        if not isinstance(strong, bool):
            unknown |= {"strong"}
        actors = details.get("actors")
        facts = CallFacts(
            action,
            PersonFacts(event.user_id or "", key=event.user_id or ""),
            AgentFacts(event.client_id or ""),
            account_id=event.connection_id or "",
            provider=str(details.get("provider", "")),
            account=str(details.get("account", "")),
            scopes=parse_scope(str(details.get("carried", details.get("scopes", "")))),
            actors=tuple(map(str, actors)) if is_array(actors) else (),
            now=event.at,
            zone=self.zone,
            wire=told,
            is_strong=strong is True,
        )
        return facts, unknown
