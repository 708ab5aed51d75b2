"""Explain how the vault would treat an identity assertion: every check, in order, without using or recording it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.deployment import Deployment
from server.issuer_settings import AllowedAgents
from server.oauth.clients.authentication import find_client
from server.oauth.enterprise import assertions, people
from server.oauth.enterprise.assertion_grant import (
    check_not_ended,
    check_not_ended_by_person,
    further_of,
    is_used,
    issued_scopes,
    requested_rules,
)
from server.oauth.enterprise.assertions import JWT_BEARER, IdentityAssertion
from server.oauth.enterprise.refusals import AssertionRefused
from server.oauth.enterprise.rules import Allowance, allowed_by, named_agents, rules_about
from server.oauth.parameters import Parameters
from server.oauth.token_request import TokenRequest
from server.signatures import jose
from vault import company_permissions, groups
from vault.company_permissions import CompanyPermission
from vault.records import Client, User


@dataclass(frozen=True, slots=True)
class AssertionExplanation:
    """`reason` is one of `REFUSALS`, or empty if a token would be issued. The rest is as far as known."""

    reason: str
    company: str
    client: Client | None
    person: User | None
    known_by: str  # link, directory, address, or new
    rules: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    accounts: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])


async def explain_assertion(deployment: Deployment, token: str) -> AssertionExplanation:
    """What would be issued for the assertion, or the first reason for refusing it.

    Assumes that the client authenticates and proves the key that the assertion is bound to.
    """
    company, client, person, known_by = "", None, None, ""
    try:
        company, _ = assertions.trusted_company(deployment, token)
        claims = jose.unverified_claims(token)
        client = await _client_of(deployment, claims)
        asked = _request(deployment, client, claims)
        assertion = await assertions.verify(deployment, asked, token)
        requested = await requested_rules(deployment, client, assertion, now=asked.now)
        about = rules_about(assertion.trusted, client, is_asked_for=bool(requested))
        seen = await people.foresee(deployment, assertion)
        person, known_by = seen.person, seen.by
        further = further_of(requested, person)
        allowed = await _find_allowed(deployment, assertion.groups, about, person, further=further, now=asked.now)
        scopes = issued_scopes(asked, assertion, allowed)
        await _check_unused(deployment, assertion, now=asked.now)
        await _check_not_ended(deployment, person, client, company)
    except AssertionRefused as refusal:
        return AssertionExplanation(refusal.reason, company, client, person, known_by)
    return AssertionExplanation("", company, client, person, known_by, allowed.names, scopes, allowed.accounts)


async def _client_of(deployment: Deployment, claims: Mapping[str, object]) -> Client:
    client_id = claims.get("client_id")
    if not isinstance(client_id, str):
        raise AssertionRefused("client")
    is_named = client_id in named_agents(deployment.settings.enterprise)
    client = await find_client(deployment, client_id, address="", may_be_new=is_named)
    if client is None:
        raise AssertionRefused("client")
    return client


async def _check_unused(deployment: Deployment, assertion: IdentityAssertion, *, now: int) -> None:
    if await is_used(deployment.database, assertion, now=now):
        raise AssertionRefused("replayed")


def _request(deployment: Deployment, client: Client, claims: Mapping[str, object]) -> TokenRequest:
    confirmation = claims.get("cnf")
    key: object = confirmation.get("jkt") if isinstance(confirmation, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- parsed JSON
    return TokenRequest(
        client=client,
        form=Parameters({"grant_type": JWT_BEARER}),
        scopes=None,
        resource=None,
        key_thumbprint=key if isinstance(key, str) else None,
        now=deployment.now(),
    )


async def _find_allowed(
    deployment: Deployment,
    named: frozenset[str],
    about: Mapping[str, AllowedAgents],
    person: User | None,
    *,
    further: Mapping[str, AllowedAgents],
    now: int,
) -> Allowance:
    known = frozenset[str]()
    if person is not None:
        known = await groups.names_of_person(deployment.database, person.id, now=now)
    return allowed_by(about, groups=named | known, tool=deployment.tool, further=further)


async def _check_not_ended(deployment: Deployment, person: User | None, client: Client, company: str) -> None:
    if person is None:
        return
    held: CompanyPermission | None = await company_permissions.get(
        deployment.database, user_id=person.id, client_id=client.id, company=company
    )
    if held is None:
        await check_not_ended_by_person(deployment.database, user_id=person.id, client_id=client.id)
    else:
        await check_not_ended(deployment.database, held)
