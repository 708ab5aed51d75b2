"""Explain what companies' rules and existing permissions mean for one agent and person. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.deployment import Deployment
from server.oauth.enterprise.assertion_grant import check_not_ended
from server.oauth.enterprise.refusals import REFUSALS, AssertionRefused
from server.oauth.enterprise.rules import rules_about
from vault import company_permissions
from vault.audit import search
from vault.audit.search import EventFilter
from vault.company_permissions import CompanyPermission
from vault.records import Client, User

_LATELY: Final = 86400  # seconds
_MOST: Final = 50  # number of refused events to examine


@dataclass(frozen=True, slots=True)
class CompanyStep:
    """The effect of one company's rules for an agent and a person. `fix` is empty if nothing is in the way."""

    company: str
    sentence: str
    fix: str = ""
    until: int | None = None  # of the permission


async def explain_companies(deployment: Deployment, client: Client, person: User | None) -> tuple[CompanyStep, ...]:
    """One step for each company whose rules name this agent or that admitted it before, and for recent refusals."""
    held: Mapping[str, CompanyPermission] = {}
    if person is not None:
        mine = await company_permissions.list_for_user(deployment.database, person.id)
        held = {one.company: one for one in mine if one.client_id == client.id}
    steps: list[CompanyStep] = []
    for name, trusted in deployment.settings.enterprise.items():
        try:
            rules = rules_about(trusted, client)
        except AssertionRefused as refusal:
            if name in held:
                steps.append(_refused_step(name, refusal.reason))
            continue
        steps.append(await _company_step(deployment, name, tuple(rules), held.get(name)))
    return (*steps, *await _late_refusals(deployment, client))


async def _company_step(
    deployment: Deployment, name: str, rules: tuple[str, ...], held: CompanyPermission | None
) -> CompanyStep:
    listed = ", ".join(sorted(rules))
    if held is None:
        return CompanyStep(
            name, f"{name} admits this agent by {listed}, but the agent presented no assertion for this person"
        )
    try:
        await check_not_ended(deployment.database, held)
    except AssertionRefused as refusal:
        return _refused_step(name, refusal.reason)
    if held.ended_at is not None or not held.is_live(deployment.now()):
        return CompanyStep(name, f"the permission from {name} has ended; a new assertion renews it")
    words = "; ".join(f"{provider}: {' '.join(sorted(some))}" for provider, some in held.accounts.items())
    return CompanyStep(name, f"{name} admits this agent ({words or 'no accounts'})", until=held.expires_at)


async def _late_refusals(deployment: Deployment, client: Client) -> tuple[CompanyStep, ...]:
    """The reasons for refusing this agent's assertions, for anyone, in the last day; each reason once."""
    wanted = EventFilter(client_id=client.id, outcome="refused", since=deployment.now() - _LATELY)
    found = await search.search(deployment.database, None, wanted, limit=_MOST)
    refused = {
        (str(one.details.get("company", "")), str(one.details.get("reason", "")))
        for one in found.events
        if one.kind == "assertion.refused"
    }
    return tuple(_refused_step(name, reason, lately=True) for name, reason in sorted(refused) if reason in REFUSALS)


def _refused_step(company: str, reason: str, *, lately: bool = False) -> CompanyStep:
    refusal = REFUSALS[reason]
    told = (
        f"an assertion of {company} was refused in the last day" if lately else f"assertions of {company} are refused"
    )
    return CompanyStep(
        company, f"{told}: {refusal.description}", refusal.fix.replace("enterprise.NAME", f"enterprise.{company}")
    )
