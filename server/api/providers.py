"""Providers and tools in the Admin API; `server.administration.registrations` makes the changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from providers.definitions.model import Provider
from server.administration import registrations
from server.administration.registrations import RegistrationInput
from server.api.models import (
    FindingRecord,
    ProviderDetails,
    ProviderHealth,
    ProviderInput,
    ProviderRecord,
    ProviderRegistration,
    ProvidersQuery,
    ToolRecord,
    ToolSetRecord,
)
from server.api.operations import AdminCall, ApiOutput, TaggedAnswer, instant, operation
from server.connecting.provider_authorization import callback_url
from server.doctor.findings import Finding
from server.runtime.catalog import is_set_here
from vault import registrations as stored_registrations
from vault.registrations import StoredRegistration

NO_REVISION: Final = "none"  # the entity tag of a provider without a registration


class Providers(ApiOutput):
    """Providers by name."""

    items: list[ProviderRecord]


class ProviderTest(ApiOutput):
    """What the provider says about our registration; null if it didn't answer in time."""

    findings: list[FindingRecord] | None


class Tools(ApiOutput):
    """Tools by name."""

    items: list[ToolRecord]


class ToolSets(ApiOutput):
    """Tool sets by name."""

    items: list[ToolSetRecord]


@operation("GET", "/providers", scope="admin:read")
async def list_providers(call: AdminCall, query: ProvidersQuery) -> Providers:
    """List providers, and the state of those that are set up."""
    deployment, wanted = call.deployment, query.find.casefold()
    everything = await asyncio.to_thread(deployment.catalog.all_providers)
    named = [one for one in everything if wanted in one.title.casefold() or wanted in one.name]
    found = [one for one in named if one.audience is None]
    if query.set_up is not None:
        found = [one for one in found if registrations.is_known_here(deployment, one) is query.set_up]
    stored = {one.provider: one for one in await stored_registrations.list_registrations(deployment.database)}
    return Providers(items=[await _record(call, one, stored.get(one.name)) for one in found])


@operation("GET", "/providers/{provider}", scope="admin:read", has_etag=True)
async def get_provider(call: AdminCall) -> TaggedAnswer[ProviderDetails]:
    """Show one provider: what to enter at its console, and our registration there. Never its secret.

    The answer's entity tag is the registration's revision.
    """
    return await _details(call, registrations.provider_named(call.deployment, call.param("provider")))


@operation(
    "PUT",
    "/providers/{provider}/registration",
    scope="admin:providers",
    refusals=["conflict", "changed_meanwhile"],
    has_etag=True,
)
async def save_registration(call: AdminCall, body: ProviderRegistration) -> TaggedAnswer[ProviderDetails]:
    """Set up a provider, or change its registration. Every process uses it within seconds."""
    provider = registrations.provider_named(call.deployment, call.param("provider"))
    stored = await registrations.own_registration(call.actor, provider, revision=_revision(call))
    secret = body.client_secret.strip()
    wanted = RegistrationInput(body.client_id.strip(), secret, body.inputs, body.testing)
    await registrations.save(call.actor, provider, wanted, stored=stored)
    return await _details(call, registrations.provider_named(call.deployment, provider.name))


@operation(
    "DELETE",
    "/providers/{provider}/registration",
    scope="admin:providers",
    status=204,
    refusals=["conflict", "changed_meanwhile"],
    has_etag=True,
)
async def remove_registration(call: AdminCall) -> None:
    """Remove our registration and destroy its secret."""
    provider = registrations.provider_named(call.deployment, call.param("provider"))
    stored = await registrations.own_registration(call.actor, provider, revision=_revision(call))
    await registrations.remove(call.actor, provider, stored=stored)


def _revision(call: AdminCall) -> str | None:
    """The revision that `If-Match` names: empty if the provider had no registration."""
    return "" if call.if_match == NO_REVISION else call.if_match


@operation("POST", "/providers/{provider}/test", scope="admin:providers")
async def test_provider(call: AdminCall) -> ProviderTest:
    """Ask the provider whether it knows our registration. Nothing is changed there."""
    provider = registrations.provider_named(call.deployment, call.param("provider"))
    found = await registrations.ask_provider(call.deployment, provider)
    return ProviderTest(findings=None if found is None else [finding_record(one) for one in found])


@operation("GET", "/tools", scope="admin:read")
async def list_tools(call: AdminCall) -> Tools:
    """List the tools that agents can have."""
    return Tools(
        items=[
            ToolRecord(
                name=one.name,
                title=one.title,
                provider=one.provider,
                scopes=sorted(one.scopes),
                effect="read" if one.read_only else "change" if one.destructive else "create",
                asks=one.approval,
            )
            for one in call.deployment.tools
        ]
    )


@operation("GET", "/tool-sets", scope="admin:read")
async def list_tool_sets(call: AdminCall) -> ToolSets:
    """List the tool sets that agents can be offered."""
    found = call.deployment.offer.sets.values()
    return ToolSets(items=[ToolSetRecord(name=one.name, title=one.title, tools=sorted(one.tools)) for one in found])


def finding_record(one: Finding) -> FindingRecord:
    """A finding as JSON."""
    return FindingRecord(check=one.check, verdict=one.verdict.value, sentence=one.sentence, fix=one.fix)


async def _record(call: AdminCall, provider: Provider, stored: StoredRegistration | None) -> ProviderRecord:
    deployment = call.deployment
    health = await registrations.health_of(deployment, provider)
    is_here = is_set_here(deployment.settings, provider.name)
    settings = deployment.settings.providers.get(provider.name)
    own = settings.client_id if is_here and settings is not None else None
    return ProviderRecord(
        name=provider.name,
        title=provider.title,
        set_up=deployment.vault.upstreams[provider.name].is_configured,
        in_settings=is_here,
        client_id=own or (None if stored is None else stored.client_id),
        health=ProviderHealth(
            state=health.kind,
            good=health.is_good,
            connections=health.count,
            to_reconnect=health.to_reconnect,
            since=instant(health.since),
            reason=health.reason,
        ),
    )


async def _details(call: AdminCall, provider: Provider) -> TaggedAnswer[ProviderDetails]:
    deployment = call.deployment
    stored = await stored_registrations.get_registration(deployment.database, provider.name)
    guide = registrations.guide_of(deployment, provider)
    inputs: Mapping[str, str] = {} if stored is None else stored.inputs
    content = ProviderDetails(
        **(await _record(call, provider, stored)).model_dump(),
        redirect_uri=callback_url(deployment, provider.name),
        console=list(guide.steps),
        public=guide.client == "public",
        inputs=[
            ProviderInput(
                name=name, title=about.title, example=about.example, default=about.default, value=inputs.get(name)
            )
            for name, about in provider.inputs.items()
        ],
        testing=stored is not None and stored.is_testing,
        changed_at=None if stored is None else instant(stored.changed_at),
        revision="" if stored is None else stored.revision,
    )
    return TaggedAnswer(content, content.revision or NO_REVISION)


OPERATIONS = (
    list_providers,
    get_provider,
    save_registration,
    remove_registration,
    test_provider,
    list_tools,
    list_tool_sets,
)
