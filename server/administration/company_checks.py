"""Checks of companies that admit agents: their keys, the names in their rules, and recently refused assertions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from providers.definitions.issuers import NoMetadata, fetch_metadata
from providers.definitions.suggestions import did_you_mean
from providers.oauth.assertions import ID_JAG
from providers.outbound.addresses import AddressPolicy
from providers.outbound.json_values import is_array
from server.administration.assertion_checks import ISSUED
from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from server.issuer_settings import AllowedAgents, EnterpriseSettings
from server.oauth.clients.rules import document_host_allowed, is_metadata_client
from server.oauth.enterprise.refusals import REFUSALS
from server.oauth.rules import SCOPES
from server.signatures.issuers import key_address
from server.signatures.key_sets import NoKeys, keys_behind
from vault import clients
from vault.audit import search
from vault.audit.search import EventFilter

_LATELY: Final = 86400  # seconds
_MOST: Final = 200  # number of refused events to examine


async def check_companies(deployment: Deployment) -> list[Finding]:
    """No findings without companies."""
    found: list[Finding] = []
    for name, trusted in deployment.settings.enterprise.items():
        wrong = [*await _check_keys(deployment, name, trusted), *await _check_rules(deployment, name, trusted)]
        agents = len({one for rule in trusted.allow.values() for one in rule.agents})
        found += wrong or [ok(f"enterprise.{name}", f"its keys can be read, and its rules admit {agents} agents")]
    return found + (await _check_refused(deployment) if found else [])


async def _check_keys(deployment: Deployment, name: str, trusted: EnterpriseSettings) -> list[Finding]:
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
    now, why = deployment.now(), "no usable key in its key set"
    check = f"enterprise.{name}"
    try:
        url = trusted.jwks_uri or await key_address(deployment.http, trusted.issuer, policy, now=now)
        if await keys_behind(deployment.http, url, kid=None, policy=policy, on_behalf_of=None, now=now):
            return await _check_profile(deployment, trusted, policy, check=check)
    except NoKeys as error:
        why = str(error)
    sentence = f"the keys of {trusted.issuer} can't be read: {why}"
    fix = f"correct enterprise.{name}.issuer, or set enterprise.{name}.jwks_uri to the address of its keys"
    return [problem(check, sentence, fix=fix)]


async def _check_profile(
    deployment: Deployment, trusted: EnterpriseSettings, policy: AddressPolicy, *, check: str
) -> list[Finding]:
    """Whether its metadata rules out assertions; most metadata doesn't mention them (draft -04 §7.1)."""
    try:
        metadata = await fetch_metadata(trusted.issuer, deployment.http, policy=policy)
    except NoMetadata:  # with `jwks_uri` it needs none
        return []
    issued = metadata.get(ISSUED)
    if not is_array(issued) or ID_JAG in issued:
        return []
    sentence = f"the metadata of {trusted.issuer} says that it issues no identity assertions"
    return [note(check, sentence, fix="turn on cross-app access (ID-JAG) there for the agents")]


async def _check_rules(deployment: Deployment, name: str, trusted: EnterpriseSettings) -> list[Finding]:
    check = f"enterprise.{name}"
    if not trusted.allow:
        sentence = "it has no rule, so none of its agents is admitted"
        return [note(check, sentence, fix=f"add [enterprise.{name}.allow.RULE] with agents")]
    found: list[Finding] = []
    for rule_name, rule in trusted.allow.items():
        where = f"enterprise.{name}.allow.{rule_name}"
        found += [note(check, text, fix=f"correct {where}: {fix}") for text, fix in _unknown_names(deployment, rule)]
        for agent in rule.agents:
            if is_metadata_client(agent) and not document_host_allowed(agent, deployment.settings):
                fix = "add its host to registration.allowed_hosts"
                found.append(note(check, f"the document of {agent} isn't accepted here", fix=fix))
            if not await _is_known(deployment, agent):
                fix = f"correct {where}.agents, or register it: token-vault clients add {agent}"
                found.append(note(check, f"the vault knows no agent {agent}", fix=fix))
    return found


def _unknown_names(deployment: Deployment, rule: AllowedAgents) -> Iterator[tuple[str, str]]:
    """Names in a rule that the vault doesn't know, and what to correct."""
    for scope in sorted(set(rule.scopes) - SCOPES):
        yield f"{scope} isn't a scope of this vault", f"use {', '.join(sorted(SCOPES))} in scopes"
    providers = [one.name for one in deployment.catalog.all_providers()]
    for provider in rule.accounts:
        if deployment.catalog.get(provider) is None:
            near = did_you_mean(provider, providers)
            yield f"{provider} isn't a provider here.{near}", "token-vault providers list has the names"
    tools = [one.name for one in deployment.tools]
    for tool in rule.tools:
        if tool not in tools:
            yield f"{tool} isn't a tool here.{did_you_mean(tool, tools)}", "token-vault tools list has the names"


async def _is_known(deployment: Deployment, agent: str) -> bool:
    """Find an agent by its ID, its document's address, or its name."""
    if is_metadata_client(agent) or await clients.get_client(deployment.database, agent) is not None:
        return True
    async for page in clients.walk_clients(deployment.database):
        if any(one.name == agent for one in page):
            return True
    return False


async def _check_refused(deployment: Deployment) -> list[Finding]:
    """One note for each reason, with its fix."""
    since = deployment.now() - _LATELY
    wanted = EventFilter(outcome="refused", since=since)
    found = await search.search(deployment.database, None, wanted, limit=_MOST)
    refused = {
        (str(event.details.get("company", "")), str(event.details.get("reason", "")))
        for event in found.events
        if event.kind == "assertion.refused"
    }
    return [
        note(
            f"enterprise.{company}",
            f"assertions were refused in the last day: {REFUSALS[reason].description}",
            fix=REFUSALS[reason].fix.replace("enterprise.NAME", f"enterprise.{company}"),
        )
        for company, reason in sorted(refused)
        if reason in REFUSALS
    ]
