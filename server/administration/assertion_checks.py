"""Checks of identity assertions that the vault requests: the identity provider, the services, and recent refusals.

Based on their metadata, which is optional: missing members aren't findings.
draft-ietf-oauth-identity-assertion-authz-grant-04 §7.1 and §7.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from providers.definitions.issuers import NoMetadata, fetch_metadata
from providers.definitions.model import Provider
from providers.oauth.assertions import ID_JAG
from providers.oauth.narrowing import EXCHANGE
from providers.outbound.addresses import AddressPolicy
from providers.outbound.json_values import is_array, text_at
from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from server.oauth.enterprise.assertions import JWT_BEARER, PROFILE
from server.openid_settings import OpenIDSettings
from server.sign_in.identities import OFFLINE
from vault.audit import search
from vault.audit.search import EventFilter
from vault.refresh.company import refusal_text

ISSUED: Final = "identity_chaining_requested_token_types_supported"  # §7.1
_LATELY: Final = 86400  # seconds
_MOST: Final = 200  # number of refused events to examine

Metadata = Mapping[str, object]


async def check_assertions(deployment: Deployment) -> list[Finding]:
    """No findings if no sign-in has `id_jag`."""
    vouching = {name: one for name, one in deployment.settings.sign_in.openid.items() if one.id_jag}
    if not vouching:
        return []
    found: list[Finding] = []
    for name, one in vouching.items():
        found += await _check_identity(deployment, name, one)
    services = [one for one in deployment.catalog if one.company_scopes]
    if not services:
        fix = "set providers.NAME.id_jag for the services that accept assertions"
        found.append(
            note("id_jag", "no provider accepts identity assertions, so no account connects by itself", fix=fix)
        )
    for provider in services:
        found += await _check_service(deployment, provider)
    return found + await _check_refused(deployment)


async def _check_identity(deployment: Deployment, name: str, registered: OpenIDSettings) -> list[Finding]:
    check = f"sign_in.openid.{name}.id_jag"
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
    try:
        metadata = await fetch_metadata(registered.issuer, deployment.http, policy=policy)
    except NoMetadata as error:
        fix = f"correct sign_in.openid.{name}.issuer, or let this machine reach it"
        return [problem(check, f"the metadata of {registered.issuer} can't be read: {error}", fix=fix)]
    if text_at(metadata, "token_endpoint") is None:
        return [problem(check, "its metadata names no token_endpoint", fix="ask the identity provider's admin")]
    wrong = [note(check, text, fix=fix) for text, fix in _identity_problems(metadata)]
    return wrong or [ok(check, f"{registered.issuer} can issue assertions")]


def _identity_problems(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """Problems that its metadata shows, each with what to do."""
    if _says_no(metadata, ISSUED, ID_JAG) or _says_no(metadata, "grant_types_supported", EXCHANGE):
        fix = "turn on cross-app access (ID-JAG) there for the vault's sign-in client, or unset id_jag"
        yield "its metadata says that it issues no identity assertions", fix
    if _says_no(metadata, "scopes_supported", OFFLINE):
        fix = "allow offline_access there for the vault's sign-in client"
        yield "its metadata has no scope offline_access, so accounts need a sign-in at each ID token's end", fix


async def _check_service(deployment: Deployment, provider: Provider) -> list[Finding]:
    facts, check = provider.enterprise.id_jag, f"{provider.name}.id_jag"
    if facts is None or not facts.audience.startswith(("https://", "http://")):
        return []
    try:
        metadata = await fetch_metadata(facts.audience, deployment.http, policy=provider.registration.reach)
    except NoMetadata:  # many services publish none
        return [ok(check, f"{facts.audience} publishes nothing about assertions, so only a connection shows")]
    wrong = [note(check, text, fix=fix) for text, fix in _service_problems(provider, metadata)]
    return wrong or [ok(check, f"{facts.audience} accepts assertions")]


def _service_problems(provider: Provider, metadata: Metadata) -> Iterator[tuple[str, str]]:
    setting = f"providers.{provider.name}.id_jag"
    bearer_missing = _says_no(metadata, "grant_types_supported", JWT_BEARER)
    if bearer_missing or _says_no(metadata, "authorization_grant_profiles_supported", PROFILE):
        yield (
            "the service's metadata says that it doesn't accept identity assertions",
            f"ask the service, or unset {setting}",
        )
    token_url = text_at(metadata, "token_endpoint")
    if token_url is not None and token_url != provider.hosts.token_url:
        yield (
            f"the service's metadata names {token_url} for tokens, but assertions go to {provider.hosts.token_url}",
            f"correct {setting}.audience, or the provider file's token_url",
        )


def _says_no(metadata: Metadata, member: str, value: str) -> bool:
    """Whether the metadata has the list but the value isn't in it."""
    listed = metadata.get(member)
    return is_array(listed) and value not in listed


async def _check_refused(deployment: Deployment) -> list[Finding]:
    """One note for each service and reason."""
    wanted = EventFilter(outcome="refused", since=deployment.now() - _LATELY)
    found = await search.search(deployment.database, None, wanted, limit=_MOST)
    refused = {
        (str(event.details.get("provider", "")), str(event.details.get("reason", "")))
        for event in found.events
        if event.kind == "connection.unvouched"
    }
    fix = "token-vault explain says for one person and agent what is missing"
    return [
        note(f"{provider}.id_jag", f"in the last day: {refusal_text(provider, reason)}", fix=fix)
        for provider, reason in sorted(refused)
    ]
