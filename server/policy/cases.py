"""Test cases for the operator's rules, in TOML files next to them: a use of an account, and the expected decision."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from providers.api.rules import first_rule, judged_method, of_path
from providers.definitions.model import Provider
from providers.definitions.suggestions import did_you_mean, what_is_wrong
from server.live_providers import ProviderSet
from server.policy.decisions import Decider
from server.policy.facts import AgentFacts, CallFacts, PersonFacts
from server.policy.files import RulesRefused
from server.policy.rules import PolicyRule, RuleSet
from server.policy.schema import OWN_PROVIDER, PROXY, REQUEST, Action
from vault import groups, users
from vault.refresh.policy_checks import PolicyVerdict

_SHOWN = 3


class PolicyCase(BaseModel):
    """One use of an account. Missing values are empty, false, or unknown; the default time is within working hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=200)] = "call"
    call: str
    arguments: Mapping[str, object] = Field(default_factory=dict[str, object], repr=False)
    user: str = "someone"
    groups: tuple[str, ...] = ()
    role: Literal["owner", "administrator", "auditor", "member"] = "member"
    agent: str = "some-agent"
    agent_name: str = "Some agent"
    agent_kind: str = "dynamic"
    actors: tuple[str, ...] = ()
    provider: str = ""
    account: str = "someone@example.com"
    scopes: tuple[str, ...] = ()
    at: datetime = datetime.fromisoformat("2026-01-07T12:00")
    address: str = ""
    strong: bool = False
    signed_in_seconds: int | None = None
    method: str = ""
    api: str = ""
    path: str = ""
    expect: Literal["allow", "ask", "forbid"] = "allow"
    rule: str = ""


class CaseRefused(ValueError):
    """A case that can't happen, so that its result would be wrong. `field` has the wrong value."""

    def __init__(self, field: str, description: str) -> None:
        # the description of these fields names the call already
        super().__init__(description if field in {"call", "arguments"} else f"{field}: {description}")
        self.field = field
        self.description = description


