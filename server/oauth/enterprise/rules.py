"""The company's rules that apply to an agent and a person, and what they allow together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from providers.tools.spec import ToolSpec
from server.issuer_settings import AllowedAgents, EnterpriseSettings
from server.oauth.enterprise.refusals import AssertionRefused
from server.oauth.rules import SCOPES
from vault.company_access import ASK
from vault.groups import name_key
from vault.records import Client, ClientKind


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the rules allow together. `accounts`: scopes and keywords of `vault.company_access`, by provider."""

    names: tuple[str, ...]
    scopes: frozenset[str]
    accounts: Mapping[str, frozenset[str]]


def named_agents(companies: Mapping[str, EnterpriseSettings]) -> frozenset[str]:
    """Every id and name of an agent in the rules."""
    return frozenset(agent for one in companies.values() for rule in one.allow.values() for agent in rule.agents)


def rules_about(
    trusted: EnterpriseSettings, client: Client, *, is_asked_for: bool = False
) -> Mapping[str, AllowedAgents]:
    """The company's rules that name this agent. Raises AssertionRefused.

    There may be none for an agent that access requests admit for someone (`is_asked_for`).
    """
    about = {name: rule for name, rule in trusted.allow.items() if _is_about(rule, client)}
    if not about and not is_asked_for:
        raise AssertionRefused("agent")
    return about


def allowed_by(
    about: Mapping[str, AllowedAgents],
    *,
    groups: frozenset[str],
    tool: Callable[[str], ToolSpec | None],
    further: Mapping[str, AllowedAgents] | None,
) -> Allowance:
    """What these rules allow together for a person of these groups (`name_key`s). Raises AssertionRefused.

    `further` are rules that an access request applied to this person and agent, whoever they name.
    """
    counting = {name: one for name, one in about.items() if not one.groups or groups & set(map(name_key, one.groups))}
    counting |= further or {}
    if not counting:
        raise AssertionRefused("group" if about else "agent")
    rules = counting.values()
    return Allowance(
        tuple(sorted(counting)),
        scopes=frozenset(one for rule in rules for one in rule.scopes) & SCOPES,
        accounts=_accounts(rules, tool),
    )


def _is_about(rule: AllowedAgents, client: Client) -> bool:
    """By its id; by its name only if an admin gave it that name."""
    return client.id in rule.agents or (client.kind is ClientKind.MANUAL and client.name in rule.agents)


def _accounts(rules: Iterable[AllowedAgents], tool: Callable[[str], ToolSpec | None]) -> Mapping[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for rule in rules:
        asked = frozenset({ASK} if rule.ask_writes else ())
        for provider, words in rule.accounts.items():
            found[provider] = found.get(provider, frozenset()) | frozenset(words) | asked
        for name in rule.tools:
            spec = tool(name)
            if spec is not None and spec.provider is not None:
                found[spec.provider] = found.get(spec.provider, frozenset()) | spec.scopes | asked
    return found
