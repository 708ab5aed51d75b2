"""The grant `urn:ietf:params:oauth:grant-type:jwt-bearer` with an identity assertion (ID-JAG): one token for each.

draft-ietf-oauth-identity-assertion-authz-grant-03 §4.4; no refresh token (§4.4.3): the client presents another
assertion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from server.deployment import Deployment
from server.issuer_settings import AllowedAgents
from server.oauth.enterprise import assertions, people
from server.oauth.enterprise.assertions import IdentityAssertion
from server.oauth.enterprise.refusals import AssertionRefused
from server.oauth.enterprise.rules import Allowance, allowed_by, rules_about
from server.oauth.rules import EXCHANGE_SCOPE, TOKEN_EXCHANGE, OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import TokenGrant, TokenRequest
from server.signatures import jose
from vault import clients, company_access, company_permissions, connections, grants, groups, replay, users
from vault.approvals import access_requests
from vault.audit import audit
from vault.company_access import OwnedAccount
from vault.company_permissions import ENDED_BY_ADMIN, CompanyPermission
from vault.records import DAY, Client, Event, Grant, User
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Reader, Transaction

_PURPOSE: Final = "id-jag"  # of used identifiers


async def redeem(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """The token's grant. Raises AssertionRefused, and records it as an event if the assertion is from a trusted
    issuer."""
    token = asked.form.require("assertion")
    try:
        assertion = await assertions.verify(deployment, asked, token)
        requested = await requested_rules(deployment, asked.client, assertion, now=asked.now)
        about = rules_about(assertion.trusted, asked.client, is_asked_for=bool(requested))
        if not about:  # no user is created or linked for an agent that is only admitted for others
            seen = await people.foresee(deployment, assertion)
            allowed_by(about, groups=frozenset(), tool=deployment.tool, further=further_of(requested, seen.person))
        person = await people.resolve(deployment, assertion)
        known = await groups.names_of_person(deployment.database, person.id, now=asked.now)
        further = further_of(requested, person)
        allowed = allowed_by(about, groups=assertion.groups | known, tool=deployment.tool, further=further)
        scopes = issued_scopes(asked, assertion, allowed)
        spend_request(deployment, user_id=person.id, client_id=asked.client.id)
        by_request = requested[person.id] if further else None
        grant = await _issue(deployment, asked, assertion, person, allowed, scopes, by_request=by_request)
    except AssertionRefused as refusal:
        await _record_refusal(deployment, asked, token, refusal)
        raise _with_request_link(deployment, asked, token, refusal) from refusal
    return TokenGrant(grant, scopes, assertion.resource, asks_anew=True)


@dataclass(frozen=True, slots=True)
class RequestedRules:
    """Rules that an access request applied to one person and agent."""

    rules: Mapping[str, AllowedAgents]
    request_id: str
    names: frozenset[str]


async def requested_rules(
    deployment: Deployment, client: Client, assertion: IdentityAssertion, *, now: int
) -> Mapping[str, RequestedRules]:
    """The people that access requests let this agent act for at this company, by ID."""
    found = await access_requests.company_rules(
        deployment.database, client_id=client.id, company=assertion.company, now=now
    )
    rules = assertion.trusted.allow
    return {
        user_id: RequestedRules(
            {name: rules[name] for name in one.access.scopes if name in rules}, one.id, one.access.scopes
        )
        for user_id, one in found.items()
    }


def further_of(requested: Mapping[str, RequestedRules], person: User | None) -> Mapping[str, AllowedAgents]:
    """The rules for this person."""
    own = None if person is None else requested.get(person.id)
    return {} if own is None else own.rules


def _with_request_link(
    deployment: Deployment, asked: TokenRequest, token: str, refusal: AssertionRefused
) -> AssertionRefused:
    """The same refusal; if the company's rules refuse, it names the page where the person can ask an admin."""
    if refusal.reason not in {"agent", "group"} or not deployment.settings.access_requests.longest_days:
        return refusal
    company, _ = assertions.trusted_company(deployment, token)
    query = urlencode({"company": company, "agent": asked.client.id})
    return AssertionRefused(
        refusal.reason, members={"access_request_uri": deployment.url(f"/access-requests/new?{query}")}
    )


def issued_scopes(asked: TokenRequest, assertion: IdentityAssertion, allowed: Allowance) -> frozenset[str]:
    """The token's scopes: those requested, asserted, and allowed (MCP §7.2.1). Raises AssertionRefused."""
    scopes = allowed.scopes if assertion.scopes is None else allowed.scopes & assertion.scopes
    if asked.scopes is not None:
        scopes &= asked.scopes
    if TOKEN_EXCHANGE not in asked.client.grant_types:
        scopes -= {EXCHANGE_SCOPE}
    scopes -= {"offline_access"}
    if not scopes:
        raise AssertionRefused("request")
    return scopes