class _CaseFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    case: tuple[PolicyCase, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The rules' decision for a case."""

    place: str
    case: PolicyCase
    verdict: PolicyVerdict

    @property
    def is_right(self) -> bool:
        """Whether the decision is as expected, and made by the rule that the case names, if any."""
        is_rule = self.case.rule in {"", self.verdict.rule}
        return self.verdict.outcome.value == self.case.expect and is_rule


@dataclass(frozen=True, slots=True)
class CasePlace:
    """The environment of cases: the providers with their tools, and the time zone of the rules."""

    providers: ProviderSet
    zone: ZoneInfo

    def judge(self, rules: RuleSet, case: PolicyCase) -> PolicyVerdict:
        """The decision of these rules. Raises CaseRefused."""
        return self.decide(rules, self.facts_of(case, rules.actions))

    def decide(self, rules: RuleSet, facts: CallFacts) -> PolicyVerdict:
        """The decision of these rules."""
        return self._decider(rules, facts).decide(facts)

    def rules_met(self, rules: RuleSet, facts: CallFacts) -> list[PolicyRule]:
        """The rules that can decide about a call of this kind, also because it could replace a tool."""
        tools = self._decider(rules, facts).governed_tools
        return [one for one in rules.rules if _meets(one, facts.action, facts) or _meets_any(one, tools, facts)]

    def _decider(self, rules: RuleSet, facts: CallFacts) -> Decider:
        policy = self.providers.policies.get(facts.provider)
        return Decider(rules, facts.action, facts.provider, facts.agent.id, facts.scopes, policy)

    def facts_of(self, case: PolicyCase, actions: Mapping[str, Action]) -> CallFacts:
        """The case as the gate sees it. Raises CaseRefused."""
        action = actions.get(case.call)
        if action is None:
            near = did_you_mean(case.call, list(actions))
            raise CaseRefused("call", f"no call {case.call!r}.{near} See token-vault policy schema")
        provider = self._provider_of(case, action)
        if not (case.scopes or action.is_tool):
            raise CaseRefused("scopes", f"name those that the {action.name} asks for")
        values = self._arguments(case)
        now = case.at if case.at.tzinfo else case.at.replace(tzinfo=self.zone)
        instant = int(now.timestamp())
        return CallFacts(
            action,
            PersonFacts(
                "-",
                case.user,
                users.name_key(case.user),
                case.role,
                frozenset(groups.name_key(one) for one in case.groups),
            ),
            AgentFacts(case.agent, case.agent_name, case.agent_kind),
            account_id="-",
            provider=provider,
            account=case.account,
            scopes=frozenset(case.scopes) or action.scopes,
            actors=case.actors,
            now=instant,
            zone=self.zone,
            arguments=(lambda: values) if action.is_tool else None,
            wire={"method": case.method, "api": case.api, "path": case.path},
            address=case.address,
            signed_in_at=None if case.signed_in_seconds is None else instant - case.signed_in_seconds,
            is_strong=case.strong,
        )

    def _provider_of(self, case: PolicyCase, action: Action) -> str:
        """The provider as the gate names it. Raises CaseRefused for one that no gate ever sees."""
        if action.name == REQUEST:
            if case.provider != OWN_PROVIDER:
                raise CaseRefused("provider", f"request uses no account: write {OWN_PROVIDER}")
            return OWN_PROVIDER
        if action.is_tool and case.provider in {"", action.provider}:
            return action.provider
        if not case.provider:
            raise CaseRefused("provider", f"name the provider of the account that {action.name} uses")
        found = self.providers.catalog.get(case.provider)
        if found is None:
            raise CaseRefused("provider", "no provider has this name")
        if action.is_tool and found.name != action.provider:
            raise CaseRefused("provider", f"{action.name} is a tool of {action.provider}: write that, or omit it")
        if found.is_remote and not action.is_tool:
            told = f"only its tools use an account at the MCP server {found.name}: name one as the call"
            raise CaseRefused("provider", told)
        if action.name == PROXY:
            _check_proxied(case, found)
        return found.name

    def _arguments(self, case: PolicyCase) -> Mapping[str, object]:
        """The arguments as the tool receives them, with its defaults."""
        tools = (*self.providers.tools, *self.providers.away)
        spec = next((one for one in tools if one.name == case.call), None)
        if spec is None:
            return {}
        try:
            return spec.input.model_validate(case.arguments).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            told = f"{case.call}: {'.'.join(map(str, first['loc']))}: {what_is_wrong(spec.input, first)}"
            raise CaseRefused("arguments", told) from None


def _check_proxied(case: PolicyCase, provider: Provider) -> None:
    """Check that the proxy would ask the gate about such a call. Raises CaseRefused.

    The gate sees the path of the request rule that decides, as the provider file has it.
    """
    if case.api not in provider.apis:
        raise CaseRefused("api", f"use an API of {provider.name}: {', '.join(provider.apis) or 'it has none'}")
    method = judged_method(case.method)
    ruled = [one for one in provider.rules if one.api == case.api and not one.tells_secrets]
    methods = dict.fromkeys(each for one in ruled for each in one.method)
    if method not in methods:
        raise CaseRefused(
            "method",
            f"use one that the request rules of {provider.name} allow: {', '.join(methods) or 'there is none'}",
        )
    found = [one for one in ruled if method in one.method and one.path == case.path]
    if not found:
        meant = of_path(provider, api=case.api, method=method, path=case.path)
        fix = next((f": write {one.path}" for one in meant if not one.tells_secrets), "")
        near = did_you_mean(case.path, [one.path for one in ruled if method in one.method])
        raise CaseRefused("path", f"no request rule of {provider.name} for {method} has this path{fix or f'.{near}'}")
    if first_rule(provider, found, frozenset(case.scopes)) is None:
        needed = sorted({scope for one in found for scope in one.scopes | one.needs})
        raise CaseRefused("scopes", f"use those that allow this call at {provider.name}: {', '.join(needed)}")


def _meets(rule: PolicyRule, action: Action, facts: CallFacts) -> bool:
    return rule.meets(action, provider=facts.provider, agent=facts.agent.id)


def _meets_any(rule: PolicyRule, tools: Sequence[Action], facts: CallFacts) -> bool:
    return rule.is_about_tools and any(_meets(rule, one, facts) for one in tools)


def run_cases(files: Sequence[Path], rules: RuleSet, place: CasePlace) -> list[CaseResult]:
    """Judge every case in these files. Raises RulesRefused for a file or case that can't be used."""
    results: list[CaseResult] = []
    for file in files:
        try:
            cases = _CaseFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).case
        except ValidationError as error:
            first = error.errors()[0]
            told = f"{'.'.join(map(str, first['loc']))}: {what_is_wrong(_CaseFile, first)}"
            raise RulesRefused(file.name, [told]) from None
        except (OSError, ValueError) as error:
            raise RulesRefused(file.name, [str(error)]) from None
        for case in cases:
            try:
                results.append(CaseResult(file.name, case, place.judge(rules, case)))
            except ValueError as error:
                raise RulesRefused(file.name, [f"{case.name}: {error}"]) from None
    return results


def case_files(folder: Path) -> list[Path]:
    """The files with cases in a folder of rules."""
    return sorted(folder.rglob("*.toml"))
