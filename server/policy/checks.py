"""Likely mistakes in valid rules: unknown names, and rules that forbid everything."""

from __future__ import annotations

from cedarpy import pst

from providers.definitions.catalog import Catalog
from providers.definitions.suggestions import did_you_mean
from server.policy.rules import PolicyRule, RuleSet
from server.policy.schema import OWN_PROVIDER
from vault import clients, groups, users
from vault.storage.database import Reader


def doubts(rules: RuleSet) -> list[str]:
    """The mistakes that can be found in the rules alone, one line each, with the place."""
    return [
        f"{one.place}: {one.name} forbids every call of everyone: add a condition, or narrow its scope"
        for one in rules.rules
        if _is_total(one)
    ]


def unknown_providers(rules: RuleSet, catalog: Catalog) -> list[str]:
    """Rules for a provider that no account can have: they never apply."""
    found: list[str] = []
    for rule in rules.rules:
        name = rule.head.provider
        if name is None or name == OWN_PROVIDER:
            continue
        provider = catalog.get(name)
        if provider is None:
            near = did_you_mean(name, catalog.names)
            found.append(
                f"{rule.place}: {rule.name} names the provider {name!r}, which isn't there{near and '.' + near}"
            )
        elif provider.name != name:
            found.append(f"{rule.place}: {rule.name} names the provider {name!r}: write {provider.name!r}")
    return found


async def strangers(rules: RuleSet, reader: Reader) -> list[str]:
    """People, groups, and agents in the rules that this vault doesn't know: their rules never apply."""
    found: list[str] = []
    for rule in rules.rules:
        for uid in sorted(pst.entity_uids(rule.node), key=str):
            kind, name = uid.type.basename, uid.id
            is_missing = (kind == "User" and await users.find_user(reader, name) is None) or (
                kind == "Group" and await groups.find_group(reader, name) is None
            )
            if is_missing:
                found.append(f"{rule.place}: {rule.name} names the {kind.lower()} {name!r}, which isn't there")
        if rule.only_agent is not None and await clients.get_client(reader, rule.only_agent) is None:
            found.append(f"{rule.place}: {rule.name} names the agent {rule.only_agent!r}, which isn't there")
    return found


def _is_total(rule: PolicyRule) -> bool:
    is_open = isinstance(rule.node.principal, pst.ScopeAny | pst.ScopeIs)
    is_open &= isinstance(rule.node.resource, pst.ScopeAny | pst.ScopeIs)
    return is_open and rule.actions is None and not rule.node.clauses and not rule.asks