async def _issue(
    deployment: Deployment,
    asked: TokenRequest,
    assertion: IdentityAssertion,
    person: User,
    allowed: Allowance,
    scopes: frozenset[str],
    *,
    by_request: RequestedRules | None = None,
) -> Grant:
    """Use up the assertion and store what it gives, in one transaction, so that a refusal leaves it unused."""
    now, client_id = asked.now, asked.client.id
    async with deployment.transaction() as transaction:
        if not await grants.hold_client(transaction, client_id):
            raise OAuthError("invalid_client", "this client was removed")
        if not await _is_first_use(transaction, assertion, now=now):
            raise AssertionRefused("replayed")
        current = await users.get_user(transaction, person.id)
        if current is None or not current.has_agents:
            raise AssertionRefused("disabled")
        until = None if by_request is None else await _check_allowed(transaction, by_request, now=now)
        permission = await company_permissions.hold(
            transaction, user_id=person.id, client_id=client_id, company=assertion.company, now=now
        )
        await check_not_ended(transaction, permission)
        grant, is_new = await grants.derive_grant(
            transaction,
            user_id=person.id,
            client_id=client_id,
            derived_from=f"company:{assertion.company}",
            scopes=allowed.scopes,
            resource=assertion.resource,
            now=now,
        )
        renewed = replace(
            permission,
            scopes=allowed.scopes,
            accounts=allowed.accounts,
            renewed_at=now,
            expires_at=min(end for end in (now + assertion.trusted.permission_days * DAY, until) if end is not None),
            ended_at=None,
            ended_reason=None,
            cut_off_at=None,
        )
        owned = [
            OwnedAccount(one, deployment.vault.policies.get(one.provider))
            for one in await connections.list_connections(transaction, person.id)
        ]
        changes = await company_access.settle(transaction, renewed, owned, before=permission, now=now)
        await clients.touch(transaction, client_id, now=now)
        first = (_event("company.admitted", grant, assertion, allowed, scopes),) if is_new else ()
        issued = _event("token.issued", grant, assertion, allowed, scopes)
        await audit.append(transaction, *first, *changes, issued, now=now)
    return grant


async def _check_allowed(transaction: Transaction, by_request: RequestedRules, *, now: int) -> int:
    """When the permission behind these rules ends; a concurrent change waits and then ends what was issued."""
    held = await access_requests.hold(transaction, by_request.request_id)
    if held is None or not held.is_allowed(now):
        raise AssertionRefused("agent")
    if held.access.scopes != by_request.names:
        raise TemporarilyUnavailable("This agent's permissions are being changed.", retry_after=1)
    return held.expires_at


async def _is_first_use(transaction: Transaction, assertion: IdentityAssertion, *, now: int) -> bool:
    """MCP §7.4.2: accept the assertion only once, across all processes."""
    return await replay.first_use(
        transaction,
        _PURPOSE,
        _identifier(assertion),
        expires_at=assertion.expires_at + jose.CLOCK_SKEW,
        now=now,
        made_at=assertion.issued_at - jose.CLOCK_SKEW,
    )


async def is_used(reader: Reader, assertion: IdentityAssertion, *, now: int) -> bool:
    """Whether it was used before; for explanations."""
    return await replay.is_seen(reader, _PURPOSE, _identifier(assertion), now=now)


def _identifier(assertion: IdentityAssertion) -> str:
    return f"{assertion.trusted.issuer} {assertion.token_id}"


async def check_not_ended(reader: Reader, permission: CompanyPermission) -> None:
    """An admin's end applies to one company; a person's to all, until they sign the agent in themselves."""
    if permission.ended_at is not None and permission.ended_reason == ENDED_BY_ADMIN:
        raise AssertionRefused("ended_by_admin")
    await check_not_ended_by_person(reader, user_id=permission.user_id, client_id=permission.client_id)


async def check_not_ended_by_person(reader: Reader, *, user_id: str, client_id: str) -> None:
    """Check whether the person ended access, in any company's row. Raises AssertionRefused."""
    ends = [
        one.ended_by_person_at
        for one in await company_permissions.list_for_user(reader, user_id)
        if one.client_id == client_id and one.ended_by_person_at is not None
    ]
    if ends and not await grants.has_own_grant(reader, user_id=user_id, client_id=client_id, since=max(ends)):
        raise AssertionRefused("ended")


def _event(kind: str, grant: Grant, assertion: IdentityAssertion, allowed: Allowance, scopes: frozenset[str]) -> Event:
    details: dict[str, object] = {
        "grant": grant.id,
        "scopes": sorted(scopes),
        "resource": grant.resource,
        "company": assertion.company,
        "rules": list(allowed.names),
        **({"actors": list(assertion.actors)} if assertion.actors else {}),
    }
    return Event(kind, user_id=grant.user_id, client_id=grant.client_id, details=details)


async def _record_refusal(deployment: Deployment, asked: TokenRequest, token: str, refusal: AssertionRefused) -> None:
    """Record refusals only for trusted issuers, since anyone can send other assertions."""
    try:
        company, _ = assertions.trusted_company(deployment, token)
    except AssertionRefused:
        return
    event = Event(
        "assertion.refused",
        outcome="refused",
        client_id=asked.client.id,
        details={"company": company, "reason": refusal.reason},
    )
    await deployment.activity.record_refusal(event)
